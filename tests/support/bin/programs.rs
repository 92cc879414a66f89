//! A process that runs programs: requests in order, one inside the other.

use std::{
    io::BufRead as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use locks_core::{LockError, LockGuard, LockManager, LockName, with_lock};
use locks_tests::{
    oracle::{Moment, Oracle},
    program::Program,
};
use tokio::sync::{Mutex, mpsc};

use crate::{say, settings::Settings};

/// The longest time for which locks are held, in microseconds.
const LONGEST: u64 = 3_000;

/// One run of a program.
struct Execution<'a> {
    locks: &'a LockManager,
    oracle: &'a Mutex<Oracle>,
    owner: &'a str,
}

type Executing<'a> = Pin<Box<dyn Future<Output = Result<(), LockError>> + Send + 'a>>;

/// Runs the programs of its input concurrently. A line is a namespace, the oracle's directory,
/// `scoped` or `guards`, and a program. Answers `done NAMESPACE` or `failed NAMESPACE ERROR`.
pub(crate) fn on_demand(settings: &Settings) {
    let (lines, mut reported) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    runtime().block_on(async {
        let locks = settings.connect().await;
        say("ready");
        while let Some(line) = reported.recv().await {
            let mut words = line.splitn(4, ' ').map(str::to_owned);
            let mut word = || words.next().expect("four words");
            let (namespace, directory, how, program) = (word(), word(), word(), word());
            let program: Program = program.parse().expect("any text is one");
            let locks = locks.with_namespace(&namespace).expect("a namespace");
            let owner = settings.task().to_owned();
            tokio::spawn(async move {
                let oracle = Mutex::new(Oracle::open(directory));
                let execution = Execution {
                    locks: &locks,
                    oracle: &oracle,
                    owner: &owner,
                };
                let finished = match &*how {
                    "scoped" => execution.scoped(&program.requests).await,
                    "guards" => execution.by_guards(&program.requests).await,
                    _ => panic!("how is {how}?"),
                };
                match finished {
                    Ok(()) => say(&format!("done {namespace}")),
                    Err(error) => say(&format!("failed {namespace} {error}")),
                }
            });
        }
    });
}

/// Runs random programs for some time, several concurrently. Prints `finished` and their number,
/// and `failed` with each error.
pub(crate) fn at_random(settings: &Settings, directory: PathBuf, time: Duration, jobs: usize) {
    let start = Instant::now();
    runtime().block_on(async {
        let locks = settings.connect().await;
        let directory: Arc<Path> = directory.into();
        let job = |number| {
            let (locks, directory) = (locks.clone(), Arc::clone(&directory));
            let owner = format!("{}.{number}", settings.task());
            tokio::spawn(async move {
                let oracle = Mutex::new(Oracle::open(&directory));
                let execution = Execution {
                    locks: &locks,
                    oracle: &oracle,
                    owner: &owner,
                };
                let mut finished = 0;
                while start.elapsed() < time {
                    let program = Program::random();
                    if let Err(error) = execution.scoped(&program.requests).await {
                        say(&format!("failed {program}: {error}"));
                    }
                    finished += 1;
                }
                finished
            })
        };
        let running: Vec<_> = (0..jobs).map(job).collect();
        let mut finished = 0;
        for job in running {
            finished += job.await.expect("it does not panic");
        }
        say(&format!("finished {finished}"));
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

impl Execution<'_> {
    /// Each request by a call inside the previous one.
    fn scoped<'a>(&'a self, requests: &'a [Vec<String>]) -> Executing<'a> {
        Box::pin(async move {
            match requests {
                [] => Ok(()),
                [names, inside @ ..] => {
                    let asked = self.oracle.lock().await.asking();
                    let inside = (self, asked, inside);
                    match &names[..] {
                        [a] => one(self.locks, inside, a).await,
                        [a, b] => two(self.locks, inside, a, b).await,
                        [a, b, c] => three(self.locks, inside, a, b, c).await,
                        _ => panic!("one to three names"),
                    }
                }
            }
        })
    }

    /// Each request by a guard of its own, outside any scope.
    async fn by_guards(&self, requests: &[Vec<String>]) -> Result<(), LockError> {
        let mut guards = Vec::new();
        for names in requests {
            let asked = self.oracle.lock().await.asking();
            let guard = self.locks.wait(names).await?;
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            self.enter(&names, &guard, asked).await;
            guards.push((names, guard));
        }
        for (names, guard) in guards.into_iter().rev() {
            self.leave(&names).await;
            guard.release().await?;
        }
        Ok(())
    }

    /// What follows a grant.
    async fn enter(&self, names: &[&str], guard: &LockGuard, asked: Moment) {
        let mut oracle = self.oracle.lock().await;
        let entered = oracle.enter(names, self.owner, Some(guard.token()), asked);
        drop(oracle);
        if let Err(violation) = entered {
            say(&format!("failed {violation}"));
        }
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..LONGEST))).await;
    }

    async fn leave(&self, names: &[&str]) {
        if let Err(violation) = self.oracle.lock().await.leave(names, self.owner) {
            say(&format!("failed {violation}"));
        }
    }
}

/// The run, the time of its request, and the requests that remain after the grant.
type Inside<'a> = (&'a Execution<'a>, Moment, &'a [Vec<String>]);

async fn inside(guard: &LockGuard, inside: Inside<'_>) -> Result<(), LockError> {
    let (execution, asked, requests) = inside;
    let names: Vec<_> = guard.names().iter().map(LockName::as_str).collect();
    execution.enter(&names, guard, asked).await;
    let finished = execution.scoped(requests).await;
    execution.leave(&names).await;
    finished
}

#[with_lock("<a>", locks = locks, guard = guard)]
async fn one(locks: &LockManager, then: Inside<'_>, a: &str) -> Result<(), LockError> {
    inside(guard, then).await
}

#[with_lock("<a>", "<b>", locks = locks, guard = guard)]
async fn two(locks: &LockManager, then: Inside<'_>, a: &str, b: &str) -> Result<(), LockError> {
    inside(guard, then).await
}

#[with_lock("<a>", "<b>", "<c>", locks = locks, guard = guard)]
async fn three(
    locks: &LockManager,
    then: Inside<'_>,
    a: &str,
    b: &str,
    c: &str,
) -> Result<(), LockError> {
    inside(guard, then).await
}
