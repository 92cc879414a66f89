//! Ten backups, of which at most three run at one time, on all machines together.
//!
//! Run it with `cargo run --example three_backups`, or on a database of yours with
//! `cargo run --example three_backups -- URL`. Started repeatedly on one database, all of them
//! together keep the limit.

use std::{
    env,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use locks_core::{ConflictMatrix, LockError, LockManager, with_lock};
use tokio::{task::JoinSet, time::sleep};

const MATRIX: ConflictMatrix = ConflictMatrix::exclusive().limits(&[("backup_*", 3)]);

static RUNNING: AtomicU32 = AtomicU32::new(0);

#[with_lock("backup_<app>", matrix = MATRIX)]
async fn back_up(app: u32) -> Result<(), LockError> {
    let running = RUNNING.fetch_add(1, Relaxed) + 1;
    println!("backup of app {app} begins; running: {running}");
    sleep(Duration::from_millis(50)).await;
    RUNNING.fetch_sub(1, Relaxed);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let file = format!("sqlite://{}", directory.path().join("locks.db").display());
    let url = env::args().nth(1).unwrap_or(file);
    let locks = LockManager::builder()
        .namespace("example-backups")
        .matrix(MATRIX)
        .connect(&url)
        .await?;
    let mut tasks = JoinSet::new();
    for app in 1..=10 {
        tasks.spawn(locks.default_for(back_up(app)));
    }
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    locks.close().await?;
    Ok(())
}
