//! Statements that wait for a lock on the server, and a connection that makes them wait.

use std::time::{Duration, Instant};

use crate::{
    engine::{Database, Engine},
    plain::{Plain, Record},
    wait,
};

/// How often [`most_waiting`] reads.
const LOOK: Duration = Duration::from_millis(100);
/// A statement that does not wait takes less.
const LONG_MS: f64 = 200.0;

/// A transaction of the test's own that keeps rows locked until it is ended.
#[derive(Debug)]
pub struct RowLock(Plain);

impl RowLock {
    /// Locks the rows of the table that fulfil the condition.
    ///
    /// # Panics
    ///
    /// If no row does.
    pub async fn take(db: &Database, table: &str, condition: &str) -> Self {
        let mut conn = db.connect().await;
        let sql = format!("SELECT * FROM {table} WHERE {condition} FOR UPDATE");
        let begin = match db.engine() {
            // At a higher level the gaps between the rows would be locked as well.
            Engine::MySql => "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; BEGIN",
            _ => "BEGIN",
        };
        conn.execute(begin).await.expect("a transaction begins");
        let rows = conn.rows(&sql).await.expect("the rows can be locked");
        assert!(!rows.is_empty(), "no row: {sql}");
        Self(conn)
    }

    /// Ends the transaction.
    pub async fn end(mut self) {
        let ended = self.0.execute("ROLLBACK").await;
        ended.expect("nothing ends the transaction earlier");
    }
}

/// The number of server processes or threads that wait for a lock in this database.
///
/// MariaDB and MySQL do not report it: `innodb_trx` is a copy that is not renewed while two
/// connections read it more often than every 0.1 s. There, a statement counts as waiting if it has
/// run for longer than a statement of these tests takes.
pub async fn waiting(conn: &mut Plain, engine: Engine) -> u64 {
    let sql = match engine {
        Engine::Sqlite => panic!("SQLite has no server"),
        Engine::MySql => {
            "SELECT * FROM information_schema.processlist \
             WHERE db = DATABASE() AND command IN ('Query', 'Execute') \
             AND id <> CONNECTION_ID()"
        }
        Engine::Postgres => {
            "SELECT pid FROM pg_stat_activity \
             WHERE datname = current_database() AND wait_event_type = 'Lock'"
        }
    };
    let mut rows = conn.rows(sql).await.expect("the account may look");
    if engine == Engine::MySql {
        rows.retain(runs_long);
    }
    u64::try_from(rows.len()).expect("few")
}

/// Whether the statement of this row of the process list has run for long.
fn runs_long(row: &Record) -> bool {
    // MySQL counts whole seconds only.
    let (column, least) = if row.has("time_ms") {
        ("time_ms", LONG_MS)
    } else {
        ("time", 1.0)
    };
    let time = row.get(column).and_then(|time| time.parse::<f64>().ok());
    time.is_some_and(|time| time >= least)
}

/// Waits until this many statements wait for a lock.
pub async fn wait_until_waiting(db: &Database, least: u64, limit: Duration) {
    let mut conn = db.connect().await;
    let what = format!("{least} backends wait for a lock");
    wait::until(limit, &what, async || {
        waiting(&mut conn, db.engine()).await >= least
    })
    .await;
}

/// The largest number of statements that waited for a lock at one moment of this time.
pub async fn most_waiting(db: &Database, time: Duration) -> u64 {
    let mut conn = db.connect().await;
    let start = Instant::now();
    let mut most = 0;
    while start.elapsed() < time {
        most = most.max(waiting(&mut conn, db.engine()).await);
        tokio::time::sleep(LOOK).await;
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::on_every_engine!(servers: async a_statement_that_waits_is_counted);

    async fn a_statement_that_waits_is_counted(db: Database) {
        const LIMIT: Duration = Duration::from_secs(10);
        db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)").await;
        db.execute("INSERT INTO t VALUES (1), (2)").await;
        let lock = RowLock::take(&db, "t", "n = 1").await;
        assert_eq!(most_waiting(&db, 2 * LOOK).await, 0);
        let mut conn = db.connect().await;
        let delete = tokio::spawn(async move { conn.execute("DELETE FROM t WHERE n = 1").await });
        wait_until_waiting(&db, 1, LIMIT).await;
        assert_eq!(most_waiting(&db, 2 * LOOK).await, 1);
        lock.end().await;
        assert_eq!(delete.await.expect("no panic").expect("it waited"), 1);
    }
}
