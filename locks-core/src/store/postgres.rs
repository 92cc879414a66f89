//! PostgreSQL, and what speaks its protocol.

use std::time::Duration;

use sqlx::{
    PgConnection, Postgres,
    error::DatabaseError,
    postgres::{PgConnectOptions, PgQueryResult},
};

use super::{
    change::ChangeSource,
    dialect::{Catalog, ColumnUse, Dialect, Facts, Rights, share},
    executor::Engine,
    failure::{Class, Kind},
    names::TableNames,
    statements::{Condition, FenceKind, FenceStatement, Lock, Statements},
};
use crate::fence::{fence_connection, sealed::Unfenced};

/// The channel on which changes are told; the payload is the namespace and the version.
pub(super) const CHANNEL: &str = "locks_changed";

/// The fact that settings do not stay with our connections: a pooler lends them to others
/// between two transactions.
pub(super) const SHARED: &str = "connections are shared";

const DIALECT: Dialect = Dialect {
    name: "PostgreSQL",
    migration: include_str!("../../migrations/postgres/0001_locks.sql"),
    migration_path: "migrations/postgres/0001_locks.sql",
    quote: '"',
    change_source: ChangeSource::Notifications,
    unlimited: None,
    facts: "SELECT name::text, setting::text FROM pg_catalog.pg_settings WHERE name IN \
            ('synchronous_commit', 'idle_session_timeout', 'transaction_timeout', \
             'lock_timeout', 'statement_timeout', 'fsync', 'full_page_writes') \
            UNION ALL \
            SELECT 'schema', pg_catalog.current_schema()::text \
            UNION ALL \
            SELECT 'lz4', 'on' FROM pg_catalog.pg_settings \
            WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)",
    // They are part of the startup message: see `startup`.
    settings: |_, _| Vec::new(),
    transaction,
    statements,
    fence,
    catalog,
    fits: |used, kind| match used {
        ColumnUse::Number => kind == "bigint",
        ColumnUse::Text => matches!(kind, "text" | "character varying"),
        ColumnUse::Name | ColumnUse::Any => true,
    },
    relaxed: |facts| {
        let off: Vec<_> = ["fsync", "full_page_writes"]
            .into_iter()
            .filter(|name| facts.is(name, "off"))
            .collect();
        (!off.is_empty()).then(|| {
            format!(
                "{} is off: a crash of the machine may take locks back that were granted; \
                 set it to on",
                off.join(" and ")
            )
        })
    },
};

/// The settings that every statement relies on, whatever those of the server, the database
/// and the role are.
///
/// - the isolation level: a read shows what is committed, and no write fails because
///   another one came first; a transaction may write.
/// - `synchronous_commit`: a grant is on the disk before it is told; never weaker than
///   `on`, and `remote_apply` where that is asked for.
/// - `row_security`: rows that a policy hides are an error, not absent.
/// - time limits below ours, or statements that wait would pile up on the server.
fn pinned(limit: Duration, facts: &Facts) -> Vec<(&'static str, String)> {
    let durable = if facts.is("synchronous_commit", "remote_apply") {
        "remote_apply"
    } else {
        "on"
    };
    vec![
        ("synchronous_commit", durable.into()),
        ("row_security", "off".into()),
        ("lock_timeout", share(limit, 8).to_string()),
        ("statement_timeout", share(limit, 9).to_string()),
        ("standard_conforming_strings", "on".into()),
    ]
}

/// What a direct connection starts with. The startup message overrides the settings of
/// roles and databases, costs no round trip, and never stays on a pooler's connection.
pub(super) fn startup(
    options: PgConnectOptions,
    limit: Duration,
    facts: &Facts,
) -> PgConnectOptions {
    let mut settings = pinned(limit, facts);
    for (name, value) in [
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_read_only", "off"),
        ("default_transaction_deferrable", "off"),
    ] {
        settings.push((name, value.into()));
    }
    for name in ["idle_session_timeout", "transaction_timeout"] {
        if facts.has(name) {
            settings.push((name, "0".into()));
        }
    }
    // A long text is packed before it is written: in half the time.
    if facts.has("lz4") {
        settings.push(("default_toast_compression", "lz4".into()));
    }
    options.options(settings)
}

/// Whether a connection has what [`startup`] asked for.
pub(super) fn is_pinned(limit: Duration, asked: &Facts, found: &Facts) -> bool {
    let mut pinned = pinned(limit, asked).into_iter();
    pinned.all(|(name, value)| found.get(name).is_none_or(|found| found == value))
}

/// Where connections are shared, the settings are those of one transaction.
fn transaction(limit: Duration, facts: &Facts) -> Option<String> {
    if !facts.has(SHARED) {
        return None;
    }
    let settings = pinned(limit, facts);
    let settings = settings
        .iter()
        .map(|(name, value)| format!("; SET LOCAL {name} = '{value}'"));
    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE".to_owned();
    Some(settings.fold(begin, |text, setting| text + &setting))
}

fn statements(names: &TableNames, _: &Facts) -> Statements {
    let [locks, sessions, fences] = names.quoted();
    let row = format!("SELECT dataJson, version, stamp, metaJson FROM {locks} WHERE id = $1");
    let now = "(EXTRACT(EPOCH FROM pg_catalog.clock_timestamp()) * 1000000)::bigint";
    let count = "pg_catalog.count(*) OVER ()";
    Statements {
        placeholder: |number| format!("${number}"),
        lock: Some(Lock {
            begin: "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE",
            limit: Some("SET LOCAL idle_in_transaction_session_timeout = '1s'"),
            read: format!("{row} FOR UPDATE"),
            commit: "COMMIT",
            rollback: "ROLLBACK",
        }),
        read: row,
        read_version: format!("SELECT version, stamp FROM {locks} WHERE id = $1"),
        read_versions: format!("SELECT id, version, stamp, {count} FROM {locks} WHERE id IN"),
        compare_and_set: format!(
            "UPDATE {locks} SET dataJson = $1, metaJson = $2, stamp = $3, version = $4 \
             WHERE id = $5 AND version = $6 AND stamp = $7"
        ),
        // The lock keeps an eviction waiting until the write is done; renewals go on.
        alive: Condition {
            before: format!(
                " AND (SELECT pg_catalog.count(*) FROM \
                 (SELECT 1 FROM {sessions} WHERE id IN "
            ),
            after: " FOR KEY SHARE) AS alive) = ",
        },
        dead: Condition {
            before: format!(" AND (SELECT pg_catalog.count(*) FROM {fences} WHERE session IN "),
            after: ") = ",
        },
        adopt: format!(
            "UPDATE {locks} SET version = GREATEST($1, {now}), stamp = $2, metaJson = '{{}}' \
             WHERE id = $3 AND version = $4 AND stamp IS NULL"
        ),
        create: format!(
            "INSERT INTO {locks} (id, dataJson, version, stamp, metaJson) \
             VALUES ($1, '{{}}', GREATEST($2, {now}), $3, '{{}}')"
        ),
        insert_sessions: format!(
            "INSERT INTO {sessions} \
             (id, namespace, taskId, host, process, ttlMs, beat, seenAt) VALUES "
        ),
        insert_sessions_end: ", 0, pg_catalog.clock_timestamp())",
        insert_fences: format!("INSERT INTO {fences} (session, touched) VALUES "),
        renew: format!(
            "UPDATE {sessions} SET beat = beat + 1, seenAt = pg_catalog.clock_timestamp() \
             WHERE id IN"
        ),
        liveness: format!(
            "SELECT f.session, s.id, s.taskId, s.host, s.process, s.ttlMs, s.beat, {count} \
             FROM {fences} f LEFT JOIN {sessions} s ON s.id = f.session WHERE f.session IN"
        ),
        sessions_in: format!(
            "SELECT id, taskId, host, process, ttlMs, beat, {count} FROM {sessions} \
             WHERE namespace = $1"
        ),
        fences_in: format!(
            "SELECT session, {count} FROM {fences} \
             WHERE session COLLATE \"C\" >= $1 AND session COLLATE \"C\" < $2"
        ),
        delete_session: format!("DELETE FROM {sessions} WHERE id = $1"),
        delete_session_at: format!("DELETE FROM {sessions} WHERE id = $1 AND beat = $2"),
        delete_sessions: format!("DELETE FROM {sessions} WHERE id IN"),
        // A session has one fence row here; the end of the range takes no part.
        try_fences: Some(format!(
            "SELECT session FROM {fences} WHERE session = $1 AND session <> $2 \
             FOR UPDATE NOWAIT"
        )),
        delete_fences: format!("DELETE FROM {fences} WHERE session = $1 AND session <> $2"),
        try_fence_list: Some(format!("SELECT session FROM {fences} WHERE session IN")),
        delete_fence_list: format!("DELETE FROM {fences} WHERE session IN"),
        without_beat: format!(
            " AND NOT EXISTS (SELECT 1 FROM {sessions} WHERE id = $3) \
             AND (SELECT pg_catalog.count(*) FROM {sessions} WHERE id = $4) = $5"
        ),
        without_row: format!(" AND NOT EXISTS (SELECT 1 FROM {locks} AS l WHERE l.id = $2)"),
        with_unstamped_row: format!(
            " AND EXISTS (SELECT 1 FROM {locks} AS l \
             WHERE l.id = $2 AND l.version = $3 AND l.stamp IS NULL)"
        ),
        await_fence: vec![format!(
            "SELECT session FROM {fences} WHERE session = $1 FOR UPDATE NOWAIT"
        )],
        // It need not be on the disk: a process that misses it looks before long.
        notify: Some(format!(
            "SELECT pg_catalog.set_config('synchronous_commit', 'off', true), \
             pg_catalog.pg_notify('{CHANNEL}', $1)"
        )),
        data_version: None,
    }
}

/// A shared lock, so that the guards of a session do not stand in each other's way.
fn fence(names: &TableNames, _: &Facts) -> FenceStatement {
    let [_, _, fences] = names.quoted();
    let sql = format!("SELECT session FROM {fences} WHERE session = $1 FOR KEY SHARE");
    FenceStatement {
        sql: sql.into(),
        reader: None,
        kind: FenceKind::Query,
        engine: DIALECT.name,
        looks_at_row: false,
        rows: 1,
    }
}

fn catalog(names: &TableNames) -> Catalog {
    let plain = names.plain();
    let schema = names.schema().unwrap_or_default().replace('\'', "''");
    let list = plain
        .each_ref()
        .map(|table| format!("'{table}'"))
        .join(", ");
    let of = "FROM pg_catalog.pg_class c \
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace";
    let ours = format!("n.nspname = '{schema}' AND c.relname IN ({list})");
    Catalog {
        tables: format!(
            "SELECT c.relname::text, \
             CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view' \
             WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' \
             WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' ELSE 'index' END, \
             CASE WHEN pg_catalog.row_security_active(c.oid) THEN 'ROW LEVEL SECURITY' \
             WHEN c.relpersistence = 'u' THEN 'UNLOGGED' \
             WHEN c.relpersistence = 't' THEN 'TEMPORARY' ELSE '' END \
             {of} WHERE {ours}"
        ),
        columns: format!(
            "SELECT c.relname::text, a.attname::text, \
             pg_catalog.format_type(a.atttypid, a.atttypmod) \
             {of} JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
             WHERE {ours} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
        ),
        keys: format!(
            "SELECT c.relname::text, a.attname::text \
             {of} JOIN pg_catalog.pg_index i ON i.indrelid = c.oid \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] \
             WHERE {ours} AND i.indisunique AND i.indisvalid AND i.indimmediate \
             AND i.indnkeyatts = 1 AND i.indpred IS NULL AND i.indexprs IS NULL"
        ),
        rights: Rights::Query(format!(
            "SELECT c.relname::text, r.name \
             {of} CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS r (name) \
             WHERE {ours} AND NOT (CASE r.name \
             WHEN 'DELETE' THEN pg_catalog.has_table_privilege(c.oid, r.name) \
             ELSE pg_catalog.has_any_column_privilege(c.oid, r.name) END) \
             AND NOT (c.relname = '{}' AND r.name = 'DELETE') \
             UNION ALL SELECT 'schema ' || n.nspname, 'USAGE' FROM pg_catalog.pg_namespace n \
             WHERE n.nspname = '{schema}' \
             AND NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE')",
            plain[0]
        )),
        elsewhere: Some(format!(
            "SELECT n.nspname::text, CASE WHEN pg_catalog.bool_and( \
             pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
             AND pg_catalog.has_any_column_privilege(c.oid, 'UPDATE')) \
             THEN 'usable' ELSE '' END \
             {of} WHERE c.relname IN ({list}) \
             AND c.relkind IN ('r', 'p') AND n.nspname <> '{schema}' \
             AND n.nspname NOT LIKE 'pg\\_%' \
             GROUP BY n.nspname HAVING pg_catalog.count(*) = 3 ORDER BY n.nspname"
        )),
    }
}

impl Engine for Postgres {
    const DIALECT: &'static Dialect = &DIALECT;

    fn rows_affected(result: &PgQueryResult) -> u64 {
        result.rows_affected()
    }

    fn classify(error: &dyn DatabaseError) -> (Class, Kind) {
        let code = error.code().unwrap_or_default();
        // https://www.postgresql.org/docs/current/errcodes-appendix.html
        let class = match &*code {
            "40001" | "40P01" | "55P03" | "57014" | "53300" | "57P03" => Class::NotApplied,
            "25006" => Class::ReadOnly,
            "22003" | "23505" => Class::Permanent,
            code if ["42", "28", "3D", "3F", "22"]
                .iter()
                .any(|class| code.starts_with(class)) =>
            {
                Class::Permanent
            }
            _ => Class::Indeterminate,
        };
        let kind = match &*code {
            "42P01" | "42703" => Kind::Missing,
            "23505" | "42P07" | "42701" | "42710" => Kind::Exists,
            "42501" | "25006" => Kind::Denied,
            "55P03" => Kind::Locked,
            "40001" | "40P01" => Kind::Conflict,
            _ => Kind::Other,
        };
        (class, kind)
    }
}

/// Whether a server that has taken a login without settings refuses them. Poolers and proxies
/// say so in words of their own; a full server, or one that starts, says something else.
pub(super) fn refuses_settings(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().map(DatabaseError::code);
    let code = code.map(Option::unwrap_or_default);
    code.is_some_and(|code| {
        !matches!(&*code, "53300" | "57P01" | "57P03") && !code.starts_with("28")
    })
}

fence_connection!(Postgres, PgConnection, Unfenced::Original);
