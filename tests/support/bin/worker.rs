//! A worker that acquires, fences and releases locks on command, a line at a time.

use std::{
    io::BufRead as _,
    time::{Duration, SystemTime},
};

use locks_core::{Evidence, Expiry, LockError, LockGuard, LockManager};
use locks_tests::{
    journal::{Journal, Tx},
    on_engine,
};
use rustix::process::{Resource, getrlimit, setrlimit};

/// How long it waits for the report of a loss.
const REPORTED: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Worker {
    url: String,
    task: String,
    #[arg(long, default_value = "platform")]
    namespace: String,
    /// In milliseconds.
    #[arg(long, default_value_t = 15_000)]
    ttl: u64,
    /// Its sessions never expire.
    #[arg(long)]
    never: bool,
    /// Uses time evidence only.
    #[arg(long)]
    by_time: bool,
}

struct Work {
    locks: LockManager,
    url: String,
    guards: Vec<LockGuard>,
    journal: Option<Journal>,
    tx: Option<Tx>,
}

impl Worker {
    /// Runs until its input ends.
    pub(crate) async fn run(self) {
        let ttl = Duration::from_millis(self.ttl);
        let builder = LockManager::builder()
            .task_id(&self.task)
            .namespace(&self.namespace)
            .expiry(if self.never {
                Expiry::Never
            } else {
                Expiry::After(ttl)
            })
            .evidence(if self.by_time {
                Evidence::Time
            } else {
                Evidence::Process
            });
        let mut work = Work {
            locks: builder.connect(&self.url).await.expect("it connects"),
            url: self.url,
            guards: Vec::new(),
            journal: None,
            tx: None,
        };
        crate::say("ready");
        for line in std::io::stdin().lock().lines() {
            let line = line.expect("text");
            let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
            crate::say(&work.obey(command, rest).await);
        }
    }
}

impl Work {
    async fn obey(&mut self, command: &str, rest: &str) -> String {
        let names: Vec<&str> = rest.split_whitespace().collect();
        match command {
            "acquire" => self.take(self.locks.acquire(&names).await),
            "wait" => self.take(self.locks.wait(&names).await),
            "clock" => seconds().to_string(),
            "lost" => self.guard().is_lost().to_string(),
            "loss" => match tokio::time::timeout(REPORTED, self.guard().lost()).await {
                Ok(lost) => format!("loss: {lost}"),
                Err(_) => "no loss".to_owned(),
            },
            "begin" => {
                if self.journal.is_none() {
                    self.journal = Some(Journal::open_existing(&self.url).await);
                }
                let journal = self.journal.as_ref().expect("it was just opened");
                self.tx = Some(journal.begin_entry(rest).await.expect("it begins"));
                "begun".to_owned()
            }
            "fence" => {
                let mut tx = self.tx.take().expect("it was begun");
                let fenced = on_engine!(Tx, &mut tx, tx => self.guard().fence(tx).await);
                self.tx = Some(tx);
                done("fenced", fenced)
            }
            "commit" => {
                let tx = self.tx.take().expect("it was begun");
                let committed = on_engine!(Tx, tx, tx => self.guard().commit(tx).await);
                done("committed", committed)
            }
            "release" => {
                let guard = self.guards.pop().expect("it has a guard");
                done("released", guard.release().await)
            }
            "detach" => {
                self.guards.pop().expect("it has a guard").detach();
                "detached".to_owned()
            }
            "descriptors" => limit(Resource::Nofile, (rest == "none").then_some(3)),
            // The process must ignore SIGXFSZ.
            "disk" => limit(Resource::Fsize, (rest == "full").then_some(1)),
            "close" => done("closed", self.locks.close().await),
            _ => panic!("it does not know how to {command:?}"),
        }
    }

    fn guard(&self) -> &LockGuard {
        self.guards.last().expect("it has a guard")
    }

    fn take(&mut self, granted: Result<LockGuard, LockError>) -> String {
        match granted {
            Ok(guard) => {
                let token = guard.token();
                self.guards.push(guard);
                format!("granted {token}")
            }
            Err(error) => format!("failed: {error}"),
        }
    }
}

/// Limits a resource of this process, or ends the limit.
fn limit(resource: Resource, most: Option<u64>) -> String {
    let mut limits = getrlimit(resource);
    limits.current = most.or(limits.maximum);
    setrlimit(resource, limits).expect("a limit may be lowered");
    "limited".to_owned()
}

/// The wall clock, in seconds.
fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

fn done(what: &str, result: Result<(), LockError>) -> String {
    match result {
        Ok(()) => what.to_owned(),
        Err(error) if error.is_lost() => format!("refused: {error}"),
        Err(error) => format!("failed: {error}"),
    }
}
