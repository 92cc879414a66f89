//! A worker that acquires and releases random locks, checked by the oracle.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use locks_core::{LockError, LockGuard, LockManager};
use locks_tests::{conflict_table::NAMES, oracle::Oracle};
use tokio::{task::JoinSet, time::sleep};

/// The number of jobs in the process: concurrent requests are granted by one write.
const JOBS: usize = 2;

#[derive(Debug, clap::Args)]
pub(crate) struct Contender {
    url: String,
    /// The oracle's directory.
    directory: PathBuf,
    task_id: String,
    /// The database may be unavailable for a while.
    #[arg(long)]
    patient: bool,
}

impl Contender {
    /// Runs until its input ends.
    pub(crate) async fn run(self) {
        let locks = LockManager::builder()
            .task_id(&self.task_id)
            .connect(&self.url)
            .await
            .expect("it connects");
        crate::say("ready");
        let over = Arc::new(AtomicBool::new(false));
        let mut jobs = JoinSet::new();
        for number in 0..JOBS {
            let job = Job {
                owner: format!("{}-{number}", self.task_id),
                locks: locks.clone(),
                oracle: Oracle::open(&self.directory),
                patient: self.patient,
                over: Arc::clone(&over),
            };
            jobs.spawn(job.run());
        }
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            over.store(true, Relaxed);
        });
        let grants: u64 = jobs.join_all().await.into_iter().sum();
        locks.close().await.expect("it closes");
        crate::say(&format!("grants {grants}"));
    }
}

struct Job {
    owner: String,
    locks: LockManager,
    oracle: Oracle,
    patient: bool,
    over: Arc<AtomicBool>,
}

impl Job {
    async fn run(mut self) -> u64 {
        let mut grants = 0;
        while !self.over.load(Relaxed) {
            let names = random_names();
            let asked = self.oracle.asking();
            let start = Instant::now();
            let limit = fastrand::bool().then(|| Duration::from_millis(fastrand::u64(1..400)));
            let granted = match limit {
                None => self.locks.acquire(&names).await,
                Some(limit) => self.locks.wait(&names).timeout(limit).await,
            };
            match granted {
                Ok(guard) => {
                    let token = Some(guard.token());
                    let entered = self.oracle.enter(&names, &self.owner, token, asked);
                    sleep(Duration::from_micros(fastrand::u64(..2000))).await;
                    let left = self.oracle.leave(&names, &self.owner);
                    if let Err(violation) = entered.and(left) {
                        crate::say(&violation.to_string());
                    }
                    grants += 1;
                    self.release_guard(guard).await;
                }
                Err(error) if error.is_busy() || error.is_timeout() => {
                    sleep(Duration::from_micros(fastrand::u64(..2000))).await;
                }
                Err(error) => {
                    let what = format!("{names:?}, {limit:?}, after {:?}", start.elapsed());
                    self.accept(&what, &error).await;
                }
            }
        }
        grants
    }

    async fn release_guard(&self, guard: LockGuard) {
        if fastrand::bool() {
            return drop(guard);
        }
        if let Err(error) = guard.release().await {
            self.accept("release", &error).await;
        }
    }

    /// Only errors of an unavailable database are accepted, and only if that may happen.
    async fn accept(&self, what: &str, error: &LockError) {
        assert!(self.patient && error.is_transient(), "{what}: {error:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// One of the names, or two different ones.
fn random_names() -> Vec<&'static str> {
    let number = fastrand::usize(1..=2);
    fastrand::choose_multiple(NAMES, number)
}
