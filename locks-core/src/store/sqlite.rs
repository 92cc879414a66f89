//! SQLite, the embedded default.

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
    dialect::{Catalog, Dialect, Facts, Migration, Rights},
    executor::Engine,
    failure::{Class, Kind},
    names::TableNames,
    statements::{FenceKind, FenceStatement, Statements, Syntax},
};
use crate::store::fence::{fence_connection, sealed::Unfenced};

/// `SQLITE_BUSY_SNAPSHOT`: a transaction that has read tries to write after another one has
/// written.
const SNAPSHOT: i32 = 517;

const DIALECT: Dialect = Dialect {
    name: "SQLite",
    migrations: &[Migration {
        path: "migrations/sqlite/0001_locks.sql",
        sql: include_str!("../../migrations/sqlite/0001_locks.sql"),
    }],
    quote: '"',
    change_source: ChangeSource::DataVersion,
    unlimited: None,
    facts: "SELECT 'version', sqlite_version()",
    settings: |_, _| vec![SETTINGS.into()],
    transaction: |_, _| None,
    statements,
    fence,
    catalog,
    // A column stores values of any type.
    fits: |_, _| true,
    unusable: |_| None,
    relaxed: |_| None,
};

/// The settings on which every statement relies, whatever the options are.
///
/// - `busy_timeout`: by default SQLite retries after pauses that grow to 100 ms, although a
///   write takes a millisecond at most, so connections that came later overtake one that
///   waits. Here SQLite gives up after its first pause of a millisecond and the driver
///   repeats the statement, which gives all connections equal chances.
/// - `wal_autocheckpoint`: a long row fills the log in a few writes, so checkpoints are rarer.
const SETTINGS: &str = "PRAGMA busy_timeout = 1; \
     PRAGMA wal_autocheckpoint = 4000; \
     PRAGMA synchronous = FULL; \
     PRAGMA fullfsync = 1; \
     PRAGMA query_only = 0; \
     PRAGMA read_uncommitted = 0; \
     PRAGMA count_changes = 0; \
     PRAGMA locking_mode = NORMAL";

const SYNTAX: Syntax = Syntax {
    placeholder: |_| "?".into(),
    count: "COUNT(*)",
    greatest: "MAX",
    micros: "CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000",
    seen_at: "strftime('%FT%TZ')",
};

fn statements(names: &TableNames, _: &Facts) -> Statements {
    Statements {
        data_version: Some("PRAGMA data_version"),
        ..Statements::new(names, &SYNTAX)
    }
}

/// The fence is a write, for which every other write waits. A transaction that has read
/// cannot write if another one writes or has written since. It has written nothing, so a
/// query is enough. If it writes later, SQLite refuses unless nothing was written since.
///
/// Both statements also require the grant in `held`, which is the part of `metaJson` before
/// `queue`: a restored backup can have the session without the grant. The check is part of
/// the caller's transaction. A check by the driver could wait for a write of the driver that
/// waits for this transaction.
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
    let our_tables = format!(
        "FROM sqlite_master m WHERE m.type IN ('table', 'view', 'index') AND lower(m.name) IN ({list})"
    );
    let with_join = |with: &str| our_tables.replace("WHERE", &format!("{with} WHERE"));
    Catalog {
        tables: format!("SELECT lower(m.name), m.type, '' {our_tables}"),
        columns: format!(
            "SELECT lower(m.name), p.name, p.type {}",
            with_join("JOIN pragma_table_info(m.name) p")
        ),
        keys: format!(
            "SELECT lower(m.name), MIN(p.name) {} GROUP BY m.name HAVING COUNT(*) = 1 \
             UNION SELECT lower(m.name), MIN(c.name) {} GROUP BY m.name, i.name HAVING COUNT(*) = 1",
            with_join("JOIN pragma_table_info(m.name) p ON p.pk > 0"),
            with_join(
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
            // Busy and locked, also between the connections of one process; too big.
            5 | 6 | 18 => Class::NotApplied,
            // Read-only, for now or for ever.
            8 => Class::ReadOnly,
            // Error, permission, corrupt, cannot open, constraint, mismatch, not a database.
            1 | 3 | 11 | 14 | 19 | 20 | 26 => Class::Permanent,
            _ => Class::Indeterminate,
        };
        let text = error.message();
        let kind = if code & 0xff == 1 && text.starts_with("no such") {
            Kind::Missing
        } else if code & 0xff == 19
            || text.contains("already exists")
            || text.starts_with("duplicate column name")
        {
            Kind::Exists
        } else if code & 0xff == 8 {
            Kind::Denied
        } else if code == SNAPSHOT {
            Kind::Conflict
        } else if code & 0xff == 5 {
            Kind::Busy
        } else if code & 0xff == 18 {
            Kind::Content
        } else {
            Kind::Other
        };
        (class, kind)
    }
}

/// Options with which a committed grant survives a power loss and readers do not block
/// writers.
pub(super) fn prepared(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options
        .locking_mode(SqliteLockingMode::Normal)
        .pragma("query_only", "0")
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(std::time::Duration::from_secs(5))
}

// The fence statement itself looks at the locks row.
fence_connection!(Sqlite, SqliteConnection, Unfenced::None);
