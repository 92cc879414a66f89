//! `locks migrate`, and what is printed about the database.

use std::process::Command;

use locks_core::LockManager;
use locks_tests::{
    engine::{Database, Engine},
    on_every_engine,
};
use url::Url;

use crate::support::{errors, locks, output, printed};

on_every_engine!(
    async tables_are_created,
    async looking_creates_no_tables,
    async printed_statements_create_the_tables,
    async no_output_has_the_password,
);

async fn tables_are_created(db: Database) {
    assert_eq!(printed(&db, &["migrate"]).trim(), "the tables are ready");
    assert_eq!(printed(&db, &["list", "--json"]).trim(), "[]");
    // Again, and with another prefix.
    printed(&db, &["migrate"]);
    printed(&db, &["--table-prefix", "app_", "migrate"]);
    let conn = &mut db.connect().await;
    conn.rows("SELECT * FROM app_locks")
        .await
        .expect("it is there");
    conn.rows("SELECT * FROM app_lock_fences")
        .await
        .expect("it is there");
}

async fn looking_creates_no_tables(db: Database) {
    let actions = [
        &["list"][..],
        &["waiting"],
        &["watch"],
        &["release", "x", "--token", "1"],
        &["release-task", "a"],
    ];
    // The file has to be there; the tables have not.
    let conn = &mut db.connect().await;
    for action in actions {
        let output = output(&db, &[&["--table-prefix", "app_"][..], action].concat());
        let text = errors(&output);
        assert_eq!(output.status.code(), Some(125), "{action:?}: {text}");
        assert!(text.contains("app_locks is missing"), "{action:?}: {text}");
        assert!(text.contains("`locks migrate`"), "{action:?}: {text}");
    }
    for table in ["locks", "lock_sessions", "lock_fences", "lock_requests"] {
        let found = conn.rows(&format!("SELECT * FROM app_{table}")).await;
        assert!(found.is_err(), "app_{table}");
    }
}

async fn printed_statements_create_the_tables(db: Database) {
    let sql = printed(&db, &["--table-prefix", "app_", "migrate", "--print"]);
    let (statements, rights) = sql.rsplit_once(";\n\n").expect("rights follow");
    if db.engine() == Engine::Sqlite {
        assert!(rights.is_empty() || !rights.contains("GRANT"), "{rights}");
    } else {
        for grant in [
            "GRANT SELECT, INSERT, UPDATE ON app_locks TO <account>;",
            "app_lock_fences TO <account>;",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON app_lock_requests TO <account>;",
        ] {
            assert!(rights.contains(grant), "{grant}: {rights}");
        }
    }
    for statement in statements.split(";\n\n") {
        db.execute(statement).await;
    }
    let builder = LockManager::builder().table_prefix("app_");
    let locks = builder
        .connect(db.url())
        .await
        .expect("the tables are right");
    let guard = locks.acquire("x").await.expect("it is free");
    guard.release().await.expect("it is held");
}

async fn no_output_has_the_password(db: Database) {
    let mut url: Url = db.url().parse().expect("a URL");
    if db.engine() == Engine::Sqlite {
        return;
    }
    url.set_password(Some("s3cret-Pass")).expect("a host");
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["migrate", "--print"],
        &["list"],
        &["run", "x", "--", "true"],
        &["dance"],
    ] {
        let output = locks(&db, args).env("DATABASE_URL", url.as_str()).output();
        let output = output.expect("it starts");
        let text = errors(&output) + &String::from_utf8_lossy(&output.stdout);
        assert!(!text.contains("s3cret"), "{args:?}: {text}");
    }
    let output = locks(&db, ["--url", url.as_str(), "list"])
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(125));
    assert!(!errors(&output).contains("s3cret"), "{}", errors(&output));
}

#[test]
fn missing_file_is_not_created_in_order_to_look() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path().join("mode=rwc");
    std::fs::create_dir(&directory).expect("a directory");
    let file = directory.join("absent.db");
    for action in ["list", "waiting", "watch"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_locks-command"));
        let url = format!("sqlite://{}", file.display());
        let output = command
            .args(["--url", &url, action])
            .output()
            .expect("it starts");
        assert_eq!(output.status.code(), Some(125), "{}", errors(&output));
        assert!(!file.exists());
    }
}

#[test]
fn database_must_be_named() {
    let db = Database::create(Engine::Sqlite);
    let output = locks(&db, ["list"])
        .env_remove("DATABASE_URL")
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(125));
    assert!(errors(&output).contains("--url"), "{}", errors(&output));
    let schema = crate::support::output(&db, &["--schema", "s", "migrate", "--print"]);
    assert_eq!(schema.status.code(), Some(125), "SQLite has no schemas");
}

#[test]
fn printed_statements_have_the_schema() {
    let db = Database::create(Engine::Sqlite);
    let url = ["--url", "postgres://db.internal/app"];
    let args: Vec<_> = url
        .into_iter()
        .chain(["--schema", "jobs", "migrate", "--print"])
        .collect();
    let sql = printed(&db, &args);
    for part in [
        "CREATE TABLE IF NOT EXISTS \"jobs\".locks (",
        "GRANT USAGE ON SCHEMA \"jobs\" TO <account>;",
    ] {
        assert!(sql.contains(part), "{part}: {sql}");
    }
    let output = output(
        &db,
        &["--url", "postgres://db.internal/app", "migrate", "--print"],
    );
    assert!(output.status.success());
}
