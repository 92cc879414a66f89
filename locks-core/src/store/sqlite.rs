//! SQLite: the embedded default.

use sqlx::{
    Sqlite, SqliteConnection,
    error::DatabaseError,
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqliteQueryResult,
        SqliteSynchronous,
    },
};

use super::{
    change::ChangeSource,
    dialect::{Catalog, Dialect, Facts, Rights},
    executor::Engine,
    failure::{Class, Kind},
    names::TableNames,
    statements::{Condition, FenceKind, FenceStatement, Statements},
};
use crate::fence::{fence_connection, sealed::Unfenced};

/// `SQLITE_BUSY_SNAPSHOT`: a transaction that has read wants to write, and another one
/// wrote in between.
const SNAPSHOT: i32 = 517;

const DIALECT: Dialect = Dialect {
    name: "SQLite",
    migration: include_str!("../../migrations/sqlite/0001_locks.sql"),
    migration_path: "migrations/sqlite/0001_locks.sql",
    quote: '"',
    change_source: ChangeSource::DataVersion,
    unlimited: None,
    facts: "SELECT 'version', sqlite_version()",
    settings: |_, _| vec![SETTINGS.into()],
    transaction: |_, _| None,
    statements,
    fence,
    catalog,
    // A column takes any value that does not fit its type as it is.
    fits: |_, _| true,
    relaxed: |_| None,
};

/// What every statement relies on, whatever the options say.
///
/// By itself, SQLite asks again after pauses that grow to 100 ms, while a write takes one
/// at most: a connection that waits is passed over by all that come later. So it gives up
/// after its first pause, of a millisecond, and is asked again: all have the same chance.
/// A long row fills the log in a few writes; it is copied back less often.
const SETTINGS: &str = "PRAGMA busy_timeout = 1; \
     PRAGMA wal_autocheckpoint = 4000; \
     PRAGMA synchronous = FULL; \
     PRAGMA fullfsync = 1; \
     PRAGMA query_only = 0; \
     PRAGMA read_uncommitted = 0; \
     PRAGMA count_changes = 0; \
     PRAGMA locking_mode = NORMAL";

fn statements(names: &TableNames, _: &Facts) -> Statements {
    let [locks, sessions, fences] = names.quoted();
    let now = "CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000";
    let count = "COUNT(*) OVER ()";
    Statements {
        placeholder: |_| "?".into(),
        read: format!("SELECT dataJson, version, stamp, metaJson FROM {locks} WHERE id = ?"),
        lock: None,
        read_version: format!("SELECT version, stamp FROM {locks} WHERE id = ?"),
        read_versions: format!("SELECT id, version, stamp, {count} FROM {locks} WHERE id IN"),
        compare_and_set: format!(
            "UPDATE {locks} SET dataJson = ?, metaJson = ?, stamp = ?, version = ? \
             WHERE id = ? AND version = ? AND stamp = ?"
        ),
        alive: Condition {
            before: format!(" AND (SELECT COUNT(*) FROM {sessions} WHERE id IN "),
            after: ") = ",
        },
        dead: Condition {
            before: format!(" AND (SELECT COUNT(*) FROM {fences} WHERE session IN "),
            after: ") = ",
        },
        adopt: format!(
            "UPDATE {locks} SET version = MAX(?, {now}), stamp = ?, metaJson = '{{}}' \
             WHERE id = ? AND version = ? AND stamp IS NULL"
        ),
        create: format!(
            "INSERT INTO {locks} (id, dataJson, version, stamp, metaJson) \
             VALUES (?, '{{}}', MAX(?, {now}), ?, '{{}}')"
        ),
        insert_sessions: format!(
            "INSERT INTO {sessions} \
             (id, namespace, taskId, host, process, ttlMs, beat, seenAt) VALUES "
        ),
        insert_sessions_end: ", 0, strftime('%FT%TZ'))",
        insert_fences: format!("INSERT INTO {fences} (session, touched) VALUES "),
        renew: format!(
            "UPDATE {sessions} SET beat = beat + 1, seenAt = strftime('%FT%TZ') WHERE id IN"
        ),
        liveness: format!(
            "SELECT f.session, s.id, s.taskId, s.host, s.process, s.ttlMs, s.beat, {count} \
             FROM {fences} f LEFT JOIN {sessions} s ON s.id = f.session WHERE f.session IN"
        ),
        sessions_in: format!(
            "SELECT id, taskId, host, process, ttlMs, beat, {count} FROM {sessions} \
             WHERE namespace = ?"
        ),
        fences_in: format!(
            "SELECT session, {count} FROM {fences} WHERE session >= ? AND session < ?"
        ),
        delete_session: format!("DELETE FROM {sessions} WHERE id = ?"),
        delete_session_at: format!("DELETE FROM {sessions} WHERE id = ? AND beat = ?"),
        delete_sessions: format!("DELETE FROM {sessions} WHERE id IN"),
        try_fences: None,
        delete_fences: format!("DELETE FROM {fences} WHERE session >= ? AND session < ?"),
        try_fence_list: None,
        delete_fence_list: format!("DELETE FROM {fences} WHERE session IN"),
        without_beat: format!(
            " AND NOT EXISTS (SELECT 1 FROM {sessions} WHERE id = ?) \
             AND (SELECT COUNT(*) FROM {sessions} WHERE id = ?) = ?"
        ),
        without_row: format!(" AND NOT EXISTS (SELECT 1 FROM {locks} AS l WHERE l.id = ?)"),
        with_unstamped_row: format!(
            " AND EXISTS (SELECT 1 FROM {locks} AS l \
             WHERE l.id = ? AND l.version = ? AND l.stamp IS NULL)"
        ),
        // Every write waits for a transaction that has written.
        await_fence: Vec::new(),
        notify: None,
        data_version: Some("PRAGMA data_version"),
    }
}

/// A write, which keeps every other write waiting. A transaction that has read, and may
/// not write since another one does or did, has written nothing: a look is enough there.
/// Should it write later after all, `SQLite` lets it only if nothing was written since.
///
/// Both look for the grant too, among what is held, which stands before the queue: a backup that was restored may have the session, and not
/// the grant. The look is part of the caller's transaction, since a look of the driver's
/// could wait for a write of ours, which waits for that very transaction.
fn fence(names: &TableNames, _: &Facts) -> FenceStatement {
    let [locks, _, fences] = names.quoted();
    let granted = format!(
        "session = ? AND EXISTS \
         (SELECT 1 FROM {locks} AS l WHERE l.id = ? AND \
          instr(substr(l.metaJson, 1, instr(l.metaJson, '\"queue\":[')), ?) > 0)"
    );
    let sql = format!("UPDATE {fences} SET touched = touched + 1 WHERE {granted}");
    let reader = format!("SELECT session FROM {fences} WHERE {granted}");
    FenceStatement {
        sql: sql.into(),
        reader: Some(reader.into()),
        kind: FenceKind::Update,
        engine: DIALECT.name,
        looks_at_row: true,
        rows: 1,
    }
}

fn catalog(names: &TableNames) -> Catalog {
    let list = names
        .plain()
        .each_ref()
        .map(|table| format!("'{table}'"))
        .join(", ");
    let ours = format!(
        "FROM sqlite_master m WHERE m.type IN ('table', 'view', 'index') AND lower(m.name) IN ({list})"
    );
    let ours_with = |with: &str| ours.replace("WHERE", &format!("{with} WHERE"));
    Catalog {
        tables: format!("SELECT lower(m.name), m.type, '' {ours}"),
        columns: format!(
            "SELECT lower(m.name), p.name, p.type {}",
            ours_with("JOIN pragma_table_info(m.name) p")
        ),
        keys: format!(
            "SELECT lower(m.name), MIN(p.name) {} GROUP BY m.name HAVING COUNT(*) = 1 \
             UNION SELECT lower(m.name), MIN(c.name) {} GROUP BY m.name, i.name HAVING COUNT(*) = 1",
            ours_with("JOIN pragma_table_info(m.name) p ON p.pk > 0"),
            ours_with(
                "JOIN pragma_index_list(m.name) i ON i.\"unique\" = 1 AND i.partial = 0 \
                 JOIN pragma_index_info(i.name) c"
            ),
        ),
        rights: Rights::None,
        elsewhere: None,
    }
}

impl Engine for Sqlite {
    const DIALECT: &'static Dialect = &DIALECT;

    fn rows_affected(result: &SqliteQueryResult) -> u64 {
        result.rows_affected()
    }

    fn classify(error: &dyn DatabaseError) -> (Class, Kind) {
        let code = error.code();
        let code: i32 = code.and_then(|code| code.parse().ok()).unwrap_or(0);
        // The low byte is the primary code (https://sqlite.org/rescode.html).
        let class = match code & 0xff {
            // Busy, locked: also between the connections of one process.
            5 | 6 => Class::NotApplied,
            // Not writable now, or for good.
            8 => Class::ReadOnly,
            // Error, denied, corrupt, cannot open, too big, constraint, mismatch, not a
            // database.
            1 | 3 | 11 | 14 | 18 | 19 | 20 | 26 => Class::Permanent,
            _ => Class::Indeterminate,
        };
        let text = error.message();
        let kind = if code & 0xff == 1 && text.starts_with("no such") {
            Kind::Missing
        } else if code & 0xff == 19 || text.contains("already exists") {
            Kind::Exists
        } else if code & 0xff == 8 {
            Kind::Denied
        } else if code == SNAPSHOT {
            Kind::Conflict
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
        .locking_mode(SqliteLockingMode::Normal)
        .pragma("query_only", "0")
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(std::time::Duration::from_secs(5))
}

// The statement itself looks at the row.
fence_connection!(Sqlite, SqliteConnection, Unfenced::Nobody);
