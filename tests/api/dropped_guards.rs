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
    async end_of_a_current_thread_main_frees_the_lock,
    async end_of_a_multi_thread_main_frees_the_lock,
    async guard_that_outlives_its_manager_in_main_frees_the_lock,
    async endless_task_frees_the_lock_when_main_ends,
    async panic_of_main_frees_the_lock,
    async drop_after_the_runtimes_shutdown_frees_the_lock,
    async drop_during_a_background_shutdown_frees_the_lock,
    async drop_without_a_runtime_frees_the_lock,
    async panic_of_a_thread_frees_the_lock,
    async panic_of_a_task_frees_the_lock,
    async cancelled_select_branch_frees_the_lock,
    async cancelled_wait_leaves_no_entry,
    async drop_of_guard_and_manager_flushes,
    async drop_of_guard_and_manager_in_a_runtime_flushes,
    async dropped_acquires_leave_no_entry,
    async dropped_waits_leave_no_entry,
);

/// Starts a process that holds the lock, waits until the lock is in the row, and lets the process
/// continue.
async fn holder(db: &Database, case: &str) -> Peer {
    let mut peer = peer!("dropped-guard", db.url(), "holder", case);
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
async fn ends(db: &Database, case: &str) {
    let mut peer = holder(db, case).await;
    peer.finish_well(SOON);
    assert_empty(db, case).await;
}

/// The process lives on, and soon no entry remains.
async fn survives(db: &Database, case: &str) {
    let mut peer = holder(db, case).await;
    peer.expect_line("dropped", SOON);
    wait_until_empty(db, "platform", SOON).await;
    assert!(peer.is_running());
    peer.finish_well(SOON);
    assert_empty(db, case).await;
}

/// The process lives on, and the drop returns only when no entry remains.
async fn flushes(db: &Database, case: &str) {
    let mut peer = holder(db, case).await;
    peer.expect_line("dropped", SOON);
    assert_empty(db, case).await;
    peer.finish_well(SOON);
}

async fn end_of_a_current_thread_main_frees_the_lock(db: Database) {
    ends(&db, "current-thread-main").await;
}

async fn end_of_a_multi_thread_main_frees_the_lock(db: Database) {
    ends(&db, "multi-thread-main").await;
}

async fn guard_that_outlives_its_manager_in_main_frees_the_lock(db: Database) {
    ends(&db, "manager-first").await;
}

async fn endless_task_frees_the_lock_when_main_ends(db: Database) {
    ends(&db, "endless-task").await;
}

async fn panic_of_main_frees_the_lock(db: Database) {
    let mut peer = holder(&db, "panicking-main").await;
    let status = peer.finish(SOON);
    assert_eq!(status.code(), Some(101), "{}", peer.errors());
    assert_empty(&db, "a panic").await;
}

async fn drop_after_the_runtimes_shutdown_frees_the_lock(db: Database) {
    survives(&db, "runtime-shut-down").await;
}

async fn drop_during_a_background_shutdown_frees_the_lock(db: Database) {
    survives(&db, "runtime-in-background").await;
}

async fn drop_without_a_runtime_frees_the_lock(db: Database) {
    survives(&db, "plain-thread").await;
}

async fn panic_of_a_thread_frees_the_lock(db: Database) {
    survives(&db, "panicking-thread").await;
}

async fn panic_of_a_task_frees_the_lock(db: Database) {
    survives(&db, "panicking-task").await;
}

async fn cancelled_select_branch_frees_the_lock(db: Database) {
    survives(&db, "cancelled-select").await;
}

async fn cancelled_wait_leaves_no_entry(db: Database) {
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

async fn drop_of_guard_and_manager_flushes(db: Database) {
    flushes(&db, "with-manager").await;
}

async fn drop_of_guard_and_manager_in_a_runtime_flushes(db: Database) {
    flushes(&db, "with-manager-in-runtime").await;
}

async fn dropped_acquires_leave_no_entry(db: Database) {
    assert_dropped_requests_leave_nothing(&db, "acquire").await;
}

async fn dropped_waits_leave_no_entry(db: Database) {
    assert_dropped_requests_leave_nothing(&db, "wait").await;
}

async fn assert_dropped_requests_leave_nothing(db: &Database, how: &str) {
    // The number of dropped requests. Some other requests are answered first.
    const DROPPED: u32 = 480;
    let limit = Duration::from_mins(1);
    let mut peer = peer!("request-dropper", db.url(), how, DROPPED.to_string());
    let counts = peer.expect_line("counts", limit);
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
