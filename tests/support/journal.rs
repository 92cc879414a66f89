//! An application's own table, written in its own transactions, on every engine.

use sqlx::{
    AssertSqlSafe, MySql, MySqlPool, PgPool, Postgres, Row as _, Sqlite, SqlitePool, Transaction,
};

use crate::{engine::Engine, hostile::pool_options};

/// The table `journal`, through a pool, as applications use it.
#[derive(Debug, Clone)]
pub enum Journal {
    /// In a file.
    Sqlite(SqlitePool),
    /// On MySQL or MariaDB.
    MySql(MySqlPool),
    /// On PostgreSQL.
    Postgres(PgPool),
}

/// A transaction of the application.
#[derive(Debug)]
pub enum Tx {
    /// In a file.
    Sqlite(Transaction<'static, Sqlite>),
    /// On MySQL or MariaDB.
    MySql(Transaction<'static, MySql>),
    /// On PostgreSQL.
    Postgres(Transaction<'static, Postgres>),
}

/// Evaluates the expression with the variant's content, for any engine: `on_engine!(Tx, tx, tx =>
/// guard.commit(tx).await)`.
#[macro_export]
macro_rules! on_engine {
    ($enum:ident, $value:expr, $name:pat => $body:expr) => {
        match $value {
            $enum::Sqlite($name) => $body,
            $enum::MySql($name) => $body,
            $enum::Postgres($name) => $body,
        }
    };
}

impl Journal {
    /// Opens a pool, and creates the table if it does not exist.
    pub async fn open(url: &str) -> Self {
        let this = Self::open_existing(url).await;
        let sql = "CREATE TABLE IF NOT EXISTS journal (entry VARCHAR(200) NOT NULL)";
        on_engine!(Self, &this, pool => {
            sqlx::query(sql).execute(pool).await.map(drop).expect("the table can be made");
        });
        this
    }

    /// Opens a pool on an existing table.
    pub async fn open_existing(url: &str) -> Self {
        const SIZE: u32 = 4;
        let engine = Engine::of_url(url);
        let connected = match engine {
            Engine::Sqlite => {
                let options = pool_options(engine).max_connections(SIZE);
                options.connect(url).await.map(Self::Sqlite)
            }
            Engine::MySql => {
                let options = pool_options(engine).max_connections(SIZE);
                options.connect(url).await.map(Self::MySql)
            }
            Engine::Postgres => {
                let options = pool_options(engine).max_connections(SIZE);
                options.connect(url).await.map(Self::Postgres)
            }
        };
        connected.expect("the database answers")
    }

    /// Begins a transaction; on SQLite a write transaction, which is required there.
    pub async fn begin(&self) -> sqlx::Result<Tx> {
        Ok(match self {
            Self::Sqlite(pool) => Tx::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?),
            Self::MySql(pool) => Tx::MySql(pool.begin().await?),
            Self::Postgres(pool) => Tx::Postgres(pool.begin().await?),
        })
    }

    /// Begins a transaction and inserts this entry.
    pub async fn begin_entry(&self, entry: &str) -> sqlx::Result<Tx> {
        let mut tx = self.begin().await?;
        tx.enter(entry).await?;
        Ok(tx)
    }

    /// The committed entries, sorted.
    pub async fn entries(&self) -> Vec<String> {
        const SQL: &str = "SELECT entry FROM journal";
        let mut entries: Vec<String> = on_engine!(Self, self, pool => {
            let rows = sqlx::query(SQL).fetch_all(pool).await.expect("the journal is there");
            rows.iter().map(|row| row.get(0)).collect()
        });
        entries.sort();
        entries
    }

    /// Whether this entry was committed.
    pub async fn has(&self, entry: &str) -> bool {
        self.entries().await.iter().any(|there| there == entry)
    }
}

impl Tx {
    /// Inserts an entry.
    pub async fn enter(&mut self, entry: &str) -> sqlx::Result<()> {
        self.execute(&format!("INSERT INTO journal VALUES ('{entry}')"))
            .await
    }

    /// Executes a statement.
    pub async fn execute(&mut self, sql: &str) -> sqlx::Result<()> {
        let sql = AssertSqlSafe(sql.to_owned());
        on_engine!(Self, self, tx => sqlx::query(sql).execute(&mut **tx).await.map(drop))
    }

    /// The first column of a query's result.
    pub async fn texts(&mut self, sql: &str) -> sqlx::Result<Vec<String>> {
        let sql = AssertSqlSafe(sql.to_owned());
        on_engine!(Self, self, tx => {
            let rows = sqlx::query(sql).fetch_all(&mut **tx).await?;
            rows.iter().map(|row| row.try_get(0)).collect()
        })
    }

    /// Commits without a fence.
    pub async fn commit(self) -> sqlx::Result<()> {
        on_engine!(Self, self, tx => tx.commit().await)
    }
}
