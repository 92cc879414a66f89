//! A fence is a statement of the transaction that it protects; a pool would run it elsewhere.

use locks_core::{LockGuard, Result, sqlx::SqlitePool};

async fn fenced(guard: &LockGuard, mut pool: SqlitePool) -> Result<()> {
    guard.fence(&mut pool).await
}

fn main() {}
