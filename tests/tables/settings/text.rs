//! Names with characters that are missing in the connection's or the column's character set.

use std::str::FromStr as _;

use locks_core::LockManager;
use locks_tests::{
    engine::{Database, Engine, run_async, run_async_on},
    row::LocksRow,
    server::Server,
};
use sqlx::mysql::MySqlConnectOptions;

use super::task;

/// Both managers see one name, and the row contains it unchanged.
async fn exclude_each_other(db: &Database, a: &LockManager, b: &LockManager, name: &str) {
    let guard = a.acquire(name).await.expect("it is free");
    let row = LocksRow::read(db, "platform").await.expect("it is there");
    let held = row.held();
    assert_eq!(held.keys().collect::<Vec<_>>(), [name], "in the row");
    let refused = b.acquire(name).await.map(|guard| guard.token());
    let error = refused.expect_err("both hold it");
    assert!(error.is_busy(), "{error:?}");
    let seen = b.held().await.expect("it can be read");
    assert_eq!(seen[0].name.as_str(), name);
    guard.release().await.expect("it is held");
    drop(b.acquire(name).await.expect("it is free"));
}

#[test]
fn a_charset_in_one_url_does_not_split_a_name() {
    run_async(Engine::MySql, async |db| {
        let url = db.url_with(|url| {
            url.query_pairs_mut().append_pair("charset", "latin1");
        });
        let (usual, other) = (task(db.url(), "a").await, task(&url, "b").await);
        exclude_each_other(&db, &usual, &other, "é").await;
        exclude_each_other(&db, &other, &usual, "ü").await;
    });
}

#[test]
fn a_charset_in_connect_options_does_not_split_a_name() {
    run_async(Engine::MySql, async |db| {
        for charset in ["latin1", "utf8mb3", "cp1250"] {
            let options = MySqlConnectOptions::from_str(db.url()).expect("a URL");
            let builder = LockManager::builder().task_id("b");
            let other = builder.connect_with(options.charset(charset));
            let other = other.await.expect("it connects");
            let usual = task(db.url(), "a").await;
            exclude_each_other(&db, &usual, &other, "é").await;
            exclude_each_other(&db, &other, &usual, "app_task_📦").await;
            other.close().await.expect("it closes");
            usual.close().await.expect("it closes");
        }
    });
}

/// A name that the row cannot store is refused. A granted name is in the row unchanged.
async fn is_kept_or_refused(db: &Database, locks: locks_core::Result<LockManager>) {
    const NAME: &str = "app_task_📦";
    let Ok(locks) = locks else { return };
    let granted = locks.acquire(NAME).await;
    let row = LocksRow::read(db, "platform").await;
    let held = row.map(|row| row.held()).unwrap_or_default();
    match granted {
        Ok(guard) => {
            assert_eq!(held.keys().collect::<Vec<_>>(), [NAME], "granted");
            guard.release().await.expect("it is held");
        }
        Err(error) => assert!(held.is_empty(), "refused ({error}), and {held:?} is held"),
    }
    let usual = locks.acquire("app_task_1").await;
    drop(usual.expect("a name that the column can keep"));
}

fn run_without_strict_mode<F: Future<Output = ()>>(test: impl FnOnce(Database) -> F) {
    if let Some(server) = Server::start_with(Engine::MySql, &["sql_mode = ''"]) {
        run_async_on(Database::create_on(server.url()), test);
    }
}

#[test]
fn a_utf8mb3_connection_without_strict_mode_stores_no_question_marks() {
    run_without_strict_mode(async |db| {
        let url = db.url_with(|url| {
            url.query_pairs_mut().append_pair("charset", "utf8mb3");
        });
        is_kept_or_refused(&db, LockManager::connect(&url).await).await;
    });
}

#[test]
fn a_utf8mb3_column_without_strict_mode_stores_no_question_marks() {
    run_without_strict_mode(async |db| {
        let first = task(db.url(), "a").await;
        first.close().await.expect("it closes");
        db.execute("ALTER TABLE locks MODIFY dataJson LONGTEXT CHARACTER SET utf8mb3")
            .await;
        is_kept_or_refused(&db, LockManager::connect(db.url()).await).await;
    });
}

/// The task id is also in the session's row, where a supervisor finds it.
#[test]
fn a_task_id_without_strict_mode_is_found_as_it_is_written() {
    run_without_strict_mode(async |db| {
        let worker = task(db.url(), "worker é 📦").await;
        let guard = worker.acquire("x").await.expect("it is free");
        let supervisor = task(db.url(), "supervisor").await;
        let taken = supervisor.release_task("worker é 📦").await;
        assert_eq!(taken.expect("it can")[0].name.as_str(), "x");
        guard.lost().await;
    });
}
