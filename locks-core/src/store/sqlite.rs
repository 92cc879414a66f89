//! SQLite, the embedded default.

use std::path::{Path, PathBuf};

use sqlx::{
    ConnectOptions as _, Sqlite, SqliteConnection,
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
    failure::{Class, Failure, Kind},
    file::FileIdentity,
    names::TableNames,
    statements::{FenceKind, FenceStatement, Statements, Syntax},
};
use crate::{
    options::Durability,
    store::fence::{fence_connection, sealed::Unfenced},
};

/// `SQLITE_BUSY_SNAPSHOT`: a transaction that has read tries to write after another one has
/// written.
const SNAPSHOT: i32 = 517;

const DIALECT: Dialect = Dialect {
    name: "SQLite",
    migrations: &[Migration {
        path: "migrations/sqlite/0001_locks.sql",
        sql: include_str!("../../migrations/sqlite/0001_locks.sql"),
    }],
    optional: &[],
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
///   waits. Here SQLite gives up at once, and the driver repeats the statement (`busy.rs`).
/// - `wal_autocheckpoint`: a long row fills the log in a few writes, so checkpoints are rarer.
///
/// The query at the end opens the files `-wal` and `-shm`. From then on no other process may
/// delete them.
const SETTINGS: &str = "PRAGMA busy_timeout = 0; \
     PRAGMA wal_autocheckpoint = 4000; \
     PRAGMA synchronous = FULL; \
     PRAGMA fullfsync = 1; \
     PRAGMA query_only = 0; \
     PRAGMA read_uncommitted = 0; \
     PRAGMA count_changes = 0; \
     PRAGMA locking_mode = NORMAL; \
     SELECT COUNT(*) FROM sqlite_master";

const SYNTAX: Syntax = Syntax {
    placeholder: |_| "?".into(),
    count: "COUNT(*)",
    greatest: "MAX",
    micros: "CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000",
    seen_at: "strftime('%FT%TZ')",
};

fn statements(names: &TableNames, _: &Facts) -> Statements {
    Statements {
        shows_durable: true,
        synchronous: Some(synchronous),
        data_version: Some("PRAGMA data_version"),
        ..Statements::new(names, &SYNTAX)
    }
}

fn synchronous(durability: Durability) -> &'static str {
    match durability {
        Durability::Normal => "PRAGMA synchronous = NORMAL",
        Durability::Full => "PRAGMA synchronous = FULL",
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
        file: FileIdentity::none(),
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
        // Not "no such vfs" or "no such access mode", which are faults of the URL.
        let lacks = ["no such table", "no such column"];
        let kind = if code & 0xff == 1 && lacks.iter().any(|lack| text.starts_with(lack)) {
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

/// The options with an absolute path, so that a later change of the working directory does not
/// lead to another file; and the file. A database in memory has none.
pub(super) fn located(options: SqliteConnectOptions) -> (SqliteConnectOptions, FileIdentity) {
    // Only the parameters count. sqlx panics if it cannot make a URL of the name.
    let url = options.clone().filename("any").to_url_lossy();
    if has_parameter(url.query().unwrap_or_default(), "mode", Some("memory")) {
        return (options, FileIdentity::none());
    }
    let Some(Location { path, uri_end }) = Location::of(options.get_filename()) else {
        return (options, FileIdentity::none());
    };
    let Ok(path) = std::path::absolute(path) else {
        return (options, FileIdentity::none());
    };
    let options = match uri_end {
        Some(end) => {
            let path = path.to_string_lossy();
            let path = path.replace('%', "%25").replace('?', "%3f");
            options.filename(format!("file:{}{end}", path.replace('#', "%23")))
        }
        None => options.filename(&path),
    };
    (options, FileIdentity::of(path))
}

/// Where a file name leads: to a path, or by a URI as <https://sqlite.org/uri.html> describes.
#[derive(Debug, PartialEq)]
struct Location {
    path: PathBuf,
    /// What follows the path in a URI.
    uri_end: Option<String>,
}

impl Location {
    /// `None`: a database in memory, a temporary one, or a URI of another machine.
    fn of(name: &Path) -> Option<Self> {
        if name.as_os_str().is_empty() || name == ":memory:" {
            return None;
        }
        let Some(uri) = name.to_str().and_then(|name| name.strip_prefix("file:")) else {
            let path = name.to_owned();
            let uri_end = None;
            return Some(Self { path, uri_end });
        };
        let end = uri.find(['?', '#']).unwrap_or(uri.len());
        let (path, end) = uri.split_at(end);
        let path = match path.strip_prefix("//") {
            Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
            None => path,
        };
        let query = end.trim_start_matches('?').split('#').next()?;
        let in_memory = has_parameter(query, "mode", Some("memory"));
        if path.is_empty() || path == ":memory:" || in_memory {
            return None;
        }
        Some(Self {
            path: decoded(path)?.into(),
            uri_end: Some(end.to_owned()),
        })
    }
}

/// Replaces `%` and two digits by the byte that they stand for.
fn decoded(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// Whether a query string has this parameter, with this value or with any.
pub(super) fn has_parameter(query: &str, name: &str, value: Option<&str>) -> bool {
    let mut parameters = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    parameters.any(|(found, with)| found == name && value.is_none_or(|value| value == with))
}

/// The failure of a connect that names the file and the cause, as far as they can be seen.
pub(super) fn explained(error: &sqlx::Error, file: &FileIdentity) -> Option<Failure> {
    let code = error.as_database_error().and_then(DatabaseError::code)?;
    let code: i32 = code.parse().ok()?;
    let path = file.path()?;
    let text = match code & 0xff {
        8 => unusable(path)?,
        14 => unusable(path).unwrap_or_else(|| format!("{}: {error}", path.display())),
        11 | 26 => format!("{} is not an SQLite database", path.display()),
        _ => return None,
    };
    Some(Failure::file(text))
}

/// Why a database file cannot be opened, if the file system shows it.
fn unusable(path: &Path) -> Option<String> {
    #![allow(clippy::disallowed_methods, reason = "the database file is looked at")]
    let shown = path.display();
    let directory = path.parent()?;
    let shown_directory = directory.display();
    if path.is_dir() {
        return Some(format!("{shown} is a directory: name a file"));
    }
    if !directory.is_dir() {
        return Some(format!(
            "{shown} cannot be opened, because the directory {shown_directory} does not exist: \
             create it"
        ));
    }
    if !may_write(directory) {
        return Some(format!(
            "{shown} cannot be used, because this process may not write in the directory \
             {shown_directory}, where SQLite creates -wal and -shm files: give it the right"
        ));
    }
    if !path.exists() {
        return Some(format!(
            "{shown} does not exist: correct the URL, create the file, or leave out the `mode` \
             of the URL"
        ));
    }
    (!may_write(path))
        .then(|| format!("{shown} cannot be used, because this process may not read and write it"))
}

#[cfg(unix)]
fn may_write(path: &Path) -> bool {
    use rustix::fs::{Access, access};
    access(path, Access::READ_OK | Access::WRITE_OK).is_ok()
}

#[cfg(not(unix))]
fn may_write(_: &Path) -> bool {
    true
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_and_uris_lead_to_paths() {
        for (name, path, uri_end) in [
            ("locks.db", "locks.db", None),
            ("/a/mode=1.db", "/a/mode=1.db", None),
            ("file:locks.db", "locks.db", Some("")),
            ("file:/a/b%20c.db?vfs=unix", "/a/b c.db", Some("?vfs=unix")),
            ("file:///a?mode=rwc#x", "/a", Some("?mode=rwc#x")),
            ("file://localhost/a", "/a", Some("")),
        ] {
            let location = Location {
                path: path.into(),
                uri_end: uri_end.map(str::to_owned),
            };
            assert_eq!(Location::of(name.as_ref()), Some(location), "{name}");
        }
        for name in [
            "",
            ":memory:",
            "file::memory:",
            "file:x?mode=memory&cache=shared",
            "file:",
        ] {
            assert_eq!(Location::of(name.as_ref()), None, "{name}");
        }
    }

    #[test]
    fn relative_paths_become_absolute() {
        let here = std::path::absolute("x").unwrap();
        for name in ["x", "file:x", "file:x?mode=rw"] {
            let (options, file) = located(SqliteConnectOptions::new().filename(name));
            assert_eq!(file.path(), Some(&*here), "{name}");
            let found = Location::of(options.get_filename()).unwrap();
            assert_eq!(found.path, here, "{name}");
        }
        for url in ["sqlite:", "sqlite::memory:", "sqlite:x?mode=memory"] {
            let (options, file) = located(url.parse().unwrap());
            assert_eq!(file.path(), None, "{url}");
            let given: SqliteConnectOptions = url.parse().unwrap();
            if !url.contains(":memory:") {
                assert_eq!(options.get_filename(), given.get_filename(), "{url}");
            }
        }
    }

    #[test]
    fn a_parameter_is_not_a_part_of_another_text() {
        assert!(has_parameter("cache=shared&mode=rw", "mode", None));
        assert!(has_parameter("mode=memory", "mode", Some("memory")));
        for query in ["", "xmode=rw", "x=mode=rw", "modes=1"] {
            assert!(!has_parameter(query, "mode", None), "{query}");
        }
        assert!(!has_parameter("mode=ro", "mode", Some("memory")));
    }
}
