//! PostgreSQL, and servers with its protocol.

use std::time::Duration;

use sqlx::{
    PgConnection, Postgres,
    error::DatabaseError,
    postgres::{PgConnectOptions, PgDatabaseError, PgQueryResult, PgSeverity},
};

use super::{
    change::ChangeSource,
    dialect::{Catalog, ColumnUse, Dialect, Facts, Migration, Rights, SHARED, share},
    executor::Engine,
    failure::{Class, Kind},
    file::FileIdentity,
    names::TableNames,
    statements::{Condition, FenceKind, FenceStatement, RowLock, Statements, Syntax},
    turn::{Message, TURN_LIMIT, TurnStatements},
};
use crate::store::fence::{fence_connection, sealed::Unfenced};

/// The channel of notifications. The payload is the namespace and the version.
pub(super) const CHANNEL: &str = "locks_changed";

/// The fact that the server does not receive the startup message: a pooler is in between.
pub(super) const UNPINNED: &str = "settings of the startup message have no effect";

/// The name of the connections in `pg_stat_activity`, unless the options have one.
const APPLICATION_NAME: &str = "locks";

const DIALECT: Dialect = Dialect {
    name: "PostgreSQL",
    migrations: &[Migration {
        path: "migrations/postgres/0001_locks.sql",
        sql: include_str!("../../migrations/postgres/0001_locks.sql"),
    }],
    optional: &[Migration {
        path: "migrations/postgres/0002_lock_requests.sql",
        sql: include_str!("../../migrations/postgres/0002_lock_requests.sql"),
    }],
    quote: '"',
    change_source: ChangeSource::Notifications,
    unlimited: None,
    facts: "SELECT name::text, setting::text FROM pg_catalog.pg_settings WHERE name IN \
            ('synchronous_commit', 'idle_session_timeout', 'transaction_timeout', \
             'lock_timeout', 'statement_timeout', 'fsync', 'full_page_writes', \
             'synchronous_standby_names') \
            UNION ALL \
            SELECT 'schema', pg_catalog.current_schema()::text \
            UNION ALL \
            SELECT 'lz4', 'on' FROM pg_catalog.pg_settings \
            WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)",
    settings,
    transaction,
    statements,
    fence,
    catalog,
    fits: |used, kind| match used {
        ColumnUse::Number => kind == "bigint",
        ColumnUse::Text => matches!(kind, "text" | "character varying"),
        ColumnUse::Name | ColumnUse::Any => true,
    },
    unusable: |_| None,
    relaxed: |facts| {
        let off: Vec<_> = ["fsync", "full_page_writes"]
            .into_iter()
            .filter(|name| facts.is(name, "off"))
            .collect();
        (!off.is_empty()).then(|| {
            format!(
                "{} is off: a crash of the machine can undo granted locks; \
                 set it to on",
                off.join(" and ")
            )
        })
    },
};

/// The settings on which every statement relies, whatever those of the server, the database
/// and the role are.
///
/// - the isolation level: a read returns committed data, a write does not fail because
///   another one came first, and a transaction may write.
/// - `synchronous_commit`: a grant is durable before it is reported. It is `remote_apply` if
///   the server has this value, and otherwise `on`.
/// - `row_security`: a row that a policy hides is an error and is not absent.
/// - time limits below those of the driver: otherwise waiting statements would accumulate on
///   the server.
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

/// The settings of a connection that is not shared.
fn of_session(limit: Duration, facts: &Facts) -> Vec<(&'static str, String)> {
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
    // A long text is compressed before it is written, which halves the time.
    if facts.has("lz4") {
        settings.push(("default_toast_compression", "lz4".into()));
    }
    settings
}

/// The options of a direct connection, with the settings in its startup message. They override
/// the settings of roles and databases and cost no round trip.
pub(super) fn startup(
    options: PgConnectOptions,
    limit: Duration,
    facts: &Facts,
) -> PgConnectOptions {
    options.options(of_session(limit, facts))
}

/// The options of every connection but the first.
pub(super) fn options(
    options: &PgConnectOptions,
    limit: Duration,
    facts: &Facts,
) -> PgConnectOptions {
    let options = options.clone();
    if facts.has(SHARED) || facts.has(UNPINNED) {
        options
    } else {
        startup(options, limit, facts)
    }
}

/// The options, with a name for operators. Poolers refuse `extra_float_digits`, which sqlx
/// sends and no statement needs.
pub(super) fn prepared(options: PgConnectOptions) -> PgConnectOptions {
    let options = options.extra_float_digits(None);
    if options.get_application_name().is_some() {
        options
    } else {
        options.application_name(APPLICATION_NAME)
    }
}

/// The settings of a connection through a pooler that gives it to one client only.
fn settings(limit: Duration, facts: &Facts) -> Vec<String> {
    if !facts.has(UNPINNED) {
        return Vec::new();
    }
    let settings = of_session(limit, facts).into_iter();
    let settings = settings.map(|(name, value)| format!("SET SESSION {name} = '{value}'"));
    vec![settings.collect::<Vec<_>>().join("; ")]
}

/// Whether a connection has the settings of [`startup`].
pub(super) fn is_pinned(limit: Duration, requested: &Facts, found: &Facts) -> bool {
    let mut pinned = pinned(limit, requested).into_iter();
    pinned.all(|(name, value)| found.get(name).is_none_or(|found| found == value))
}

/// The begin of a transaction with its settings, if connections are shared.
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

const SYNTAX: Syntax = Syntax {
    placeholder: |number| format!("${number}"),
    count: "pg_catalog.count(*)",
    greatest: "GREATEST",
    micros: "(EXTRACT(EPOCH FROM pg_catalog.clock_timestamp()) * 1000000)::bigint",
    seen_at: "pg_catalog.clock_timestamp()",
};

fn statements(names: &TableNames, facts: &Facts) -> Statements {
    let [_, sessions, fences] = names.quoted();
    let common = Statements::new(names, &SYNTAX);
    Statements {
        turns: (!facts.has(SHARED)).then(|| turns(names)),
        // A commit is on the server's own disk before others see it. Its wait for a standby can be
        // ended, and then they see it earlier.
        shows_durable: facts.is("synchronous_standby_names", ""),
        row_lock: Some(RowLock {
            begin: "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE",
            limit: Some("SET LOCAL idle_in_transaction_session_timeout = '1s'"),
            read: format!("{} FOR UPDATE", common.read),
            commit: "COMMIT",
            rollback: "ROLLBACK",
        }),
        // The lock delays an eviction until the write is done. It does not delay renewals.
        alive: Condition {
            before: format!(
                " AND (SELECT pg_catalog.count(*) FROM \
                 (SELECT 1 FROM {sessions} WHERE id IN "
            ),
            after: " FOR KEY SHARE) AS alive) = ",
        },
        fences_in: format!(
            "SELECT session, pg_catalog.count(*) OVER () FROM {fences} \
             WHERE session COLLATE \"C\" >= $1 AND session COLLATE \"C\" < $2"
        ),
        // A session has one fence row here, so the end of the range is not needed.
        try_fences: Some(format!(
            "SELECT session FROM {fences} WHERE session = $1 AND session <> $2 \
             FOR UPDATE NOWAIT"
        )),
        delete_fences: format!("DELETE FROM {fences} WHERE session = $1 AND session <> $2"),
        try_fence_list: Some(format!("SELECT session FROM {fences} WHERE session IN")),
        await_fence: vec![format!(
            "SELECT session FROM {fences} WHERE session = $1 FOR UPDATE NOWAIT"
        )],
        // A notification need not be durable: a process that misses it polls.
        notify: Some(format!(
            "SELECT pg_catalog.set_config('synchronous_commit', 'off', true), \
             pg_catalog.pg_notify('{CHANNEL}', $1)"
        )),
        ..common
    }
}

/// The statements of turns, which are advisory locks.
///
/// Statements of one message are one transaction. What the others have to see is committed before
/// the turn is waited for or passed on. A statement sees what was committed before it, so the lock
/// has one of its own.
fn turns(names: &TableNames) -> TurnStatements {
    let [locks, ..] = names.quoted();
    let table = names.requests();
    // A crash empties the table.
    let lazy = "SET LOCAL synchronous_commit = off";
    let unlock = "pg_catalog.pg_advisory_unlock";
    let prepare = [
        format!(
            "PREPARE locks_submit (text, text, bigint, text) AS INSERT INTO {table} AS r \
             (driver, namespace, number, claimed, served, seenAt, body) \
             VALUES ($1, $2, $3, 0, 0, pg_catalog.clock_timestamp(), \
             pg_catalog.convert_from(pg_catalog.decode($4, 'hex'), 'UTF8')) \
             ON CONFLICT (driver) DO UPDATE SET number = EXCLUDED.number, \
             seenAt = EXCLUDED.seenAt, body = EXCLUDED.body WHERE r.number < EXCLUDED.number"
        ),
        // It has no row, because the function never returns NULL.
        format!(
            "PREPARE locks_turn (bigint) AS SELECT {} \
             WHERE pg_catalog.pg_advisory_lock($1) IS NULL",
            ["NULL::text"; 8].join(", ")
        ),
        format!(
            "PREPARE locks_look (text, bigint, text, bigint) AS SELECT 'turn'::text, '1'::text, \
             CASE WHEN r.served = $2 THEN {unlock}($4)::int::text END, r.claimed::text, \
             l.dataJson::text, l.version::text, l.stamp::text, l.metaJson::text \
             FROM (SELECT 1) AS one LEFT JOIN {table} AS r ON r.driver = $1 \
             LEFT JOIN {locks} AS l ON l.id = $3"
        ),
        format!(
            "PREPARE locks_claim (text, bigint, text) AS WITH claimed AS \
             (UPDATE {table} SET claimed = number WHERE namespace = $3 AND claimed < number \
             AND NOT EXISTS (SELECT 1 FROM {table} WHERE driver = $1 AND served = $2) \
             RETURNING driver, number, body) \
             SELECT 'other'::text, driver::text, number::text, body::text, {} FROM claimed \
             WHERE driver <> $1 AND body <> ''",
            ["NULL::text"; 4].join(", ")
        ),
        format!(
            "PREPARE locks_serve (text[], bigint[]) AS UPDATE {table} AS r SET served = r.number \
             FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS s (driver, number) \
             WHERE r.driver = s.driver AND r.number = s.number"
        ),
        format!("PREPARE locks_pass (bigint) AS SELECT {unlock}($1)"),
    ];
    let submit = format!(
        "BEGIN; {lazy}; EXECUTE locks_submit ('$driver', '$namespace', $number, '$hex'); COMMIT"
    );
    let take = format!(
        "{submit}; SET LOCAL lock_timeout = {TURN_LIMIT}; {lazy}; EXECUTE locks_turn ($key); \
         EXECUTE locks_look ('$driver', $number, '$namespace', $key); \
         EXECUTE locks_claim ('$driver', $number, '$namespace')"
    );
    let serve = format!(
        "BEGIN; {lazy}; \
         EXECUTE locks_serve ('{{$list_of_drivers}}', '{{$list_of_numbers}}'); COMMIT"
    );
    TurnStatements {
        prepare: Some(prepare.join("; ")),
        submit: Some(Message::text(&submit)),
        take: Message::text(&take),
        missed: Some(Kind::Locked),
        serve: Message::text(&serve),
        pass: Message::text("EXECUTE locks_pass ($key)"),
        clean: Some(format!(
            "DELETE FROM {table} \
             WHERE seenAt < pg_catalog.clock_timestamp() - INTERVAL '1 hour'"
        )),
        check: TurnStatements::check(
            names,
            "driver, namespace, number, claimed, served, seenAt, body",
        ),
    }
}

/// The fence is a shared lock, so that the guards of a session do not block each other.
fn fence(names: &TableNames, facts: &Facts) -> FenceStatement {
    let [_, _, fences] = names.quoted();
    let sql = format!("SELECT session FROM {fences} WHERE session = $1 FOR KEY SHARE");
    FenceStatement {
        sql: sql.into(),
        reader: None,
        // The application is likely to use the pooler, too.
        kind: if facts.has(SHARED) {
            FenceKind::UnnamedQuery
        } else {
            FenceKind::Query
        },
        engine: DIALECT.name,
        looks_at_row: false,
        file: FileIdentity::none(),
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
    let our_tables = format!("n.nspname = '{schema}' AND c.relname IN ({list})");
    Catalog {
        tables: format!(
            "SELECT c.relname::text, \
             CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view' \
             WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' \
             WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' ELSE 'index' END, \
             CASE WHEN pg_catalog.row_security_active(c.oid) THEN 'ROW LEVEL SECURITY' \
             WHEN c.relpersistence = 'u' THEN 'UNLOGGED' \
             WHEN c.relpersistence = 't' THEN 'TEMPORARY' ELSE '' END \
             {of} WHERE {our_tables}"
        ),
        columns: format!(
            "SELECT c.relname::text, a.attname::text, \
             pg_catalog.format_type(a.atttypid, a.atttypmod) \
             {of} JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
             WHERE {our_tables} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
        ),
        keys: format!(
            "SELECT c.relname::text, a.attname::text \
             {of} JOIN pg_catalog.pg_index i ON i.indrelid = c.oid \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] \
             WHERE {our_tables} AND i.indisunique AND i.indisvalid AND i.indimmediate \
             AND i.indnkeyatts = 1 AND i.indpred IS NULL AND i.indexprs IS NULL"
        ),
        rights: Rights::Query(format!(
            "SELECT c.relname::text, r.name \
             {of} CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS r (name) \
             WHERE {our_tables} AND NOT (CASE r.name \
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
        let severity = error
            .try_downcast_ref::<PgDatabaseError>()
            .map(PgDatabaseError::severity);
        // https://www.postgresql.org/docs/current/errcodes-appendix.html
        let class = match &*code {
            "40001" | "40P01" | "55P03" | "57014" | "53300" | "57P03" => Class::NotApplied,
            // A read-only server; a prepared statement that is unknown or out of date; a
            // transaction in the wrong state. Another connection may be right.
            "25006" | "26000" | "42P05" | "0A000" | "25001" | "25P01" | "25P02" => Class::ReadOnly,
            code if is_content(code) => Class::NotApplied,
            code if ["42", "28", "3D", "3F", "22", "23"]
                .iter()
                .any(|class| code.starts_with(class)) =>
            {
                Class::Permanent
            }
            // An error ends its statement or its transaction only. What is more severe ends the
            // connection.
            _ if matches!(severity, Some(PgSeverity::Error)) => Class::NotApplied,
            _ => Class::Indeterminate,
        };
        let kind = match &*code {
            code if is_content(code) => Kind::Content,
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

/// Whether a value cannot be stored: a character that the database's encoding lacks, or a text
/// that is too long.
fn is_content(code: &str) -> bool {
    matches!(code, "22P05" | "22021" | "22001" | "54000")
}

/// Whether the error means that the server refuses settings in the startup message, after it
/// has accepted a login without them. Poolers and proxies have various codes for this. The
/// codes of a full or starting server mean something else.
pub(super) fn refuses_settings(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().map(DatabaseError::code);
    let code = code.map(Option::unwrap_or_default);
    code.is_some_and(|code| {
        !matches!(&*code, "53300" | "57P01" | "57P03") && !code.starts_with("28")
    })
}

fence_connection!(Postgres, PgConnection, Unfenced::Original);
