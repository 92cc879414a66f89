//! How soon the lock of a killed holder is granted.

use std::time::{Duration, Instant};

use locks_core::{Evidence, LockGuard, LockManager};
use locks_tests::{
    clock::median_and_longest,
    engine::{Database, note},
    on_every_engine,
    row::LocksRow,
    wait, worker,
};
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(20);
/// The limit for a grant after the holder's process was seen to have ended.
const AT_ONCE: Duration = Duration::from_secs(1);
/// The number of kills for the median.
const KILLS: usize = 20;

on_every_engine!(async_alone lock_of_a_killed_holder_is_granted_at_once);

async fn connect(db: &Database, evidence: Evidence) -> LockManager {
    let builder = LockManager::builder()
        .task_id("successor")
        .evidence(evidence);
    builder.connect(db.url()).await.expect("it connects")
}

/// Requests the lock, and returns once the request is in the queue.
async fn queue(db: &Database, locks: &LockManager, name: &'static str) -> JoinHandle<LockGuard> {
    let waiting = locks.wait(name).timeout(SOON);
    let waiting = tokio::spawn(async move { waiting.await.expect("it is granted in time") });
    let what = format!("a request waits for {name}");
    wait::until(SOON, &what, async || {
        locks.waiting().await.expect("the database answers").len() == 1
    })
    .await;
    assert_eq!(held_by(db, name).await.as_deref(), Some("holder"));
    waiting
}

async fn held_by(db: &Database, name: &str) -> Option<String> {
    let row = LocksRow::read(db, "platform").await.expect("it was used");
    row.held().get(name).cloned()
}

/// When the request was granted. Then releases the lock.
async fn granted(waiting: JoinHandle<LockGuard>) -> Instant {
    let guard = waiting.await.expect("it is granted");
    let at = Instant::now();
    guard.release().await.expect("it is ours");
    at
}

async fn lock_of_a_killed_holder_is_granted_at_once(db: Database) {
    let locks = connect(&db, Evidence::Process).await;
    let mut times = Vec::new();
    for _ in 0..KILLS {
        let mut holder = worker!(db.url(), "holder");
        holder.acquire("x");
        let waiting = queue(&db, &locks, "x").await;
        let killed = Instant::now();
        holder.kill();
        times.push(granted(waiting).await - killed);
    }
    let (median, longest) = median_and_longest(times);
    note(&format!(
        "{}: from kill -9 to the next grant: median {median:?}, longest {longest:?} of {KILLS}",
        db.engine()
    ));
    assert!(longest < AT_ONCE, "{longest:?}");
}
