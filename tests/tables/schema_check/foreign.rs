//! Tables and views of other applications with the names of the library's tables.

use locks_tests::{
    engine::{Database, Engine, run_async},
    on_every_engine,
};

use super::{TABLES, assert_none, refusal};

on_every_engine!(
    async the_table_of_another_application_is_refused,
    async session_tables_of_another_application_are_refused,
    async a_view_is_refused,
    async nothing_is_changed_in_the_table_of_another_application,
);

/// The columns of another application's table of this name.
const COLUMNS: [(&str, &str); 3] = [
    ("id", "INTEGER NOT NULL PRIMARY KEY"),
    ("door_number", "VARCHAR(20)"),
    ("opened_at", "VARCHAR(40)"),
];
/// The words that the error must contain, in addition to the table's name.
const WORDS: [&str; 4] = ["id", "door_number", "opened_at", "table_prefix"];

fn create(table: &str) -> String {
    let columns = COLUMNS.map(|(name, kind)| format!("{name} {kind}"));
    format!("CREATE TABLE {table} ({})", columns.join(", "))
}

fn words(table: &str) -> Vec<&str> {
    [&[table][..], &WORDS].concat()
}

async fn the_table_of_another_application_is_refused(db: Database) {
    db.execute(&create("locks")).await;
    db.execute("INSERT INTO locks VALUES (1, 'front', 'never')")
        .await;
    refusal(db.url(), &words("locks")).await.unwrap();
}

async fn session_tables_of_another_application_are_refused(first: Database) {
    let mut failed = Vec::new();
    for table in &TABLES[1..] {
        let db = Database::create(first.engine());
        db.execute(&create(table)).await;
        if let Err(what) = refusal(db.url(), &words(table)).await {
            failed.push(format!("{table}: {what}"));
        }
    }
    assert_none(&failed);
}

async fn a_view_is_refused(db: Database) {
    db.execute(&create("doors")).await;
    db.execute("CREATE VIEW locks AS SELECT id, door_number, opened_at FROM doors")
        .await;
    refusal(db.url(), &words("locks")).await.unwrap();
}

/// The library adds no columns to the table.
async fn nothing_is_changed_in_the_table_of_another_application(db: Database) {
    db.execute(&create("locks")).await;
    db.execute("INSERT INTO locks VALUES (1, 'front', 'never')")
        .await;
    let refused = super::connect(db.url(), "a").await;
    refused.expect_err("the table is not ours");
    let rows = db.connect().await.rows("SELECT * FROM locks").await;
    let rows = rows.expect("it is there");
    assert_eq!(rows.len(), 1, "{rows:?}");
    for column in ["stamp", "metaJson", "dataJson", "version"] {
        assert!(!rows[0].has(column), "{column} was added: {rows:?}");
    }
}

/// A view with all columns of the table is still a view: its rows may come from a join.
#[test]
fn a_view_with_our_columns_is_refused() {
    run_async(Engine::Postgres, async |db| {
        super::make_tables(&db).await;
        db.execute(
            "ALTER TABLE locks RENAME TO kept;
             CREATE VIEW locks AS SELECT * FROM kept WHERE id <> 'hidden'",
        )
        .await;
        refusal(db.url(), &["locks", "view", "table_prefix"])
            .await
            .unwrap();
    });
}

/// The other relations of PostgreSQL that share the namespace of tables.
#[test]
fn other_relations_are_refused() {
    run_async(Engine::Postgres, async |first| {
        let mut failed = Vec::new();
        for (kind, sql) in [
            ("sequence", "CREATE SEQUENCE locks"),
            (
                "materialized view",
                "CREATE MATERIALIZED VIEW locks AS SELECT 1 AS id",
            ),
            (
                "index",
                "CREATE TABLE t (n INTEGER); CREATE INDEX locks ON t (n)",
            ),
        ] {
            let db = Database::create(first.engine());
            db.execute(sql).await;
            if let Err(what) = refusal(db.url(), &["locks", "table_prefix"]).await {
                failed.push(format!("{kind}: {what}"));
            }
        }
        assert_none(&failed);
    });
}
