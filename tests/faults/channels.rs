//! Reports by user-level locks that are late or lost, on MariaDB and MySQL: they cost time, never a
//! grant.

use std::time::Duration;

use locks_core::{LockGuard, LockManager};
use locks_tests::{
    clock::micros,
    engine::{Database, Engine, note, run_async},
    relay::{How, Relay, When},
    row::wait_until_queued,
    wait, waiter,
    waiter::Waiter,
};

const SOON: Duration = Duration::from_secs(20);
/// The limit for a grant without a report: a second between two looks, and the statements.
const UNREPORTED: Duration = Duration::from_millis(1_500);

/// The number of connections that wait for a user-level lock.
async fn waiting(db: &Database) -> usize {
    let mut conn = db.connect().await;
    let sql = "SELECT COUNT(*) AS n FROM information_schema.processlist \
               WHERE db = DATABASE() AND state = 'User lock'";
    let rows = conn.rows(sql).await.expect("it may be asked");
    let number = rows[0].get("n").expect("a number");
    number.parse().expect("a number")
}

async fn wait_until_waiting(db: &Database) {
    wait::until(SOON, "a connection that waits for a channel", async || {
        waiting(db).await == 1
    })
    .await;
    // The process looks at the row once more, and then relies on the report.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn holder(url: &str) -> (LockManager, LockGuard) {
    let holder = LockManager::builder().task_id("holder").connect(url).await;
    let holder = holder.expect("it is there");
    let guard = holder.acquire("x").await.expect("it is free");
    (holder, guard)
}

/// A process that waits for the lock, and for the channel of its holder.
async fn waiter(db: &Database) -> Waiter {
    let mut waiter = waiter!(db.url(), "waiter");
    waiter.tell("wait job x");
    wait_until_queued(db, "platform", 1).await;
    wait_until_waiting(db).await;
    waiter
}

/// The time from `from` to the grant.
fn delay(waiter: &mut Waiter, from: u64) -> Duration {
    let granted = waiter.granted("job", SOON);
    Duration::from_micros(granted.at.saturating_sub(from))
}

#[test]
fn late_report_only_delays_the_grant() {
    run_async(Engine::MySql, async |db| {
        let relay = Relay::start(db.server_address());
        let (_holder, guard) = holder(&db.url_via(relay.address())).await;
        let mut waiter = waiter(&db).await;
        let late = How::Delay(Duration::from_secs(4));
        relay.arm(When::Containing(b"RELEASE_LOCK".to_vec()), late);
        let from = micros();
        guard.release().await.expect("it is held");
        let delay = delay(&mut waiter, from);
        note(&format!("a grant whose report is late: {delay:?}"));
        assert!(delay < UNREPORTED, "{delay:?}");
        assert_eq!(relay.counters().delayed, 1);
    });
}

#[test]
fn a_channel_is_held_again_after_its_connection_was_lost() {
    run_async(Engine::MySql, async |db| {
        let relay = Relay::start(db.server_address());
        let (holder, guard) = holder(&db.url_via(relay.address())).await;
        let mut waiter = waiter(&db).await;
        relay.cut_all();
        // The process looks, and finds that the channel belongs to no connection.
        wait::until(SOON, "a channel that is free", async || {
            waiting(&db).await == 0
        })
        .await;
        let other = holder.acquire("other").await.expect("it is free");
        wait_until_waiting(&db).await;
        other.release().await.expect("it is held");
        guard.release().await.expect("it is held");
        waiter.granted("job", SOON);
    });
}

/// Every statement of a process that waits, but its renewals.
#[test]
fn a_process_that_waits_for_a_channel_looks_once_a_second() {
    run_async(Engine::MySql, async |db| {
        let (_holder, guard) = holder(db.url()).await;
        let relay = Relay::start(db.server_address());
        let other = LockManager::builder().task_id("waiter");
        let other = other.connect(&db.url_via(relay.address())).await;
        let other = other.expect("it is there");
        let job = tokio::spawn(other.wait("x"));
        wait_until_queued(&db, "platform", 1).await;
        wait_until_waiting(&db).await;
        let before = relay.counters().requests;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let looks = relay.counters().requests - before;
        // Three looks; and one each of the checks of the holder and the renewals of the session.
        assert!(looks <= 9, "{looks} requests in 3 s");
        guard.release().await.expect("it is held");
        let granted = job.await.expect("no panic");
        drop(granted.expect("it is granted"));
    });
}
