//! Finished tasks: their sessions end, and cost nothing afterwards.

use std::time::{Duration, Instant};

use locks_core::{Expiry, LockManager};
use locks_tests::{
    engine::{Database, note},
    on_every_engine,
    sessions::{Session, fences},
};
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

/// The number of jobs, and how many of them run at one time.
const JOBS: usize = 10_000;
const AT_ONCE: usize = 50;
/// The jobs whose CPU time is measured run one after the other, in groups. The group with the
/// least CPU time counts: three times per ttl the driver renews and deletes sessions, which falls
/// into some of the groups.
const MEASURED: usize = 100;
const GROUPS: usize = 3;
/// How much more CPU time a late job may use than an early one.
const SLACK: Duration = Duration::from_micros(600);
const TTL: Duration = Duration::from_secs(2);
/// The limit for the end of the sessions of finished jobs: a few ttls.
const ENDED: Duration = Duration::from_secs(10);
/// The number of rows that may be left: that of the manager, and those of the last jobs.
const HANDFUL: usize = 5;
on_every_engine!(async_alone finished_jobs_cost_nothing_later);

async fn connect(db: &Database, task: &str, ttl: Duration) -> LockManager {
    let builder = LockManager::builder()
        .task_id(task)
        .expiry(Expiry::After(ttl));
    builder.connect(db.url()).await.expect("it connects")
}

/// The CPU time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let time = Duration::try_from(time);
    time.expect("a process does not use negative time")
}

/// One job: a new task acquires a lock, releases it, and ends.
async fn job(locks: LockManager, n: usize) {
    let task = locks.with_task_id(&format!("job-{n}")).expect("an id");
    let guard = task.acquire(format!("job_{n}")).await;
    let guard = guard.expect("no other job wants it");
    guard.release().await.expect("it is held");
}

/// Runs groups of jobs from this number on, one job after the other, and returns the CPU time per
/// job.
async fn measured(locks: &LockManager, from: usize) -> Duration {
    let mut least = Duration::MAX;
    for group in 0..GROUPS {
        let before = cpu_time();
        let first = from + group * MEASURED;
        for n in first..first + MEASURED {
            job(locks.clone(), n).await;
        }
        least = least.min(cpu_time().saturating_sub(before));
    }
    least / u32::try_from(MEASURED).expect("few")
}

/// Runs jobs concurrently.
async fn unmeasured(locks: &LockManager, numbers: std::ops::Range<usize>) {
    let mut running = JoinSet::new();
    for n in numbers {
        if running.len() == AT_ONCE {
            running.join_next().await;
        }
        running.spawn(job(locks.clone(), n));
    }
    running.join_all().await;
}

/// Waits until few rows are left, and runs something else in between.
async fn wait_until_few(db: &Database, what: &str, mut meanwhile: impl AsyncFnMut()) {
    let start = Instant::now();
    let mut conn = db.connect().await;
    loop {
        let left = (
            Session::all_on(&mut conn).await.len(),
            fences(db).await.len(),
        );
        if left.0 <= HANDFUL && left.1 <= HANDFUL {
            break;
        }
        assert!(
            start.elapsed() < ENDED,
            "{left:?} sessions and fences are left after {ENDED:?}, {what}"
        );
        meanwhile().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn finished_jobs_cost_nothing_later(db: Database) {
    let locks = connect(&db, "main", TTL).await;
    let start = Instant::now();
    unmeasured(&locks, 0..MEASURED).await;
    let early = measured(&locks, MEASURED).await;
    let last = JOBS - GROUPS * MEASURED;
    unmeasured(&locks, (1 + GROUPS) * MEASURED..last).await;
    let late = measured(&locks, last).await;
    note(&format!(
        "{}: {JOBS} jobs took {:?}; CPU time of one: {early:?} of the first, {late:?} of the last",
        db.engine(),
        start.elapsed()
    ));
    assert!(
        late <= early.mul_f64(1.5) + SLACK,
        "the CPU time of a job grows from {early:?} to {late:?}"
    );
    // The manager continues to work, under its own session.
    wait_until_few(&db, "while the manager works", async || {
        let guard = locks.acquire("work").await.expect("it is free");
        guard.release().await.expect("it is held");
    })
    .await;
    unmeasured(&locks, JOBS..JOBS + 10 * MEASURED).await;
    wait_until_few(&db, "while the manager is idle", async || {}).await;
    // A task that is used again has a session again.
    job(locks.clone(), 0).await;
}
