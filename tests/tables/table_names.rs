//! `Builder::table_prefix` and `Builder::schema`: several lock tables in one database, and
//! statements that do not depend on the `search_path`.

use std::time::Duration;

use locks_core::{Builder, LockError, LockManager};
use locks_tests::{
    engine::{Database, Engine, run_async},
    journal::{Journal, Tx},
    on_engine, on_every_engine,
    plain::Record,
    relay::Relay,
};

const SOON: Duration = Duration::from_secs(20);

on_every_engine!(
    async two_prefixes_are_two_lock_tables,
    async the_fence_works_with_a_prefix,
    async invalid_prefixes_are_invalid_configuration,
    async valid_prefixes_work,
    async a_refusal_names_the_table_with_its_prefix,
);

fn builder(task: &str) -> Builder {
    LockManager::builder().task_id(task)
}

async fn connect(builder: Builder, url: &str) -> LockManager {
    let connected = tokio::time::timeout(SOON, builder.connect(url)).await;
    connected.expect("an answer").expect("it connects")
}

/// The schemas and names of all lock tables, sorted.
async fn tables(db: &Database) -> Vec<String> {
    let sql = match db.engine() {
        Engine::Sqlite => "SELECT name AS name FROM sqlite_master WHERE type = 'table'",
        Engine::MySql => {
            "SELECT table_name AS name FROM information_schema.tables \
             WHERE table_schema = DATABASE()"
        }
        Engine::Postgres => {
            "SELECT table_schema || '.' || table_name AS name FROM information_schema.tables \
             WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
        }
    };
    let rows = db.connect().await.rows(sql).await.expect("a catalog");
    let name = |row: &Record| row.get("name").expect("not NULL").to_owned();
    let mut names: Vec<_> = rows.iter().map(name).collect();
    names.retain(|name| name.contains("lock"));
    names.sort();
    names
}

fn is_busy<T: std::fmt::Debug>(answer: locks_core::Result<T>) -> bool {
    answer.expect_err("it is held").is_busy()
}

async fn two_prefixes_are_two_lock_tables(db: Database) {
    let prefixes = ["", "left_", "right_"];
    let mut guards = Vec::new();
    for prefix in prefixes {
        let locks = connect(builder("a").table_prefix(prefix), db.url()).await;
        guards.push(locks.acquire("x").await.expect("it is free in this table"));
    }
    for prefix in prefixes {
        let other = connect(builder("b").table_prefix(prefix), db.url()).await;
        assert!(is_busy(other.acquire("x").await));
        // The end of a lock in one table is not seen in the others.
        other.acquire("y").await.expect("it is free").detach();
        other.release_all().await.expect("it can");
        let left = guards.remove(0);
        tokio::time::timeout(SOON, left.lost())
            .await
            .expect("the loss is reported");
        assert!(guards.iter().all(|guard| !guard.is_lost()));
    }
    let schema = if db.engine() == Engine::Postgres {
        "public."
    } else {
        ""
    };
    let mut expected: Vec<_> = prefixes
        .iter()
        .flat_map(|prefix| {
            let tables = db.engine().tables().iter();
            tables.map(move |table| format!("{schema}{prefix}{table}"))
        })
        .collect();
    expected.sort();
    assert_eq!(tables(&db).await, expected);
}

async fn the_fence_works_with_a_prefix(db: Database) {
    let journal = Journal::open(db.url()).await;
    let holder = connect(builder("holder").table_prefix("app_"), db.url()).await;
    let guard = holder.acquire("x").await.expect("it is free");
    let commit = async |entry: &str| {
        let mut tx = journal.begin().await.expect("it begins");
        tx.enter(entry).await.expect("it can be written");
        on_engine!(Tx, tx, tx => guard.commit(tx).await)
    };
    commit("held").await.expect("it is held");
    // Another lock table does not affect this one.
    let foreign = connect(builder("foreign"), db.url()).await;
    assert_eq!(foreign.release_task("holder").await.expect("it can"), []);
    commit("held on").await.expect("it is held");
    let supervisor = connect(builder("supervisor").table_prefix("app_"), db.url()).await;
    let taken = supervisor.release_task("holder").await.expect("it can");
    assert_eq!(taken.len(), 1);
    let refused = commit("lost").await.expect_err("it was taken");
    assert!(refused.is_lost(), "{refused:?}");
    assert_eq!(journal.entries().await, ["held", "held on"]);
}

async fn invalid_prefixes_are_invalid_configuration(db: Database) {
    let long = "x".repeat(41);
    for prefix in [
        "App_", "a-b", "a b", "ä_", "a;", "a\"", "a`", "a.", "'", &long,
    ] {
        let refused = builder("a").table_prefix(prefix).connect(db.url()).await;
        match refused.expect_err(prefix) {
            LockError::InvalidConfig { what, .. } => assert!(what.contains("prefix"), "{what}"),
            error => panic!("{prefix:?}: {error:?}"),
        }
    }
    assert_eq!(tables(&db).await, [""; 0]);
}

/// A prefix that begins with a digit may be refused, but does not fail later.
async fn valid_prefixes_work(db: Database) {
    let long = "x".repeat(40);
    for prefix in ["_", "a", "select_", "9_", "1e5", &long] {
        let connected = builder("a").table_prefix(prefix).connect(db.url()).await;
        let locks = match connected {
            Ok(locks) => locks,
            Err(LockError::InvalidConfig { .. }) if prefix.starts_with(char::is_numeric) => {
                continue;
            }
            Err(error) => panic!("{prefix:?}: {error:?}"),
        };
        let guard = locks.acquire("x").await.expect("it is free");
        guard.release().await.expect("it is held");
        locks.close().await.expect("it closes");
    }
}

async fn a_refusal_names_the_table_with_its_prefix(db: Database) {
    db.execute("CREATE TABLE app_locks (door INTEGER)").await;
    let refused = builder("a").table_prefix("app_").connect(db.url()).await;
    let text = refused.expect_err("the table is not ours").to_string();
    assert!(
        text.contains("app_locks") && text.contains("door"),
        "{text}"
    );
    connect(builder("a"), db.url()).await;
}

#[test]
fn a_schema_on_another_engine_is_invalid_configuration() {
    for engine in [Engine::Sqlite, Engine::MySql] {
        run_async(engine, async |db| {
            let refused = builder("a").schema("public").connect(db.url()).await;
            match refused.expect_err("it has no schemas") {
                LockError::InvalidConfig { what, .. } => assert!(what.contains("schema"), "{what}"),
                error => panic!("{error:?}"),
            }
        });
    }
}

#[test]
fn a_schema_that_does_not_exist_is_named() {
    run_async(Engine::Postgres, async |db| {
        let connecting = builder("a").schema("nowhere").connect(db.url());
        let refused = tokio::time::timeout(Duration::from_secs(5), connecting).await;
        let error = refused.expect("an answer").expect_err("there is none");
        assert!(error.to_string().contains("nowhere"), "{error}");
        assert!(!error.is_transient(), "{error:?}");
    });
}

/// For any characters in the schema's name, with and without a prefix.
#[test]
fn the_tables_are_made_in_the_schema() {
    run_async(Engine::Postgres, async |db| {
        let schema = "My \"odd' schema";
        db.execute("CREATE SCHEMA \"My \"\"odd' schema\"").await;
        for prefix in ["", "app_"] {
            let chosen = || builder("a").schema(schema).table_prefix(prefix);
            let (a, b) = (
                connect(chosen(), db.url()).await,
                connect(chosen(), db.url()).await,
            );
            let guard = a.acquire("x").await.expect("it is free");
            assert!(is_busy(b.acquire("x").await));
            let waiting = tokio::spawn(b.wait("x").timeout(SOON).into_future());
            guard.release().await.expect("it is held");
            let next = waiting.await.expect("no panic").expect("it is free");
            let mut tx = Journal::open(db.url())
                .await
                .begin()
                .await
                .expect("it begins");
            tx.enter("entry").await.expect("it can be written");
            let committed = on_engine!(Tx, tx, tx => next.commit(tx).await);
            committed.expect("it is held");
        }
        let all = tables(&db).await;
        assert_eq!(all.len(), 2 * db.engine().tables().len());
        assert!(all.iter().all(|name| name.starts_with(schema)), "{all:?}");
    });
}

/// If each manager names its schema, several lock tables are no mistake.
#[test]
fn two_schemas_by_name_are_two_lock_tables() {
    run_async(Engine::Postgres, async |db| {
        db.execute("CREATE SCHEMA left_side; CREATE SCHEMA right_side")
            .await;
        let left = connect(builder("a").schema("left_side"), db.url()).await;
        let right = connect(builder("b").schema("right_side"), db.url()).await;
        let _left = left.acquire("x").await.expect("it is free");
        let _right = right.acquire("x").await.expect("it is free");
    });
}

/// `pg_dump` through a pooler leaves connections with an empty `search_path`.
async fn goes_on_without_search_path(builders: [Builder; 2], db: Database) {
    let relay = Relay::start(db.server_address());
    let url = db.url_via(relay.address());
    let [a, b] = builders;
    let (a, b) = (connect(a, &url).await, connect(b, &url).await);
    let journal = Journal::open(db.url()).await;
    let guard = a.acquire("x").await.expect("it is free");
    let name = db.url().rsplit('/').next().expect("a path");
    let empty = format!("ALTER DATABASE {name} SET search_path = ''");
    db.execute(&empty).await;
    relay.cut_all();
    // On new connections, whose path is empty.
    let waiting = tokio::spawn(b.wait("x").timeout(SOON).into_future());
    let other = b.wait("y").timeout(SOON).await.expect("it is free");
    other.release().await.expect("it is held");
    assert!(is_busy(b.acquire("x").await));
    assert_eq!(a.held().await.expect("it can be read").len(), 1);
    let mut tx = journal.begin().await.expect("it begins");
    tx.enter("entry").await.expect("it can be written");
    tx.execute("SET LOCAL search_path = ''")
        .await
        .expect("a setting");
    let committed = on_engine!(Tx, tx, tx => guard.commit(tx).await);
    committed.expect("it is held");
    assert!(!guard.is_lost());
    guard.release().await.expect("it is held");
    let next = waiting.await.expect("no panic").expect("it is free");
    next.release().await.expect("it is held");
    for locks in [a, b] {
        locks.close().await.expect("it closes");
    }
}

#[test]
fn an_emptied_search_path_changes_nothing() {
    run_async(Engine::Postgres, |db| {
        goes_on_without_search_path([builder("a"), builder("b")], db)
    });
}

#[test]
fn an_emptied_search_path_changes_nothing_in_a_named_schema() {
    run_async(Engine::Postgres, async |db| {
        db.execute("CREATE SCHEMA elsewhere").await;
        let builders = ["a", "b"].map(|task| builder(task).schema("elsewhere").table_prefix("p_"));
        goes_on_without_search_path(builders, db).await;
    });
}
