//! Sessions without a reference in the row, whose process died on another machine.

use std::time::{Duration, Instant};

use locks_core::{Expiry, LockManager};
use locks_tests::{
    engine::{Database, note},
    on_every_engine,
    sessions::{Session, fences},
    wait,
};

const TTL: Duration = Duration::from_secs(2);
/// The limit for the removal of a session whose process died on another machine.
const REMOVED: Duration = Duration::from_secs(20);
/// The ttl of these sessions.
const FORGED_TTL_MS: u64 = 1000;

on_every_engine!(async dead_sessions_are_removed);

async fn connect(db: &Database, task: &str, ttl: Duration) -> LockManager {
    let builder = LockManager::builder()
        .task_id(task)
        .expiry(Expiry::After(ttl));
    builder.connect(db.url()).await.expect("it connects")
}

/// Inserts the rows of a session of another machine that holds nothing.
async fn forge(db: &Database, task: &str) -> String {
    let id = format!("platform/{:016x}", fastrand::u64(..));
    db.execute(&format!(
        "INSERT INTO lock_sessions (id, namespace, taskId, host, process, ttlMs, beat, seenAt) \
         VALUES ('{id}', 'platform', '{task}', 'elsewhere', '77:77', {FORGED_TTL_MS}, 7, \
         '2020-01-01 00:00:00')"
    ))
    .await;
    db.execute(&format!(
        "INSERT INTO lock_fences (session, touched) VALUES ('{id}', 0)"
    ))
    .await;
    id
}

/// Sessions without a reference in the row: one stands still, one beats, one never expires.
async fn dead_sessions_are_removed(db: Database) {
    let locks = connect(&db, "main", Duration::from_secs(1)).await;
    let guard = locks.acquire("x").await.expect("it is free");
    guard.release().await.expect("it is held");
    let dead = forge(&db, "dead").await;
    let alive = forge(&db, "alive").await;
    let never = forge(&db, "never").await;
    db.execute(&format!(
        "UPDATE lock_sessions SET ttlMs = NULL WHERE id = '{never}'"
    ))
    .await;
    let mut conn = db.connect().await;
    let beat = format!("UPDATE lock_sessions SET beat = beat + 1 WHERE id = '{alive}'");
    let start = Instant::now();
    let is_there = |id: &String, ids: &[String]| ids.contains(id);
    let mut removed = None;
    // The others are watched for some more ttls.
    while removed.is_none_or(|at: Duration| start.elapsed() < at + Duration::from_secs(4)) {
        assert_eq!(
            conn.execute(&beat).await.expect("it may be written"),
            1,
            "a session that beats was removed after {:?}",
            start.elapsed()
        );
        let sessions = Session::all_on(&mut conn).await;
        let ids: Vec<_> = sessions.into_iter().map(|session| session.id).collect();
        assert!(is_there(&never, &ids), "one that never expires was removed");
        if removed.is_none() && !is_there(&dead, &ids) {
            removed = Some(start.elapsed());
        }
        assert!(
            removed.is_some() || start.elapsed() < REMOVED,
            "the session of a dead process is there after {REMOVED:?}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    wait::until(
        TTL,
        "the fence of the dead session is removed",
        async || !is_there(&dead, &fences(&db).await),
    )
    .await;
    let left = fences(&db).await;
    assert!(is_there(&alive, &left) && is_there(&never, &left));
    note(&format!(
        "{}: the session of a dead process was removed after {removed:?}",
        db.engine()
    ));
}
