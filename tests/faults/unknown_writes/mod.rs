//! Writes without an answer, through a relay that loses it: no task loses a lock, and no task holds
//! a lock that was reported as refused.

mod cuts;
mod silence;

use std::time::Duration;

use locks_core::{Expiry, LockManager};
use locks_tests::{engine::Database, relay::Relay, row::LocksRow, wait};

/// How long an unknown write may stay unsettled when the connections work.
const SETTLED: Duration = Duration::from_secs(10);

/// A relay to the database, and a manager behind it whose session does not expire during the test.
async fn behind_relay(db: &Database, task: &str) -> (Relay, LockManager) {
    let relay = Relay::start(db.server_address());
    let locks = LockManager::builder()
        .task_id(task)
        .expiry(Expiry::After(Duration::from_mins(2)))
        .connect(&db.url_via(relay.address()))
        .await
        .expect("nothing is cut yet");
    (relay, locks)
}

async fn direct(db: &Database) -> LockManager {
    let builder = LockManager::builder().task_id("watcher");
    builder.connect(db.url()).await.expect("it is not cut off")
}

async fn holder_of(db: &Database, name: &str) -> Option<String> {
    let row = LocksRow::read(db, "platform").await?;
    row.held().get(name).cloned()
}

async fn wait_until_free(db: &Database, name: &str, limit: Duration) {
    let what = format!("{name} is free");
    wait::until(limit, &what, async || holder_of(db, name).await.is_none()).await;
}
