//! Requests are granted in the order of their arrival, across processes.

use std::time::Duration;

use locks_core::LockManager;
use locks_tests::{
    engine::Database,
    on_every_engine,
    row::{LocksRow, wait_until_empty, wait_until_queued},
    wait, waiter,
    waiter::Waiter,
};

const SOON: Duration = Duration::from_secs(30);

on_every_engine!(
    async fifty_waiters_of_five_processes_are_granted_in_order,
    async concurrent_waiters_are_granted_in_queue_order,
    async acquire_does_not_overtake_waiters,
    async request_for_several_names_waits_for_earlier_requests_of_any,
);

async fn manager(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it is there")
}

fn processes(db: &Database, number: usize) -> Vec<Waiter> {
    let start = |n: usize| waiter!(db.url(), format!("w{n}"));
    (0..number).map(start).collect()
}

async fn fifty_waiters_of_five_processes_are_granted_in_order(db: Database) {
    let holder = manager(&db, "holder").await;
    let guard = holder.acquire("x").await.expect("it is free");
    let mut processes = processes(&db, 5);
    // An order that follows neither from the processes nor from their names.
    let mut arrivals: Vec<usize> = (0..50).map(|n| n % 5).collect();
    fastrand::shuffle(&mut arrivals);
    for (n, process) in arrivals.iter().enumerate() {
        processes[*process].tell(&format!("pass {n} x"));
        wait_until_queued(&db, "platform", n + 1).await;
    }
    guard.release().await.expect("it is held");
    let granted = |(n, process): (usize, &usize)| processes[*process].granted(&n.to_string(), SOON);
    let tokens: Vec<_> = arrivals
        .iter()
        .enumerate()
        .map(granted)
        .map(|g| g.token)
        .collect();
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    wait_until_empty(&db, "platform", SOON).await;
}

async fn concurrent_waiters_are_granted_in_queue_order(db: Database) {
    let holder = manager(&db, "holder").await;
    let guard = holder.acquire("x").await.expect("it is free");
    let mut processes = processes(&db, 5);
    for n in 0..50 {
        processes[n % 5].tell(&format!("pass {n} x"));
    }
    // Their order is the order of the queue: the names identify the requests.
    let row = wait_until_queued(&db, "platform", 50).await;
    guard.release().await.expect("it is held");
    let mut served = Vec::new();
    for n in 0..50 {
        served.push((processes[n % 5].granted(&n.to_string(), SOON).token, n % 5));
    }
    served.sort_unstable();
    // The row does not identify the jobs of a process, so its session stands for each of them.
    let session = |process: usize| {
        let first = served
            .iter()
            .position(|(_, p)| *p == process)
            .expect("ten of it");
        row.queue()[first].0.clone()
    };
    let sessions: Vec<_> = (0..5).map(session).collect();
    let expected: Vec<_> = row
        .queue()
        .into_iter()
        .map(|(session, _)| session)
        .collect();
    let served: Vec<_> = served.iter().map(|(_, p)| sessions[*p].clone()).collect();
    assert_eq!(served, expected);
    wait_until_empty(&db, "platform", SOON).await;
}

async fn acquire_does_not_overtake_waiters(db: Database) {
    let (holder, other) = (manager(&db, "holder").await, manager(&db, "other").await);
    let mut waiting = waiter!(db.url(), "waiting");
    let guard = holder.acquire("x").await.expect("it is free");
    waiting.tell("wait job x y");
    wait_until_queued(&db, "platform", 1).await;
    let busy = other.acquire("y").await.expect_err("it is awaited");
    let text = busy.to_string();
    assert!(
        busy.is_busy() && text.contains("task waiting waits for x, y"),
        "{text}"
    );
    guard.release().await.expect("it is held");
    waiting.granted("job", SOON);
    assert!(other.acquire("y").await.is_err());
    waiting.release("job");
    other
        .acquire("y")
        .await
        .expect("it is free")
        .release()
        .await
        .expect("it is held");
}

async fn request_for_several_names_waits_for_earlier_requests_of_any(db: Database) {
    let holder = manager(&db, "holder").await;
    let (x, y) = (holder.acquire("x").await, holder.acquire("y").await);
    let mut processes = processes(&db, 3);
    // The first request is for x, the second for x and y, the third, behind the second, for y only.
    for (n, names) in ["x", "x y", "y"].into_iter().enumerate() {
        processes[n].tell(&format!("wait job {names}"));
        wait_until_queued(&db, "platform", n + 1).await;
    }
    y.expect("it was free").release().await.expect("it is held");
    // Neither lock can be granted yet. A write by another task makes every waiter read the row.
    let other = manager(&db, "other").await;
    other
        .acquire("z")
        .await
        .expect("it is free")
        .release()
        .await
        .expect("it is held");
    let row = LocksRow::read(&db, "platform").await.expect("it is there");
    assert_eq!(
        (row.queue().len(), row.held().contains_key("y")),
        (3, false)
    );
    x.expect("it was free").release().await.expect("it is held");
    let first = processes[0].granted("job", SOON);
    processes[0].release("job");
    let second = processes[1].granted("job", SOON);
    assert!(processes[2].is_silent_about("granted"));
    processes[1].release("job");
    let third = processes[2].granted("job", SOON);
    assert!(first.token < second.token && second.token < third.token);
    processes[2].release("job");
    wait::until(SOON, "nothing held", async || {
        holder.held().await.is_ok_and(|held| held.is_empty())
    })
    .await;
}
