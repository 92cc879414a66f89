//! The connect options of one of the engines, and opening a connection with them.

use std::time::Duration;

use sqlx::ConnectOptions;
#[cfg(feature = "mysql")]
use sqlx::mysql::MySqlConnectOptions;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgConnectOptions;
#[cfg(feature = "sqlite")]
use sqlx::sqlite::SqliteConnectOptions;

use super::{
    dialect::{Dialect, Facts},
    executor::{ColumnType, Engine, Executor, On, Preparation, Sql, Value, failure},
    failure::Failure,
    file::FileIdentity,
};

/// The connect options of one of the engines.
#[derive(Clone)]
pub(super) struct GivenOptions {
    pub(super) engine: Options,
    pub(super) file: FileIdentity,
}

#[derive(Clone)]
pub(super) enum Options {
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteConnectOptions),
    #[cfg(feature = "mysql")]
    MySql(MySqlConnectOptions),
    #[cfg(feature = "postgres")]
    Postgres(PgConnectOptions),
}

impl GivenOptions {
    pub(super) fn dialect(&self) -> &'static Dialect {
        match &self.engine {
            #[cfg(feature = "sqlite")]
            Options::Sqlite(_) => sqlx::Sqlite::DIALECT,
            #[cfg(feature = "mysql")]
            Options::MySql(_) => sqlx::MySql::DIALECT,
            #[cfg(feature = "postgres")]
            Options::Postgres(_) => sqlx::Postgres::DIALECT,
        }
    }

    /// These options, if they are of the file of the first ones. The type of the closure that
    /// returns them decides the engine.
    #[allow(clippy::unnecessary_wraps, reason = "only files can differ")]
    pub(super) fn after(mut self, first: &Self) -> Result<Self, Failure> {
        #[cfg(feature = "sqlite")]
        #[allow(irrefutable_let_patterns, reason = "with one engine only")]
        if let (Options::Sqlite(options), Options::Sqlite(before)) = (&self.engine, &first.engine)
            && options.get_filename() != before.get_filename()
        {
            return Err(Failure::inconsistent(
                super::failure::Class::Permanent,
                format!(
                    "the closure of connect_by returned the database {}, and at first {}: all \
                     connections of a manager go to one database",
                    options.get_filename().display(),
                    before.get_filename().display()
                ),
            ));
        }
        self.file = first.file.clone();
        Ok(self)
    }

    /// Opens a connection. Without facts it is the first one.
    pub(super) async fn connect(
        &self,
        limit: Duration,
        facts: Option<&Facts>,
    ) -> Result<Box<dyn Executor>, Failure> {
        let _ = (limit, facts);
        Ok(match &self.engine {
            #[cfg(feature = "sqlite")]
            Options::Sqlite(options) => {
                // Only the first connect may create the file. If the file is missing later, it
                // was deleted, and another process may hold locks in it.
                let is_first = facts.is_none();
                let options = options.clone();
                let options = if is_first {
                    options
                } else {
                    options.create_if_missing(false)
                };
                let explain = |error: &_| super::sqlite::explained(error, &self.file);
                match explained::<sqlx::Sqlite>(&options, explain).await {
                    Ok(connection) => Box::new(connection),
                    Err(failure) => {
                        self.file.check()?;
                        return Err(failure);
                    }
                }
            }
            #[cfg(feature = "mysql")]
            Options::MySql(options) => Box::new(connected::<sqlx::MySql>(options).await?),
            #[cfg(feature = "postgres")]
            Options::Postgres(options) => match facts {
                Some(facts) => {
                    let options = super::postgres::options(options, limit, facts);
                    let On(connection, _) = connected::<sqlx::Postgres>(&options).await?;
                    Box::new(On::<sqlx::Postgres>(connection, facts.into()))
                }
                None => Box::new(connected::<sqlx::Postgres>(options).await?),
            },
        })
    }

    /// Opens the first connection, and reads the facts about the server.
    pub(super) async fn first_connect(
        &self,
        limit: Duration,
    ) -> Result<(Box<dyn Executor>, Facts), Failure> {
        #[cfg(feature = "postgres")]
        #[allow(irrefutable_let_patterns, reason = "with one engine only")]
        if let Options::Postgres(options) = &self.engine {
            let (connection, facts) = super::pooler::first_connect(options, limit).await?;
            let prepared = (&facts).into();
            return Ok((Box::new(On::<sqlx::Postgres>(connection, prepared)), facts));
        }
        let mut executor = self.connect(limit, None).await?;
        let dialect = self.dialect();
        if let Some(unlimited) = dialect.unlimited {
            executor.execute_raw(Sql(unlimited)).await?;
        }
        let facts = facts(&mut *executor, dialect).await?;
        Ok((executor, facts))
    }
}

/// Queries the facts about the server.
async fn facts(executor: &mut dyn Executor, dialect: &Dialect) -> Result<Facts, Failure> {
    let mut facts = Facts::default();
    let types = [ColumnType::Text, ColumnType::Text];
    for values in executor.fetch(Sql(dialect.facts), &[], &types).await? {
        let mut values = values.into_iter().filter_map(Value::text);
        if let (Some(name), Some(value)) = (values.next(), values.next()) {
            facts.insert(name.to_lowercase(), value);
        }
    }
    Ok(facts)
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
async fn connected<DB: Engine>(
    options: &<DB::Connection as sqlx::Connection>::Options,
) -> Result<On<DB>, Failure> {
    explained(options, |_| None).await
}

/// Connects. A failure is that of `explain`, if it knows the cause of the error.
async fn explained<DB: Engine>(
    options: &<DB::Connection as sqlx::Connection>::Options,
    explain: impl FnOnce(&sqlx::Error) -> Option<Failure>,
) -> Result<On<DB>, Failure> {
    let connection = options.connect().await;
    let explained = |error| explain(&error).unwrap_or_else(|| failure::<DB>(error));
    let connection = connection.map_err(explained)?;
    Ok(On(connection, Preparation::Named))
}
