//! Guards and pending requests that are dropped, or whose process ends: no entry of them remains.
//!
//! Each case runs in a process of its own, and the test reads the row. If the process lives on, the
//! lock is free while it lives. If the process ends, the lock is free as soon as it has ended.

use std::time::Duration;

use locks_tests::{
    engine::Database,
    on_every_engine, peer,
    process::Peer,
    row::{LocksRow, wait_until_empty},
    wait,
};

const SOON: Duration = Duration::from_secs(10);
const NAME: &str = "app_task_1";

on_every_engine!(
    async the_end_of_a_current_thread_main,
    async the_end_of_a_multi_thread_main,
    async the_end_of_main_after_its_manager,
    async a_task_that_never_ends,
    async a_panic_of_main,
    async after_the_runtime_was_shut_down,
    async after_the_runtime_was_shut_down_in_the_background,
    async a_thread_without_a_runtime,
    async a_panic_in_a_thread,
    async a_panic_in_a_task,
    async a_cancelled_select,
    async a_cancelled_wait_behind_a_held_lock,
    async together_with_its_manager,
    async together_with_its_manager_in_a_runtime,
    async two_thousand_acquires_dropped,
    async two_thousand_waits_dropped,
);

/// Starts a process that holds the lock, waits until the lock is in the row, and lets the process
/// continue.
async fn holder(db: &Database, way: &str) -> Peer {
    let mut peer = peer!("end", db.url(), "holder", way);
    peer.expect_line("held", SOON);
    let row = LocksRow::read(db, "platform").await.expect("it is there");
    assert_eq!(row.held().get(NAME).map(String::as_str), Some("holder"));
    peer.send("go");
    peer
}

async fn assert_empty(db: &Database, what: &str) {
    let row = LocksRow::read(db, "platform").await.expect("it is there");
    assert!(row.is_empty(), "{what} leaves {row:#?}");
}

/// The process ends, and no entry remains.
async fn ends(db: &Database, way: &str) {
    let mut peer = holder(db, way).await;
    peer.finish_well(SOON);
    assert_empty(db, way).await;
}

/// The process lives on, and soon no entry remains.
async fn survives(db: &Database, way: &str) {
    let mut peer = holder(db, way).await;
    peer.expect_line("dropped", SOON);
    wait_until_empty(db, "platform", SOON).await;
    assert!(peer.is_running());
    peer.finish_well(SOON);
    assert_empty(db, way).await;
}

/// The process lives on, and the drop returns only when no entry remains.
async fn flushes(db: &Database, way: &str) {
    let mut peer = holder(db, way).await;
    peer.expect_line("dropped", SOON);
    assert_empty(db, way).await;
    peer.finish_well(SOON);
}

async fn the_end_of_a_current_thread_main(db: Database) {
    ends(&db, "current-thread-main").await;
}

async fn the_end_of_a_multi_thread_main(db: Database) {
    ends(&db, "multi-thread-main").await;
}

async fn the_end_of_main_after_its_manager(db: Database) {
    ends(&db, "manager-first").await;
}

async fn a_task_that_never_ends(db: Database) {
    ends(&db, "endless-task").await;
}

async fn a_panic_of_main(db: Database) {
    let mut peer = holder(&db, "panicking-main").await;
    let status = peer.finish(SOON);
    assert_eq!(status.code(), Some(101), "{}", peer.errors());
    assert_empty(&db, "a panic").await;
}

async fn after_the_runtime_was_shut_down(db: Database) {
    survives(&db, "runtime-shut-down").await;
}

async fn after_the_runtime_was_shut_down_in_the_background(db: Database) {
    survives(&db, "runtime-in-background").await;
}

async fn a_thread_without_a_runtime(db: Database) {
    survives(&db, "plain-thread").await;
}

async fn a_panic_in_a_thread(db: Database) {
    survives(&db, "panicking-thread").await;
}

async fn a_panic_in_a_task(db: Database) {
    survives(&db, "panicking-task").await;
}

async fn a_cancelled_select(db: Database) {
    survives(&db, "cancelled-select").await;
}

async fn a_cancelled_wait_behind_a_held_lock(db: Database) {
    let mut peer = holder(&db, "cancelled-wait").await;
    peer.expect_line("dropped", SOON);
    wait::until(SOON, "the queue is empty", async || {
        let row = LocksRow::read(&db, "platform").await.expect("it is there");
        assert_eq!(row.held().get(NAME).map(String::as_str), Some("holder"));
        row.meta()["queue"] == serde_json::json!([])
    })
    .await;
    peer.finish_well(SOON);
    assert_empty(&db, "the end").await;
}

async fn together_with_its_manager(db: Database) {
    flushes(&db, "with-manager").await;
}

async fn together_with_its_manager_in_a_runtime(db: Database) {
    flushes(&db, "with-manager-in-runtime").await;
}

async fn two_thousand_acquires_dropped(db: Database) {
    quits(&db, "acquire").await;
}

async fn two_thousand_waits_dropped(db: Database) {
    quits(&db, "wait").await;
}

async fn quits(db: &Database, how: &str) {
    // The number of dropped requests. Some other requests are answered first.
    const DROPPED: u32 = 2000;
    let limit = Duration::from_mins(1);
    let mut peer = peer!("quit", db.url(), how, DROPPED.to_string());
    let counts = peer.expect_line("quit", limit);
    let counts: Vec<u32> = counts
        .split(' ')
        .map(|count| count.parse().expect("a number"))
        .collect();
    let [dropped, granted, _refused] = counts[..] else {
        panic!("{counts:?}");
    };
    assert!(dropped >= DROPPED, "{counts:?}");
    assert!(granted > 0, "{counts:?}");
    wait_until_empty(db, "platform", SOON).await;
    // The process itself keeps nothing of them either.
    peer.send("go");
    peer.finish_well(SOON);
    assert_empty(db, how).await;
}
