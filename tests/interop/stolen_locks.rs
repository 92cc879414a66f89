//! Requests while a lock is stolen whose holder may still commit.

use std::time::Duration;

use locks_core::{Blocker, LockError, LockManager};
use locks_tests::{
    engine::Database,
    journal::{Journal, Tx},
    on_engine, on_every_engine,
};

const SOON: Duration = Duration::from_secs(20);

on_every_engine!(
    servers: async requests_are_refused_by_name_while_a_stolen_lock_can_still_commit,
);

async fn connect(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it connects")
}

/// Whether the stolen lock is told as what blocks.
fn is_told(blocked_by: &[Blocker]) -> bool {
    let stolen = |blocker: &Blocker| matches!(blocker, Blocker::Holder(h) if &*h.task_id == "a");
    blocked_by.iter().any(stolen)
}

/// The original takes a lock away without regard to the fence. The transaction that is fenced with
/// it may commit until the session is evicted, which has to wait for it.
async fn requests_are_refused_by_name_while_a_stolen_lock_can_still_commit(db: Database) {
    let journal = Journal::open(db.url()).await;
    let (a, b) = (connect(&db, "a").await, connect(&db, "b").await);
    let guard = a.acquire("x").await.expect("it is free");
    let mut tx = journal.begin_entry("open").await.expect("it begins");
    let fenced = on_engine!(Tx, &mut tx, tx => guard.fence(tx).await);
    fenced.expect("it is held");
    let sql = "UPDATE locks SET dataJson = '{}', version = version + 1 WHERE id = 'platform'";
    assert_eq!(db.execute(sql).await, 1);
    let limit = Duration::from_secs(2);
    let waited = tokio::time::timeout(SOON, b.wait("x").timeout(limit)).await;
    let error = waited.expect("in time").expect_err("it may be in use");
    let LockError::Timeout { blocked_by, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(is_told(blocked_by), "{error}");
    let refused = tokio::time::timeout(SOON, b.acquire("y")).await;
    let error = refused.expect("in time").expect_err("nothing is granted");
    let LockError::Busy { blocked_by, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(is_told(blocked_by), "{error}");
    drop(tx);
    let free = tokio::time::timeout(SOON, b.wait(["x", "y"])).await;
    let theirs = free.expect("in time").expect("the session is evicted");
    theirs.release().await.expect("it is held");
    drop(guard);
}
