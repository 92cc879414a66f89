//! The creation of the tables: by the first process that connects, or by the users' own tooling.

use std::{path::Path, time::Duration};

use locks_core::LockManager;
use locks_tests::{
    engine::{Database, Engine, run_async},
    on_every_engine, peer,
    plain::{Plain, Record},
    process::Peer,
    row::{LocksRow, wait_until_empty},
    wait::block_on,
};
use sqlx::migrate::Migrator;

const SOON: Duration = Duration::from_secs(30);
const ROUNDS: usize = 6;

on_every_engine!(
    sync six_processes_create_the_tables_concurrently,
    async only_the_tables_of_the_library_are_created,
    async the_tables_of_the_users_tooling_are_accepted,
    async migrations_of_the_application_are_not_affected,
    async missing_tables_are_created_and_existing_ones_kept,
    async migration_may_be_repeated,
    async columns_and_tables_of_a_later_version_are_left_alone,
);

/// The directory of this engine's migrations, for the users' own tooling.
fn directory(engine: Engine) -> String {
    let name = match engine {
        Engine::Sqlite => "sqlite",
        Engine::MySql => "mysql",
        Engine::Postgres => "postgres",
    };
    format!("{}/../migrations/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The text of all migrations.
fn file(engine: Engine) -> String {
    let files = std::fs::read_dir(directory(engine)).expect("there are migrations");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    let texts = paths.iter().map(std::fs::read_to_string);
    texts.map(|text| text.expect("it can be read")).collect()
}

/// The names of all tables, sorted.
async fn tables(db: &Database) -> Vec<String> {
    let sql = match db.engine() {
        Engine::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table'",
        Engine::MySql => {
            "SELECT table_name AS name FROM information_schema.tables \
             WHERE table_schema = DATABASE()"
        }
        Engine::Postgres => {
            "SELECT table_name AS name FROM information_schema.tables \
             WHERE table_schema = current_schema()"
        }
    };
    let rows = db.connect().await.rows(sql).await.unwrap();
    let name = |row: &Record| row.get("name").unwrap().to_owned();
    let mut names: Vec<_> = rows.iter().map(name).collect();
    names.sort();
    names
}

/// Everything about the columns of the library's tables that could be changed.
async fn shape(db: &Database) -> String {
    let sql = match db.engine() {
        Engine::Sqlite => "SELECT sql FROM sqlite_master WHERE name LIKE 'lock%' ORDER BY name",
        Engine::MySql => {
            "SELECT table_name, column_name, column_type, column_default, is_nullable, collation_name \
             FROM information_schema.columns WHERE table_schema = DATABASE() \
             AND table_name LIKE 'lock%' ORDER BY table_name, ordinal_position"
        }
        Engine::Postgres => {
            "SELECT table_name, column_name, data_type, column_default, is_nullable \
             FROM information_schema.columns WHERE table_schema = current_schema() \
             AND table_name LIKE 'lock%' ORDER BY table_name, ordinal_position"
        }
    };
    format!("{:#?}", db.connect().await.rows(sql).await.unwrap())
}

/// Connects, acquires a lock and releases it.
async fn use_it(db: &Database) {
    let locks = LockManager::connect(db.url()).await.expect("it connects");
    let guard = locks.acquire("x").await.expect("it is free");
    guard.release().await.expect("it is ours");
    locks.close().await.expect("it closes");
}

async fn migrate(db: &Database, directory: impl AsRef<Path>) {
    let migrator = Migrator::new(directory.as_ref()).await.unwrap();
    match db.connect().await {
        Plain::Sqlite(mut conn) => migrator.run(&mut conn).await,
        Plain::MySql(mut conn) => migrator.run(&mut conn).await,
        Plain::Postgres(mut conn) => migrator.run(&mut conn).await,
    }
    .unwrap_or_else(|error| panic!("{}: {error}", directory.as_ref().display()));
}

/// The records of the application's migrator.
async fn bookkeeping(db: &Database) -> String {
    let sql = "SELECT version, description FROM _sqlx_migrations ORDER BY version";
    format!("{:?}", db.connect().await.rows(sql).await.unwrap())
}

fn six_processes_create_the_tables_concurrently(first: Database) {
    let engine = first.engine();
    let mut peers: Vec<Peer> = (0..6).map(|_| peer!("connector")).collect();
    for peer in &mut peers {
        peer.expect_line("ready", SOON);
    }
    let more = (1..ROUNDS).map(|_| Database::create(engine));
    for (round, db) in [first].into_iter().chain(more).enumerate() {
        for peer in &mut peers {
            peer.send(db.url());
        }
        for peer in &mut peers {
            let said = peer.next_line(SOON);
            assert_eq!(said.as_deref(), Some("settled"), "in round {round}");
        }
        block_on(async {
            wait_until_empty(&db, "platform", SOON).await;
            assert_eq!(tables(&db).await, db.engine().tables());
            let rows = "SELECT COUNT(*) AS n FROM locks";
            let rows = db.connect().await.rows(rows).await.unwrap();
            assert_eq!(rows[0].get("n"), Some("1"));
        });
    }
    for mut peer in peers {
        peer.finish_well(SOON);
    }
}

async fn only_the_tables_of_the_library_are_created(db: Database) {
    use_it(&db).await;
    assert_eq!(tables(&db).await, db.engine().tables());
}

async fn the_tables_of_the_users_tooling_are_accepted(db: Database) {
    // As a text, as a database client applies it.
    db.execute(&file(db.engine())).await;
    let made = shape(&db).await;
    use_it(&db).await;
    assert_eq!(shape(&db).await, made);

    // By a migrator, which refuses to run if its own table was changed.
    let other = Database::create(db.engine());
    migrate(&other, directory(db.engine())).await;
    let (made, written) = (shape(&other).await, bookkeeping(&other).await);
    use_it(&other).await;
    assert_eq!(shape(&other).await, made);
    assert_eq!(bookkeeping(&other).await, written);
    migrate(&other, directory(db.engine())).await;

    // The result equals the tables that the library creates.
    let third = Database::create(db.engine());
    use_it(&third).await;
    assert_eq!(shape(&third).await, made);
}

async fn migrations_of_the_application_are_not_affected(db: Database) {
    let own = tempfile::tempdir().unwrap();
    std::fs::write(own.path().join("7_app.sql"), "CREATE TABLE app (n INTEGER)").unwrap();
    migrate(&db, own.path()).await;
    let written = bookkeeping(&db).await;
    use_it(&db).await;
    assert_eq!(bookkeeping(&db).await, written);
    std::fs::write(
        own.path().join("8_more.sql"),
        "CREATE TABLE more (n INTEGER)",
    )
    .unwrap();
    migrate(&db, own.path()).await;
    use_it(&db).await;
    let ours = db.engine().tables().iter().copied();
    let mut expected: Vec<_> = ours.chain(["_sqlx_migrations", "app", "more"]).collect();
    expected.sort_unstable();
    assert_eq!(tables(&db).await, expected);
}

async fn missing_tables_are_created_and_existing_ones_kept(db: Database) {
    use_it(&db).await;
    let made = shape(&db).await;
    // The lock's holder is known by its task id only.
    db.execute(r#"UPDATE locks SET dataJson = '{"x":"foreign"}'"#)
        .await;
    let others = db.engine().tables().iter().filter(|name| **name != "locks");
    for table in others {
        let row = LocksRow::read(&db, "platform").await;
        db.execute(&format!("DROP TABLE {table}")).await;
        let locks = LockManager::connect(db.url()).await.expect("it connects");
        assert_eq!(shape(&db).await, made, "after {table} was missing");
        assert_eq!(LocksRow::read(&db, "platform").await, row);
        let refused = locks.acquire("x").await.expect_err("another task holds it");
        assert!(refused.is_busy(), "{refused}");
        locks.acquire("y").await.unwrap().release().await.unwrap();
        locks.close().await.unwrap();
    }
    let held = LocksRow::read(&db, "platform").await.unwrap().held();
    assert_eq!(held, [("x".to_owned(), "foreign".to_owned())].into());
}

async fn migration_may_be_repeated(db: Database) {
    use_it(&db).await;
    let made = shape(&db).await;
    let row = LocksRow::read(&db, "platform").await;
    for _ in 0..3 {
        let locks = LockManager::connect(db.url()).await.expect("it connects");
        assert_eq!(locks.held().await.unwrap(), []);
    }
    assert_eq!(shape(&db).await, made);
    assert_eq!(LocksRow::read(&db, "platform").await, row);
}

/// A rolling deployment has processes of two versions. The later one may add columns with a
/// default, indexes and tables.
async fn columns_and_tables_of_a_later_version_are_left_alone(db: Database) {
    let before = LockManager::connect(db.url()).await.expect("it connects");
    let guard = before.acquire("x").await.expect("it is free");
    for table in db.engine().tables() {
        db.execute(&format!(
            "ALTER TABLE {table} ADD COLUMN later BIGINT DEFAULT 7"
        ))
        .await;
    }
    db.execute("CREATE TABLE lock_later (id INTEGER PRIMARY KEY)")
        .await;
    let after = LockManager::connect(db.url()).await.expect("it connects");
    assert!(after.acquire("x").await.expect_err("it is held").is_busy());
    let waiting = tokio::spawn(after.wait("x").into_future());
    guard.release().await.expect("it is held");
    let granted = tokio::time::timeout(SOON, waiting)
        .await
        .expect("an answer");
    let granted = granted.expect("no panic").expect("it is free");
    granted.release().await.expect("it is held");
    let mut rows = db.connect().await;
    let kept = rows
        .rows("SELECT later FROM locks")
        .await
        .expect("it is there");
    assert!(
        kept.iter().all(|row| row.get("later") == Some("7")),
        "{kept:?}"
    );
}

/// Only MySQL's migration adds columns: to a table of the original.
#[test]
fn column_that_is_there_already_does_not_keep_others_from_being_added() {
    run_async(Engine::MySql, async |db: Database| {
        let locks = LockManager::connect(db.url()).await.expect("it connects");
        locks.close().await.expect("it closes");
        db.execute("ALTER TABLE locks DROP COLUMN stamp").await;
        let connected = LockManager::connect(db.url()).await;
        let locks = connected.expect("it adds the column");
        let guard = locks.acquire("x").await.expect("it is free");
        guard.release().await.expect("it is held");
    });
}
