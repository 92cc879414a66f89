//! What waiting costs a server that sends no notifications: one look at a time, for any number of
//! waiters.

use std::time::{Duration, Instant};

use locks_core::{Expiry, LockManager};
use locks_tests::{
    clock::micros,
    engine::{Database, Engine, alone, note, run_async},
    on_every_engine,
    relay::Relay,
    row::wait_until_queued,
    wait, waiter,
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(20);

on_every_engine!(
    servers: async_alone a_thousand_waiters_cost_as_much_as_one,
    async_alone idle_process_sends_no_requests,
    async_alone a_missing_row_is_looked_for_every_50_ms,
);

async fn manager(url: &str, task: &str) -> LockManager {
    // Renewals are not counted here.
    let expiry = Expiry::After(Duration::from_mins(10));
    let builder = LockManager::builder().task_id(task).expiry(expiry);
    builder.connect(url).await.expect("it is there")
}

/// The requests of a process with this many waiters, in two seconds, two seconds after the start.
async fn requests(db: &Database, number: usize) -> u64 {
    let holder = manager(db.url(), "holder").await;
    let guard = holder.acquire("x").await.expect("it is free");
    let relay = Relay::start(db.server_address());
    let waiter = manager(&db.url_via(relay.address()), "waiter").await;
    let mut waits = JoinSet::new();
    for n in 0..number {
        waits.spawn(waiter.wait(["x".to_owned(), format!("y{n}")]));
    }
    wait_until_queued(db, "platform", number).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = relay.counters();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = relay.counters();
    // One for the rows, one for renewals, one to listen on, and one on which a notification was
    // sent to prove the third.
    assert!(after.open <= 4, "{after:?}");
    waits.abort_all();
    while waits.join_next().await.is_some() {}
    wait_until_queued(db, "platform", 0).await;
    guard.release().await.expect("it is held");
    waiter.close().await.expect("it is there");
    after.requests - before.requests
}

async fn a_thousand_waiters_cost_as_much_as_one(db: Database) {
    let one = requests(&db, 1).await;
    let thousand = requests(&db, 1_000).await;
    note(&format!(
        "requests on {} in 2 s: {one} for one waiter, {thousand} for 1,000",
        db.engine()
    ));
    // Looks come at random moments, so the numbers differ a little.
    assert!(one >= 1 && thousand <= 2 * one + 5, "{one}, {thousand}");
}

async fn idle_process_sends_no_requests(db: Database) {
    let holder = manager(db.url(), "holder").await;
    let guard = holder.acquire("x").await.expect("it is free");
    let relay = Relay::start(db.server_address());
    let waiter = manager(&db.url_via(relay.address()), "waiter").await;
    let waiting = tokio::spawn(waiter.wait("x"));
    wait_until_queued(&db, "platform", 1).await;
    guard.release().await.expect("it is held");
    let guard = tokio::time::timeout(SOON, waiting).await.expect("in time");
    guard
        .expect("no panic")
        .expect("it is granted")
        .release()
        .await
        .expect("it is held");
    holder.close().await.expect("it is there");
    // No request waits and nothing is held. The connection that listens stays for some seconds.
    wait::until(SOON, "two seconds without a request", async || {
        let before = relay.counters().requests;
        tokio::time::sleep(Duration::from_secs(2)).await;
        relay.counters().requests == before
    })
    .await;
}

/// The original deletes its row and inserts it again. In between, the driver waits for it.
async fn a_missing_row_is_looked_for_every_50_ms(db: Database) {
    let relay = Relay::start(db.server_address());
    let locks = manager(&db.url_via(relay.address()), "a").await;
    let guard = locks.acquire("x").await.expect("it is free");
    guard.release().await.expect("it is held");
    db.execute("DELETE FROM locks").await;
    let before = relay.counters().requests;
    let start = Instant::now();
    let guard = locks.acquire("x").await.expect("the row is made again");
    let took = start.elapsed();
    let requests = relay.counters().requests - before;
    note(&format!("{}: {requests} requests in {took:?}", db.engine()));
    assert!(
        took > Duration::from_secs(2),
        "the driver did not wait: {took:?}"
    );
    // 60 looks in 3 s, and the statements that create the row and open a session.
    assert!(requests < 120, "{requests} requests in {took:?}");
    guard.release().await.expect("it is held");
}

/// The processor time of a process, from fields 14 and 15 of its `stat` file (proc(5)).
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let fields: Vec<_> = fields.split_ascii_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<u64>().expect("a number");
    // A tick is 10 ms on every platform of Linux.
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

#[cfg(target_os = "linux")]
#[test]
fn waiting_for_a_file_costs_no_processor_time() {
    let _alone = alone();
    run_async(Engine::Sqlite, async |db: Database| {
        let holder = LockManager::builder().task_id("holder").connect(db.url());
        let holder = holder.await.expect("it is there");
        let guard = holder.acquire("x").await.expect("it is free");
        let mut waiter = waiter!(db.url(), "waiter", "--by-time");
        waiter.tell("wait job x");
        wait_until_queued(&db, "platform", 1).await;
        // The first renewals show that reports come.
        tokio::time::sleep(Duration::from_secs(6)).await;
        let before = processor_time(waiter.peer().pid());
        tokio::time::sleep(Duration::from_secs(20)).await;
        let after = processor_time(waiter.peer().pid());
        let spent = after.saturating_sub(before);
        note(&format!("processor time of a waiter in 20 s: {spent:?}"));
        let from = micros();
        guard.release().await.expect("it is held");
        let granted = waiter.granted("job", SOON);
        let delay = Duration::from_micros(granted.at.saturating_sub(from));
        note(&format!("a grant after 26 s of waiting: {delay:?}"));
        assert!(spent <= Duration::from_millis(120), "{spent:?}");
    });
}
