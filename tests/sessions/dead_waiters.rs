//! Waiters whose process ended or was stopped, or whose session was evicted.

use std::time::Duration;

use locks_core::LockManager;
use locks_tests::{
    engine::Database,
    on_every_engine,
    row::{LocksRow, wait_until_empty, wait_until_queued},
    wait, waiter,
};

const SOON: Duration = Duration::from_secs(20);

on_every_engine!(
    async killed_waiters_are_removed_from_the_queue,
    async silent_waiter_is_removed_from_the_queue,
    async waiter_with_an_evicted_session_keeps_its_place,
    async stopped_waiter_is_passed_and_queues_again,
    async release_task_removes_waiters_of_a_dead_task,
);

async fn manager(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it is there")
}

async fn killed_waiters_are_removed_from_the_queue(db: Database) {
    let holder = manager(&db, "holder").await;
    let guard = holder.acquire("x").await.expect("it is free");
    let (mut killed, mut next) = (waiter!(db.url(), "killed"), waiter!(db.url(), "next"));
    let mut zombie = waiter!(db.url(), "zombie");
    for (n, process) in [&mut killed, &mut zombie, &mut next]
        .into_iter()
        .enumerate()
    {
        // The last request waits for requests of dead processes only.
        let names = if n == 2 { "y" } else { "x y" };
        process.tell(&format!("wait job {names}"));
        wait_until_queued(&db, "platform", n + 1).await;
    }
    killed.peer().kill();
    zombie.peer().kill_unreaped();
    // The sessions would expire after 15 s.
    let limit = Duration::from_secs(5);
    next.granted("job", limit);
    let row = wait_until_queued(&db, "platform", 0).await;
    assert_eq!(row.held().len(), 2, "{row:?}");
    next.release("job");
    guard.release().await.expect("it is held");
    wait_until_empty(&db, "platform", SOON).await;
}

async fn silent_waiter_is_removed_from_the_queue(db: Database) {
    let holder = manager(&db, "holder").await;
    let guard = holder.acquire("x").await.expect("it is free");
    let mut killed = waiter!(db.url(), "killed", "--expiry", "1000");
    // As if the process ran on another machine.
    let mut next = waiter!(db.url(), "next", "--by-time");
    killed.tell("wait job x y");
    wait_until_queued(&db, "platform", 1).await;
    next.tell("wait job y");
    wait_until_queued(&db, "platform", 2).await;
    killed.peer().kill();
    let before = locks_tests::clock::micros();
    let granted = next.granted("job", SOON);
    let after = Duration::from_micros(granted.at - before);
    assert!(
        after > Duration::from_millis(600),
        "it may have beaten a moment ago: {after:?}"
    );
    assert!(after < Duration::from_secs(5), "{after:?}");
    guard.release().await.expect("it is held");
}

async fn waiter_with_an_evicted_session_keeps_its_place(db: Database) {
    let holder = manager(&db, "holder").await;
    let guard = holder.acquire("x").await.expect("it is free");
    let mut first = waiter!(db.url(), "first", "--expiry", "2000");
    let mut second = waiter!(db.url(), "second");
    first.tell("wait job x");
    wait_until_queued(&db, "platform", 1).await;
    second.tell("wait job x");
    let row = wait_until_queued(&db, "platform", 2).await;
    let old = row.queue()[0].0.clone();
    // Another process evicted the session: wrongly, since its process lives.
    db.execute(&format!("DELETE FROM lock_sessions WHERE id = '{old}'"))
        .await;
    db.execute(&format!("DELETE FROM lock_fences WHERE session = '{old}'"))
        .await;
    let kept = wait::until_some(SOON, "a new session", async || {
        let queue = LocksRow::read(&db, "platform").await?.queue();
        let new = queue.len() == 2 && queue.iter().all(|(session, _)| *session != old);
        new.then_some(queue)
    })
    .await;
    assert_eq!(kept[1].0, row.queue()[1].0, "the second is where it was");
    let sessions = |table: &'static str| {
        let db = &db;
        async move {
            let mut conn = db.connect().await;
            let rows = conn
                .rows(&format!("SELECT * FROM {table}"))
                .await
                .expect("a table");
            rows.len()
        }
    };
    assert_eq!(
        (
            sessions("lock_sessions").await,
            sessions("lock_fences").await
        ),
        (3, 3)
    );
    guard.release().await.expect("it is held");
    let one = first.granted("job", SOON);
    assert!(second.is_silent_about("granted"));
    first.release("job");
    let two = second.granted("job", SOON);
    assert!(one.token < two.token);
    second.release("job");
    wait_until_empty(&db, "platform", SOON).await;
}

async fn stopped_waiter_is_passed_and_queues_again(db: Database) {
    let holder = manager(&db, "holder").await;
    let guard = holder.acquire("x").await.expect("it is free");
    let mut first = waiter!(db.url(), "first", "--expiry", "1000");
    let mut second = waiter!(db.url(), "second");
    first.tell("wait job x y");
    wait_until_queued(&db, "platform", 1).await;
    second.tell("wait job y");
    wait_until_queued(&db, "platform", 2).await;
    first.peer().stop();
    let two = second.granted("job", SOON);
    first.peer().cont();
    // The request is in the queue again. Its process never knew that it was not.
    wait_until_queued(&db, "platform", 1).await;
    guard.release().await.expect("it is held");
    assert!(first.is_silent_about("granted"));
    second.release("job");
    let one = first.granted("job", SOON);
    assert!(two.token < one.token);
    first.release("job");
    wait_until_empty(&db, "platform", SOON).await;
}

async fn release_task_removes_waiters_of_a_dead_task(db: Database) {
    let holder = manager(&db, "holder").await;
    let guard = holder.acquire("x").await.expect("it is free");
    let mut dead = waiter!(db.url(), "dead", "--expiry", "0");
    let mut next = waiter!(db.url(), "next", "--by-time");
    dead.tell("wait held z");
    dead.granted("held", SOON);
    dead.tell("wait job x y");
    wait_until_queued(&db, "platform", 1).await;
    next.tell("wait job y z");
    wait_until_queued(&db, "platform", 2).await;
    dead.peer().kill();
    // Only the supervisor's call can end this session.
    let forgotten = holder.release_task("dead").await.expect("it is done");
    let names: Vec<_> = forgotten
        .iter()
        .map(|holder| holder.name.as_str())
        .collect();
    assert_eq!(names, ["z"]);
    next.granted("job", SOON);
    guard.release().await.expect("it is held");
}
