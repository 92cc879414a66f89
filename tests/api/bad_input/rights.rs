//! Accounts with too few rights.

use std::time::{Duration, Instant};

use locks_core::{LockError, LockManager};
use locks_tests::{
    engine::{Database, Engine, run_async},
    row::{LocksRow, wait_until_empty},
    server::Server,
    wait::block_on,
};

use super::GIVEN_UP;

const SOON: Duration = Duration::from_secs(20);

fn migration(engine: Engine) -> (&'static str, String) {
    let path = match engine {
        Engine::Sqlite => "migrations/sqlite/0001_locks.sql",
        Engine::MySql => "migrations/mysql/0001_locks.sql",
        Engine::Postgres => "migrations/postgres/0001_locks.sql",
    };
    let file = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    (path, std::fs::read_to_string(file).expect("the migration"))
}

async fn connect(url: &str) -> locks_core::Result<LockManager> {
    let connecting = LockManager::builder().task_id("us").connect(url);
    let answer = tokio::time::timeout(SOON, connecting).await;
    answer.expect("an answer")
}

/// The tables are missing and cannot be created, and the error names the migration that creates
/// them.
async fn names_its_migration(url: &str, engine: Engine) {
    let error = connect(url).await.expect_err("it cannot make its tables");
    assert!(matches!(error, LockError::Schema { .. }), "{error:?}");
    assert!(error.to_string().contains(migration(engine).0), "{error}");
    assert!(!error.is_transient());
}

/// The database refuses writes: requests report that, and the row is unchanged.
async fn nothing_is_granted(db: &Database, locks: &LockManager, said: &str) {
    let row = LocksRow::read(db, "platform").await;
    let start = Instant::now();
    // The first error may report a closed connection.
    let first = locks.wait("x").timeout(Duration::from_secs(2)).await;
    let error = first.expect_err("it cannot be written");
    assert!(matches!(error, LockError::Database { .. }), "{error:?}");
    // At any point of the time-out, a readable row is no answer to these requests.
    let mut asked: Vec<_> = (1..=20)
        .map(|n| {
            locks
                .wait(format!("x_{n}"))
                .timeout(n * Duration::from_millis(97))
        })
        .map(tokio::spawn)
        .collect();
    asked.push(tokio::spawn(locks.acquire("x")));
    for answer in asked {
        let answer = tokio::time::timeout(GIVEN_UP, answer).await;
        let answer = answer.expect("an answer").unwrap();
        let error = answer.expect_err("it cannot be written");
        assert!(matches!(error, LockError::Database { .. }), "{error:?}");
        let text = error.to_string().to_lowercase();
        assert!(text.contains(said), "{text}");
    }
    println!("reported after {:?}", start.elapsed());
    assert_eq!(LocksRow::read(db, "platform").await, row);
}

async fn works(locks: &LockManager) {
    let guard = tokio::time::timeout(SOON, locks.wait("x")).await;
    let guard = guard.expect("an answer").expect("it may write now");
    guard.release().await.expect("it may write now");
}

/// Creates an account that may only read and write rows of this database, and returns its URL.
async fn make_restricted_account(db: &Database) -> String {
    let name = db.url().rsplit('/').next().unwrap();
    let sql = match db.engine() {
        Engine::MySql => format!(
            "CREATE USER 'limited'@'%' IDENTIFIED BY 'pencil';
             GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO 'limited'@'%'"
        ),
        _ => "CREATE USER limited PASSWORD 'pencil';
              REVOKE CREATE ON SCHEMA public FROM PUBLIC;
              ALTER DEFAULT PRIVILEGES IN SCHEMA public
              GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO limited"
            .to_owned(),
    };
    db.execute(&sql).await;
    db.url_with(|url| {
        url.set_username("limited").unwrap();
        url.set_password(Some("pencil")).unwrap();
    })
}

/// The statements that make the server refuse writes, and those that make it accept them again.
fn read_only(db: &Database) -> [Vec<String>; 2] {
    if db.engine() == Engine::MySql {
        return ["1", "0"].map(|on| vec![format!("SET GLOBAL read_only = {on}")]);
    }
    // The library overrides `default_transaction_read_only`. A server that cannot write at all,
    // such as a standby, answers as these triggers do. The connections are closed, as a switch to
    // another server does.
    let tables = ["locks", "lock_sessions", "lock_fences"];
    let refuse = tables.map(|table| {
        format!(
            "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON {table} \
             FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
        )
    });
    let accept = tables.map(|table| format!("DROP TRIGGER refuse ON {table}"));
    let mut forbid = vec![
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE EXCEPTION 'cannot write in a read-only transaction' USING ERRCODE = '25006'; \
         END $$"
            .to_owned(),
    ];
    forbid.extend(refuse);
    forbid.push(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'limited'".into(),
    );
    [forbid, accept.into()]
}

fn restricted_account(engine: Engine) {
    let Some(server) = Server::start(engine) else {
        return;
    };
    let db = Database::create_on(server.url());
    block_on(async {
        let url = make_restricted_account(&db).await;
        names_its_migration(&url, engine).await;
        assert_eq!(LocksRow::read(&db, "platform").await, None);

        // As the error advises: another account applies the migration, and then the rights suffice.
        db.execute(&migration(engine).1).await;
        let locks = connect(&url).await.expect("nothing is missing now");
        works(&locks).await;

        let [forbid, allow] = read_only(&db);
        for sql in forbid {
            db.execute(&sql).await;
        }
        nothing_is_granted(&db, &locks, "read").await;
        // A new connection is refused, or it finds the tables and cannot write.
        if let Ok(newcomer) = connect(&url).await {
            let limited = newcomer.wait("x").timeout(Duration::from_secs(1));
            limited.await.expect_err("it cannot be written");
        }
        for sql in allow {
            db.execute(&sql).await;
        }
        works(&locks).await;
        locks.close().await.unwrap();
        wait_until_empty(&db, "platform", SOON).await;
    });
}

#[test]
fn restricted_account_works_once_the_tables_exist_on_mariadb() {
    restricted_account(Engine::MySql);
}

#[test]
fn restricted_account_works_once_the_tables_exist_on_postgres() {
    restricted_account(Engine::Postgres);
}

#[test]
fn read_only_file_is_reported() {
    run_async(Engine::Sqlite, async |db| {
        let url = db.url().replace("mode=rwc", "mode=ro");
        db.execute("CREATE TABLE unrelated (n INTEGER)").await;
        names_its_migration(&url, Engine::Sqlite).await;
        assert_eq!(LocksRow::read(&db, "platform").await, None);

        let writer = connect(db.url()).await.unwrap();
        works(&writer).await;
        let reader = connect(&url).await.expect("nothing is missing now");
        assert_eq!(reader.held().await.unwrap(), []);
        nothing_is_granted(&db, &reader, "readonly").await;
        works(&writer).await;
    });
}
