//! Sessions that were ended while they held nothing: nothing is granted under them.

use std::time::Duration;

use locks_core::{LockError, LockManager};
use locks_tests::{engine::Database, on_every_engine, row::wait_until_empty};

const SOON: Duration = Duration::from_secs(10);

on_every_engine!(
    async task_holds_a_grant_after_release_task,
    async task_holds_a_grant_after_release_all,
    async waiting_task_holds_its_grant_after_release_task,
);

async fn connect(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it connects")
}

/// A task with a session that holds nothing, and a supervisor.
async fn two(db: &Database) -> (LockManager, LockManager) {
    let (task, supervisor) = (connect(db, "task").await, connect(db, "supervisor").await);
    let guard = task.acquire("mail_restart").await.expect("it is free");
    guard.release().await.expect("it is held");
    (task, supervisor)
}

/// A grant to the task is valid, and excludes others.
async fn holds_what_it_is_granted(db: &Database, task: &LockManager, other: &LockManager) {
    let guard = task.acquire("app_task_1").await.expect("it is free");
    let limit = Duration::from_secs(1);
    let refused = other.wait("box_update").timeout(limit).await.map(drop);
    assert!(
        refused.as_ref().is_err_and(LockError::is_timeout),
        "{refused:?}, and the first holder is lost: {}",
        guard.is_lost()
    );
    assert!(!guard.is_lost());
    guard.release().await.expect("it is held");
    let next = other.acquire("box_update").await.expect("it is free");
    next.release().await.expect("it is held");
    wait_until_empty(db, "platform", SOON).await;
}

async fn task_holds_a_grant_after_release_task(db: Database) {
    let (task, supervisor) = two(&db).await;
    let forgotten = supervisor.release_task("task").await;
    assert_eq!(forgotten.expect("it is done"), []);
    holds_what_it_is_granted(&db, &task, &supervisor).await;
}

async fn task_holds_a_grant_after_release_all(db: Database) {
    let (task, supervisor) = two(&db).await;
    let forgotten = supervisor.release_all().await;
    assert_eq!(forgotten.expect("it is done"), []);
    holds_what_it_is_granted(&db, &task, &supervisor).await;
}

/// The request continues to wait, under a new session, and its grant is valid.
async fn waiting_task_holds_its_grant_after_release_task(db: Database) {
    let (task, supervisor) = two(&db).await;
    let first = supervisor.acquire("app_task_1").await.expect("it is free");
    let waiting = tokio::spawn(task.wait("app_task_1").timeout(SOON));
    tokio::time::sleep(Duration::from_millis(200)).await;
    supervisor.release_task("task").await.expect("it is done");
    first.release().await.expect("it is held");
    let guard = waiting.await.expect("no panic").expect("it is granted");
    let limit = Duration::from_secs(1);
    let refused = supervisor.wait("app_task_1").timeout(limit).await.map(drop);
    assert!(
        refused.as_ref().is_err_and(LockError::is_timeout),
        "{refused:?}, and the first holder is lost: {}",
        guard.is_lost()
    );
    guard.release().await.expect("it is held");
    wait_until_empty(&db, "platform", SOON).await;
}
