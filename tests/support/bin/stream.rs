//! A process in which short jobs arrive continuously, until its input ends.

use std::{
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use locks_core::{LockError, LockManager, with_lock};

use crate::{say, settings::Settings};

/// Several concurrent jobs, each of which acquires one lock after the other. Their names begin with
/// the prefix. Prints `tokens` and the tokens of all grants at the end.
pub(crate) fn flow(settings: &Settings, prefix: &str, jobs: usize, held: Duration) {
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        end.store(true, Relaxed);
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let locks = settings.connect().await;
        say("ready");
        let number = Arc::new(AtomicU64::new(0));
        let job = |_| {
            let (locks, ended, number) = (locks.clone(), Arc::clone(&ended), Arc::clone(&number));
            let prefix = format!("{prefix}{}_", settings.task());
            tokio::spawn(async move {
                let mut tokens = Vec::new();
                while !ended.load(Relaxed) {
                    let name = format!("{prefix}{}", number.fetch_add(1, Relaxed));
                    // The jobs must not run in step.
                    let held = held.mul_f64(0.5 + fastrand::f64());
                    let token = one(&locks, &name, held).await;
                    tokens.push(token.expect("nothing forbids it").to_string());
                }
                tokens
            })
        };
        let running: Vec<_> = (0..jobs).map(job).collect();
        let mut tokens = Vec::new();
        for job in running {
            tokens.extend(job.await.expect("it does not panic"));
        }
        say(&format!("tokens {}", tokens.join(" ")));
    });
}

#[with_lock("<name>", locks = locks, guard = guard)]
async fn one(locks: &LockManager, name: &str, held: Duration) -> Result<i64, LockError> {
    tokio::time::sleep(held).await;
    Ok(guard.token())
}
