//! Rows locked by a foreign transaction: the library's statements wait on the server, and do not
//! pile up there.

use std::time::Duration;

use locks_core::LockManager;
use locks_tests::{
    engine::{Database, note},
    lock_waits::{RowLock, most_waiting, wait_until_waiting},
    on_every_engine,
    row::wait_until_queued,
    sessions::Session,
    wait, worker,
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(20);
/// How long a row is locked: four times as long as a client waits for a statement. Statements that
/// outlive their clients would pile up in that time.
const LOCKED: Duration = Duration::from_secs(20);
/// The time-out of a request.
const TIME_OUT: Duration = Duration::from_mins(2);
/// One statement that writes, one that renews or reads, and one that is ending.
const MOST: u64 = 3;

on_every_engine!(
    servers:
    async at_most_three_backends_wait_for_a_locked_row,
    async at_most_one_backend_waits_for_a_locked_fence,
);

async fn connect(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it connects")
}

async fn at_most_three_backends_wait_for_a_locked_row(db: Database) {
    let locks = connect(&db, "main").await;
    let held = locks.acquire("held").await.expect("it is free");
    let row = RowLock::take(&db, "locks", "id = 'platform'").await;
    let mut requests = JoinSet::new();
    for n in 0..6 {
        let task = locks.with_task_id(&format!("task-{n}")).expect("an id");
        let request = task.wait(format!("name-{n}")).timeout(TIME_OUT);
        requests.spawn(async move { request.await.map(drop) });
    }
    drop(held);
    wait_until_waiting(&db, 1, SOON).await;
    let most = most_waiting(&db, LOCKED).await;
    row.end().await;
    let all = tokio::time::timeout(SOON, requests.join_all()).await;
    let all = all.expect("all requests are answered once the row is free");
    note(&format!(
        "{}: {most} backends waited at most for a row that was locked for {LOCKED:?}",
        db.engine()
    ));
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    let again = locks.wait("held").timeout(SOON).await;
    drop(again.expect("the dropped guard is released"));
    assert!(most <= MOST, "{most} backends waited for the row");
}

async fn at_most_one_backend_waits_for_a_locked_fence(db: Database) {
    let observer = connect(&db, "observer").await;
    let mut holder = worker!(db.url(), "holder");
    holder.acquire("x");
    let session = Session::of(&db, "holder").await.expect("it holds").id;
    let fence = RowLock::take(&db, "lock_fences", &format!("session = '{session}'")).await;
    let request = observer.wait("x").timeout(TIME_OUT);
    let waiting = tokio::spawn(async move { request.await.map(drop) });
    wait_until_queued(&db, "platform", 1).await;
    holder.kill();
    wait::until(SOON, "the beat row is deleted", async || {
        Session::of(&db, "holder").await.is_none()
    })
    .await;
    let most = most_waiting(&db, LOCKED).await;
    assert!(
        !waiting.is_finished(),
        "an eviction does not wait for the fence"
    );
    fence.end().await;
    let granted = tokio::time::timeout(SOON, waiting).await;
    let granted = granted.expect("the lock is granted once the fence is free");
    note(&format!(
        "{}: {most} backends waited at most for a fence that was locked for {LOCKED:?}",
        db.engine()
    ));
    granted.expect("no panic").expect("it is granted");
    assert!(most <= 1, "{most} backends waited for one fence");
}
