//! Connections that stay open and silent, and writes that land late.

use std::time::{Duration, Instant};

use locks_core::{LockError, LockGuard, LockManager};
use locks_tests::{
    engine::{Database, Engine},
    on_every_engine,
    relay::{How, Relay, When},
    row::{LocksRow, WriteCount, wait_until_empty},
    wait,
};

use super::{SETTLED, behind_relay, direct, holder_of, wait_until_free};

/// How long an unknown write may stay unsettled while a connection is silent: longer than the limit
/// of a statement.
const GIVEN_UP: Duration = Duration::from_secs(30);

on_every_engine!(
    servers:
    async a_grant_that_lands_late_changes_nothing,
    async a_grant_without_an_answer_is_found,
    async late_release_frees_no_other_lock,
    async a_release_without_an_answer_is_done,
    async cancelled_request_that_was_executed_holds_nothing,
    async cancelled_request_in_flight_holds_nothing,
    async silent_connection_is_reported_and_replaced,
);

on_every_engine!(async entry_without_a_guard_is_removed);

/// The next write of the row, for any purpose: it contains the stamp that it replaces.
async fn next_write(db: &Database) -> When {
    let row = LocksRow::read(db, "platform").await.expect("it was used");
    When::Containing(row.stamp.expect("it is ours").into_bytes())
}

/// A manager behind a relay that has used the row, with a lock that must survive the test.
async fn settled(db: &Database) -> (Relay, LockManager, LockGuard) {
    let (relay, locks) = behind_relay(db, "us").await;
    let guard = locks.acquire("survivor").await.expect("it is free");
    (relay, locks, guard)
}

async fn survives(db: &Database, survivor: &LockGuard) {
    assert!(!survivor.is_lost());
    assert_eq!(holder_of(db, "survivor").await.as_deref(), Some("us"));
}

/// Delivers what the relay kept, and waits until the server has received it.
async fn deliver(relay: &Relay) {
    let open = relay.counters().open;
    relay.heal();
    let landed = "the abandoned connection is closed";
    relay.wait_for(SETTLED, landed, |c| c.open < open).await;
}

async fn a_grant_that_lands_late_changes_nothing(db: Database) {
    let (relay, locks, survivor) = settled(&db).await;
    relay.arm(When::Containing(b"late".to_vec()), How::Stall);
    let start = Instant::now();
    let guard = tokio::time::timeout(GIVEN_UP, locks.wait("late")).await;
    let guard = guard
        .expect("another connection is there")
        .expect("it is free");
    println!("given up after {:?}", start.elapsed());
    assert_eq!(relay.counters().stalled, 1);
    let row = LocksRow::read(&db, "platform").await.unwrap();
    assert_eq!(row.held().get("late").map(String::as_str), Some("us"));
    deliver(&relay).await;
    assert_eq!(LocksRow::read(&db, "platform").await, Some(row));
    assert!(!guard.is_lost());
    guard.release().await.unwrap();
    survives(&db, &survivor).await;
    drop((survivor, locks));
    wait_until_empty(&db, "platform", SETTLED).await;
}

async fn a_grant_without_an_answer_is_found(db: Database) {
    let (relay, locks, survivor) = settled(&db).await;
    let writes = WriteCount::start(&db).await;
    relay.arm(When::Containing(b"mute".to_vec()), How::StallAnswer);
    let guard = tokio::time::timeout(GIVEN_UP, locks.acquire("mute")).await;
    let guard = guard
        .expect("another connection is there")
        .expect("it is free");
    // The grant was found, not made again. On MySQL and MariaDB one more write proves that it is on
    // the disk.
    let row = LocksRow::read(&db, "platform").await.unwrap();
    let is_proved = db.engine() == Engine::MySql;
    assert_eq!(writes.read().await, 1 + u64::from(is_proved));
    assert_eq!(guard.token() < row.version, is_proved);
    assert_eq!(row.held().get("mute").map(String::as_str), Some("us"));
    deliver(&relay).await;
    survives(&db, &survivor).await;
    drop((survivor, guard, locks));
    wait_until_empty(&db, "platform", SETTLED).await;
}

async fn late_release_frees_no_other_lock(db: Database) {
    let (relay, locks, survivor) = settled(&db).await;
    let watcher = direct(&db).await;
    let guard = locks.acquire("x").await.unwrap();
    relay.arm(next_write(&db).await, How::Stall);
    let released = tokio::time::timeout(GIVEN_UP, guard.release()).await;
    released
        .expect("another connection is there")
        .expect("it is ours");
    assert_eq!(relay.counters().stalled, 1);
    let theirs = watcher.acquire("x").await.expect("it was released");
    let row = LocksRow::read(&db, "platform").await;
    deliver(&relay).await;
    assert_eq!(LocksRow::read(&db, "platform").await, row);
    assert!(!theirs.is_lost());
    survives(&db, &survivor).await;
}

async fn a_release_without_an_answer_is_done(db: Database) {
    let (relay, locks, survivor) = settled(&db).await;
    let watcher = direct(&db).await;
    let guard = locks.acquire("x").await.unwrap();
    relay.arm(next_write(&db).await, How::StallAnswer);
    let release = tokio::spawn(async { guard.release().await });
    wait_until_free(&db, "x", SETTLED).await;
    // Another task holds the lock by the time the release is settled, which is no error.
    let theirs = watcher.acquire("x").await.expect("it was released");
    let released = tokio::time::timeout(GIVEN_UP, release).await;
    released
        .expect("another connection is there")
        .unwrap()
        .expect("it was ours");
    assert_eq!(holder_of(&db, "x").await.as_deref(), Some("watcher"));
    assert!(!theirs.is_lost());
    survives(&db, &survivor).await;
}

/// Requests the lock until `sent` reports that the request is where it should be, and cancels it.
async fn ask_and_cancel(locks: &LockManager, name: &'static str, sent: impl AsyncFnOnce()) {
    let request = tokio::spawn(locks.acquire(name));
    sent().await;
    request.abort();
    let left = request.await.expect_err("it was dropped in the middle");
    assert!(left.is_cancelled());
}

async fn cancelled_request_that_was_executed_holds_nothing(db: Database) {
    let (relay, locks, survivor) = settled(&db).await;
    relay.arm(When::Containing(b"executed".to_vec()), How::StallAnswer);
    ask_and_cancel(&locks, "executed", async || {
        let held = async || holder_of(&db, "executed").await.is_some();
        wait::until(SETTLED, "it is executed", held).await;
    })
    .await;
    wait_until_free(&db, "executed", GIVEN_UP).await;
    deliver(&relay).await;
    survives(&db, &survivor).await;
    drop((survivor, locks));
    wait_until_empty(&db, "platform", SETTLED).await;
}

async fn cancelled_request_in_flight_holds_nothing(db: Database) {
    let (relay, locks, survivor) = settled(&db).await;
    let before = relay.counters();
    relay.arm(When::Containing(b"on_its_way".to_vec()), How::Stall);
    ask_and_cancel(&locks, "on_its_way", async || {
        relay
            .wait_for(SETTLED, "it is on its way", |c| c.stalled == 1)
            .await;
    })
    .await;
    // The manager settles the write on another connection. Waits until that is done.
    let again = "another connection";
    relay
        .wait_for(GIVEN_UP, again, |c| c.connections > before.connections)
        .await;
    let mut seen = relay.counters();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        match relay.counters() {
            now if now.requests == seen.requests => break,
            now => seen = now,
        }
    }
    // No request is pending. A grant that lands now is released without one.
    deliver(&relay).await;
    wait_until_free(&db, "on_its_way", SETTLED).await;
    survives(&db, &survivor).await;
    drop((survivor, locks));
    wait_until_empty(&db, "platform", SETTLED).await;
}

async fn silent_connection_is_reported_and_replaced(db: Database) {
    let (relay, locks, survivor) = settled(&db).await;
    let watcher = direct(&db).await;
    relay.stall();
    let start = Instant::now();
    let short = locks.wait("short").timeout(Duration::from_secs(2));
    let long = locks.wait("long").timeout(Duration::from_secs(9));
    let asked = tokio::join!(short, long, locks.acquire("at_once"));
    println!("reported after {:?}", start.elapsed());
    assert!(start.elapsed() < GIVEN_UP, "{:?}", start.elapsed());
    for (name, answer) in [("short", asked.0), ("long", asked.1), ("at_once", asked.2)] {
        let error = answer.expect_err("nothing gets through");
        // The lock was not seen as refused, so this is no time-out of the lock.
        let database = matches!(
            error,
            LockError::Database {
                transient: true,
                ..
            }
        );
        assert!(database, "{name}: {error:?}");
    }
    // Other processes are not affected by the silent connection.
    watcher
        .acquire("elsewhere")
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    relay.heal();
    let guard = tokio::time::timeout(GIVEN_UP, locks.wait(["short", "long", "at_once"])).await;
    guard
        .expect("it is healed")
        .unwrap()
        .release()
        .await
        .unwrap();
    for name in ["short", "long", "at_once"] {
        let free = watcher
            .acquire(name)
            .await
            .expect("its grant was never reported");
        free.release().await.unwrap();
    }
    survives(&db, &survivor).await;
    drop((survivor, locks, watcher));
    wait_until_empty(&db, "platform", SETTLED).await;
}

async fn entry_without_a_guard_is_removed(db: Database) {
    // As if a write had landed that its manager no longer knows of.
    let builder = LockManager::builder().task_id("us");
    let locks = builder.connect(db.url()).await.unwrap();
    let survivor = locks.acquire("survivor").await.unwrap();
    let guard = locks.acquire("x").await.unwrap();
    let with_it = LocksRow::read(&db, "platform").await.unwrap();
    guard.release().await.unwrap();
    let (data, meta) = (&with_it.data_json, with_it.meta_json.as_ref().unwrap());
    db.execute(&format!(
        "UPDATE locks SET dataJson = '{data}', metaJson = '{meta}', version = version + 1"
    ))
    .await;
    assert_eq!(holder_of(&db, "x").await.as_deref(), Some("us"));
    // The manager finds the entry at its next look.
    locks.acquire("y").await.unwrap().release().await.unwrap();
    wait_until_free(&db, "x", SETTLED).await;
    survives(&db, &survivor).await;
    drop((survivor, locks));
    wait_until_empty(&db, "platform", SETTLED).await;
}
