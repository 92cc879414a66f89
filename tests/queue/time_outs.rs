//! Time-outs and cancelled waits: they end in time and leave no entry.

use std::time::Duration;

use locks_core::{Blocker, LockError, LockManager};
use locks_tests::{
    engine::Database,
    on_every_engine,
    row::{wait_until_empty, wait_until_queued},
    waiter,
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(30);

on_every_engine!(
    async time_out_of_another_process_frees_its_place,
    async dropped_waits_leave_an_empty_queue,
    async blockers_are_reported_with_start_and_task,
);

async fn manager(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it is there")
}

async fn time_out_of_another_process_frees_its_place(db: Database) {
    let holder = manager(&db, "holder").await;
    let guard = holder.acquire("x").await.expect("it is free");
    let (mut first, mut second) = (waiter!(db.url(), "first"), waiter!(db.url(), "second"));
    first.tell("within job 3000 x y");
    wait_until_queued(&db, "platform", 1).await;
    // It waits for the first request only.
    second.tell("wait job y");
    wait_until_queued(&db, "platform", 2).await;
    let refused = first.refused("job", SOON);
    let granted = second.granted("job", SOON);
    assert_eq!(refused.kind, "timeout");
    assert!(
        refused.text.contains("x is held by task holder"),
        "{}",
        refused.text
    );
    // After its next look, which comes a twentieth of the time later.
    let delay = Duration::from_micros(granted.at.saturating_sub(refused.at));
    assert!(delay < Duration::from_millis(500), "{delay:?}");
    guard.release().await.expect("it is held");
}

async fn dropped_waits_leave_an_empty_queue(db: Database) {
    let (holder, waiter) = (manager(&db, "holder").await, manager(&db, "waiter").await);
    let other = manager(&db, "other").await;
    let mut waits = JoinSet::new();
    // Ten hundreds of waits, each dropped at a random moment, also while a grant is in flight: the
    // lock is released and acquired all the time.
    for n in 0..1_000u32 {
        let locks = if n % 2 == 0 { &waiter } else { &other };
        let wait = locks.wait(["x", &format!("y{}", n % 10)]);
        waits.spawn(async move {
            let limit = Duration::from_micros(fastrand::u64(..40_000));
            drop(tokio::time::timeout(limit, wait).await);
        });
        if n % 100 == 99 {
            while waits.try_join_next().is_some() {}
            let guard = holder.wait("x").timeout(SOON).await.expect("it is granted");
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..20))).await;
            guard.release().await.expect("it is held");
        }
    }
    waits.join_all().await;
    wait_until_empty(&db, "platform", SOON).await;
    let guard = holder.acquire(["x", "y1"]).await.expect("it is free");
    guard.release().await.expect("it is held");
}

async fn blockers_are_reported_with_start_and_task(db: Database) {
    let holder = manager(&db, "holder").await;
    let guard = holder.acquire("app_task_1").await.expect("it is free");
    let mut update = waiter!(db.url(), "update");
    update.tell("wait job box_update");
    wait_until_queued(&db, "platform", 1).await;
    let asks = manager(&db, "asks").await;

    let waiting = asks.waiting().await.expect("it answers");
    let [waiter] = &waiting[..] else {
        panic!("{waiting:?}")
    };
    assert_eq!(&*waiter.task_id, "update");
    assert_eq!(waiter.names, ["box_update"]);
    assert!(waiter.since.expect("it is known").elapsed().unwrap() < SOON);
    let [Blocker::Holder(holding)] = &waiter.blocked_by[..] else {
        panic!("{waiter:?}")
    };
    assert_eq!(
        (holding.name.as_str(), &*holding.task_id),
        ("app_task_1", "holder")
    );
    assert_eq!(holding.token, Some(guard.token()));

    let limit = Duration::from_millis(1_200);
    let errors = [
        asks.acquire("app_task_2")
            .await
            .expect_err("an update waits"),
        asks.wait("app_task_2")
            .timeout(limit)
            .await
            .expect_err("it waits on"),
    ];
    for error in errors {
        let blocked_by = match &error {
            LockError::Busy { blocked_by, .. } => blocked_by,
            LockError::Timeout {
                blocked_by, waited, ..
            } => {
                assert!(*waited >= limit);
                blocked_by
            }
            other => panic!("{other}"),
        };
        let [Blocker::Waiter(blocker)] = &blocked_by[..] else {
            panic!("{error:?}")
        };
        assert_eq!(&*blocker.task_id, "update");
        let text = error.to_string();
        assert!(
            text.contains("app_task_2") && text.contains("task update waits for box_update"),
            "{text}"
        );
    }
    // The start of the wait is reported once some time has passed.
    let text = asks
        .acquire("app_task_1")
        .await
        .expect_err("it is held")
        .to_string();
    let held = text.split_once("app_task_1 is held by task holder (granted ");
    assert!(
        held.is_some_and(|(_, rest)| rest.contains(" s ago")),
        "{text}"
    );
    guard.release().await.expect("it is held");
    update.granted("job", SOON);
}
