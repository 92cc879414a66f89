//! The queue has a limit, and requests beyond it are refused.

use std::time::{Duration, Instant};

use locks_core::{LockError, LockManager};
use locks_tests::{
    engine::{Database, note},
    on_every_engine,
    row::{wait_until_empty, wait_until_queued},
    waiter,
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(30);

on_every_engine!(
    async request_beyond_the_queue_limit_is_refused,
    async default_queue_limit_is_ten_thousand,
);

async fn request_beyond_the_queue_limit_is_refused(db: Database) {
    let builder = LockManager::builder().task_id("holder").queue_limit(3);
    let holder = builder.connect(db.url()).await.expect("it is there");
    let guard = holder.acquire("x").await.expect("it is free");
    let mut crowd = waiter!(db.url(), "crowd", "--queue-limit", "3");
    for n in 0..3 {
        crowd.tell(&format!("wait {n} x"));
        wait_until_queued(&db, "platform", n + 1).await;
    }
    // The limit counts all requests of the namespace.
    crowd.tell("wait more x");
    let refused = crowd.refused("more", SOON);
    assert_eq!(refused.kind, "full");
    assert!(
        refused.text.contains("3 requests are waiting"),
        "{}",
        refused.text
    );
    let error = holder
        .wait("x")
        .timeout(SOON)
        .await
        .expect_err("it is full");
    assert!(matches!(error, LockError::QueueFull { limit: 3, .. }) && error.is_transient());
    // A request that need not wait is not affected.
    let free = holder.wait("free").timeout(SOON).await.expect("it is free");
    free.release().await.expect("it is held");
    assert!(holder.acquire("x").await.expect_err("it is held").is_busy());
    // A place in the queue that becomes free can be used again.
    crowd.tell("drop 1");
    wait_until_queued(&db, "platform", 2).await;
    crowd.tell("wait again x");
    wait_until_queued(&db, "platform", 3).await;
    guard.release().await.expect("it is held");
    for job in ["0", "2", "again"] {
        crowd.granted(job, SOON);
        crowd.release(job);
    }
    wait_until_empty(&db, "platform", SOON).await;
}

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
