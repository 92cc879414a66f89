//! Shared locks and limits, as callers see them.

use std::time::Duration;

use locks_core::{
    Blocker, ConflictMatrix, LockError, LockGuard, LockManager, Mode, Shared, with_lock,
};
use locks_tests::{engine::Database, on_every_engine};

const SOON: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

on_every_engine!(
    async a_name_is_shared_or_exclusive,
    async reports_show_the_mode,
    async requests_that_mix_modes_are_granted_whole,
    async waiting_requests_are_served_in_turn_whatever_their_mode,
    async shared_locks_are_released_one_by_one,
    async a_supervisor_takes_one_of_several_holders,
    async detached_shared_locks_are_released_by_name,
    async a_scope_cannot_make_its_shared_lock_exclusive,
    async annotated_functions_share_locks,
    async a_limit_is_kept_by_all_processes,
    async a_limit_counts_what_waits,
    async a_limit_is_part_of_the_matrix,
);

const LIMITED: ConflictMatrix = ConflictMatrix::platform().limits(&[("app_backup_*", 2)]);

async fn connect(db: &Database, task: &str) -> LockManager {
    connect_by(db, task, ConflictMatrix::platform()).await
}

async fn connect_by(db: &Database, task: &str, matrix: ConflictMatrix) -> LockManager {
    let builder = LockManager::builder().task_id(task).matrix(matrix);
    builder.connect(db.url()).await.expect("it connects")
}

/// Waits in the background until the row shows that the request waits.
async fn queued(
    locks: &LockManager,
    wait: locks_core::Wait,
    place: usize,
) -> tokio::task::JoinHandle<LockGuard> {
    let waiting = tokio::spawn(async move { wait.timeout(SOON).await.expect("its turn comes") });
    while locks.waiting().await.expect("it can be read").len() < place {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    waiting
}

async fn a_name_is_shared_or_exclusive(db: Database) {
    let (a, b) = (connect(&db, "a").await, connect(&db, "b").await);
    let first = a.acquire(Shared("x")).await.expect("it is free");
    let second = b.acquire(Shared("x")).await.expect("it is shared");
    let third = a.acquire(Shared("x")).await.expect("it is shared");
    let refused = a.acquire("x").await.expect_err("it is shared");
    let LockError::Busy { blocked_by, .. } = &refused else {
        panic!("{refused}");
    };
    assert_eq!(blocked_by.len(), 3, "{refused}");
    assert!(
        refused.to_string().contains("x is shared by task a"),
        "{refused}"
    );
    for guard in [first, third, second] {
        guard.release().await.expect("it is held");
    }
    let alone = b.acquire("x").await.expect("it is free");
    let refused = a.acquire(Shared("x")).await.expect_err("it is not shared");
    assert!(refused.is_busy() && refused.to_string().contains("x is held by task b"));
    alone.release().await.expect("it is held");
}

async fn reports_show_the_mode(db: Database) {
    let (a, b) = (connect(&db, "a").await, connect(&db, "b").await);
    let _held = a.acquire(("x", Shared(["y", "z"]))).await.expect("free");
    let modes = b.held().await.expect("it can be read").into_iter();
    let modes: Vec<_> = modes.map(|h| (h.name.to_string(), h.mode)).collect();
    let expected = [
        ("x".to_owned(), Mode::Exclusive),
        ("y".to_owned(), Mode::Shared),
        ("z".to_owned(), Mode::Shared),
    ];
    assert_eq!(modes, expected);
    let _waiting = queued(&b, b.wait(("y", Shared("x"))), 1).await;
    let waiting = b.waiting().await.expect("it can be read");
    assert_eq!(waiting[0].names, ["x", "y"]);
    assert_eq!(waiting[0].shared, ["x"]);
    assert!(
        waiting[0].to_string().contains("x (shared), y"),
        "{}",
        waiting[0]
    );
}

async fn requests_that_mix_modes_are_granted_whole(db: Database) {
    let (a, b) = (connect(&db, "a").await, connect(&db, "b").await);
    let one = a.acquire(("app_task_1", Shared("platform"))).await;
    let one = one.expect("it is free");
    let other = b.acquire(("app_task_2", Shared("platform"))).await;
    let other = other.expect("it shares one and has the other for itself");
    let refused = b.acquire(("app_task_1", Shared("platform"))).await;
    assert!(refused.expect_err("one of them is held").is_busy());
    assert_eq!(b.held().await.expect("it can be read").len(), 4);
    drop((one, other));
    // What the matrix says of different names does not depend on the mode.
    let _update = a
        .wait(Shared("box_update"))
        .timeout(SOON)
        .await
        .expect("free");
    assert!(
        b.acquire(Shared("app_task_1"))
            .await
            .expect_err("by the matrix")
            .is_busy()
    );
}

async fn waiting_requests_are_served_in_turn_whatever_their_mode(db: Database) {
    let (a, b) = (connect(&db, "a").await, connect(&db, "b").await);
    // A task whose own lock is waited for may overtake the one that waits.
    let c = connect(&db, "c").await;
    let reading = c.acquire(Shared("x")).await.expect("it is free");
    let writing = queued(&b, b.wait("x"), 1).await;
    // Readers that come later do not overtake it.
    assert!(
        a.acquire(Shared("x"))
            .await
            .expect_err("one waits")
            .is_busy()
    );
    let readers = [
        queued(&b, a.wait(Shared("x")), 2).await,
        queued(&b, a.wait(Shared("x")), 3).await,
    ];
    reading.release().await.expect("it is held");
    let written = writing.await.expect("no panic");
    assert!(readers.iter().all(|reader| !reader.is_finished()));
    written.release().await.expect("it is held");
    let [first, second] = readers;
    let (first, second) = (
        first.await.expect("no panic"),
        second.await.expect("no panic"),
    );
    assert_eq!(first.token(), second.token(), "one write grants both");
}

async fn shared_locks_are_released_one_by_one(db: Database) {
    let (a, b) = (connect(&db, "a").await, connect(&db, "b").await);
    let first = a.acquire(Shared("x")).await.expect("it is free");
    let second = b.acquire(Shared("x")).await.expect("it is shared");
    first.release().await.expect("it is held");
    let held = a.held().await.expect("it can be read");
    assert_eq!(held.len(), 1);
    assert_eq!(&*held[0].task_id, "b");
    assert!(!second.is_lost());
    assert_eq!(a.release_all().await.expect("it can").len(), 1);
    assert!(second.release().await.expect_err("it was taken").is_lost());
}

async fn a_supervisor_takes_one_of_several_holders(db: Database) {
    let (a, b) = (connect(&db, "a").await, connect(&db, "b").await);
    let first = a.acquire(Shared("x")).await.expect("it is free");
    let second = b.acquire(Shared("x")).await.expect("it is shared");
    let taken = b.release_task("a").await.expect("it can");
    assert_eq!((taken.len(), taken[0].mode), (1, Mode::Shared));
    assert!(first.release().await.expect_err("it was taken").is_lost());
    let held = b.held().await.expect("it can be read");
    a.release_holder(&held[0]).await.expect("it is that one");
    assert!(second.release().await.expect_err("it was taken").is_lost());
    assert!(a.held().await.expect("it can be read").is_empty());
}

async fn detached_shared_locks_are_released_by_name(db: Database) {
    let (a, b) = (connect(&db, "a").await, connect(&db, "b").await);
    for _ in 0..2 {
        a.acquire(Shared("x")).await.expect("it is shared").detach();
    }
    let other = b.acquire(Shared("x")).await.expect("it is shared");
    for left in [2, 1] {
        a.release("x").await.expect("it is detached");
        assert_eq!(a.held().await.expect("it can be read").len(), left);
    }
    let refused = a
        .release("x")
        .await
        .expect_err("only the other one is left");
    assert!(
        matches!(refused, LockError::HeldByOther { .. }),
        "{refused}"
    );
    other.release().await.expect("it is held");
}

#[with_lock(shared("x"), locks = locks)]
async fn reads(locks: &LockManager) -> Result<(), LockError> {
    reads_again(locks).await?;
    let error = writes(locks).await.expect_err("it holds it shared");
    assert!(error.is_deadlock(), "{error}");
    Ok(())
}

#[with_lock(shared("x"), "y", locks = locks)]
async fn reads_again(locks: &LockManager) -> Result<(), LockError> {
    Ok(())
}

#[with_lock("x", locks = locks)]
async fn writes(locks: &LockManager) -> Result<(), LockError> {
    Ok(())
}

async fn a_scope_cannot_make_its_shared_lock_exclusive(db: Database) {
    let locks = connect(&db, "a").await;
    reads(&locks).await.expect("it shares the lock with itself");
    writes(&locks).await.expect("nothing holds it");
}

async fn annotated_functions_share_locks(db: Database) {
    let (a, b) = (connect(&db, "a").await, connect(&db, "b").await);
    let shared = b.acquire(Shared("x")).await.expect("it is free");
    tokio::time::timeout(SOON, reads_again(&a))
        .await
        .expect("at once")
        .expect("shared");
    let refused = tokio::time::timeout(SHORT, writes(&a)).await;
    assert!(refused.is_err(), "it waits");
    shared.release().await.expect("it is held");
    writes(&a).await.expect("it is free");
}

async fn a_limit_is_kept_by_all_processes(db: Database) {
    let (a, b) = (
        connect_by(&db, "a", LIMITED).await,
        connect_by(&db, "b", LIMITED).await,
    );
    let first = a.acquire("app_backup_1").await.expect("there is room");
    let _second = b.acquire("app_backup_2").await.expect("there is room");
    let refused = b
        .acquire("app_backup_3")
        .await
        .expect_err("there is no room");
    let expected = "limit app_backup_* (2) is used up by app_backup_1 of task a, app_backup_2 of \
                    task b";
    assert!(
        refused.is_busy() && refused.to_string().contains(expected),
        "{refused}"
    );
    let _other = a
        .acquire("app_task_1")
        .await
        .expect("the limit does not count it");
    let waiting = queued(&b, b.wait("app_backup_3"), 1).await;
    first.release().await.expect("it is held");
    drop(waiting.await.expect("no panic"));
    let never = a
        .acquire(["app_backup_1", "app_backup_2", "app_backup_3"])
        .await;
    let never = never.expect_err("the limit is two");
    assert!(matches!(never, LockError::InvalidConfig { .. }), "{never}");
    assert!(never.to_string().contains("app_backup_* (2)"), "{never}");
}

async fn a_limit_counts_what_waits(db: Database) {
    let (a, b) = (
        connect_by(&db, "a", LIMITED).await,
        connect_by(&db, "b", LIMITED).await,
    );
    // A task whose own lock is waited for may overtake the one that waits.
    let c = connect_by(&db, "c", LIMITED).await;
    let first = c.acquire("app_backup_1").await.expect("there is room");
    let both = queued(&b, b.wait(["app_backup_2", "app_backup_3"]), 1).await;
    // There is room for one, but the request for two came first.
    let refused = a.acquire("app_backup_4").await.expect_err("one waits");
    let LockError::Busy { blocked_by, .. } = &refused else {
        panic!("{refused}");
    };
    let [Blocker::Limit { used_by, .. }] = &blocked_by[..] else {
        panic!("{refused}");
    };
    assert!(
        matches!(used_by[..], [Blocker::Holder(_), Blocker::Waiter(_)]),
        "{refused}"
    );
    first.release().await.expect("it is held");
    drop(both.await.expect("no panic"));
    let _last = a
        .wait("app_backup_4")
        .timeout(SOON)
        .await
        .expect("there is room");
}

async fn a_limit_is_part_of_the_matrix(db: Database) {
    const OTHER: ConflictMatrix = ConflictMatrix::platform().limits(&[("app_backup_*", 3)]);
    let (a, b) = (
        connect_by(&db, "a", LIMITED).await,
        connect_by(&db, "b", OTHER).await,
    );
    let plain = connect(&db, "c").await;
    let held = a.acquire("app_backup_1").await.expect("it is free");
    for other in [&b, &plain] {
        let refused = other.acquire("mail_restart").await;
        let refused = refused.expect_err("its matrix is another one");
        assert!(
            refused.to_string().contains("different conflict matrix"),
            "{refused}"
        );
    }
    held.release().await.expect("it is held");
    let _held = b.acquire("app_backup_1").await.expect("it is free");
    assert!(
        a.acquire("app_backup_2")
            .await
            .expect_err("the other way round")
            .is_busy()
    );
}
