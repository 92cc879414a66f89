//! Plain SQL on any engine, with every value as text.

use sqlx::{
    AssertSqlSafe, Column as _, Connection as _, Decode, MySqlConnection, PgConnection,
    SqliteConnection, Type, ValueRef as _,
};

use crate::{engine::Engine, hostile::own_settings};

/// A connection of the test's own, independent of the library.
#[derive(Debug)]
pub enum Plain {
    /// To a file.
    Sqlite(SqliteConnection),
    /// To MySQL or MariaDB.
    MySql(MySqlConnection),
    /// To PostgreSQL.
    Postgres(PgConnection),
}

/// One row of a result: column names in lower case, because PostgreSQL folds them, and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record(Vec<(String, Option<String>)>);

impl Plain {
    /// Connects to the URL's engine.
    pub async fn connect(url: &str) -> sqlx::Result<Self> {
        let engine = Engine::of_url(url);
        let mut this = match engine {
            Engine::Sqlite => Self::Sqlite(SqliteConnection::connect(url).await?),
            Engine::MySql => Self::MySql(MySqlConnection::connect(url).await?),
            Engine::Postgres => Self::Postgres(PgConnection::connect(url).await?),
        };
        this.execute(own_settings(engine)).await?;
        Ok(this)
    }

    /// Executes the statements and returns the number of affected rows.
    pub async fn execute(&mut self, sql: &str) -> sqlx::Result<u64> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        Ok(match self {
            Self::Sqlite(conn) => query.execute(conn).await?.rows_affected(),
            Self::MySql(conn) => query.execute(conn).await?.rows_affected(),
            Self::Postgres(conn) => query.execute(conn).await?.rows_affected(),
        })
    }

    /// Executes the query and returns its rows.
    pub async fn rows(&mut self, sql: &str) -> sqlx::Result<Vec<Record>> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self {
            Self::Sqlite(conn) => query
                .fetch_all(conn)
                .await?
                .iter()
                .map(Record::read)
                .collect(),
            Self::MySql(conn) => query
                .fetch_all(conn)
                .await?
                .iter()
                .map(Record::read)
                .collect(),
            Self::Postgres(conn) => query
                .fetch_all(conn)
                .await?
                .iter()
                .map(Record::read)
                .collect(),
        }
    }

    /// Closes the connection in order.
    pub async fn close(self) -> sqlx::Result<()> {
        match self {
            Self::Sqlite(conn) => conn.close().await,
            Self::MySql(conn) => conn.close().await,
            Self::Postgres(conn) => conn.close().await,
        }
    }
}

impl Record {
    fn read<R: sqlx::Row>(row: &R) -> sqlx::Result<Self>
    where
        usize: sqlx::ColumnIndex<R>,
        for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
    {
        row.columns()
            .iter()
            .map(|column| {
                let raw = row.try_get_raw(column.ordinal())?;
                let null = raw.is_null();
                drop(raw);
                // Unchecked: in the text protocols every type is sent as text, and SQLite converts.
                let value = if null {
                    None
                } else {
                    Some(row.try_get_unchecked::<String, _>(column.ordinal())?)
                };
                Ok((column.name().to_lowercase(), value))
            })
            .collect::<sqlx::Result<_>>()
            .map(Self)
    }

    /// The value of the column, whose name is compared without case; `None` for NULL.
    ///
    /// # Panics
    ///
    /// If there is no such column.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(column))
            .unwrap_or_else(|| panic!("there is no column {column} in {self:?}"))
            .1
            .as_deref()
    }

    /// Whether the row has this column.
    pub fn has(&self, column: &str) -> bool {
        self.0
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case(column))
    }
}
