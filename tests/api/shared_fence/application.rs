//! An application with tables, connections and transaction settings of its own.

use std::time::Duration;

use locks_core::{Expiry, LockManager};
use locks_tests::{
    engine::{Database, Engine, all_engines_wanted, note},
    journal::{Journal, Tx},
};
use sqlx::{
    AssertSqlSafe, mysql::MySqlPoolOptions, postgres::PgPoolOptions, sqlite::SqlitePoolOptions,
};

/// The number of tasks of the application; each has an account.
pub(crate) const TASKS: usize = 4;
const LONG: Duration = Duration::from_mins(2);

/// What the application sets on its own connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setting {
    Default,
    /// REPEATABLE READ, the default of MariaDB since 11.6.2: a statement fails with 1020 if it
    /// locks a row that is newer than the snapshot of its transaction.
    SnapshotIsolation,
    RepeatableRead,
    Serializable,
}

/// What a transaction does before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    ReadAndUpdate,
    Read,
}

/// An application on the database of the locks.
#[derive(Debug, Clone)]
pub(crate) struct Application {
    engine: Engine,
    setting: Setting,
    pub(crate) journal: Journal,
}

impl Setting {
    fn statements(self, engine: Engine) -> &'static str {
        match (engine, self) {
            (_, Self::Default) => "SELECT 1",
            (Engine::MySql, Self::SnapshotIsolation) => {
                "SET SESSION innodb_snapshot_isolation = ON; \
                 SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"
            }
            (Engine::Postgres, Self::RepeatableRead) => {
                "SET default_transaction_isolation = 'repeatable read'"
            }
            (Engine::Postgres, Self::Serializable) => {
                "SET default_transaction_isolation = 'serializable'"
            }
            (engine, setting) => panic!("{engine} has no {setting:?}"),
        }
    }

    /// Whether the server has the setting; prints a note if it does not.
    async fn is_there(self, db: &Database) -> bool {
        if self != Self::SnapshotIsolation {
            return true;
        }
        let mut conn = db.connect().await;
        let rows = conn
            .rows("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'")
            .await;
        let there = !rows.expect("the server answers").is_empty();
        if !there {
            assert!(
                !all_engines_wanted(),
                "the server has no innodb_snapshot_isolation"
            );
            note("left out: innodb_snapshot_isolation, which this server does not have");
        }
        there
    }
}

impl Application {
    /// Creates the tables and opens a pool. `None` where the server does not have the setting.
    pub(crate) async fn open(db: &Database, setting: Setting) -> Option<Self> {
        if !setting.is_there(db).await {
            return None;
        }
        let columns = "(id INTEGER PRIMARY KEY, n INTEGER NOT NULL)";
        let mut sql = vec![
            "CREATE TABLE journal (entry VARCHAR(200) NOT NULL)".to_owned(),
            format!("CREATE TABLE accounts {columns}"),
        ];
        for task in 0..TASKS {
            let table = format!("accounts_{task}");
            sql.push(format!("CREATE TABLE {table} {columns}"));
            for table in ["accounts", &table] {
                sql.push(format!("INSERT INTO {table} VALUES ({task}, 0)"));
            }
        }
        db.execute(&sql.join("; ")).await;
        Some(Self::open_at(db.url(), setting).await)
    }

    /// Opens a pool on existing tables.
    pub(crate) async fn open_at(url: &str, setting: Setting) -> Self {
        let engine = Engine::of_url(url);
        let sql = setting.statements(engine);
        let size = u32::try_from(TASKS).expect("a few");
        macro_rules! pool {
            ($options:ident) => {
                $options::new()
                    .max_connections(size)
                    .after_connect(move |conn, _| {
                        Box::pin(async move {
                            let set = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn);
                            set.await.map(drop)
                        })
                    })
                    .connect(url)
                    .await
                    .expect("the database answers")
            };
        }
        let journal = match engine {
            Engine::Sqlite => Journal::Sqlite(pool!(SqlitePoolOptions)),
            Engine::MySql => Journal::MySql(pool!(MySqlPoolOptions)),
            Engine::Postgres => Journal::Postgres(pool!(PgPoolOptions)),
        };
        Self {
            engine,
            setting,
            journal,
        }
    }

    /// Begins a transaction and does the work of the task in it.
    pub(crate) async fn transaction(&self, task: usize, work: Work) -> sqlx::Result<Tx> {
        let mut tx = match (&self.journal, work) {
            // A transaction that only reads does not lock the file.
            (Journal::Sqlite(pool), Work::Read) => Tx::Sqlite(pool.begin().await?),
            (journal, _) => journal.begin().await?,
        };
        let table = self.table(task);
        let read = format!("SELECT CAST(n AS CHAR(20)) FROM {table} WHERE id = {task}");
        assert_eq!(tx.texts(&read).await?.len(), 1);
        if work == Work::ReadAndUpdate {
            tx.execute(&format!("UPDATE {table} SET n = n + 1 WHERE id = {task}"))
                .await?;
        }
        Ok(tx)
    }

    /// How often the task's account was updated.
    pub(crate) async fn updates(&self, db: &Database, task: usize) -> usize {
        let mut conn = db.connect().await;
        let sql = format!("SELECT n FROM {} WHERE id = {task}", self.table(task));
        let rows = conn.rows(&sql).await.expect("the table is there");
        let number = rows[0].get("n").expect("it is not NULL");
        number.parse().expect("a number")
    }

    /// Serializable transactions fail because of rows that are next to theirs in an index or a
    /// page. With one table per task, the application itself gives no reason for that.
    fn table(&self, task: usize) -> String {
        if self.setting == Setting::Serializable {
            format!("accounts_{task}")
        } else {
            "accounts".to_owned()
        }
    }

    pub(crate) fn engine(&self) -> Engine {
        self.engine
    }
}

/// A manager whose sessions outlive the test.
pub(crate) async fn connect(url: &str, task: &str) -> LockManager {
    let builder = LockManager::builder()
        .task_id(task)
        .expiry(Expiry::After(LONG));
    builder.connect(url).await.expect("it connects")
}
