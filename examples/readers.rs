//! Readers that share a lock, and a writer that has it alone.
//!
//! Five readers and one writer start at one time. The readers that have the lock read beside each
//! other. The writer waits for them, and readers that come later wait for the writer.
//!
//! Run it with `cargo run --example readers`, or on a database of yours with
//! `cargo run --example readers -- URL`.

use std::{env, time::Duration};

use locks_core::{LockError, LockManager, Shared, with_lock};
use tokio::{task::JoinSet, time::sleep};

const WORK: Duration = Duration::from_millis(50);

/// Any number of readers have the catalogue at one time.
#[with_lock(shared("catalogue"), wait = "30s")]
async fn read(reader: u32) -> Result<(), LockError> {
    println!("reader {reader} begins");
    sleep(WORK).await;
    println!("reader {reader} ends");
    Ok(())
}

/// A writer has it alone, for at most a minute.
#[with_lock("catalogue", wait = "30s", max_hold = "1m")]
async fn write() -> Result<(), LockError> {
    println!("the writer begins");
    sleep(WORK).await;
    println!("the writer ends");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let file = format!("sqlite://{}", directory.path().join("locks.db").display());
    let url = env::args().nth(1).unwrap_or(file);
    let locks = LockManager::builder()
        .namespace("example-readers")
        .connect(&url)
        .await?;
    // Set-up code has the lock by a guard, so that all tasks wait.
    let set_up = locks.acquire("catalogue").await?;
    assert!(locks.acquire(Shared("catalogue")).await.is_err());
    let mut tasks = JoinSet::new();
    for reader in 1..=5 {
        if reader == 4 {
            tasks.spawn(locks.default_for(write()));
            waiting(&locks, 4).await?;
        }
        tasks.spawn(locks.default_for(read(reader)));
        waiting(&locks, tasks.len()).await?;
    }
    set_up.release().await?;
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    locks.close().await?;
    Ok(())
}

/// Returns when so many requests wait. Then they are in a known order.
async fn waiting(locks: &LockManager, count: usize) -> Result<(), LockError> {
    while locks.waiting().await?.len() < count {
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
