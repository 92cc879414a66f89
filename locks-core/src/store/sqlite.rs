//! SQLite: the embedded default.

use sqlx::{
    Sqlite, SqliteConnection,
    error::DatabaseError,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteQueryResult, SqliteSynchronous},
};

use super::{
    connection::Statements,
    failure::{Class, Kind},
    run::Engine,
};
use crate::{
    error::Result,
    fence::{fence_connection, sealed::Unfenced},
};

const STATEMENTS: Statements = Statements {
    // By itself, SQLite asks again after pauses that grow to 100 ms, while a write takes
    // one at most: whoever waits is passed over by all who come. So it gives up after its
    // first pause, of a millisecond, and is asked again: everybody has the same chance.
    // A long row fills the log in a few writes; it is copied back less often.
    settings: &[
        "PRAGMA busy_timeout = 1",
        "PRAGMA wal_autocheckpoint = 4000",
    ],
    optional_settings: &[],
    migration: include_str!("../../migrations/sqlite/0001_locks.sql"),
    migration_path: "migrations/sqlite/0001_locks.sql",
    placeholder: |_| "?".into(),

    read: "SELECT dataJson, version, stamp, metaJson FROM locks WHERE id = ?",
    lock: None,
    peek: "SELECT version, stamp FROM locks WHERE id = ?",
    swap: "UPDATE locks SET dataJson = ?, metaJson = ?, stamp = ?, version = version + 1 \
           WHERE id = ? AND version = ? AND stamp = ?",
    alive: (
        " AND (SELECT COUNT(*) FROM lock_sessions WHERE id IN",
        ") = ",
    ),
    adopt: "UPDATE locks \
            SET version = MAX(?, CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000), \
                stamp = ?, metaJson = '{}' \
            WHERE id = ? AND version = ? AND stamp IS NULL",
    create: "INSERT INTO locks (id, dataJson, version, stamp, metaJson) \
             VALUES (?, '{}', MAX(?, CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000), ?, '{}')",

    insert_session: "INSERT INTO lock_sessions \
                     (id, namespace, taskId, host, process, ttlMs, beat, seenAt) \
                     VALUES (?, ?, ?, ?, ?, ?, 0, strftime('%FT%TZ'))",
    insert_fence: "INSERT INTO lock_fences (session, touched) VALUES (?, 0)",
    renew: "UPDATE lock_sessions SET beat = beat + 1, seenAt = strftime('%FT%TZ') WHERE id IN",
    liveness: "SELECT f.session, s.id, s.taskId, s.host, s.process, s.ttlMs, s.beat \
               FROM lock_fences f LEFT JOIN lock_sessions s ON s.id = f.session \
               WHERE f.session IN",
    sessions_in: "SELECT id, taskId, host, process, ttlMs, beat FROM lock_sessions \
                  WHERE namespace = ?",
    fences_in: "SELECT session FROM lock_fences WHERE SUBSTR(session, 1, ?) = ?",
    delete_session: "DELETE FROM lock_sessions WHERE id = ?",
    delete_session_at: "DELETE FROM lock_sessions WHERE id = ? AND beat = ?",
    delete_fence: "DELETE FROM lock_fences WHERE session = ?",
    touch_fence: "UPDATE lock_fences SET touched = touched + 1 WHERE session = ?",

    notify: None,
    data_version: Some("PRAGMA data_version"),
};

impl Engine for Sqlite {
    const STATEMENTS: &'static Statements = &STATEMENTS;

    fn rows_affected(result: &SqliteQueryResult) -> u64 {
        result.rows_affected()
    }

    fn classify(error: &dyn DatabaseError) -> (Class, Kind) {
        let code = error.code();
        let code: i32 = code.and_then(|code| code.parse().ok()).unwrap_or(0);
        // The low byte is the primary code (https://sqlite.org/rescode.html).
        let class = match code & 0xff {
            // Busy, locked: also between the connections of one process.
            5 | 6 => Class::Retry,
            // Not writable now, or for good.
            8 => Class::WrongNode,
            // Error, denied, corrupt, cannot open, too big, constraint, mismatch, not a
            // database.
            1 | 3 | 11 | 14 | 18 | 19 | 20 | 26 => Class::Hopeless,
            _ => Class::Unknown,
        };
        let text = error.message();
        let kind = if code & 0xff == 1 && text.starts_with("no such") {
            Kind::Missing
        } else if code & 0xff == 19 || text.contains("already exists") {
            Kind::Exists
        } else if code & 0xff == 8 {
            Kind::Denied
        } else if code & 0xff == 5 {
            Kind::Busy
        } else {
            Kind::Other
        };
        (class, kind)
    }
}

/// Settings without which a grant would not survive a power loss, or a reader would
/// hold up the writers.
pub(super) fn prepared(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(std::time::Duration::from_secs(5))
}

// The original has no SQLite. And the look at the row could wait for a write of ours, which
// waits for the very transaction that is being fenced.
fence_connection!(
    Sqlite,
    SqliteConnection,
    STATEMENTS.touch_fence,
    Unfenced::Nobody
);
