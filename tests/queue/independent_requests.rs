//! A request that conflicts with no earlier request is not delayed by the queue.

use std::time::{Duration, Instant};

use locks_core::LockManager;
use locks_tests::{
    engine::Database,
    on_every_engine,
    row::{wait_until_empty, wait_until_queued},
    waiter,
};

const SOON: Duration = Duration::from_secs(20);

on_every_engine!(
    async requests_without_conflict_pass_a_waiting_update,
    async waiter_without_conflict_passes_earlier_waiters,
    async requests_are_granted_during_a_long_queue,
);

async fn manager(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it is there")
}

async fn requests_without_conflict_pass_a_waiting_update(db: Database) {
    let (a, b) = (manager(&db, "a").await, manager(&db, "b").await);
    let task = a.acquire("app_task_1").await.expect("it is free");
    let mut update = waiter!(db.url(), "update");
    update.tell("wait job box_update");
    wait_until_queued(&db, "platform", 1).await;
    // A task and a backup queue behind the update. A request that conflicts with neither is
    // granted.
    for name in ["app_task_2", "app_backup_1"] {
        assert!(
            b.acquire(name).await.expect_err("it is awaited").is_busy(),
            "{name}"
        );
    }
    let mut guards = Vec::new();
    for name in [
        "mail_restart",
        "full_backup_task_1",
        "full_backup_task_2",
        "other",
    ] {
        guards.push(b.acquire(name).await.expect(name));
    }
    assert!(
        b.acquire("box_update_task")
            .await
            .expect_err("a backup runs")
            .is_busy()
    );
    task.release().await.expect("it is held");
    update.granted("job", SOON);
    // The table has a direction: while the update is held, a backup may start.
    let backup = b.acquire("app_backup_1").await.expect("it may start");
    backup.release().await.expect("it is held");
}

async fn waiter_without_conflict_passes_earlier_waiters(db: Database) {
    let holder = manager(&db, "holder").await;
    let x = holder.acquire("x").await.expect("it is free");
    let y = holder.acquire("y").await.expect("it is free");
    let (mut first, mut second) = (waiter!(db.url(), "first"), waiter!(db.url(), "second"));
    first.tell("wait job x");
    wait_until_queued(&db, "platform", 1).await;
    second.tell("wait job y");
    wait_until_queued(&db, "platform", 2).await;
    y.release().await.expect("it is held");
    second.granted("job", SOON);
    assert!(first.is_silent_about("granted"));
    let waiting = holder.waiting().await.expect("it answers");
    assert_eq!((waiting.len(), &*waiting[0].task_id), (1, "first"));
    x.release().await.expect("it is held");
    first.granted("job", SOON);
}

async fn requests_are_granted_during_a_long_queue(db: Database) {
    let holder = manager(&db, "holder").await;
    let guard = holder.acquire("app_task_0").await.expect("it is free");
    let mut crowd = waiter!(db.url(), "crowd");
    for n in 0..200 {
        crowd.tell(&format!("wait {n} app_task_0 app_task_{}", n + 1));
    }
    wait_until_queued(&db, "platform", 200).await;
    let worker = manager(&db, "worker").await;
    let start = Instant::now();
    for n in 0..20 {
        let name = format!("app_backup_{n}");
        let guard = worker
            .wait(&name)
            .timeout(SOON)
            .await
            .expect("it conflicts with no request");
        guard.release().await.expect("it is held");
    }
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?} for twenty");
    assert!(crowd.is_silent_about("granted"));
    drop(crowd);
    guard.release().await.expect("it is held");
    // The waiters ended with their process. Each is removed as soon as it blocks a request.
    let guard = worker
        .wait("app_task_7")
        .timeout(SOON)
        .await
        .expect("dead waiters do not block requests");
    guard.release().await.expect("it is held");
    wait_until_empty(&db, "platform", SOON).await;
}
