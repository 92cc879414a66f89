//! Invalid rows, tables and files: reported, and left unchanged.

use std::{path::PathBuf, time::Duration};

use locks_core::{LockError, LockManager};
use locks_tests::{
    engine::{Database, Engine, run_async},
    on_every_engine,
    row::{LocksRow, wait_until_empty},
    wait,
};

use super::AT_ONCE;

const SOON: Duration = Duration::from_secs(20);

on_every_engine!(
    async invalid_data_is_never_overwritten,
    async invalid_meta_is_never_overwritten,
    async row_that_became_invalid_under_a_guard_is_left_until_it_is_repaired,
    async dropped_table_is_reported_and_not_recreated,
    async replaced_table_is_reported,
    async dropped_session_table_is_reported,
);

const NO_DATA: [&str; 8] = [
    "",
    "no json",
    "[]",
    "null",
    r#"{"x":"us""#,
    r#"{"x":1}"#,
    r#"{"x":null}"#,
    r#"{"x":{"y":"z"}}"#,
];

const NO_META: [&str; 7] = [
    "",
    "no json",
    "7",
    r#"{"held":"#,
    r#"{"held":[]}"#,
    r#"{"held":{"x":1}}"#,
    r#"{"held":{"x":[0,1,2,3]}}"#,
];

async fn connect(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it connects")
}

/// The error of a request, which comes soon and is not `Busy`.
async fn failure<T>(
    what: &str,
    limit: Duration,
    request: impl IntoFuture<Output = locks_core::Result<T>>,
) -> LockError {
    let answer = tokio::time::timeout(limit, request).await;
    let answer = answer.unwrap_or_else(|_| panic!("{what}: no answer within {limit:?}"));
    let Err(error) = answer else {
        panic!("{what} does as if nothing were wrong");
    };
    assert!(!error.is_busy() && !error.is_timeout(), "{what}: {error:?}");
    error
}

/// Every request fails because of this column, and the row is unchanged.
async fn every_request_fails(db: &Database, locks: &LockManager, column: &str) {
    let row = LocksRow::read(db, "platform").await;
    let long = Duration::from_mins(1);
    let errors = [
        failure("acquire", AT_ONCE, locks.acquire("x")).await,
        failure("another", AT_ONCE, locks.acquire(["y", "z"])).await,
        failure("wait", AT_ONCE, locks.wait("x")).await,
        failure("a limited wait", AT_ONCE, locks.wait("x").timeout(long)).await,
        failure("release", AT_ONCE, locks.release("x")).await,
        failure("release_task", AT_ONCE, locks.release_task("us")).await,
        failure("release_all", AT_ONCE, locks.release_all()).await,
        failure("held", AT_ONCE, locks.held()).await,
        failure("waiting", AT_ONCE, locks.waiting()).await,
    ];
    for error in errors {
        assert!(matches!(error, LockError::Schema { .. }), "{error:?}");
        assert!(!error.is_transient());
        assert!(error.to_string().contains(column), "{error}");
    }
    assert_eq!(LocksRow::read(db, "platform").await, row);
}

async fn is_never_overwritten(db: Database, column: &str, texts: &[&str]) {
    let veteran = connect(&db, "veteran").await;
    let guard = veteran.acquire("used").await.unwrap();
    guard.release().await.unwrap();
    let sound = LocksRow::read(&db, "platform").await.unwrap();
    for text in texts {
        // Written by hand: the version is unchanged, so the cached row appears to be current.
        let set = format!("UPDATE locks SET {column} = '{text}'");
        assert_eq!(db.execute(&set).await, 1);
        let newcomer = connect(&db, "newcomer").await;
        every_request_fails(&db, &newcomer, column).await;
        newcomer.close().await.expect("there is nothing to release");

        // Written by a program: the version changes.
        db.execute("UPDATE locks SET version = version + 1").await;
        every_request_fails(&db, &veteran, column).await;

        let (data, meta) = (&sound.data_json, sound.meta_json.as_deref().unwrap());
        let mend = format!("dataJson = '{data}', metaJson = '{meta}', version = version + 1");
        db.execute(&format!("UPDATE locks SET {mend}")).await;
        let guard = tokio::time::timeout(SOON, veteran.acquire("x")).await;
        guard
            .expect("it is mended")
            .expect("it is mended")
            .release()
            .await
            .unwrap();
    }
}

async fn invalid_data_is_never_overwritten(db: Database) {
    is_never_overwritten(db, "dataJson", &NO_DATA).await;
}

async fn invalid_meta_is_never_overwritten(db: Database) {
    is_never_overwritten(db, "metaJson", &NO_META).await;
}

async fn row_that_became_invalid_under_a_guard_is_left_until_it_is_repaired(db: Database) {
    let locks = connect(&db, "us").await;
    let guard = locks.acquire("x").await.unwrap();
    let sound = LocksRow::read(&db, "platform").await.unwrap();
    let broken = sound.data_json.replace('}', "");
    db.execute(&format!(
        "UPDATE locks SET dataJson = '{broken}', version = version + 1"
    ))
    .await;
    let row = LocksRow::read(&db, "platform").await;
    drop(guard);
    // The requests after the drop are answered after the release was tried.
    for _ in 0..3 {
        failure("acquire", AT_ONCE, locks.acquire("y")).await;
        assert_eq!(LocksRow::read(&db, "platform").await, row);
    }
    let data = &sound.data_json;
    db.execute(&format!(
        "UPDATE locks SET dataJson = '{data}', version = version + 1"
    ))
    .await;
    wait_until_empty(&db, "platform", SOON).await;
}

/// Whether a table of this name exists.
async fn is_there(db: &Database, table: &str) -> bool {
    let mut conn = db.connect().await;
    conn.rows(&format!("SELECT * FROM {table}")).await.is_ok()
}

async fn dropped_table_is_reported_and_not_recreated(db: Database) {
    let locks = connect(&db, "us").await;
    let guard = locks.acquire("x").await.unwrap();
    db.execute("DROP TABLE locks").await;
    // A table may be restored, so requests wait for it as long as they would for a server.
    let waiting = tokio::spawn(locks.wait("z").into_future());
    let limit = Duration::from_secs(2);
    let errors = [
        failure("acquire", SOON, locks.acquire("y")).await,
        failure("wait", SOON, locks.wait("y").timeout(limit)).await,
        failure("held", SOON, locks.held()).await,
    ];
    for error in errors {
        assert!(matches!(error, LockError::Schema { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("locks") && text.contains("migrations"),
            "{text}"
        );
    }
    assert!(!is_there(&db, "locks").await && !waiting.is_finished());
    // What the error advises helps, and the lock that was held before is not reported as held.
    let again = connect(&db, "again").await;
    let theirs = again.acquire("x").await.expect("the table is new");
    wait::until(SOON, "the loss is seen", async || guard.is_lost()).await;
    drop(guard);
    locks
        .acquire("y")
        .await
        .expect("it goes on with the new table")
        .release()
        .await
        .unwrap();
    let waited = tokio::time::timeout(SOON, waiting)
        .await
        .expect("an answer");
    let waited = waited.expect("no panic").expect("it is free");
    waited.release().await.expect("it is held");
    let held = LocksRow::read(&db, "platform").await.unwrap().held();
    assert_eq!(held, [("x".to_owned(), "again".to_owned())].into());
    assert!(!theirs.is_lost());
}

async fn replaced_table_is_reported(db: Database) {
    let locks = connect(&db, "us").await;
    let guard = locks.acquire("x").await.unwrap();
    let original = "CREATE TABLE locks (id VARCHAR(128) PRIMARY KEY, dataJson TEXT, \
                    version INT DEFAULT 1)";
    let insert = "INSERT INTO locks (id, dataJson) VALUES ('platform', '{\"z\":\"foreign\"}')";
    for sql in ["DROP TABLE locks", original, insert] {
        db.execute(sql).await;
    }
    let error = failure("acquire", SOON, locks.acquire("y")).await;
    assert!(matches!(error, LockError::Schema { .. }), "{error:?}");
    assert!(error.to_string().contains("migrations"), "{error}");
    drop(guard);
    failure("acquire", SOON, locks.acquire("y")).await;
    let row = LocksRow::read(&db, "platform").await.unwrap();
    assert_eq!(
        (row.version, row.data_json.as_str()),
        (1, r#"{"z":"foreign"}"#)
    );
}

async fn dropped_session_table_is_reported(db: Database) {
    for table in ["lock_sessions", "lock_fences"] {
        // A manager without a session, which therefore needs one.
        let locks = connect(&db, "us").await;
        let row = LocksRow::read(&db, "platform").await;
        db.execute(&format!("DROP TABLE {table}")).await;
        let error = failure("acquire", SOON, locks.acquire("x")).await;
        assert!(matches!(error, LockError::Schema { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains(table) && text.contains("migrations"),
            "{text}"
        );
        let now = LocksRow::read(&db, "platform").await;
        let held = now.as_ref().map(LocksRow::held).unwrap_or_default();
        assert!(held.is_empty(), "from {row:?} to {now:?}");
        assert!(!is_there(&db, table).await);
        let again = connect(&db, "again").await;
        again
            .acquire("x")
            .await
            .expect("it was made again")
            .release()
            .await
            .unwrap();
    }
}

/// The path of an SQLite database.
fn path(db: &Database) -> PathBuf {
    assert_eq!(db.engine(), Engine::Sqlite);
    let path = db.url().strip_prefix("sqlite://").unwrap();
    path.split('?').next().unwrap().into()
}

async fn file_is_gone(locks: &LockManager, what: &str) {
    let errors = [
        failure(what, AT_ONCE, locks.acquire("y")).await,
        failure(what, AT_ONCE, locks.wait("y")).await,
        failure(what, AT_ONCE, locks.held()).await,
    ];
    for error in errors {
        let text = error.to_string();
        assert!(text.contains("deleted or replaced"), "{what}: {text}");
        assert!(!error.is_transient(), "{what}: {error:?}");
    }
}

#[test]
fn deleted_file_is_reported_and_not_recreated() {
    run_async(Engine::Sqlite, async |db| {
        let locks = connect(&db, "us").await;
        let guard = locks.acquire("x").await.unwrap();
        std::fs::remove_file(path(&db)).unwrap();
        file_is_gone(&locks, "the file is gone").await;
        assert!(!path(&db).exists());
        // Another process creates a new file of this name, and holds a lock of this name in it.
        let theirs = connect(&db, "them").await.acquire("x").await.unwrap();
        file_is_gone(&locks, "the file is another").await;
        wait::until(SOON, "the loss is seen", async || guard.is_lost()).await;
        drop(guard);
        assert!(!theirs.is_lost());
        let held = LocksRow::read(&db, "platform").await.unwrap().held();
        assert_eq!(held, [("x".to_owned(), "them".to_owned())].into());
    });
}

#[test]
fn replaced_file_is_reported() {
    run_async(Engine::Sqlite, async |db| {
        let locks = connect(&db, "us").await;
        let other = Database::create(Engine::Sqlite);
        let elsewhere = connect(&other, "elsewhere").await;
        elsewhere.acquire("y").await.unwrap().detach();
        elsewhere.close().await.unwrap();
        std::fs::rename(path(&other), path(&db)).unwrap();
        file_is_gone(&locks, "the file is another").await;
    });
}
