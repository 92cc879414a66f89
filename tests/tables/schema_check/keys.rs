//! Tables without the unique key which ensures that a name has one row.

use std::time::Duration;

use locks_core::LockManager;
use locks_tests::{
    engine::{Database, Engine, run_async},
    on_every_engine,
};

use super::{SOON, TABLES, assert_none, connect, make_tables, refusal, works};

on_every_engine!(
    async a_table_without_primary_key_is_refused,
    async a_key_of_two_columns_is_refused,
    async a_unique_index_is_as_good_as_a_primary_key,
    async a_read_that_finds_two_rows_is_an_error,
);

/// The column that identifies a row of the table.
fn key_of(table: &str) -> &'static str {
    if table == "lock_fences" {
        "session"
    } else {
        "id"
    }
}

/// Drops the primary key, as a restore does whose constraints failed.
async fn drop_key(db: &Database, table: &str) {
    let sql = match db.engine() {
        Engine::Sqlite => format!(
            "CREATE TABLE copy AS SELECT * FROM {table}; DROP TABLE {table};
             ALTER TABLE copy RENAME TO {table}"
        ),
        Engine::MySql => format!("ALTER TABLE {table} DROP PRIMARY KEY"),
        Engine::Postgres => format!("ALTER TABLE {table} DROP CONSTRAINT {table}_pkey"),
    };
    db.execute(&sql).await;
}

async fn a_table_without_primary_key_is_refused(first: Database) {
    let mut failed = Vec::new();
    for table in TABLES {
        let db = Database::create(first.engine());
        make_tables(&db).await;
        drop_key(&db, table).await;
        if let Err(what) = refusal(db.url(), &[table, key_of(table), "key"]).await {
            failed.push(format!("{table}: {what}"));
        }
    }
    assert_none(&failed);
}

/// With a key of two columns a name can have several rows.
async fn a_key_of_two_columns_is_refused(db: Database) {
    make_tables(&db).await;
    drop_key(&db, "locks").await;
    db.execute("CREATE UNIQUE INDEX wide ON locks (id, version)")
        .await;
    refusal(db.url(), &["locks", "id", "key"]).await.unwrap();
}

/// With a partial index a name can have several rows. MariaDB has no partial indexes.
async fn a_partial_index_is_refused(db: Database) {
    make_tables(&db).await;
    drop_key(&db, "locks").await;
    db.execute("CREATE UNIQUE INDEX partial ON locks (id) WHERE version > 1000")
        .await;
    refusal(db.url(), &["locks", "id", "key"]).await.unwrap();
}

#[test]
fn a_partial_index_is_refused_on_sqlite() {
    run_async(Engine::Sqlite, a_partial_index_is_refused);
}

#[test]
fn a_partial_index_is_refused_on_postgres() {
    run_async(Engine::Postgres, a_partial_index_is_refused);
}

async fn a_unique_index_is_as_good_as_a_primary_key(db: Database) {
    make_tables(&db).await;
    for table in TABLES {
        drop_key(&db, table).await;
        let key = key_of(table);
        db.execute(&format!(
            "CREATE UNIQUE INDEX {table}_key ON {table} ({key})"
        ))
        .await;
    }
    let locks = connect(db.url(), "a").await.expect("the keys are there");
    works(&locks).await.unwrap();
}

/// A manager that connected earlier, and has not read the row yet, finds two rows.
async fn a_read_that_finds_two_rows_is_an_error(db: Database) {
    make_tables(&db).await;
    let locks = connect(db.url(), "a").await.expect("the keys are there");
    drop_key(&db, "locks").await;
    let rows = db
        .execute(
            "INSERT INTO locks (id, dataJson, version, stamp, metaJson)
             SELECT id, dataJson, version + 5, 'another', metaJson FROM locks",
        )
        .await;
    assert_eq!(rows, 1);
    let reported = async |what: &str, answer: locks_core::Result<String>| {
        let error = answer.expect_err(what);
        let refused = error.is_busy() || error.is_timeout();
        assert!(!refused && !error.is_transient(), "{what}: {error:?}");
    };
    let listed = tokio::time::timeout(SOON, locks.held()).await;
    let listed = listed.expect("an answer").map(|held| format!("{held:?}"));
    reported("held", listed).await;
    let granted = tokio::time::timeout(SOON, locks.acquire("x")).await;
    let granted = granted
        .expect("an answer")
        .map(|guard| format!("{guard:?}"));
    reported("acquire", granted).await;
    let waited = locks.wait("y").timeout(Duration::from_secs(2)).await;
    reported("wait", waited.map(|guard| format!("{guard:?}"))).await;
    let other = with_namespace(&locks).await;
    assert!(other.is_ok(), "another namespace has one row: {other:?}");
}

/// A row of another namespace is not affected.
async fn with_namespace(locks: &LockManager) -> locks_core::Result<()> {
    let guard = locks.with_namespace("other")?.acquire("x").await?;
    guard.release().await
}
