//! Defaults of servers, roles, files and options that would change what the library's statements
//! mean, see or keep. The library must not depend on any of them.

mod contention;
mod mariadb;
mod postgres;
mod sqlite;
mod text;

use std::time::Duration;

use locks_core::LockManager;

/// The limit for what happens without delay, also on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A manager for this task.
async fn task(url: &str, id: &str) -> LockManager {
    let connecting = LockManager::builder().task_id(id).connect(url);
    let answer = tokio::time::timeout(SOON, connecting).await;
    answer.expect("an answer").expect("it connects")
}
