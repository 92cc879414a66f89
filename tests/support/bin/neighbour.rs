//! A process that acquires and releases locks on command, one line at a time.

use std::{collections::HashMap, io::BufRead as _};

use locks_core::{LockError, LockManager, Result};

use crate::say;

/// Connects as this task, and executes each line: `acquire`, `wait`, `release` or `detach`, and a
/// name. Answers `granted TOKEN`, `busy`, `done` or `failed`.
pub(crate) fn obey(url: &str, task: &str) {
    let locks = LockManager::builder()
        .task_id(task)
        .connect(url)
        .blocking()
        .expect("the test's database is there");
    say("ready");
    let mut guards = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("text");
        let (verb, name) = line.split_once(' ').expect("a verb and a name");
        let mut taken = |granted: Result<_>| {
            granted.map(|guard: locks_core::LockGuard| {
                let token = guard.token();
                guards.insert(name.to_owned(), guard);
                format!("granted {token}")
            })
        };
        let answer = match verb {
            "acquire" => taken(locks.acquire(name).blocking()),
            "wait" => taken(locks.wait(name).blocking()),
            "release" => match guards.remove(name) {
                Some(guard) => guard.release().blocking(),
                None => locks.release(name).blocking(),
            }
            .map(|()| "done".to_owned()),
            "detach" => {
                guards.remove(name).expect("it is held").detach();
                Ok("done".to_owned())
            }
            _ => panic!("what is {verb}?"),
        };
        match answer {
            Ok(answer) => say(&answer),
            Err(LockError::Busy { .. }) => say("busy"),
            Err(error) => say(&format!("failed {error}")),
        }
    }
}
