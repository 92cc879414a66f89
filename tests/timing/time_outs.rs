//! How late time-outs are.

use std::time::{Duration, Instant};

use locks_core::LockManager;
use locks_tests::{
    engine::{Database, note},
    on_every_engine,
    row::{LocksRow, wait_until_queued},
};
use tokio::task::JoinSet;

const IN_TIME: Duration = Duration::from_millis(50);

on_every_engine!(async_alone time_outs_are_punctual_and_leave_no_entry);

async fn manager(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it is there")
}

async fn time_outs_are_punctual_and_leave_no_entry(db: Database) {
    let (holder, waiter) = (manager(&db, "holder").await, manager(&db, "waiter").await);
    let guard = holder.acquire("x").await.expect("it is free");
    let before = LocksRow::read(&db, "platform").await.expect("it is there");
    // A busy machine does not delay three rounds in a row.
    let mut rounds = Vec::new();
    while rounds.len() < 3 && rounds.last().is_none_or(|late| *late >= IN_TIME) {
        rounds.push(forty_time_outs(&waiter).await);
    }
    note(&format!(
        "forty time-outs on {} were at most {rounds:?} late",
        db.engine()
    ));
    assert!(
        rounds.last().is_some_and(|late| *late < IN_TIME),
        "{rounds:?}"
    );
    let after = wait_until_queued(&db, "platform", 0).await;
    assert_eq!(after.data_json, before.data_json);
    // Neither the names nor the session of the waiters remain.
    assert_eq!(after.meta(), before.meta());
    guard.release().await.expect("it is held");
}

/// How late the latest of the time-outs was.
async fn forty_time_outs(waiter: &LockManager) -> Duration {
    let mut waits = JoinSet::new();
    for n in 0..40 {
        let limit = Duration::from_millis(100 + 50 * n);
        let waiter = waiter.clone();
        waits.spawn(async move {
            let start = Instant::now();
            let refused = waiter.wait("x").timeout(limit).await;
            let elapsed = start.elapsed();
            let error = refused.expect_err("it is held all the time");
            assert!(error.is_timeout(), "{error}");
            elapsed.checked_sub(limit).expect("not before its time")
        });
    }
    let late = waits.join_all().await;
    late.into_iter().max().expect("forty")
}
