//! A worker that drops its requests at random moments.

use std::{
    io::BufRead as _,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use locks_core::{LockManager, Result};
use tokio::task::{JoinSet, yield_now};

/// Few names, so that requests conflict.
const NAMES: [&str; 3] = ["box_update", "app_task_1", "app_backup_1"];
/// The number of concurrent tasks, of two managers.
const JOBS: u32 = 8;
/// One request of this many is awaited to its end, so that the others conflict with a holder.
const AWAITED: u32 = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct RequestDropper {
    url: String,
    how: How,
    /// The number of requests to drop.
    number: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum How {
    Acquire,
    Wait,
}

#[derive(Debug, Default)]
struct Counts {
    dropped: u32,
    granted: u32,
    refused: u32,
}

impl RequestDropper {
    /// Prints the numbers of dropped, granted and refused requests. Waits for its input, acquires
    /// every name once more, and ends.
    pub(crate) async fn run(self) {
        let (a, b) = tokio::try_join!(
            LockManager::connect(&self.url),
            LockManager::connect(&self.url)
        )
        .expect("it connects");
        let typical = typical_time(&a).await;
        let mut jobs = JoinSet::new();
        for job in 0..JOBS {
            let locks = if job % 2 == 0 { &a } else { &b };
            jobs.spawn(ask(locks.clone(), self.how, self.number / JOBS, typical));
        }
        let mut sum = Counts::default();
        for counts in jobs.join_all().await {
            sum.dropped += counts.dropped;
            sum.granted += counts.granted;
            sum.refused += counts.refused;
        }
        crate::say(&format!(
            "counts {} {} {}",
            sum.dropped, sum.granted, sum.refused
        ));
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).expect("text");
        for locks in [a, b] {
            let guard = locks.acquire(NAMES).await.expect("nothing is held");
            guard.release().await.expect("it is held");
        }
    }
}

/// The duration of a request on this machine, now.
async fn typical_time(locks: &LockManager) -> Duration {
    const TRIES: u32 = 20;
    let start = Instant::now();
    for _ in 0..TRIES {
        let guard = locks.acquire(NAMES[0]).await.expect("nothing is held");
        guard.release().await.expect("it is held");
    }
    // Only of the request, without its release.
    start.elapsed() / TRIES / 2
}

async fn ask(locks: LockManager, how: How, number: u32, typical: Duration) -> Counts {
    let mut counts = Counts::default();
    while counts.dropped < number {
        let name = NAMES[fastrand::usize(..NAMES.len())];
        let limit = if fastrand::u32(..AWAITED) == 0 {
            Duration::MAX
        } else {
            typical.mul_f64(fastrand::f64() * 4.0)
        };
        let answer = match how {
            How::Acquire => within(limit, locks.acquire(name)).await,
            How::Wait => within(limit, locks.wait(name)).await,
        };
        match answer {
            None => counts.dropped += 1,
            Some(Ok(guard)) => {
                counts.granted += 1;
                yield_now().await;
                drop(guard);
            }
            Some(Err(error)) => {
                assert!(error.is_busy(), "{error:?}");
                counts.refused += 1;
            }
        }
    }
    counts
}

/// The answer, if it comes in time. Tokio's clock is too coarse for that.
async fn within<T>(limit: Duration, request: impl Future<Output = Result<T>>) -> Option<Result<T>> {
    let start = Instant::now();
    let time_is_up = async {
        while start.elapsed() < limit {
            yield_now().await;
        }
    };
    tokio::select! {
        biased;
        answer = request => Some(answer),
        () = time_is_up => None,
    }
}
