//! `locks list`, `waiting`, `watch`, `release` and `release-task`, while workers run.

use locks_core::{LockGuard, Shared};
use locks_tests::{engine::Database, on_every_engine, process::Peer, wait, worker};
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::{SOON, connect, errors, locks, output, printed};

on_every_engine!(
    async holders_are_listed_with_their_processes,
    async waiters_are_listed_with_what_blocks_them,
    async changes_are_watched,
    async lock_is_broken_by_its_token_only,
    async holder_of_a_shared_lock_is_chosen_by_its_session,
    async locks_of_a_task_are_released,
);

fn json(db: &Database, args: &[&str]) -> Vec<Value> {
    serde_json::from_str(&printed(db, args)).expect("an array")
}

/// A request of this process that waits in the queue.
async fn queue(db: &Database, task: &str, name: &'static str) -> JoinHandle<LockGuard> {
    let locks = connect(db, task).await;
    let observer = locks.clone();
    let waiting = tokio::spawn(async move {
        let wait = locks.wait(name).timeout(SOON);
        wait.await.expect("it is granted in time")
    });
    wait::until(SOON, "it waits", async || {
        let waiting = observer.waiting().await.expect("it answers");
        waiting
            .iter()
            .any(|waiter| &*waiter.task_id == observer.task_id())
    })
    .await;
    waiting
}

async fn holders_are_listed_with_their_processes(db: Database) {
    let mut worker = worker!(db.url(), "worker");
    let token = worker.acquire("app_task_1");
    let listed = json(&db, &["list", "--json"]);
    let [lock] = &listed[..] else {
        panic!("{listed:?}");
    };
    assert_eq!(lock["name"], "app_task_1");
    assert_eq!(lock["task_id"], "worker");
    assert_eq!(lock["token"], token);
    assert_eq!(lock["mode"], "exclusive");
    assert_eq!(lock["process"], worker.pid());
    assert!(
        lock["host"].as_str().is_some_and(|host| !host.is_empty()),
        "{lock}"
    );
    assert!(
        lock["session"].is_string() && lock["since"].is_string(),
        "{lock}"
    );
    let table = printed(&db, &["list"]);
    let [header, row] = &table.lines().collect::<Vec<_>>()[..] else {
        panic!("{table}");
    };
    let header: Vec<_> = header.split_whitespace().collect();
    assert_eq!(
        header,
        ["NAME", "TASK", "FOR", "HOST", "PROCESS", "TOKEN", "MODE"]
    );
    for part in [
        "app_task_1",
        "worker",
        &worker.pid().to_string(),
        &token.to_string(),
    ] {
        assert!(row.contains(part), "{part}: {row}");
    }
    let elsewhere = json(&db, &["--namespace", "other", "list", "--json"]);
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

async fn waiters_are_listed_with_what_blocks_them(db: Database) {
    let mut worker = worker!(db.url(), "worker");
    let token = worker.acquire("app_task_1");
    let waiting = queue(&db, "waiter", "app_task_1").await;
    let listed = json(&db, &["waiting", "--json"]);
    let [request] = &listed[..] else {
        panic!("{listed:?}");
    };
    assert_eq!(request["names"], serde_json::json!(["app_task_1"]));
    assert_eq!(request["task_id"], "waiter");
    assert_eq!(request["process"], std::process::id());
    let blocker = &request["blocked_by"][0];
    assert_eq!(blocker["kind"], "holder");
    assert_eq!(
        (&blocker["task_id"], &blocker["token"]),
        (&"worker".into(), &token.into())
    );
    assert_eq!(blocker["process"], worker.pid());
    let table = printed(&db, &["waiting"]);
    assert!(
        table.contains("app_task_1 is held by task worker"),
        "{table}"
    );
    worker.ask("release");
    drop(waiting.await);
}

/// The next line of `locks watch --json`, without the time.
fn next(watch: &mut Peer) -> (String, Value) {
    let line = watch.next_line(SOON).expect("it goes on");
    let line: Value = serde_json::from_str(&line).expect("an object");
    let event = line["event"].as_str().expect("a text").to_owned();
    let subject = if line["holder"].is_object() {
        "holder"
    } else {
        "waiter"
    };
    (event, line[subject].clone())
}

async fn changes_are_watched(db: Database) {
    let mut worker = worker!(db.url(), "worker");
    let first = worker.acquire("app_task_1");
    let mut watch = Peer::start(locks(&db, ["watch", "--json"]));
    let (event, holder) = next(&mut watch);
    assert_eq!((&*event, &holder["token"]), ("held", &first.into()));
    let waiting = queue(&db, "waiter", "app_task_1").await;
    let (event, waiter) = next(&mut watch);
    assert_eq!((&*event, &waiter["task_id"]), ("queued", &"waiter".into()));
    worker.ask("release");
    let guard = waiting.await.expect("no panic");
    let mut events: Vec<_> = (0..3).map(|_| next(&mut watch)).collect();
    // Several changes at a time, or one after the other.
    events.sort_by(|a, b| a.0.cmp(&b.0));
    let [granted, left, released] = &events[..] else {
        unreachable!("three");
    };
    assert_eq!(
        (&*granted.0, &granted.1["token"]),
        ("granted", &guard.token().into())
    );
    assert_eq!((&*left.0, &left.1["task_id"]), ("left", &"waiter".into()));
    assert_eq!(
        (&*released.0, &released.1["token"]),
        ("released", &first.into())
    );
    guard.release().await.expect("it is held");
    assert_eq!(next(&mut watch).0, "released");
    watch.signal(Signal::INT);
    watch.finish_well(SOON);
}

async fn lock_is_broken_by_its_token_only(db: Database) {
    let mut worker = worker!(db.url(), "worker", "--ttl", "1500");
    let token = worker.acquire("x");
    for wrong in [token + 1, token - 1] {
        let refused = output(&db, &["release", "x", "--token", &wrong.to_string()]);
        assert_eq!(refused.status.code(), Some(1));
        let text = errors(&refused);
        assert!(text.contains("x is held by task worker"), "{text}");
        assert!(text.contains(&token.to_string()), "{text}");
    }
    let token = token.to_string();
    let absent = output(&db, &["release", "y", "--token", &token]);
    assert_eq!(absent.status.code(), Some(1));
    assert_eq!(worker.ask("lost"), "false");
    let released = printed(&db, &["release", "x", "--token", &token]);
    assert_eq!(
        released.trim(),
        format!("released x of task worker, token {token}")
    );
    let loss = worker.ask("loss");
    assert!(loss.starts_with("loss: lost x: "), "{loss}");
    let again = output(&db, &["release", "x", "--token", &token]);
    assert_eq!(again.status.code(), Some(1), "it is free");
}

async fn holder_of_a_shared_lock_is_chosen_by_its_session(db: Database) {
    let (a, b) = (connect(&db, "a").await, connect(&db, "b").await);
    let kept = a.acquire(Shared("x")).await.expect("it is free");
    let broken = b.acquire(Shared("x")).await.expect("it is shared");
    let listed = json(&db, &["list", "--json"]);
    assert!(
        listed.iter().all(|lock| lock["mode"] == "shared"),
        "{listed:?}"
    );
    let session = |task: &str| {
        let lock = listed.iter().find(|lock| lock["task_id"] == task);
        lock.expect("it is listed")["session"]
            .as_str()
            .expect("a text")
            .to_owned()
    };
    let token = broken.token().to_string();
    let args = ["release", "x", "--token", &token, "--session"];
    let other = output(&db, &[&args[..], &[&session("a")]].concat());
    assert_eq!(other.status.code(), Some(1), "{}", errors(&other));
    let released = printed(&db, &[&args[..], &[&session("b")]].concat());
    assert_eq!(
        released.trim(),
        format!("released x of task b, token {token}")
    );
    assert!(!kept.is_lost());
    kept.release().await.expect("it is held");
}

async fn locks_of_a_task_are_released(db: Database) {
    let (mut worker, mut other) = (worker!(db.url(), "worker"), worker!(db.url(), "other"));
    let token = worker.acquire("x");
    let kept = other.acquire("y");
    let released = printed(&db, &["release-task", "worker"]);
    assert_eq!(
        released.trim(),
        format!("released x of task worker, token {token}")
    );
    assert_eq!(printed(&db, &["release-task", "worker"]), "");
    let left = json(&db, &["list", "--json"]);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["token"], kept);
}
