//! `acquire` does not wait, unlike that of tokio. Only `wait` has a timeout.

use std::time::Duration;

use locks_core::{LockManager, Result};

async fn acquired(locks: &LockManager) -> Result<()> {
    let guard = locks.acquire("x").timeout(Duration::from_secs(1)).await?;
    guard.release().await
}

fn main() {}
