//! Holders that are stopped for longer than their ttl: the lock passes on, and the former holder
//! does no harm when it continues.

use std::time::{Duration, Instant};

use locks_core::LockManager;
use locks_tests::{
    engine::{Database, Engine, note},
    journal::{Journal, Tx},
    on_every_engine,
    row::LocksRow,
    sessions::{Session, wait_until_only},
    worker,
    worker::Worker,
};

const SOON: Duration = Duration::from_secs(20);
const TTL: Duration = Duration::from_secs(3);
const MARGIN: Duration = Duration::from_millis(300);
/// What a busy machine may add.
const LATE: Duration = Duration::from_secs(2);

on_every_engine!(
    async lock_of_a_stopped_holder_passes_on,
    async holder_that_continues_in_time_keeps_its_lock,
    async stopped_waiter_is_passed_and_waits_again,
    async stopped_holder_without_expiry_keeps_its_lock,
);
on_every_engine!(servers: async transaction_begun_before_the_stop_is_refused);

async fn successor(db: &Database) -> LockManager {
    let builder = LockManager::builder().task_id("successor");
    builder.connect(db.url()).await.expect("it connects")
}

fn holder(db: &Database) -> Worker {
    worker!(db.url(), "holder", "--ttl", TTL.as_millis().to_string())
}

async fn lock_of_a_stopped_holder_passes_on(db: Database) {
    let journal = Journal::open(db.url()).await;
    let locks = successor(&db).await;
    let mut holder = holder(&db);
    let old = holder.acquire("x");
    let (before, _) = Session::next_beat(&db, "holder", SOON).await;
    let stopped = Instant::now();
    holder.stop();
    let guard = locks.wait("x").timeout(SOON).await.expect("it passes on");
    let granted = Instant::now();
    assert!(granted - before >= TTL + MARGIN, "{:?}", granted - before);
    assert!(granted - stopped < TTL + MARGIN + LATE);
    assert!(guard.token() > old);

    holder.cont();
    // The first thing that the process does.
    assert_eq!(holder.ask("lost"), "true");
    let reported = holder.ask("loss");
    assert!(
        reported.starts_with("loss: lost x: its session was "),
        "{reported}"
    );
    assert_eq!(holder.ask("begin late"), "begun");
    let refused = holder.ask("commit");
    assert!(refused.starts_with("refused: lost x: "), "{refused}");
    assert!(!journal.has("late").await);
    let refused = holder.ask("release");
    assert!(refused.starts_with("refused: lost x: "), "{refused}");

    assert!(!guard.is_lost());
    let row = LocksRow::read(&db, "platform").await.expect("it is there");
    assert_eq!(row.held()["x"], "successor");
    let tx = journal.begin_entry("in time").await.expect("it begins");
    locks_tests::on_engine!(Tx, tx, tx => guard.commit(tx).await).expect("it is held");
    guard.release().await.expect("it is ours");
    assert_eq!(journal.entries().await, ["in time"]);

    // It continues with a new session.
    assert!(holder.acquire("x") > old);
    assert_eq!(holder.ask("lost"), "false");
    assert_eq!(holder.ask("release"), "released");
    wait_until_only(&db, &["holder", "successor"], SOON).await;
    note(&format!(
        "{}: from SIGSTOP to the next grant, with a ttl of {TTL:?}: {:?}",
        db.engine(),
        granted - stopped
    ));
}

/// The transaction was begun and written to while the lock was held, on a connection that nothing
/// ends.
async fn transaction_begun_before_the_stop_is_refused(db: Database) {
    assert_ne!(
        db.engine(),
        Engine::Sqlite,
        "there it would block every writer"
    );
    let journal = Journal::open(db.url()).await;
    let locks = successor(&db).await;
    let mut holder = holder(&db);
    holder.acquire("x");
    assert_eq!(holder.ask("begin old"), "begun");
    holder.stop();
    let guard = locks.wait("x").timeout(SOON).await.expect("it passes on");
    holder.cont();
    let refused = holder.ask("commit");
    assert!(refused.starts_with("refused: lost x: "), "{refused}");
    assert!(!journal.has("old").await);
    assert!(!guard.is_lost());
}

async fn holder_that_continues_in_time_keeps_its_lock(db: Database) {
    let journal = Journal::open(db.url()).await;
    let locks = successor(&db).await;
    let mut holder = holder(&db);
    holder.acquire("x");
    let waiting = tokio::spawn(async move { locks.wait("x").timeout(SOON).await });
    for round in 0..4 {
        let (_, beat) = Session::next_beat(&db, "holder", SOON).await;
        // The session's ttl counts from the last renewal with an answer. A renewal whose answer is
        // not received before the stop does not count, and two of these in a row would end the
        // session.
        tokio::time::sleep_until((beat + TTL / 20).into()).await;
        holder.stop();
        tokio::time::sleep_until((beat + TTL / 3).into()).await;
        holder.cont();
        assert_eq!(holder.ask("lost"), "false", "in round {round}");
    }
    assert_eq!(holder.ask("begin in time"), "begun");
    assert_eq!(holder.ask("commit"), "committed");
    assert!(journal.has("in time").await);
    assert_eq!(holder.ask("release"), "released");
    let guard = waiting.await.expect("no panic");
    drop(guard.expect("it passes on"));
}

async fn stopped_waiter_is_passed_and_waits_again(db: Database) {
    let locks = successor(&db).await;
    let guard = locks.acquire("x").await.expect("it is free");
    let mut waiter = holder(&db);
    waiter.send("wait x");
    locks_tests::wait::until(SOON, "it waits", async || {
        locks.waiting().await.expect("the database answers").len() == 1
    })
    .await;
    waiter.stop();
    let second = locks.wait("x").timeout(SOON);
    let second = tokio::spawn(second);
    guard.release().await.expect("it is ours");
    let guard = second
        .await
        .expect("no panic")
        .expect("the first one stands still");
    waiter.cont();
    waiter.expect_silence(TTL / 2);
    guard.release().await.expect("it is ours");
    waiter.granted();
}

async fn stopped_holder_without_expiry_keeps_its_lock(db: Database) {
    let locks = successor(&db).await;
    let mut holder = worker!(db.url(), "holder", "--never");
    holder.acquire("x");
    holder.stop();
    let asked = locks.wait("x").timeout(2 * TTL).await;
    assert!(asked.expect_err("it is held").is_timeout());
    holder.cont();
    assert_eq!(holder.ask("lost"), "false");
    assert_eq!(holder.ask("release"), "released");
}
