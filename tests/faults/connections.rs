//! The number of a driver's connections, and their name.

use std::time::Duration;

use locks_core::LockManager;
use locks_tests::{
    engine::{Database, Engine},
    on_every_engine, wait,
};

/// The documented bounds: at any time, and while nothing waits.
const AT_MOST: usize = 5;
const IDLE: usize = 2;

on_every_engine!(servers: async connections_are_bounded_and_closed_when_idle);

/// The number of the driver's connections, and their names.
async fn connections(db: &Database, conn: &mut locks_tests::plain::Plain) -> Vec<String> {
    let sql = match db.engine() {
        Engine::MySql => {
            "SELECT '' AS name FROM information_schema.processlist \
             WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        }
        _ => {
            "SELECT application_name AS name FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND backend_type = 'client backend'"
        }
    };
    let rows = conn.rows(sql).await.expect("it may be asked");
    let name = |row: &locks_tests::plain::Record| row.get("name").unwrap_or_default().to_owned();
    rows.iter().map(name).collect()
}

async fn connections_are_bounded_and_closed_when_idle(db: Database) {
    let locks = LockManager::connect(db.url()).await.expect("it connects");
    let mut conn = db.connect().await;
    let held = locks.acquire("held").await.expect("it is free");
    let waiting = tokio::spawn(locks.wait("held").into_future());
    let mut calls = Vec::new();
    for number in 0..24 {
        let task = locks
            .with_task_id(&format!("task_{number}"))
            .expect("an id");
        let guard = task
            .acquire(format!("lock_{number}"))
            .await
            .expect("it is free");
        guard.detach();
        let supervisor = locks.clone();
        calls.push(tokio::spawn(async move {
            supervisor.release_task(format!("task_{number}")).await
        }));
    }
    let mut most = Vec::new();
    while !calls.iter().all(tokio::task::JoinHandle::is_finished) || most.len() < 3 {
        let found = connections(&db, &mut conn).await;
        if found.len() > most.len() {
            most = found;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for call in calls {
        let released = call.await.expect("no panic").expect("it answers");
        assert_eq!(released.len(), 1);
    }
    assert!((3..=AT_MOST).contains(&most.len()), "{most:?}");
    if db.engine() == Engine::Postgres {
        assert!(most.iter().all(|name| name == "locks"), "{most:?}");
    }
    held.release().await.expect("it is held");
    let guard = waiting.await.expect("no panic").expect("it is granted");
    let limit = Duration::from_secs(40);
    wait::until(
        limit,
        "only the connections for rows and renewals",
        async || connections(&db, &mut conn).await.len() == IDLE,
    )
    .await;
    guard.release().await.expect("it is held");
    locks.close().await.expect("it answers");
    wait::until(limit, "no connection", async || {
        connections(&db, &mut conn).await.is_empty()
    })
    .await;
}
