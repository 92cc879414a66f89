//! A worker that may be killed, stopped or disconnected at any moment. Its only lasting effects are
//! fenced transactions.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use locks_core::{Evidence, Expiry, LockError, LockGuard, LockManager};
use locks_tests::{
    conflict_table::NAMES,
    fenced_writes::{EventCounts, FencedWrite, FencedWrites},
    journal::Tx,
    on_engine,
    oracle::Oracle,
};
use tokio::time::sleep;

#[derive(Debug, clap::Args)]
pub(crate) struct FencedWriter {
    url: String,
    /// The directory of the oracle and of the counts.
    directory: PathBuf,
    task: String,
    /// In milliseconds.
    ttl: u64,
    /// Uses time evidence only.
    #[arg(long)]
    by_time: bool,
}

struct Running {
    locks: LockManager,
    oracle: Oracle,
    counts: EventCounts,
    writes: FencedWrites,
}

impl FencedWriter {
    /// Runs until its input ends.
    pub(crate) async fn run(self) {
        let builder = LockManager::builder()
            .task_id(&self.task)
            .expiry(Expiry::After(Duration::from_millis(self.ttl)))
            .evidence(if self.by_time {
                Evidence::Time
            } else {
                Evidence::Process
            });
        let locks = loop {
            match builder.clone().connect(&self.url).await {
                Ok(locks) => break locks,
                Err(error) if error.is_transient() => sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        };
        let mut running = Running {
            locks,
            oracle: Oracle::open(&self.directory),
            counts: EventCounts::open(&self.directory),
            writes: FencedWrites::open(&self.url),
        };
        crate::say("ready");
        let over = Arc::new(AtomicBool::new(false));
        let reported = Arc::clone(&over);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            reported.store(true, Relaxed);
        });
        while !over.load(Relaxed) {
            running.run_once().await;
        }
    }
}

impl Running {
    /// One or two locks, and writes under them.
    async fn run_once(&mut self) {
        let names = fastrand::choose_multiple(NAMES, fastrand::usize(1..=2));
        let asked = self.oracle.asking();
        let granted = if fastrand::bool() {
            self.locks.acquire(&names).await
        } else {
            let limit = Duration::from_millis(fastrand::u64(1..600));
            self.locks.wait(&names).timeout(limit).await
        };
        let guard = match granted {
            Ok(guard) => guard,
            Err(error) if error.is_busy() || error.is_timeout() => {
                return sleep(Duration::from_millis(fastrand::u64(..10))).await;
            }
            Err(error) => return self.accept(&error).await,
        };
        let owner = self.locks.task_id().to_owned();
        let entered = self
            .oracle
            .enter(&names, &owner, Some(guard.token()), asked);
        if entered.is_err() {
            self.counts.count("overlaps");
        }
        for _ in 0..fastrand::u32(1..=3) {
            sleep(Duration::from_millis(fastrand::u64(..30))).await;
            self.write(&guard, &names).await;
        }
        // The oracle already knows of any overlap.
        let _ = self.oracle.leave(&names, &owner);
        if fastrand::bool() {
            return drop(guard);
        }
        match guard.release().await {
            Ok(()) => {}
            Err(error) if error.is_lost() => self.counts.count("found lost at the release"),
            Err(error) => self.accept(&error).await,
        }
    }

    /// Writes what must not be written unless the locks are held.
    async fn write(&mut self, guard: &LockGuard, names: &[&str]) {
        let write = FencedWrite::new(names, guard.token());
        let tx = match self.writes.begin(&write).await {
            Ok(tx) => tx,
            Err(error) => return self.counts.count(&format!("failed: {}", kind(&error))),
        };
        match on_engine!(Tx, tx, tx => guard.commit(tx).await) {
            Ok(()) => self.counts.count("committed"),
            Err(error) if error.is_lost() => self.counts.count("refused"),
            // The write may be committed; the table shows it.
            Err(_) => self.counts.count("unknown"),
        }
    }

    /// The connection may have been closed; no other error may occur.
    async fn accept(&mut self, error: &LockError) {
        assert!(error.is_transient() || error.is_lost(), "{error:?}");
        self.counts.count("failed requests");
        sleep(Duration::from_millis(20)).await;
    }
}

fn kind(error: &sqlx::Error) -> &'static str {
    match error {
        sqlx::Error::Database(_) => "the database refused",
        sqlx::Error::PoolTimedOut => "no connection",
        _ => "the connection was cut",
    }
}
