//! Time-outs and cancelled waits: they end in time and leave no entry.

use std::time::{Duration, Instant};

use locks_core::{Blocker, LockError, LockManager};
use locks_tests::{
    engine::{Database, note},
    on_every_engine,
    row::{LocksRow, wait_until_empty, wait_until_queued},
    waiter,
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(30);
const IN_TIME: Duration = Duration::from_millis(50);

on_every_engine!(
    async time_outs_are_punctual_and_leave_no_entry,
    async time_out_of_another_process_frees_its_place,
    async dropped_waits_leave_an_empty_queue,
    async blockers_are_reported_with_start_and_task,
);

async fn manager(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it is there")
}

async fn time_outs_are_punctual_and_leave_no_entry(db: Database) {
    let (holder, waiter) = (manager(&db, "holder").await, manager(&db, "waiter").await);
    let guard = holder.acquire("x").await.expect("it is free");
    let before = LocksRow::read(&db, "platform").await.expect("it is there");
    // A busy machine does not delay three rounds in a row.
    let mut rounds = Vec::new();
    while rounds.len() < 3 && rounds.last().is_none_or(|late| *late >= IN_TIME) {
        rounds.push(forty_time_outs(&waiter).await);
    }
    note(&format!(
        "forty time-outs on {} were at most {rounds:?} late",
        db.engine()
    ));
    assert!(
        rounds.last().is_some_and(|late| *late < IN_TIME),
        "{rounds:?}"
    );
    let after = wait_until_queued(&db, "platform", 0).await;
    assert_eq!(after.data_json, before.data_json);
    // Neither the names nor the session of the waiters remain.
    assert_eq!(after.meta(), before.meta());
    guard.release().await.expect("it is held");
}

/// How late the latest of the time-outs was.
async fn forty_time_outs(waiter: &LockManager) -> Duration {
    let mut waits = JoinSet::new();
    for n in 0..40 {
        let limit = Duration::from_millis(100 + 50 * n);
        let waiter = waiter.clone();
        waits.spawn(async move {
            let start = Instant::now();
            let refused = waiter.wait("x").timeout(limit).await;
            let elapsed = start.elapsed();
            let error = refused.expect_err("it is held all the time");
            assert!(error.is_timeout(), "{error}");
            elapsed.checked_sub(limit).expect("not before its time")
        });
    }
    let late = waits.join_all().await;
    late.into_iter().max().expect("forty")
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
    let held = text.split_once("app_task_1 is held by task holder since ");
    assert!(
        held.is_some_and(|(_, rest)| rest.contains(" s ago")),
        "{text}"
    );
    guard.release().await.expect("it is held");
    update.granted("job", SOON);
}
