//! A fence must be a statement of the protected transaction. A pool would run it outside.

use locks_core::{LockGuard, Result, sqlx::PgPool};

async fn fenced(guard: &LockGuard, mut pool: PgPool) -> Result<()> {
    guard.fence(&mut pool).await
}

fn main() {}
