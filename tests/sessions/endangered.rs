//! The warning before a loss.

use std::time::{Duration, Instant};

use locks_core::{Expiry, LockGuard, LockManager};
use locks_tests::{
    engine::{Database, Engine},
    on_every_engine, wait,
};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);
const TTL: Duration = Duration::from_secs(6);

on_every_engine!(
    async holder_is_warned_while_renewals_are_late_and_not_after,
    async holder_is_warned_when_its_lock_is_taken,
);

async fn acquire(db: &Database) -> (LockManager, LockGuard) {
    let builder = LockManager::builder()
        .task_id("a")
        .expiry(Expiry::After(TTL));
    let locks = builder.connect(db.url()).await.expect("it connects");
    let guard = locks.acquire("x").await.expect("it is free");
    (locks, guard)
}

/// Another program locks the row of the session, so that no renewal ends.
async fn holder_is_warned_while_renewals_are_late_and_not_after(db: Database) {
    if db.engine() == Engine::Sqlite {
        db.block_heartbeat_files();
    }
    let start = Instant::now();
    let (_locks, guard) = acquire(&db).await;
    assert!(!guard.is_endangered());
    let mut other = db.connect().await;
    other.rows("BEGIN").await.expect("it begins");
    other
        .execute("UPDATE lock_sessions SET seenAt = seenAt")
        .await
        .expect("it can lock it");
    let warning = timeout(SOON, guard.endangered())
        .await
        .expect("it is warned");
    let passed = start.elapsed();
    other.rows("ROLLBACK").await.expect("it ends");
    assert!(passed >= TTL / 2, "{passed:?}");
    assert_eq!(&*warning.names, guard.names());
    assert!(
        !warning.expires_in.is_zero() && warning.expires_in <= TTL / 2,
        "{warning:?}"
    );
    assert!(
        warning.to_string().contains("lock x will be lost in "),
        "{warning}"
    );
    wait::until(SOON, "it is renewed", async || !guard.is_endangered()).await;
    assert!(!guard.is_lost());
    guard.release().await.expect("it is held");
}

async fn holder_is_warned_when_its_lock_is_taken(db: Database) {
    let (locks, guard) = acquire(&db).await;
    let warning = tokio::spawn(guard.endangered());
    locks.release_task("a").await.expect("it can");
    let warning = timeout(SOON, warning)
        .await
        .expect("it is told")
        .expect("no panic");
    assert!(
        warning.expires_in.is_zero() && guard.is_lost(),
        "{warning:?}"
    );
    assert_eq!(warning.to_string(), "lock x is lost");
}
