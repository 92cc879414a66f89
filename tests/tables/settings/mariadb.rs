//! Global variables of MariaDB.

use std::time::{Duration, Instant};

use locks_core::{Expiry, LockManager};
use locks_tests::{
    engine::{Database, Engine, run_async, run_async_on},
    hostile,
    relay::Relay,
    row::LocksRow,
    server::Server,
    sessions::Session,
};

use super::{
    SOON,
    contention::{contend, in_order, is_pending, smoke},
    task,
};

/// Longer than the library allows a transaction to be idle before the server ends it.
const LONGER_THAN_IDLE: Duration = Duration::from_millis(1600);

/// Runs the test on a private server with these settings.
fn run_with<F: Future<Output = ()>>(settings: &[&str], test: impl FnOnce(Database) -> F) {
    if let Some(server) = Server::start_with(Engine::MySql, settings) {
        run_async_on(Database::create_on(server.url()), test);
    }
}

/// A `COMMIT` that begins the next transaction leaves later writes uncommitted.
async fn grants_are_not_undone(db: Database) {
    let managers = [task(db.url(), "a").await, task(db.url(), "b").await];
    let contended = contend(&managers, Duration::from_millis(300)).await;
    let [a, b] = managers;
    let guard = a.acquire("y").await.expect("it is free");
    let start = Instant::now();
    while start.elapsed() < LONGER_THAN_IDLE {
        let row = LocksRow::read(&db, "platform").await.expect("it is there");
        let held = row.held();
        let task = held.get("y").map(String::as_str);
        assert_eq!(task, Some("a"), "`y` was granted, and is not in the row");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = b.acquire("y").await;
    let refused = refused.map(|next| format!("granted with {} < {}", next.token(), guard.token()));
    assert!(refused.expect_err("it is held").is_busy());
    let mut tokens = contended.expect("no error reaches callers");
    tokens.push(guard.token());
    guard.release().await.expect("it is held");
    let next = b.wait("y").await.expect("it is free");
    tokens.push(next.token());
    in_order(&tokens).unwrap();
}

#[test]
fn completion_type_chain_does_not_undo_grants() {
    run_with(&["completion_type = 1"], grants_are_not_undone);
}

#[test]
fn completion_type_release_does_not_cost_connections() {
    const RUN: Duration = Duration::from_secs(2);
    /// Renewals and evictions may open connections during the test.
    const FEW: u64 = 8;
    run_with(&["completion_type = 2"], async |db| {
        let relay = Relay::start(db.server_address());
        let url = db.url_via(relay.address());
        let managers = [task(&url, "a").await, task(&url, "b").await];
        let before = relay.counters().connections;
        let tokens = contend(&managers, RUN).await.unwrap();
        in_order(&tokens).unwrap();
        let opened = relay.counters().connections - before;
        let grants = tokens.len();
        assert!(
            opened <= FEW,
            "{opened} new connections for {grants} grants"
        );
        grants_are_not_undone(db).await;
    });
}

#[test]
fn uncommitted_writes_are_not_reported_with_autocommit_off() {
    run_with(&["autocommit = 0"], grants_are_not_undone);
}

/// Several managers hold locks. Others wait for all of these locks, connect and disconnect, and
/// list what is held.
async fn no_live_session_is_evicted(db: Database) {
    const TASKS: usize = 4;
    const RUN: Duration = Duration::from_secs(4);
    let connect = async |id: String| {
        let builder = LockManager::builder().task_id(id);
        let builder = builder.expiry(Expiry::After(Duration::from_secs(10)));
        builder.connect(db.url()).await.expect("it connects")
    };
    let mut holders = Vec::new();
    for n in 0..TASKS {
        let locks = connect(format!("holder_{n}")).await;
        let guard = locks.acquire(format!("app_task_{n}")).await;
        holders.push((locks, guard.expect("it is free")));
    }
    let waiter = connect("waiter".to_owned()).await;
    let mut waiting = tokio::spawn(waiter.wait("box_update").into_future());
    let start = Instant::now();
    for round in 0.. {
        if start.elapsed() > RUN {
            break;
        }
        let visitor = connect(format!("visitor_{round}")).await;
        let refused = visitor.acquire("box_update").await;
        let refused = refused.map(|_| "granted while four conflicting locks are held");
        assert!(refused.expect_err("it is refused").is_busy());
        visitor.close().await.expect("it closes");
        let sessions = Session::all(&db).await;
        for n in 0..TASKS {
            let task = format!("holder_{n}");
            let there = sessions.iter().any(|session| session.task == task);
            assert!(there, "the session of {task} was evicted: {sessions:#?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (_, guard) in &holders {
        assert!(is_pending(guard.lost()).await, "{:?}", guard.lost().await);
    }
    assert!(is_pending(&mut waiting).await, "granted too early");
    let held = waiter.held().await.expect("it can be read");
    assert_eq!(held.len(), TASKS, "{held:?}");
    for (_, guard) in holders {
        guard.release().await.expect("it is held");
    }
    let next = waiting.await.expect("no panic").expect("it is free");
    next.release().await.expect("it is held");
}

#[test]
fn a_truncated_result_set_does_not_evict_live_sessions() {
    run_with(&["sql_select_limit = 1"], no_live_session_is_evicted);
}

#[test]
fn a_result_set_truncated_to_two_rows_does_not_evict_live_sessions() {
    run_with(&["sql_select_limit = 2"], no_live_session_is_evicted);
}

/// Each setting of the profile that can be changed while the server runs.
#[test]
fn each_hostile_default_by_itself_is_harmless() {
    run_with(&[], async |admin| {
        let mut failed = Vec::new();
        for setting in hostile::settings("mariadb") {
            let Some((name, _)) = setting.split_once(" = ") else {
                continue;
            };
            admin.execute(&format!("SET GLOBAL {setting}")).await;
            let db = Database::create_on(admin.url());
            if let Err(what) = smoke(&db).await {
                failed.push(format!("{setting}: {what}"));
            }
            admin.execute(&format!("SET GLOBAL {name} = DEFAULT")).await;
        }
        assert!(failed.is_empty(), "{failed:#?}");
    });
}

/// Every write fails there, so the first connect says so.
#[test]
fn statement_based_binary_log_is_refused_at_connect() {
    let settings = ["--log-bin=bin", "--binlog-format=STATEMENT"];
    let Some(server) = Server::start_with(Engine::MySql, &settings) else {
        return;
    };
    run_async_on(Database::create_on(server.url()), async |db: Database| {
        let connecting = tokio::time::timeout(SOON, LockManager::connect(db.url())).await;
        let error = connecting.expect("an answer").expect_err("it is refused");
        assert!(!error.is_transient(), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("binlog_format") && text.contains("ROW"),
            "{text}"
        );
        for format in ["MIXED", "ROW"] {
            db.execute(&format!("SET GLOBAL binlog_format = {format}"))
                .await;
            let locks = task(db.url(), "worker").await;
            drop(locks.acquire("x").await.expect("it can be written"));
        }
    });
}

/// A URL without a database names none in which the tables could be.
#[test]
fn url_without_a_database_is_refused_at_connect() {
    run_async(Engine::MySql, async |db: Database| {
        let url = db.url_with(|url| url.set_path(""));
        let connecting = tokio::time::timeout(SOON, LockManager::connect(&url)).await;
        let error = connecting.expect("an answer").expect_err("it is refused");
        assert!(!error.is_transient(), "{error:?}");
        assert!(
            error.to_string().contains("No database selected"),
            "{error}"
        );
    });
}
