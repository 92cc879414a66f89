//! A worker that reads, writes and backs up, checked by the sharing oracle.

use std::{path::PathBuf, time::Duration};

use locks_core::{ConflictMatrix, LockManager, Shared};
use locks_tests::sharing_oracle::{LIMITED, Note, SharingOracle};
use tokio::time::sleep;

/// The number of jobs in the process.
const JOBS: usize = 3;
const MATRIX: ConflictMatrix = ConflictMatrix::exclusive().limits(&[("backup_*", 3)]);
/// The reads of a worker for each of its writes.
const READS: u32 = 4;

#[derive(Debug, clap::Args)]
pub(crate) struct Sharer {
    url: String,
    /// The oracle's directory.
    directory: PathBuf,
    task_id: String,
}

impl Sharer {
    /// Runs until its input ends or it is killed. Prints how many grants of each kind it got.
    pub(crate) async fn run(self) {
        let locks = LockManager::builder()
            .task_id(&self.task_id)
            .matrix(MATRIX)
            .connect(&self.url)
            .await
            .expect("it connects");
        crate::say("ready");
        let (over, is_over) = tokio::sync::watch::channel(false);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            over.send_replace(true);
        });
        let mut jobs = tokio::task::JoinSet::new();
        for job in 0..JOBS {
            let (locks, is_over) = (locks.clone(), is_over.clone());
            let oracle = SharingOracle::open(&self.directory);
            jobs.spawn(run_job(job, locks, oracle, is_over));
        }
        for counts in jobs.join_all().await {
            let [reads, writes, backups] = counts;
            crate::say(&format!("did {reads} {writes} {backups}"));
        }
        locks.close().await.expect("it closes");
    }
}

/// Returns the number of reads, writes and backups.
async fn run_job(
    job: usize,
    locks: LockManager,
    mut oracle: SharingOracle,
    is_over: tokio::sync::watch::Receiver<bool>,
) -> [u32; 3] {
    let mut counts = [0; 3];
    while !*is_over.borrow() {
        // Neither reads nor writes may starve.
        let limit = Duration::from_mins(1);
        let number = fastrand::u32(..2 * (READS + 1));
        let (kind, note) = match number {
            0 | 1 => (1, Note::new(job, "book", false)),
            n if n <= READS + 1 => (0, Note::new(job, "book", true)),
            _ => {
                let name = format!("{LIMITED}{}", fastrand::u32(..6));
                (2, Note::new(job, &name, fastrand::bool()))
            }
        };
        let wait = if note.is_shared() {
            locks.wait(Shared(note.name()))
        } else {
            locks.wait(note.name())
        };
        let guard = wait.timeout(limit).await.expect("it is not starved");
        oracle.enter(&note);
        sleep(Duration::from_micros(fastrand::u64(..2_000))).await;
        oracle.leave(&note);
        counts[kind] += 1;
        if fastrand::bool() {
            drop(guard);
        } else {
            guard.release().await.expect("it is held");
        }
    }
    counts
}
