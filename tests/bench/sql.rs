//! Plain SQL on any engine, on owned connections, with prepared statements.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, MySqlConnection,
    PgConnection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{Result, engine::Engine};

/// An owned connection.
#[derive(Debug)]
pub(crate) enum Connection {
    Sqlite(SqliteConnection),
    MySql(MySqlConnection),
    Postgres(PgConnection),
}

/// A statement with the engine's placeholders.
#[derive(Clone, Debug)]
pub(crate) struct Statement(Arc<str>);

/// An argument of a statement.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg<'a> {
    Text(&'a str),
    Int(i64),
}

impl Statement {
    /// Creates a statement. `sql` has a `?` for each argument.
    pub(crate) fn new(engine: Engine, sql: &str) -> Self {
        let mut number = 0;
        let placed = sql
            .split_inclusive('?')
            .map(|part| match part.strip_suffix('?') {
                Some(start) if engine == Engine::Postgres => {
                    number += 1;
                    format!("{start}${number}")
                }
                _ => part.to_owned(),
            });
        let text: String = placed.collect();
        Self(text.into())
    }
}

/// Runs `$method` of a query with its arguments on a connection of any engine.
macro_rules! run {
    ($this:expr, $query:path, $statement:expr, $args:expr, $method:ident, $result:ident => $out:expr) => {
        match $this {
            Connection::Sqlite(conn) => run!(@on conn, $query, $statement, $args, $method, $result => $out),
            Connection::MySql(conn) => run!(@on conn, $query, $statement, $args, $method, $result => $out),
            Connection::Postgres(conn) => run!(@on conn, $query, $statement, $args, $method, $result => $out),
        }
    };
    (@on $conn:ident, $query:path, $statement:expr, $args:expr, $method:ident, $result:ident => $out:expr) => {{
        let mut query = $query(AssertSqlSafe($statement.0.clone()));
        for arg in $args {
            query = match *arg {
                Arg::Text(text) => query.bind(text),
                Arg::Int(int) => query.bind(int),
            };
        }
        let $result = query.$method($conn).await?;
        Ok($out)
    }};
}

impl Connection {
    /// Opens a connection. On `SQLite` it has the settings that a durable lock needs.
    pub(crate) async fn open(engine: Engine, url: &str) -> Result<Self> {
        Ok(match engine {
            Engine::Sqlite => {
                let options: SqliteConnectOptions = url.parse()?;
                let durable = options
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    // With many processes, a write can wait for longer than the default.
                    .busy_timeout(Duration::from_mins(1));
                Self::Sqlite(durable.connect().await?)
            }
            Engine::Mysql => Self::MySql(MySqlConnection::connect(url).await?),
            Engine::Postgres => Self::Postgres(PgConnection::connect(url).await?),
        })
    }

    /// Executes the statement. Returns how many rows it affected.
    pub(crate) async fn execute(&mut self, statement: &Statement, args: &[Arg<'_>]) -> Result<u64> {
        run!(self, sqlx::query, statement, args, execute, done => done.rows_affected())
    }

    /// Reads one row of a text and a number.
    pub(crate) async fn text_and_number(&mut self, statement: &Statement) -> Result<(String, i64)> {
        let none: [Arg<'_>; 0] = [];
        run!(self, sqlx::query_as::<_, (String, i64)>, statement, &none, fetch_one, row => row)
    }

    /// Runs a query for its effect and ignores its rows.
    pub(crate) async fn call(&mut self, statement: &Statement, args: &[Arg<'_>]) -> Result<()> {
        run!(self, sqlx::query, statement, args, fetch_optional, row => drop(row))
    }

    /// Executes statements that cannot be prepared.
    pub(crate) async fn raw(&mut self, sql: &str) -> Result<()> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql));
        match self {
            Self::Sqlite(conn) => _ = conn.execute(query).await?,
            Self::MySql(conn) => _ = conn.execute(query).await?,
            Self::Postgres(conn) => _ = conn.execute(query).await?,
        }
        Ok(())
    }

    /// Closes the connection.
    pub(crate) async fn close(self) -> Result<()> {
        match self {
            Self::Sqlite(conn) => conn.close().await?,
            Self::MySql(conn) => conn.close().await?,
            Self::Postgres(conn) => conn.close().await?,
        }
        Ok(())
    }
}

/// A fixed number of connections. It does not ping them as a real pool does, which would slow
/// the references down.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

/// A connection that returns to its pool when it is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    /// `Some` until this is dropped.
    connection: Option<Connection>,
    pool: &'a Pool,
    _permit: SemaphorePermit<'a>,
}

impl Pool {
    pub(crate) async fn open(engine: Engine, url: &str, connections: usize) -> Result<Self> {
        let mut free = Vec::new();
        for _ in 0..connections {
            free.push(Connection::open(engine, url).await?);
        }
        Ok(Self {
            free: Mutex::new(free),
            permits: Semaphore::new(connections),
        })
    }

    pub(crate) async fn take(&self) -> Result<Taken<'_>> {
        let permit = self.permits.acquire().await?;
        let connection = self.free().pop();
        Ok(Taken {
            connection,
            pool: self,
            _permit: permit,
        })
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Taken<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
            .as_ref()
            .expect("BUG: the connection is there until the drop")
    }
}

impl DerefMut for Taken<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection
            .as_mut()
            .expect("BUG: the connection is there until the drop")
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.pool.free().extend(self.connection.take());
    }
}
