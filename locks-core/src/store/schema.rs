//! Checking, creating and widening the tables.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time;

use super::{
    connection::Connection,
    dialect::{ColumnUse, Dialect, Rights},
    executor::{ColumnType, Value},
    failure::{Class, Failure, Kind},
    names::TableNames,
    target::Server,
};
use crate::error::{LockError, Result};

/// Unusable tables are checked again for this long before they are refused.
const SETTLE_TIME: Duration = Duration::from_millis(400);
/// The highest number of checks.
const ATTEMPTS: usize = 30;

/// The columns of the three tables, each with its use.
const COLUMNS: [&[(&str, ColumnUse)]; 3] = {
    use ColumnUse::{Any, Name, Number, Text};
    [
        &[
            ("id", Any),
            ("dataJson", Text),
            ("version", Number),
            ("stamp", Any),
            ("metaJson", Text),
        ],
        &[
            ("id", Any),
            ("namespace", Any),
            ("taskId", Name),
            ("host", Any),
            ("process", Any),
            ("ttlMs", Number),
            ("beat", Number),
            ("seenAt", Any),
        ],
        &[("session", Any), ("touched", Number)],
    ]
};
/// The number of columns with which each table is created. The migration adds the others,
/// also to a table of the original.
const CREATED_WITH: [usize; 3] = [3, 8, 2];

/// The state of one table according to the catalog.
#[derive(Debug, Default, PartialEq)]
struct TableState {
    /// `None`: the table does not exist.
    kind: Option<String>,
    /// What is wrong with its storage; empty if nothing is.
    storage: String,
    /// The names and types, in their order.
    columns: Vec<(String, String)>,
    /// The columns that are a unique key on their own.
    keys: Vec<String>,
}

/// The result of a check.
#[derive(Debug, PartialEq)]
enum Verdict {
    Ready,
    /// Something is missing or too narrow. The migration fixes it.
    Migrate(String),
    /// The tables cannot be used, and the migration does not fix it.
    Refuse(String),
}

/// Which tables of other schemas count.
#[derive(Clone, Copy, PartialEq)]
enum Tables {
    Any,
    /// Those that the account can use.
    Usable,
}

impl Connection {
    /// Checks the tables, and creates or widens them if necessary.
    ///
    /// Many processes may do this at once. There is no lock, because two of the engines have
    /// none that holds across these statements. Instead, every statement accepts that another
    /// process has done its work.
    pub(super) async fn ensure_tables(&mut self, server: &Server) -> Result<()> {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(5))
            .with_max_delay(Duration::from_millis(500))
            .with_max_times(ATTEMPTS)
            .with_jitter()
            .build();
        #[allow(clippy::disallowed_methods, reason = "the limit of the check")]
        let start = Instant::now();
        let mut last = None;
        let mut migrations = 0;
        for pause in pauses {
            let missing = match self.check_tables(server).await {
                Ok(Verdict::Ready) => return self.check_rights(server).await,
                // While another process widens a table, the catalog can lack its keys or columns
                // for a moment.
                Ok(Verdict::Refuse(_)) if start.elapsed() < SETTLE_TIME => {
                    time::sleep(pause).await;
                    continue;
                }
                Ok(Verdict::Refuse(reason)) => return Err(LockError::schema(reason)),
                Ok(Verdict::Migrate(missing)) => missing,
                Err(failure) if failure.class == Class::NotApplied => {
                    last = Some(failure);
                    time::sleep(pause).await;
                    continue;
                }
                Err(failure) => return Err(failure.into()),
            };
            // Another process may be migrating, so one check proves nothing.
            if migrations > 2 {
                return Err(LockError::schema(format!(
                    "the migration was applied, and {missing}; apply {}",
                    server.dialect.migration_paths()
                )));
            }
            self.refuse_second_tables(server).await?;
            if server.must_exist {
                // Another process may be creating them.
                if start.elapsed() < SETTLE_TIME {
                    time::sleep(pause).await;
                    continue;
                }
                return Err(LockError::schema(format!(
                    "{missing}, and Builder::create_tables is off; if this is the right database, run \
                     `locks migrate` or apply {}",
                    server.dialect.migration_paths()
                )));
            }
            match self.migrate(server).await {
                Ok(()) => {
                    migrations += 1;
                    tracing::info!("the lock tables were created or widened");
                }
                Err(failure) if failure.kind == Kind::Denied => {
                    return Err(LockError::schema(format!(
                        "{missing}, and this account cannot change that ({failure}); apply {} \
                         with an account that has the rights",
                        server.dialect.migration_paths()
                    )));
                }
                Err(failure)
                    if failure.class == Class::NotApplied || failure.kind == Kind::Missing =>
                {
                    tracing::debug!(%failure, "the migration is retried");
                    last = Some(failure);
                }
                Err(failure) => return Err(failure.into()),
            }
            time::sleep(pause).await;
        }
        Err(match last {
            Some(failure) => failure.into(),
            None => {
                LockError::schema("the lock tables were created repeatedly and are still missing")
            }
        })
    }

    /// Reads the state of the three tables from the catalog and judges it.
    async fn check_tables(&mut self, server: &Server) -> Result<Verdict, Failure> {
        let catalog = &server.catalog;
        let mut found = <[TableState; 3]>::default();
        let plain = server.names.plain();
        let index = |table: &str| plain.iter().position(|name| *name == table.to_lowercase());
        for [table, kind, storage] in self.texts(&catalog.tables).await? {
            if let Some(index) = index(&table) {
                found[index].kind = Some(kind);
                found[index].storage = storage;
            }
        }
        for [table, column, kind] in self.texts(&catalog.columns).await? {
            if let Some(index) = index(&table) {
                found[index].columns.push((column, kind.to_lowercase()));
            }
        }
        for [table, column] in self.texts(&catalog.keys).await? {
            if let Some(index) = index(&table) {
                found[index].keys.push(column);
            }
        }
        Ok(judge(&found, &server.names, server.dialect))
    }

    /// Checks that the account has all rights that locking needs.
    async fn check_rights(&mut self, server: &Server) -> Result<()> {
        let missing = match &server.catalog.rights {
            Rights::None => Vec::new(),
            Rights::Query(sql) => {
                let missing = self.texts::<2>(sql).await?.into_iter();
                missing
                    .map(|[table, right]| format!("{right} on {table}"))
                    .collect()
            }
            Rights::Statements(statements) => {
                let mut missing = Vec::new();
                for statement in statements {
                    match self.raw(statement).await {
                        // A server that refuses all writes now reports no rights.
                        Err(failure) if failure.class == Class::ReadOnly => return Ok(()),
                        Err(failure) if failure.kind == Kind::Denied => {
                            let verb = statement.split(' ').next().unwrap_or_default();
                            missing.push(format!("{verb} ({failure})"));
                        }
                        Err(failure) if failure.class == Class::NotApplied => {}
                        result => result?,
                    }
                }
                missing
            }
        };
        if missing.is_empty() {
            return self.warn_of_second_tables(server).await;
        }
        let [locks, sessions, fences] = server.names.quoted();
        Err(LockError::schema(format!(
            "this account lacks rights that locking needs: {}; \
             GRANT SELECT, INSERT, UPDATE ON {locks}, and \
             SELECT, INSERT, UPDATE, DELETE ON {sessions} and {fences}",
            missing.join(", ")
        )))
    }

    /// Fails if only another schema has lock tables. Otherwise accounts with different search
    /// paths would use different tables without noticing.
    async fn refuse_second_tables(&mut self, server: &Server) -> Result<()> {
        let schemas = self.elsewhere(server, Tables::Usable).await?;
        if schemas.is_empty() {
            return Ok(());
        }
        let first = server.names.schema().unwrap_or_default();
        Err(LockError::schema(format!(
            "the schema {first:?}, the first of this account's search_path, has no lock tables, \
             and {schemas} has; choose one with Builder::schema, so that all processes use \
             one set of tables"
        )))
    }

    /// Warns if another schema has lock tables too.
    async fn warn_of_second_tables(&mut self, server: &Server) -> Result<()> {
        let schemas = self.elsewhere(server, Tables::Any).await?;
        if !schemas.is_empty() {
            tracing::warn!(
                "the lock tables of schema {:?} are used, and {schemas} has lock tables too; \
                 locks in different schemas do not exclude each other: choose one with \
                 Builder::schema",
                server.names.schema().unwrap_or_default()
            );
        }
        Ok(())
    }

    /// The other schemas with lock tables, as a list; empty if the caller has chosen a schema.
    async fn elsewhere(&mut self, server: &Server, tables: Tables) -> Result<String> {
        let sql = server.catalog.elsewhere.as_ref();
        let Some(sql) = sql.filter(|_| !server.schema_is_chosen) else {
            return Ok(String::new());
        };
        let schemas = self.texts::<2>(sql).await?.into_iter();
        let schemas = schemas.filter(|[_, access]| tables == Tables::Any || access == "usable");
        let schemas: Vec<_> = schemas.map(|[schema, _]| format!("{schema:?}")).collect();
        Ok(schemas.join(", "))
    }

    /// Runs a query with text columns. NULL becomes an empty text.
    async fn texts<const N: usize>(&mut self, sql: &str) -> Result<Vec<[String; N]>, Failure> {
        let rows = self.fetch(sql, &[], &[ColumnType::Text; N]).await?;
        let row = |values: Vec<Value>| {
            let mut values = values.into_iter();
            std::array::from_fn(|_| values.next().and_then(Value::text).unwrap_or_default())
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// Runs the migrations. What exists already is left as it is.
    async fn migrate(&mut self, server: &Server) -> Result<(), Failure> {
        let migrations = server.dialect.migrations.iter();
        for statement in migrations.flat_map(|one| server.names.migration(one.sql)) {
            match self.run_raw(&statement).await {
                Err(failure) if failure.kind != Kind::Exists => return Err(failure),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The verdict on the tables that were found.
fn judge(found: &[TableState; 3], names: &TableNames, dialect: &Dialect) -> Verdict {
    let mut missing = Vec::new();
    let tables = found
        .iter()
        .zip(names.plain())
        .zip(COLUMNS)
        .zip(CREATED_WITH);
    for (((found, table), columns), created_with) in tables {
        let Some(kind) = &found.kind else {
            missing.push(format!("the table {table} is missing"));
            continue;
        };
        let other_name = "choose other names with Builder::table_prefix";
        let has: Vec<_> = found.columns.iter().map(|(name, _)| &**name).collect();
        let has = has.join(", ");
        if kind != "table" {
            let columns = if has.is_empty() {
                String::new()
            } else {
                format!(" with the columns {has}")
            };
            return Verdict::Refuse(format!(
                "{table} is not a lock table: it is a {kind}{columns}; {other_name}"
            ));
        }
        let column = |name: &str| {
            let mut columns = found.columns.iter();
            columns.find(|(found, _)| found.eq_ignore_ascii_case(name))
        };
        let is_there = |(name, _): &(&str, ColumnUse)| column(name).is_some();
        if !columns[..created_with].iter().all(is_there) {
            return Verdict::Refuse(format!(
                "the table {table} is not a lock table: it has the columns {has}; {other_name}"
            ));
        }
        if !found.storage.is_empty() {
            return Verdict::Refuse(storage_error(&table, &found.storage));
        }
        let key = columns[0].0;
        if !found
            .keys
            .iter()
            .any(|found| found.eq_ignore_ascii_case(key))
        {
            return Verdict::Refuse(format!(
                "the table {table} has no primary key on {key}: stop all processes that lock, \
                 delete duplicate rows, and \
                 ALTER TABLE {table} ADD PRIMARY KEY ({key})"
            ));
        }
        for (name, used) in columns {
            match column(name) {
                None => missing.push(format!("the column {name} of {table} is missing")),
                Some((_, kind)) if !(dialect.fits)(*used, kind) => {
                    missing.push(format!(
                        "the column {name} of {table} is {} and has to be {} (ALTER TABLE)",
                        kind.trim(),
                        required_type(*used)
                    ));
                }
                Some(_) => {}
            }
        }
    }
    if missing.is_empty() {
        Verdict::Ready
    } else {
        Verdict::Migrate(missing.join(", "))
    }
}

/// The required type of a column.
fn required_type(used: ColumnUse) -> &'static str {
    match used {
        ColumnUse::Number => "BIGINT",
        ColumnUse::Text => "a text of any length and script (on MySQL LONGTEXT in utf8mb4)",
        ColumnUse::Name => "a text of any script (on MySQL in utf8mb4)",
        ColumnUse::Any => "present",
    }
}

/// Why a table with this storage cannot hold locks.
fn storage_error(table: &str, storage: &str) -> String {
    match storage {
        "UNLOGGED" | "TEMPORARY" => format!(
            "the table {table} is {storage}: a crash of the server empties it, and then two \
             processes can hold one lock; ALTER TABLE {table} SET LOGGED"
        ),
        "ROW LEVEL SECURITY" => format!(
            "row-level security hides rows of {table} from this account, so live sessions \
             would appear dead; exempt the account (ALTER ROLE … BYPASSRLS), or \
             ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"
        ),
        engine => format!(
            "the table {table} is stored by {engine}, which has no transactions; \
             ALTER TABLE {table} ENGINE = InnoDB"
        ),
    }
}

/// The tables are missing and the database is read-only.
pub(super) fn not_allowed(failure: &Failure, path: &str) -> LockError {
    LockError::schema(format!(
        "the lock tables are missing or incomplete and cannot be created here ({failure}); \
         apply {path} with an account that has the rights"
    ))
}
