//! How a PostgreSQL server is reached: directly, or through a pooler in one of its modes.
//!
//! | found at the first connect | settings | statements | notifications |
//! |---|---|---|---|
//! | the startup message reaches the server | in the startup message | named | heard |
//! | it does not; a pooler in session mode | `SET` on each new connection | named | heard |
//! | connections are shared; transaction mode | `SET LOCAL` in each transaction | unnamed | not listened for |
//! | no transactions; statement mode | refused | | |

use std::{fmt::Write as _, time::Duration};

use sqlx::{
    ConnectOptions, Connection as _, PgConnection, Postgres, Row as _, postgres::PgConnectOptions,
};
use tokio::time;

use super::{
    dialect::{Facts, SHARED},
    executor::{Engine, Sql, failure},
    failure::{Class, Failure, Kind},
    postgres::{UNPINNED, is_pinned, refuses_settings, startup},
};

/// The time limit of the second connection. It waits if a pooler in session mode has one
/// server connection only.
const SECOND_LIMIT: Duration = Duration::from_secs(4);

/// How many more connections are opened if a pooler is in between, and their time limit.
const MORE: usize = 3;
const MORE_LIMIT: Duration = Duration::from_secs(2);

/// Identifies the server's end of a connection. Two servers may use one process id.
const SERVER_END: &str = "SELECT pg_catalog.pg_backend_pid()::text || ' ' || \
                          pg_catalog.pg_postmaster_start_time()::text, ''";

/// In which order the two connections are asked for their server's end, after the second and
/// the first were asked once. A pooler that hands out its server connections by turns must not
/// be in step with it.
const ORDER: [usize; 5] = [0, 1, 1, 0, 0];

/// Opens the first connection, and reads the facts about the server. All statements are simple
/// queries, which need no state on a connection.
pub(super) async fn first_connect(
    options: &PgConnectOptions,
    limit: Duration,
) -> Result<(PgConnection, Facts), Failure> {
    let mut first = options.connect().await.map_err(failure::<Postgres>)?;
    let mut facts = read_facts(&mut first).await?;
    let second = second(options, limit, &facts);
    let (mut second, end) = match time::timeout(SECOND_LIMIT, second).await {
        Ok(second) => second?,
        Err(_) => return Err(no_second_connection()),
    };
    let mut is_shared = are_shared(&mut first, &mut second, end.clone()).await?;
    let found = read_facts(&mut second).await?;
    let is_pinned = is_pinned(limit, &facts, &found);
    if !is_shared && !is_pinned {
        let ends = vec![server_end(&mut first).await?, end];
        is_shared = is_end_used_twice(options, ends).await;
    }
    if is_shared {
        drop(second.close().await);
        check_transactions(&mut first).await?;
        tracing::debug!("connections are shared; each transaction has its settings");
        facts.insert(SHARED, "");
        return Ok((first, facts));
    }
    if !is_pinned {
        tracing::debug!("a pooler is in between; each connection sets its settings");
        facts.insert(UNPINNED, "");
    }
    drop(first.close().await);
    Ok((second, facts))
}

/// Opens a second connection, with the settings in its startup message if they are accepted.
/// Returns also its server's end.
async fn second(
    options: &PgConnectOptions,
    limit: Duration,
    facts: &Facts,
) -> Result<(PgConnection, String), Failure> {
    let mut second = match startup(options.clone(), limit, facts).connect().await {
        Ok(second) => second,
        Err(error) if refuses_settings(&error) => {
            options.connect().await.map_err(failure::<Postgres>)?
        }
        Err(error) => return Err(failure::<Postgres>(error)),
    };
    let end = server_end(&mut second).await?;
    Ok((second, end))
}

/// Whether the server's end of a connection changes, or is that of the other one, which was
/// asked last.
async fn are_shared(
    first: &mut PgConnection,
    second: &mut PgConnection,
    end: String,
) -> Result<bool, Failure> {
    let ends = [server_end(first).await?, end];
    if ends[0] == ends[1] {
        return Ok(true);
    }
    for index in ORDER {
        let connection = if index == 0 {
            &mut *first
        } else {
            &mut *second
        };
        if server_end(connection).await? != ends[index] {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether one of some more connections has one of these server's ends. A pooler may consist of
/// several processes, of which each has its own server connections, and the first two
/// connections may have gone to two of them.
async fn is_end_used_twice(options: &PgConnectOptions, mut ends: Vec<String>) -> bool {
    let search = async {
        let mut open = Vec::new();
        for _ in 0..MORE {
            let Ok(mut connection) = options.connect().await else {
                return false;
            };
            match server_end(&mut connection).await {
                Ok(end) if ends.contains(&end) => return true,
                Ok(end) => ends.push(end),
                Err(_) => return false,
            }
            open.push(connection);
        }
        false
    };
    // A pooler in session mode may have no more server connections, which proves nothing else.
    time::timeout(MORE_LIMIT, search).await.unwrap_or(false)
}

/// Fails if the pooler has no transactions.
async fn check_transactions(connection: &mut PgConnection) -> Result<(), Failure> {
    let begun = async {
        query(connection, "BEGIN").await?;
        query(connection, "ROLLBACK").await
    };
    let Err(error) = begun.await else {
        return Ok(());
    };
    let failure = failure::<Postgres>(error);
    let mut text = "the database is reached through a pooler in statement mode, which has no \
                    transactions: set its mode to `transaction` or `session`, or connect to the \
                    server itself"
        .to_owned();
    // Writing to a string does not fail.
    let _ = write!(text, " ({failure})");
    Err(Failure::new(
        Class::Permanent,
        Kind::Other,
        sqlx::Error::Configuration(text.into()),
    ))
}

fn no_second_connection() -> Failure {
    let text = format!(
        "a second connection was not answered within {SECOND_LIMIT:?} while the first one is \
         open: a pooler needs at least two server connections for each process"
    );
    let error = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
    Failure::new(Class::Indeterminate, Kind::Other, sqlx::Error::Io(error))
}

async fn server_end(connection: &mut PgConnection) -> Result<String, Failure> {
    let rows = query(connection, SERVER_END).await;
    let mut rows = rows.map_err(failure::<Postgres>)?;
    Ok(rows.pop().map(|(end, _)| end).unwrap_or_default())
}

async fn read_facts(connection: &mut PgConnection) -> Result<Facts, Failure> {
    let rows = query(connection, Postgres::DIALECT.facts).await;
    let mut facts = Facts::default();
    for (name, value) in rows.map_err(failure::<Postgres>)? {
        facts.insert(name.to_lowercase(), value);
    }
    Ok(facts)
}

/// Runs a simple query, and returns the rows of two texts that are not NULL.
async fn query(
    connection: &mut PgConnection,
    sql: &'static str,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let rows = sqlx::Executor::fetch_all(connection, sqlx::raw_sql(Sql(sql))).await?;
    let mut texts = Vec::new();
    for row in rows {
        let (first, second): (Option<String>, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        texts.extend(first.zip(second));
    }
    Ok(texts)
}
