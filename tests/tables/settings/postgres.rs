//! Settings of PostgreSQL's roles and databases.

use std::time::Duration;

use locks_core::LockManager;
use locks_tests::{
    engine::{Database, Engine, run_async, run_async_on},
    hostile,
    relay::Relay,
    row::LocksRow,
    server::Server,
};

use super::{
    SOON,
    contention::{in_order, smoke, write_side_by_side},
    task,
};

/// Sets a default for connections to this database.
async fn set(db: &Database, setting: &str) {
    let name = db.url().rsplit('/').next().expect("a path");
    let sql = format!("ALTER DATABASE {name} SET {setting}");
    db.execute(&sql).await;
}

/// The server flushes its log at commits that wait for it, and otherwise every ten seconds.
#[test]
fn a_crash_after_a_grant_keeps_the_grant() {
    const CRASHES: usize = 3;
    let settings = ["synchronous_commit=off", "wal_writer_delay=10s"];
    let Some(server) = Server::start_with(Engine::Postgres, &settings) else {
        return;
    };
    run_async_on(Database::create_on(server.url()), async |db| {
        // The table still exists after the crash.
        task(db.url(), "maker")
            .await
            .close()
            .await
            .expect("it closes");
        db.execute("CHECKPOINT").await;
        let mut tokens = Vec::new();
        for crash in 0..CRASHES {
            let locks = task(db.url(), &format!("task_{crash}")).await;
            let name = format!("x_{crash}");
            let guard = locks.acquire(name.as_str()).await.expect("it is free");
            tokens.push(guard.token());
            server.kill();
            server.start_again();
            let row = LocksRow::read(&db, "platform").await;
            let held = row.map(|row| row.held()).unwrap_or_default();
            assert!(
                held.contains_key(&name),
                "after crash {crash} {name} is not held, but {held:?}"
            );
            // The time-out ends the attempts of a driver that cannot connect.
            let released = tokio::time::timeout(SOON, guard.release()).await;
            released.expect("an answer").expect("it was held on");
        }
        in_order(&tokens).unwrap();
    });
}

async fn write_under(isolation: &str, db: Database) {
    const RUN: Duration = Duration::from_secs(3);
    /// Renewals and evictions may open connections during the test.
    const FEW: u64 = 8;
    let setting = format!("default_transaction_isolation = '{isolation}'");
    set(&db, &setting).await;
    let relay = Relay::start(db.server_address());
    let url = db.url_via(relay.address());
    let mut managers = Vec::new();
    for id in ["a", "b", "c", "d"] {
        let locks = task(&url, id).await;
        // Its connections are open before the count starts.
        let guard = locks.acquire(id).await.expect("it is free");
        guard.release().await.expect("it is held");
        managers.push(locks);
    }
    let before = relay.counters().connections;
    let grants = write_side_by_side(&managers, RUN).await;
    let grants = grants.expect("no error reaches callers");
    let opened = relay.counters().connections - before;
    assert!(
        opened <= FEW,
        "{opened} new connections in {RUN:?}, for {grants} grants"
    );
    println!("{grants} grants, {opened} new connections");
}

#[test]
fn serializable_by_default_is_no_reconnect_storm() {
    run_async(Engine::Postgres, |db| write_under("serializable", db));
}

#[test]
fn repeatable_read_by_default_is_no_reconnect_storm() {
    run_async(Engine::Postgres, |db| write_under("repeatable read", db));
}

/// A foreign transaction locks the row for longer than the role's own limits. Requests are answered
/// as usual.
async fn waits_behind_a_locked_row(setting: &str, db: &Database) -> Result<(), String> {
    let locks = task(db.url(), "a").await;
    let guard = locks.acquire("x").await.expect("it is free");
    guard.release().await.expect("it is held");
    set(db, setting).await;
    let limited = LockManager::builder().task_id("b").connect(db.url()).await;
    let limited = limited.map_err(|error| format!("connect: {error:?}"))?;
    let mut foreign = db.connect().await;
    foreign.execute("BEGIN").await.expect("it begins");
    let lock = "SELECT 1 FROM locks WHERE id = 'platform' FOR UPDATE";
    foreign.rows(lock).await.expect("it is free");
    let asked = tokio::spawn(limited.acquire("y").into_future());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let early = asked.is_finished();
    foreign.execute("ROLLBACK").await.expect("it ends");
    let granted = asked.await.expect("no panic");
    drop(granted.map_err(|error| format!("acquire: {error:?}"))?);
    if early {
        return Err("it was answered while the row was locked".to_owned());
    }
    Ok(())
}

#[test]
fn short_time_limits_of_a_role_do_not_reach_callers() {
    run_async(Engine::Postgres, async |first| {
        let mut failed = Vec::new();
        for setting in ["statement_timeout = '50ms'", "lock_timeout = '50ms'"] {
            let db = Database::create(first.engine());
            if let Err(what) = waits_behind_a_locked_row(setting, &db).await {
                failed.push(format!("{setting}: {what}"));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    });
}

/// Each setting of the profile.
#[test]
fn each_hostile_default_by_itself_is_harmless() {
    run_async(Engine::Postgres, async |first| {
        let mut failed = Vec::new();
        for setting in hostile::settings("postgres") {
            let db = Database::create(first.engine());
            let (name, value) = setting.split_once('=').expect("name=value");
            let list = matches!(name, "search_path" | "DateStyle");
            let value = if list {
                value.to_owned()
            } else {
                format!("'{value}'")
            };
            set(&db, &format!("{name} = {value}")).await;
            if let Err(what) = smoke(&db).await {
                failed.push(format!("{setting}: {what}"));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    });
}
