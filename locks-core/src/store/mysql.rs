//! MySQL and MariaDB, including clusters and `TiDB`.

use std::time::Duration;

use sqlx::{
    MySql, MySqlConnection,
    error::DatabaseError,
    mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlQueryResult},
};

use super::{
    change::ChangeSource,
    dialect::{Catalog, ColumnUse, Dialect, Facts, Migration, Rights, share},
    executor::Engine,
    failure::{Class, Kind},
    file::FileIdentity,
    names::TableNames,
    statements::{FenceKind, FenceStatement, RowLock, Statements, Syntax},
    turn::{Message, TURN_LIMIT, TurnStatements},
};
use crate::store::fence::{fence_connection, sealed::Unfenced};

/// The number of fence rows of a session on a cluster, where a row lock is local to a node.
/// There a fence is a write, and two concurrent writes of one row on two nodes fail. So the
/// guards take turns: a row is used again after all the others, which takes longer than any
/// node lags behind. Guards use all rows but the first.
const FENCE_ROWS: usize = 65;

const DIALECT: Dialect = Dialect {
    name: "MySQL or MariaDB",
    migrations: &[Migration {
        path: "migrations/mysql/0001_locks.sql",
        sql: include_str!("../../migrations/mysql/0001_locks.sql"),
    }],
    optional: &[Migration {
        path: "migrations/mysql/0002_lock_requests.sql",
        sql: include_str!("../../migrations/mysql/0002_lock_requests.sql"),
    }],
    quote: '`',
    change_source: ChangeSource::None,
    unlimited: Some("SET SESSION sql_select_limit = 18446744073709551615, sql_big_selects = 1"),
    facts: "SHOW VARIABLES WHERE Variable_name IN ('version', 'wsrep_on', 'wsrep_provider', \
            'group_replication_single_primary_mode', 'innodb_flush_log_at_trx_commit', \
            'completion_type', 'wsrep_sync_wait', 'wsrep_dirty_reads', 'alter_algorithm', 'idle_transaction_timeout', \
            'innodb_snapshot_isolation', 'query_cache_type', 'max_statement_time', \
            'max_execution_time', 'innodb_lock_wait_timeout', 'lock_wait_timeout', \
            'max_allowed_packet', 'log_bin', 'binlog_format')",
    settings,
    transaction: |_, _| None,
    statements,
    fence,
    catalog,
    fits: |used, kind| match used {
        ColumnUse::Number => kind.starts_with("bigint"),
        ColumnUse::Text => kind == "longtext utf8mb4",
        ColumnUse::Name => kind.ends_with(" utf8mb4"),
        ColumnUse::Any => true,
    },
    unusable: |facts| {
        let logged = facts.is("log_bin", "ON") && facts.is("binlog_format", "STATEMENT");
        logged.then(|| {
            "binlog_format is STATEMENT, with which InnoDB refuses writes at the isolation level \
             READ COMMITTED: set it to MIXED or ROW"
                .to_owned()
        })
    },
    relaxed: |facts| {
        let value = facts.get("innodb_flush_log_at_trx_commit")?;
        (value != "1").then(|| {
            format!(
                "innodb_flush_log_at_trx_commit is {value}: a crash of the server can undo \
                 granted locks; set it to 1"
            )
        })
    },
};

/// The settings on which every statement relies, whatever the defaults of the server, the
/// account and the options are.
///
/// - `SET NAMES`: texts are sent in UTF-8.
/// - `autocommit`, `completion_type`: a statement is a transaction, and `COMMIT` ends one.
/// - `sql_select_limit`, `sql_big_selects`: a query returns every row.
/// - `sql_mode`: a value that does not fit its column is an error and is not truncated.
/// - `sql_safe_updates`, `unique_checks`: every update is run, and keys are unique.
/// - the isolation level: a read returns committed data, and a transaction may write.
/// - time limits below those of the driver: otherwise waiting statements would accumulate on
///   the server.
fn settings(limit: Duration, facts: &Facts) -> Vec<String> {
    let seconds = (share(limit, 8) / 1000).max(1).to_string();
    let statement = share(limit, 9);
    #[allow(clippy::cast_precision_loss, reason = "some seconds")]
    let statement_seconds = (statement as f64 / 1000.0).to_string();
    let variables = [
        ("completion_type", "0"),
        // A Galera node runs a statement after it has caught up with the cluster: reads, updates
        // and deletes, and inserts.
        ("wsrep_sync_wait", "7"),
        ("wsrep_dirty_reads", "0"),
        // Widening a table of the original may need any algorithm.
        ("alter_algorithm", "DEFAULT"),
        // The server ends a transaction that holds the row lock and is idle.
        ("idle_transaction_timeout", "1"),
        ("innodb_snapshot_isolation", "0"),
        ("query_cache_type", "0"),
        ("innodb_lock_wait_timeout", &seconds),
        ("lock_wait_timeout", &seconds),
        // The first is of MariaDB, the second of MySQL, for queries.
        ("max_statement_time", &statement_seconds),
        ("max_execution_time", &statement.to_string()),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    let variables = variables.iter().filter(|(name, _)| facts.has(name));
    let variables: Vec<_> = variables
        .map(|(name, value)| format!(", {name} = {value}"))
        .collect();
    let variables = variables.concat();
    vec![format!(
        "SET NAMES utf8mb4; \
         SET SESSION autocommit = 1, sql_select_limit = 18446744073709551615, \
         sql_big_selects = 1, sql_safe_updates = 0, unique_checks = 1, \
         sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
         time_zone = '+00:00'{variables}; \
         SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE"
    )]
}

/// Whether several servers accept writes, each with row locks of its own.
fn is_cluster(facts: &Facts) -> bool {
    let galera = facts.is("wsrep_on", "ON")
        && facts
            .get("wsrep_provider")
            .is_some_and(|provider| !provider.is_empty() && provider != "none");
    galera || facts.is("group_replication_single_primary_mode", "OFF") || is_tidb(facts)
}

fn is_tidb(facts: &Facts) -> bool {
    facts.get("version").is_some_and(|v| v.contains("TiDB"))
}

const SYNTAX: Syntax = Syntax {
    placeholder: |_| "?".into(),
    count: "COUNT(*)",
    greatest: "GREATEST",
    micros: "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)",
    seen_at: "SYSDATE(6)",
};

fn statements(names: &TableNames, facts: &Facts) -> Statements {
    let [_, _, fences] = names.quoted();
    let common = Statements::new(names, &SYNTAX);
    // A range also locks the row after it. On a cluster that is the first fence row of another
    // session, which no guard uses.
    let of_session = if is_cluster(facts) {
        "session >= ? AND session < ?"
    } else {
        "session = ? AND session <> ?"
    };
    let lock = format!("SELECT session FROM {fences} WHERE session = ? FOR UPDATE NOWAIT");
    let write = format!("UPDATE {fences} SET touched = touched + 1 WHERE session = ?");
    let write = is_cluster(facts).then_some(write);
    Statements {
        turns: (!is_cluster(facts)).then(|| turns(names, facts)),
        row_lock: row_lock(facts, &common.read),
        fences_in: format!("{} AND session NOT LIKE '%#%'", common.fences_in),
        try_fences: Some(format!(
            "SELECT session FROM {fences} WHERE {of_session} FOR UPDATE NOWAIT"
        )),
        delete_fences: format!("DELETE FROM {fences} WHERE {of_session}"),
        try_fence_list: Some(format!("SELECT session FROM {fences} WHERE session IN")),
        await_fence: [Some(lock), write].into_iter().flatten().collect(),
        ..common
    }
}

/// The row's lock, with a time limit that the server enforces: otherwise a process that is stopped
/// would keep it. MariaDB has a limit for idle transactions. Elsewhere the limit for idle
/// connections is lowered during the transaction.
fn row_lock(facts: &Facts, read: &str) -> Option<RowLock> {
    let (limit, commit, rollback) = if facts.has("idle_transaction_timeout") {
        (
            None,
            "COMMIT AND NO CHAIN NO RELEASE",
            "ROLLBACK AND NO CHAIN NO RELEASE",
        )
    } else if is_tidb(facts) {
        return None;
    } else {
        (
            Some("SET SESSION wait_timeout = 1"),
            "COMMIT AND NO CHAIN NO RELEASE; SET SESSION wait_timeout = DEFAULT",
            "ROLLBACK AND NO CHAIN NO RELEASE; SET SESSION wait_timeout = DEFAULT",
        )
    };
    Some(RowLock {
        begin: "START TRANSACTION",
        limit,
        read: format!("{read} FOR UPDATE"),
        commit,
        rollback,
    })
}

/// The name of a user-level lock. It is of the whole server and has 64 characters at most. MySQL 9
/// has no `SHA1`.
fn lock_name(table: &str, what: &str) -> String {
    format!("CONCAT('locks:', LEFT(SHA2(CONCAT(DATABASE(), '/{table}/', {what}), 256), 40))")
}

/// Whether every change is written to the binary log, that of a table in memory as well.
fn logs_changes(facts: &Facts) -> bool {
    facts.is("log_bin", "ON")
}

/// The statements of turns, which are user-level locks of the whole server. On a cluster they are
/// local to a node, and the table would be, too.
fn turns(names: &TableNames, facts: &Facts) -> TurnStatements {
    let [locks, ..] = names.quoted();
    let table = names.requests();
    let is_mariadb = facts.has("idle_transaction_timeout");
    // MySQL waits for whole seconds.
    let limit = if is_mariadb {
        f64::from(TURN_LIMIT) / 1000.0
    } else {
        1.0
    };
    if logs_changes(facts) {
        return turns_alone(&locks, &table, limit);
    }
    // A prepared statement gets the values as they are.
    let [driver, namespace, turn, body] = if is_mariadb {
        ["$driver", "$namespace", "$turn", "$body"]
    } else {
        ["'$driver'", "'$namespace'", "'$turn'", "X'$hex'"]
    };
    let submit = format!(
        "INSERT INTO {table} \
         (driver, namespace, number, claimed, claimer, served, seenAt, body) \
         VALUES ({driver}, {namespace}, $number, 0, '', 0, SYSDATE(), {body}) \
         ON DUPLICATE KEY UPDATE seenAt = VALUES(seenAt), \
         body = IF(number < VALUES(number), VALUES(body), body), \
         number = GREATEST(number, VALUES(number))"
    );
    let key = lock_name(&table, namespace);
    let came = "@locks_turn = 1";
    let held = format!("{came} AND IS_USED_LOCK(@locks_key) = CONNECTION_ID()");
    let wait = format!("SET @locks_key = {key}; SET @locks_turn = GET_LOCK(@locks_key, {limit})");
    // Both rows are read before the turn is passed on.
    let look = format!(
        "SELECT 'turn', CAST(@locks_turn AS CHAR), CAST(r.served = $number AS CHAR), \
         CAST(r.claimed AS CHAR), l.dataJson, CAST(l.version AS CHAR), l.stamp, l.metaJson, \
         IF({came} AND r.served = $number, RELEASE_LOCK(@locks_key), 0) \
         FROM {table} AS r LEFT JOIN {locks} AS l ON l.id = {namespace} WHERE r.driver = {driver}"
    );
    let mark = format!("SET @locks_claim = {turn}");
    let claim = format!(
        "UPDATE {table} SET claimed = number, claimer = @locks_claim \
         WHERE namespace = {namespace} AND claimed < number"
    );
    let claimed = format!(
        "SELECT 'other', driver, CAST(number AS CHAR), body, NULL, NULL, NULL, NULL \
         FROM {table} WHERE namespace = {namespace} AND claimer = @locks_claim \
         AND driver <> {driver} AND body <> ''"
    );
    // The server answers each statement of a message at once, which takes time that the others
    // wait. It answers a compound statement once.
    let take = if is_mariadb {
        Message::prepared(&format!(
            "BEGIN NOT ATOMIC {submit}; {wait}; {look}; \
             IF {held} THEN {mark}; {claim}; {claimed}; END IF; END"
        ))
    } else {
        Message::text(&format!(
            "{submit}; {wait}; {look}; {mark}; {claim} AND {held}; {claimed} AND {held}"
        ))
    };
    TurnStatements {
        prepare: None,
        submit: Some(if is_mariadb {
            Message::prepared(&submit)
        } else {
            Message::text(&submit)
        }),
        take,
        missed: None,
        serve: Message::text(&format!("UPDATE {table} SET served = number WHERE $pairs")),
        pass: pass(&table),
        clean: Some(format!(
            "DELETE FROM {table} WHERE seenAt < SYSDATE() - INTERVAL 1 HOUR"
        )),
        check: TurnStatements::check(
            names,
            "driver, namespace, number, claimed, claimer, served, seenAt, body",
        ),
    }
}

/// Turns at which each process writes for itself. On a server with a binary log a submission costs
/// several flushes: one to submit, one to claim and one to serve it.
fn turns_alone(locks: &str, table: &str, limit: f64) -> TurnStatements {
    let key = lock_name(table, "'$namespace'");
    let take = format!(
        "SET @locks_turn = GET_LOCK({key}, {limit}); \
         SELECT 'turn', CAST(@locks_turn AS CHAR), '0', '0', l.dataJson, \
         CAST(l.version AS CHAR), l.stamp, l.metaJson \
         FROM (SELECT 1) AS one LEFT JOIN {locks} AS l ON l.id = '$namespace'"
    );
    TurnStatements {
        prepare: None,
        submit: None,
        take: Message::text(&take),
        missed: None,
        serve: Message::text("DO 0"),
        pass: pass(table),
        clean: None,
        check: Vec::new(),
    }
}

fn pass(table: &str) -> Message {
    let key = lock_name(table, "'$namespace'");
    Message::text(&format!("DO RELEASE_LOCK({key})"))
}

/// The fence is a shared lock, so that the guards of a session do not block each other. On a
/// cluster it is a write, because only a write reaches the other nodes.
fn fence(names: &TableNames, facts: &Facts) -> FenceStatement {
    let [_, _, fences] = names.quoted();
    if is_cluster(facts) {
        let sql = format!("UPDATE {fences} SET touched = touched + 1 WHERE session = ?");
        return FenceStatement {
            sql: sql.into(),
            reader: None,
            kind: FenceKind::Update,
            engine: DIALECT.name,
            looks_at_row: false,
            file: FileIdentity::none(),
            rows: FENCE_ROWS,
        };
    }
    let sql = format!("SELECT session FROM {fences} WHERE session = ? LIMIT 1 LOCK IN SHARE MODE");
    FenceStatement {
        sql: sql.into(),
        reader: None,
        kind: FenceKind::Query,
        engine: DIALECT.name,
        looks_at_row: false,
        file: FileIdentity::none(),
        rows: 1,
    }
}

fn catalog(names: &TableNames) -> Catalog {
    let plain = names.plain();
    let [locks, sessions, fences] = names.quoted();
    let list = plain
        .each_ref()
        .map(|table| format!("'{table}'"))
        .join(", ");
    let our_tables = format!("table_schema = DATABASE() AND table_name IN ({list})");
    Catalog {
        tables: format!(
            "SELECT CAST(table_name AS CHAR), \
             CAST(IF(table_type = 'BASE TABLE', 'table', LOWER(table_type)) AS CHAR), \
             CAST(IF(LOWER(engine) IN ('innodb', 'rocksdb', 'ndbcluster'), '', engine) AS CHAR) \
             FROM information_schema.tables WHERE {our_tables}"
        ),
        columns: format!(
            "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR), \
             CAST(CONCAT(data_type, ' ', COALESCE(character_set_name, '')) AS CHAR) \
             FROM information_schema.columns WHERE {our_tables} ORDER BY ordinal_position"
        ),
        keys: format!(
            "SELECT CAST(table_name AS CHAR), CAST(MIN(column_name) AS CHAR) \
             FROM information_schema.statistics WHERE {our_tables} AND non_unique = 0 \
             GROUP BY table_name, index_name HAVING COUNT(*) = 1 AND MIN(sub_part) IS NULL"
        ),
        rights: Rights::Statements(vec![
            format!("UPDATE {locks} SET version = version WHERE id = ''"),
            format!("INSERT INTO {locks} (id) SELECT id FROM {locks} WHERE 1 = 0"),
            format!("UPDATE {sessions} SET beat = beat WHERE id = ''"),
            format!(
                "INSERT INTO {sessions} (id, namespace, taskId, host, process, beat, seenAt) \
                 SELECT id, namespace, taskId, host, process, beat, seenAt FROM {sessions} \
                 WHERE 1 = 0"
            ),
            format!("DELETE FROM {sessions} WHERE id = ''"),
            format!("UPDATE {fences} SET touched = touched WHERE session = ''"),
            format!(
                "INSERT INTO {fences} (session, touched) SELECT session, touched FROM {fences} \
                 WHERE 1 = 0"
            ),
            format!("DELETE FROM {fences} WHERE session = ''"),
        ]),
        elsewhere: None,
    }
}

/// Whether a value cannot be stored: a character that the column's character set lacks, or a
/// text that is too long.
fn is_content(number: u16) -> bool {
    matches!(number, 1118 | 1300 | 1301 | 1366 | 1406 | 3854 | 3988)
}

/// The options without those that [`settings`] replaces.
pub(super) fn prepared(options: MySqlConnectOptions) -> MySqlConnectOptions {
    options
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .set_names(false)
}

impl Engine for MySql {
    const DIALECT: &'static Dialect = &DIALECT;

    fn rows_affected(result: &MySqlQueryResult) -> u64 {
        result.rows_affected()
    }

    fn classify(error: &dyn DatabaseError) -> (Class, Kind) {
        let number = error
            .try_downcast_ref::<MySqlDatabaseError>()
            .map_or(0, MySqlDatabaseError::number);
        let class = match number {
            // Deadlock, lock wait timeout, NOWAIT, record changed, interrupted, statement
            // timeout, too many connections, user limit; write conflicts of TiDB.
            1213 | 1205 | 3572 | 1020 | 1317 | 1969 | 3024 | 1040 | 1203 | 8002 | 8005 | 8022
            | 8028 | 9007 => Class::NotApplied,
            // Read-only server, read-only transaction, refused by an option; a statement that is
            // too long, after which the server closes the connection.
            // A node that has left its cluster. Another connection may lead to another node.
            // A connection that was idle for too long.
            1290 | 1792 | 1836 | 1153 | 1047 | 4031 => Class::ReadOnly,
            // A value that the table cannot store.
            number if is_content(number) => Class::NotApplied,
            // Denied, no database, missing or wrong tables, values out of range, duplicates,
            // unknown variables, a format of the binary log that forbids the isolation level.
            1044 | 1045 | 1046 | 1049 | 1054 | 1060 | 1050 | 1061 | 1062 | 1064 | 1142 | 1143
            | 1146 | 1193 | 1227 | 1264 | 1665 | 1698 => Class::Permanent,
            // The end of the server or of the connection, and errors during a commit.
            1053 | 1080 | 1152 | 1158..=1161 | 1180 | 1184 | 1196 | 1927 | 3169 => {
                Class::Indeterminate
            }
            // Any other error ends its statement only.
            1000..2000 | 3000..5000 => Class::NotApplied,
            _ => Class::Indeterminate,
        };
        let kind = match number {
            1153 => Kind::Content,
            number if is_content(number) => Kind::Content,
            1146 | 1054 => Kind::Missing,
            1050 | 1060 | 1061 | 1062 => Kind::Exists,
            1142 | 1143 | 1227 | 1290 | 1792 | 1836 => Kind::Denied,
            1205 | 3572 => Kind::Locked,
            1020 | 1213 => Kind::Conflict,
            _ => Kind::Other,
        };
        (class, kind)
    }
}

fence_connection!(MySql, MySqlConnection, Unfenced::Original);
