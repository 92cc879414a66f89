//! Running statements on a connection of any engine.

use std::{fmt::Debug, future::Future, pin::Pin};

use sqlx::{
    AssertSqlSafe, ColumnIndex, Connection as _, Database, Decode, Encode, IntoArguments, Row as _,
    SqlSafeStr, Type, database::HasStatementCache, error::DatabaseError, query,
};

use super::{
    dialect::{Dialect, Facts, SHARED},
    failure::{Class, Failure, Kind},
};

/// An argument of a statement.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument<'a> {
    Text(&'a str),
    Int(i64),
    OptionalInt(Option<i64>),
}

/// A value of a result; `None` is NULL.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(Option<String>),
    Int(Option<i64>),
}

/// The type of a result's column.
#[derive(Clone, Copy, Debug)]
pub(super) enum ColumnType {
    Text,
    Int,
}

impl Value {
    pub(super) fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => text,
            Self::Int(int) => int.map(|int| int.to_string()),
        }
    }

    pub(super) fn int(self) -> Option<i64> {
        match self {
            Self::Int(int) => int,
            Self::Text(text) => text.and_then(|text| text.parse().ok()),
        }
    }
}

/// An engine: its dialect and the meaning of its errors.
pub(super) trait Engine: Database + HasStatementCache {
    const DIALECT: &'static Dialect;

    fn rows_affected(result: &Self::QueryResult) -> u64;

    fn classify(error: &dyn DatabaseError) -> (Class, Kind);
}

pub(super) type Execution<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + 'a>>;

/// A connection that runs statements.
pub(super) trait Executor: Debug {
    /// Runs a statement and returns the number of rows that it matched.
    fn execute<'a>(&'a mut self, sql: Sql<'a>, args: &'a [Argument<'a>]) -> Execution<'a, u64>;

    /// Runs a query and returns its rows.
    fn fetch<'a>(
        &'a mut self,
        sql: Sql<'a>,
        args: &'a [Argument<'a>],
        types: &'a [ColumnType],
    ) -> Execution<'a, Vec<Vec<Value>>>;

    /// Runs statements that cannot be prepared, such as migrations and settings.
    fn execute_raw<'a>(&'a mut self, sql: Sql<'a>) -> Execution<'a, ()>;

    /// Runs statements as one message, and returns the rows of all of them.
    fn fetch_raw<'a>(
        &'a mut self,
        sql: Sql<'a>,
        types: &'a [ColumnType],
    ) -> Execution<'a, Vec<Vec<Value>>>;

    /// Closes the connection.
    fn close(self: Box<Self>) -> Execution<'static, ()>;
}

/// SQL text that contains no input of users except checked names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sql<'a>(pub(super) &'a str);

impl SqlSafeStr for Sql<'_> {
    fn into_sql_str(self) -> sqlx::SqlStr {
        AssertSqlSafe(self.0).into_sql_str()
    }
}

/// How statements are prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preparation {
    /// Once on each connection.
    Named,
    /// Each time, without a name. On a shared connection, a name may be that of another
    /// client's statement.
    #[allow(dead_code, reason = "not every engine has poolers")]
    Unnamed,
}

impl From<&Facts> for Preparation {
    fn from(facts: &Facts) -> Self {
        if facts.has(SHARED) {
            Self::Unnamed
        } else {
            Self::Named
        }
    }
}

/// A connection of one engine.
#[derive(Debug)]
pub(super) struct On<DB: Database>(pub(super) DB::Connection, pub(super) Preparation);

impl<DB> Executor for On<DB>
where
    DB: Engine,
    DB::Connection: Debug,
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
    for<'q> &'q str: Encode<'q, DB> + Type<DB>,
    for<'r> String: Decode<'r, DB> + Type<DB>,
    for<'q> i64: Encode<'q, DB> + Decode<'q, DB> + Type<DB>,
    for<'q> Option<i64>: Encode<'q, DB>,
    usize: ColumnIndex<DB::Row>,
{
    fn execute<'a>(&'a mut self, sql: Sql<'a>, args: &'a [Argument<'a>]) -> Execution<'a, u64> {
        Box::pin(async move {
            let result = bind::<DB>(sql, args, self.1).execute(&mut self.0).await;
            match result {
                Ok(result) => Ok(DB::rows_affected(&result)),
                Err(error) => Err(failure::<DB>(error)),
            }
        })
    }

    fn fetch<'a>(
        &'a mut self,
        sql: Sql<'a>,
        args: &'a [Argument<'a>],
        types: &'a [ColumnType],
    ) -> Execution<'a, Vec<Vec<Value>>> {
        Box::pin(async move {
            let rows = bind::<DB>(sql, args, self.1).fetch_all(&mut self.0).await;
            let rows = rows.and_then(|rows| values::<DB>(&rows, types));
            rows.map_err(failure::<DB>)
        })
    }

    fn fetch_raw<'a>(
        &'a mut self,
        sql: Sql<'a>,
        types: &'a [ColumnType],
    ) -> Execution<'a, Vec<Vec<Value>>> {
        Box::pin(async move {
            let rows = sqlx::Executor::fetch_all(&mut self.0, sqlx::raw_sql(sql)).await;
            let rows = rows.and_then(|rows| values::<DB>(&rows, types));
            rows.map_err(failure::<DB>)
        })
    }

    fn execute_raw<'a>(&'a mut self, sql: Sql<'a>) -> Execution<'a, ()> {
        Box::pin(async move {
            let done = sqlx::Executor::execute(&mut self.0, sqlx::raw_sql(sql)).await;
            done.map(drop).map_err(failure::<DB>)
        })
    }

    fn close(self: Box<Self>) -> Execution<'static, ()> {
        Box::pin(async move { self.0.close().await.map_err(failure::<DB>) })
    }
}

/// The values of rows whose columns have these types.
fn values<DB>(rows: &[DB::Row], types: &[ColumnType]) -> Result<Vec<Vec<Value>>, sqlx::Error>
where
    DB: Database,
    for<'r> String: Decode<'r, DB> + Type<DB>,
    for<'r> i64: Decode<'r, DB> + Type<DB>,
    usize: ColumnIndex<DB::Row>,
{
    let value = |row: &DB::Row, (index, column): (usize, &ColumnType)| match column {
        ColumnType::Text => row.try_get(index).map(Value::Text),
        ColumnType::Int => row.try_get(index).map(Value::Int),
    };
    let values = |row: &DB::Row| types.iter().enumerate().map(|t| value(row, t)).collect();
    rows.iter().map(values).collect()
}

fn bind<'q, DB>(
    sql: Sql<'_>,
    args: &[Argument<'q>],
    preparation: Preparation,
) -> query::Query<'q, DB, DB::Arguments>
where
    DB: Database + HasStatementCache,
    &'q str: Encode<'q, DB> + Type<DB>,
    i64: Encode<'q, DB> + Type<DB>,
    Option<i64>: Encode<'q, DB>,
{
    let mut query = sqlx::query::<DB>(sql).persistent(preparation == Preparation::Named);
    for arg in args {
        query = match *arg {
            Argument::Text(text) => query.bind(text),
            Argument::Int(int) => query.bind(int),
            Argument::OptionalInt(int) => query.bind(int),
        };
    }
    query
}

/// Classifies an error of sqlx. An error of the server is classified by its code. An error of
/// the configuration or of decoding is permanent. Any other error is indeterminate.
pub(super) fn failure<DB: Engine>(error: sqlx::Error) -> Failure {
    let (class, kind) = match &error {
        sqlx::Error::Database(error) => DB::classify(&**error),
        sqlx::Error::Configuration(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::Encode(_) => (Class::Permanent, Kind::Other),
        sqlx::Error::Io(error) if is_unknown_host(error) => (Class::Permanent, Kind::Other),
        _ => (Class::Indeterminate, Kind::Other),
    };
    Failure::new(class, kind, error)
}

/// Whether a host name has no address. The standard library has only a text for it.
fn is_unknown_host(error: &std::io::Error) -> bool {
    let text = error.to_string();
    text.contains("failed to lookup address information") && !text.contains("Temporary failure")
}
