//! What this process knows of the locks that it holds: `is_held` and `assert_held`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use locks_core::{LockError, LockManager, with_lock};

async fn connect() -> LockManager {
    let builder = LockManager::builder().namespace("held").task_id("a");
    builder.connect("sqlite::memory:").await.unwrap()
}

/// The message with which the assertion fails.
fn complaint(locks: &LockManager, name: &str) -> String {
    let asserted = catch_unwind(AssertUnwindSafe(|| locks.assert_held(name)));
    let panic = asserted.expect_err("it is not held");
    panic.downcast_ref::<String>().expect("a text").clone()
}

#[tokio::test]
async fn a_lock_is_held_from_its_grant_to_the_end_of_its_guard() {
    let locks = connect().await;
    assert!(!locks.is_held("x"));
    let expected = "task a does not hold the lock x in namespace held and this process; it holds ";
    assert_eq!(complaint(&locks, "x"), format!("{expected}no lock"));

    let guard = locks.acquire(["x", "y"]).await.unwrap();
    locks.assert_held("x");
    locks.assert_held("y");
    assert!(complaint(&locks, "z").ends_with("it holds x, y"));
    // The call is lazy: what was not awaited has not begun.
    let release = guard.release();
    assert!(locks.is_held("x"));
    release.await.unwrap();
    assert!(!locks.is_held("x"));

    // At once, in the thread of the drop.
    let guard = locks.acquire("x").await.unwrap();
    assert!(locks.is_held("x"));
    drop(guard);
    assert!(!locks.is_held("x"));

    let guard = locks.acquire("x").await.unwrap();
    guard.detach();
    assert!(!locks.is_held("x"), "it has no guard");
    locks.release("x").await.unwrap();
}

#[tokio::test]
async fn locks_of_other_tasks_and_namespaces_do_not_count() {
    let locks = connect().await;
    let _guard = locks.acquire("x").await.unwrap();
    assert!(!locks.with_task_id("b").unwrap().is_held("x"));
    assert!(!locks.with_namespace("other").unwrap().is_held("x"));
    assert!(locks.with_task_id("a").unwrap().is_held("x"));
    assert!(!connect().await.is_held("x"), "another manager");
}

#[tokio::test]
async fn a_lost_lock_is_not_held() {
    let locks = connect().await;
    let guard = locks.acquire("x").await.unwrap();
    locks.release_task("a").await.unwrap();
    guard.lost().await;
    assert!(!locks.is_held("x"));
    let guard = locks.acquire("x").await.unwrap();
    locks.close().await.unwrap();
    assert!(guard.is_lost() && !locks.is_held("x"));
}

#[with_lock("app_<id>", locks = locks)]
async fn locked(id: u32, locks: &LockManager) -> Result<(), LockError> {
    locks.assert_held(format!("app_{id}"));
    let id = id + 1;
    assert!(!locks.is_held(format!("app_{id}")));
    Ok(())
}

#[tokio::test]
async fn a_locked_function_holds_its_lock() {
    let locks = connect().await;
    locked(1, &locks).await.unwrap();
    assert!(!locks.is_held("app_1"));
}
