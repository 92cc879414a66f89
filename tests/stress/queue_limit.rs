//! The default limit of the queue.

use std::time::{Duration, Instant};

use locks_core::{LockError, LockManager};
use locks_tests::{
    engine::{Database, note},
    on_every_engine,
    row::{wait_until_empty, wait_until_queued},
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(30);

on_every_engine!(async default_queue_limit_is_ten_thousand);

async fn default_queue_limit_is_ten_thousand(db: Database) {
    const LIMIT: usize = 10_000;
    let holder = LockManager::builder()
        .task_id("holder")
        .connect(db.url())
        .await;
    let holder = holder.expect("it is there");
    let guard = holder.acquire("x").await.expect("it is free");
    let start = Instant::now();
    let mut waits = JoinSet::new();
    for _ in 0..=LIMIT {
        waits.spawn(holder.wait("x"));
    }
    // The only request that ends is the one beyond the limit.
    let over = tokio::time::timeout(SOON, waits.join_next())
        .await
        .expect("it is refused");
    let error = over
        .expect("one")
        .expect("no panic")
        .expect_err("it is full");
    assert!(
        matches!(error, LockError::QueueFull { limit: LIMIT, .. }),
        "{error}"
    );
    wait_until_queued(&db, "platform", LIMIT).await;
    let queued = start.elapsed();
    let other = holder.wait("y").timeout(SOON).await.expect("it is free");
    other.release().await.expect("it is held");
    waits.abort_all();
    while waits.join_next().await.is_some() {}
    wait_until_queued(&db, "platform", 0).await;
    note(&format!(
        "{LIMIT} queued on {} after {queued:?}, and had left after {:?}",
        db.engine(),
        start.elapsed()
    ));
    guard.release().await.expect("it is held");
    wait_until_empty(&db, "platform", SOON).await;
}
