//! A process in which jobs wait for locks on command, concurrently, one line at a time.
//!
//! ```text
//! wait JOB NAMES..        granted JOB TOKEN AT     (microseconds on the machine's clock)
//! within JOB MS NAMES..   granted JOB TOKEN AT  or  refused JOB KIND AT TEXT
//! acquire JOB NAMES..     as `within`
//! pass JOB NAMES..        granted JOB TOKEN AT, and released at once
//! enter JOB NAMES..       granted JOB TOKEN AT, in a function under `#[with_lock]`
//! leave JOB               left JOB AT, when that function has returned
//! release JOB             released JOB AT: all guards since the last `enter`
//! drop JOB                dropped JOB: it is cancelled at any point
//! ```

use std::{collections::HashMap, io::BufRead as _, pin::Pin, time::Duration};

use locks_core::{LockError, LockGuard, LockManager, with_lock};
use locks_tests::clock::micros;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{say, settings::Settings};

/// A job, and its commands.
struct Job {
    name: String,
    orders: mpsc::UnboundedReceiver<(String, Vec<String>)>,
}

pub(crate) fn obey(settings: &Settings) {
    let (lines, mut reported) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let locks = settings.connect().await;
        say("ready");
        let mut jobs: HashMap<String, (mpsc::UnboundedSender<_>, JoinHandle<()>)> = HashMap::new();
        while let Some(line) = reported.recv().await {
            let mut words = line.split(' ').map(str::to_owned);
            let verb = words.next().expect("a verb");
            let name = words.next().expect("a job");
            if verb == "drop" {
                let (_, job) = jobs.remove(&name).expect("it is there");
                job.abort();
                assert!(job.await.is_err_and(|error| error.is_cancelled()));
                say(&format!("dropped {name}"));
                continue;
            }
            let (orders, _) = jobs.entry(name.clone()).or_insert_with(|| {
                let (send, orders) = mpsc::unbounded_channel();
                let locks = locks.clone();
                let work = async move { Job { name, orders }.work(&locks).await };
                (send, tokio::spawn(work))
            });
            orders.send((verb, words.collect())).expect("it listens");
        }
    });
}

impl Job {
    /// Executes commands until `leave`.
    fn work<'a>(
        &'a mut self,
        locks: &'a LockManager,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let mut guards = Vec::new();
            while let Some((verb, words)) = self.orders.recv().await {
                let taken = match &*verb {
                    "wait" => locks.wait(words).await,
                    "acquire" => locks.acquire(words).await,
                    "within" => {
                        let limit = words[0].parse().expect("milliseconds");
                        let wait = locks.wait(&words[1..]);
                        wait.timeout(Duration::from_millis(limit)).await
                    }
                    "pass" => {
                        let guard = locks.wait(words).await.expect("nothing forbids it");
                        self.say_granted(&guard);
                        guard.release().await.expect("it is held");
                        continue;
                    }
                    "enter" => {
                        match self.enter(locks, &words).await {
                            Ok(()) => say(&format!("left {} {}", self.name, micros())),
                            Err(error) => self.say_refused(&error),
                        }
                        continue;
                    }
                    "release" => {
                        for guard in guards.drain(..).rev() {
                            LockGuard::release(guard).await.expect("it is held");
                        }
                        say(&format!("released {} {}", self.name, micros()));
                        continue;
                    }
                    "leave" => return,
                    _ => panic!("what is {verb}?"),
                };
                match taken {
                    Ok(guard) => {
                        self.say_granted(&guard);
                        guards.push(guard);
                    }
                    Err(error) => self.say_refused(&error),
                }
            }
        })
    }

    async fn enter(&mut self, locks: &LockManager, names: &[String]) -> Result<(), LockError> {
        match names {
            [a] => one(locks, self, a).await,
            [a, b] => two(locks, self, a, b).await,
            _ => panic!("one or two names"),
        }
    }

    fn say_granted(&self, guard: &LockGuard) {
        say(&format!(
            "granted {} {} {}",
            self.name,
            guard.token(),
            micros()
        ));
    }

    fn say_refused(&self, error: &LockError) {
        let kind = match error {
            LockError::Busy { .. } => "busy",
            LockError::Timeout { .. } => "timeout",
            LockError::Deadlock { .. } => "deadlock",
            LockError::QueueFull { .. } => "full",
            _ => "failed",
        };
        say(&format!(
            "refused {} {kind} {} {error}",
            self.name,
            micros()
        ));
    }
}

#[with_lock("<a>", locks = locks, guard = guard)]
async fn one(locks: &LockManager, job: &mut Job, a: &str) -> Result<(), LockError> {
    job.say_granted(guard);
    job.work(locks).await;
    Ok(())
}

#[with_lock("<a>", "<b>", locks = locks, guard = guard)]
async fn two(locks: &LockManager, job: &mut Job, a: &str, b: &str) -> Result<(), LockError> {
    job.say_granted(guard);
    job.work(locks).await;
    Ok(())
}
