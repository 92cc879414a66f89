//! Requests that do not queue: those with `Fairness::Barging`, and those of the original.

use std::time::Duration;

use locks_core::{Fairness, LockManager};
use locks_tests::{
    engine::{Database, Engine, run_async},
    on_every_engine,
    original::{Original, OriginalError},
    row::{LocksRow, wait_until_empty, wait_until_queued},
    wait, waiter,
};

const SOON: Duration = Duration::from_secs(20);

on_every_engine!(
    async barging_request_passes_waiters,
    async barging_waiter_is_not_queued_and_still_woken,
    async barging_requests_exclude_each_other,
);

async fn manager(db: &Database, task: &str, fairness: Fairness) -> LockManager {
    let builder = LockManager::builder().task_id(task).fairness(fairness);
    builder.connect(db.url()).await.expect("it is there")
}

async fn barging_request_passes_waiters(db: Database) {
    let in_turn = manager(&db, "in-turn", Fairness::InTurn).await;
    let barges = manager(&db, "barges", Fairness::Barging).await;
    let task = in_turn.acquire("app_task_1").await.expect("it is free");
    let mut update = waiter!(db.url(), "update");
    update.tell("wait job box_update");
    wait_until_queued(&db, "platform", 1).await;
    let other = manager(&db, "other", Fairness::InTurn).await;
    assert!(
        other.acquire("app_backup_1").await.is_err(),
        "it is awaited"
    );
    let at_once = barges.acquire("app_task_2").await.expect("it is free");
    let waited = barges.wait("app_backup_1").timeout(SOON).await;
    let waited = waited.expect("nor this");
    task.release().await.expect("it is held");
    assert!(update.is_silent_about("granted"));
    for guard in [at_once, waited] {
        guard.release().await.expect("it is held");
    }
    update.granted("job", SOON);
    let error = barges
        .acquire("app_task_1")
        .await
        .expect_err("it is held at last");
    assert!(error.is_busy(), "{error}");
}

async fn barging_waiter_is_not_queued_and_still_woken(db: Database) {
    let holder = manager(&db, "holder", Fairness::InTurn).await;
    let mut barges = waiter!(db.url(), "barges", "--barging");
    let guard = holder.acquire("x").await.expect("it is free");
    let before = LocksRow::read(&db, "platform").await.expect("it is there");
    barges.tell("wait job x");
    barges.tell("within brief 300 x");
    assert_eq!(barges.refused("brief", SOON).kind, "timeout");
    let after = LocksRow::read(&db, "platform").await.expect("it is there");
    assert_eq!(after, before, "the row was not written");
    guard.release().await.expect("it is held");
    let granted = barges.granted("job", Duration::from_secs(2));
    assert!(granted.token > before.version);
    barges.release("job");
    wait_until_empty(&db, "platform", SOON).await;
}

async fn barging_requests_exclude_each_other(db: Database) {
    let mut processes: Vec<_> = (0..4)
        .map(|n| waiter!(db.url(), format!("t{n}"), "--barging"))
        .collect();
    for n in 0..40 {
        processes[n % 4].tell(&format!("pass {n} x"));
    }
    let mut tokens: Vec<_> = (0..40)
        .map(|n| processes[n % 4].granted(&n.to_string(), SOON).token)
        .collect();
    tokens.sort_unstable();
    // A repeated token would mean two holders at one time.
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    wait_until_empty(&db, "platform", SOON).await;
}

/// A manager of this library on a row that the original created.
async fn with_the_original(db: &Database) -> (Original, LockManager) {
    let original = Original::connect(db.url(), "original").await;
    let mut original = original.expect("it is there");
    original.create_table().await.expect("it may");
    (original, manager(db, "ours", Fairness::InTurn).await)
}

#[test]
fn original_bypasses_the_queue_and_its_locks_are_respected() {
    run_async(Engine::MySql, async |db| {
        let (mut original, ours) = with_the_original(&db).await;
        original.acquire("app_task_1").await.expect("it is free");
        let mut update = waiter!(db.url(), "update");
        update.tell("wait job box_update");
        wait_until_queued(&db, "platform", 1).await;
        // What the original acquires out of turn blocks this library's requests like any other
        // lock.
        original
            .acquire("app_task_2")
            .await
            .expect("it knows no queue");
        original.release("app_task_1").await.expect("it is held");
        original
            .acquire("app_backup_1")
            .await
            .expect("it knows no queue");
        original.release("app_task_2").await.expect("it is held");
        assert!(update.is_silent_about("granted"));
        wait_until_queued(&db, "platform", 1).await;
        let error = ours.acquire("app_backup_1").await.expect_err("it is held");
        assert!(
            error.to_string().contains("is held by task original"),
            "{error}"
        );
        original.release("app_backup_1").await.expect("it is held");
        update.granted("job", SOON);
        for (name, refused) in [
            ("app_task_3", true),
            ("box_update", true),
            ("app_backup_2", false),
        ] {
            match original.acquire(name).await {
                Err(OriginalError::Refused { by, .. }) if refused => assert_eq!(by, "update"),
                Ok(()) if !refused => {}
                other => panic!("{name}: {other:?}"),
            }
        }
        update.release("job");
        original.release("app_backup_2").await.expect("it is held");
        wait_until_empty(&db, "platform", SOON).await;
    });
}

#[test]
fn original_and_library_wait_for_each_others_locks() {
    run_async(Engine::MySql, async |db| {
        let (original, ours) = with_the_original(&db).await;
        let pause = Duration::from_millis(5);
        let mut original = original.with_pauses(pause, pause);
        let theirs = tokio::spawn(async move {
            for _ in 0..100 {
                original.wait("x").await;
                original.release("x").await.expect("it is held");
            }
        });
        let mut two = [waiter!(db.url(), "a"), waiter!(db.url(), "b")];
        for n in 0..50 {
            two[n % 2].tell(&format!("pass {n} x"));
        }
        let mut tokens: Vec<_> = (0..50)
            .map(|n| two[n % 2].granted(&n.to_string(), SOON).token)
            .collect();
        tokio::time::timeout(SOON, theirs)
            .await
            .expect("in time")
            .expect("no panic");
        tokens.sort_unstable();
        assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
        wait::until(SOON, "nothing held", async || {
            ours.held().await.is_ok_and(|held| held.is_empty())
        })
        .await;
        wait_until_empty(&db, "platform", SOON).await;
    });
}
