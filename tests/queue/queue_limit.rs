//! The queue has a limit, and requests beyond it are refused.

use std::time::Duration;

use locks_core::{LockError, LockManager};
use locks_tests::{
    engine::Database,
    on_every_engine,
    row::{wait_until_empty, wait_until_queued},
    waiter,
};

const SOON: Duration = Duration::from_secs(30);

on_every_engine!(async request_beyond_the_queue_limit_is_refused);

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
