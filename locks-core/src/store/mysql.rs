//! MySQL and MariaDB, clusters and `TiDB` included.

use sqlx::{
    MySql, MySqlConnection,
    error::DatabaseError,
    mysql::{MySqlDatabaseError, MySqlQueryResult},
};

use super::{
    connection::{Lock, Statements},
    failure::{Class, Kind},
    run::Engine,
};
use crate::{
    error::Result,
    fence::{fence_connection, sealed::Unfenced},
};

const STATEMENTS: Statements = Statements {
    settings: &[
        "SET autocommit = 1",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    ],
    // A Galera node answers reads only when it has caught up with the cluster.
    optional_settings: &["SET SESSION wsrep_sync_wait = 1"],
    migration: include_str!("../../migrations/mysql/0001_locks.sql"),
    migration_path: "migrations/mysql/0001_locks.sql",
    placeholder: |_| "?".into(),

    read: "SELECT dataJson, version, stamp, metaJson FROM locks WHERE id = ?",
    // TiDB and MySQL do not know the variable; there it stays a race.
    lock: Some(Lock {
        begin: "SET SESSION idle_transaction_timeout = 1; START TRANSACTION",
        read: "SELECT dataJson, version, stamp, metaJson FROM locks WHERE id = ? FOR UPDATE",
    }),
    peek: "SELECT version, stamp FROM locks WHERE id = ?",
    swap: "UPDATE locks SET dataJson = ?, metaJson = ?, stamp = ?, version = version + 1 \
           WHERE id = ? AND version = ? AND stamp = ?",
    alive: (
        " AND (SELECT COUNT(*) FROM lock_sessions WHERE id IN",
        ") = ",
    ),
    adopt: "UPDATE locks \
            SET version = GREATEST(?, CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)), \
                stamp = ?, metaJson = '{}' \
            WHERE id = ? AND version = ? AND stamp IS NULL",
    create: "INSERT INTO locks (id, dataJson, version, stamp, metaJson) \
             VALUES (?, '{}', \
                     GREATEST(?, CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)), \
                     ?, '{}')",

    insert_session: "INSERT INTO lock_sessions \
                     (id, namespace, taskId, host, process, ttlMs, beat, seenAt) \
                     VALUES (?, ?, ?, ?, ?, ?, 0, SYSDATE(6))",
    insert_fence: "INSERT INTO lock_fences (session, touched) VALUES (?, 0)",
    renew: "UPDATE lock_sessions SET beat = beat + 1, seenAt = SYSDATE(6) WHERE id IN",
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
    data_version: None,
};

impl Engine for MySql {
    const STATEMENTS: &'static Statements = &STATEMENTS;

    fn rows_affected(result: &MySqlQueryResult) -> u64 {
        result.rows_affected()
    }

    fn classify(error: &dyn DatabaseError) -> (Class, Kind) {
        let number = error
            .try_downcast_ref::<MySqlDatabaseError>()
            .map_or(0, MySqlDatabaseError::number);
        let class = match number {
            // Deadlock, lock wait, record changed, interrupted, statement time, too
            // many connections, user limit, node not ready; TiDB's write conflicts.
            1213 | 1205 | 1020 | 1317 | 1969 | 3024 | 1040 | 1203 | 1047 | 8002 | 8005 | 8022
            | 8028 | 9007 => Class::Retry,
            // Read-only, read-only transaction, option prevents.
            1290 | 1792 | 1836 => Class::WrongNode,
            // Denied, missing or unfit tables, values out of range, duplicates, unknown
            // variables.
            1044 | 1045 | 1049 | 1054 | 1060 | 1050 | 1062 | 1064 | 1142 | 1143 | 1146 | 1193
            | 1227 | 1264 | 1366 | 1406 | 1698 => Class::Hopeless,
            _ => Class::Unknown,
        };
        let kind = match number {
            1146 | 1054 => Kind::Missing,
            1050 | 1060 | 1062 => Kind::Exists,
            1142 | 1143 | 1227 | 1290 | 1792 | 1836 => Kind::Denied,
            _ => Kind::Other,
        };
        (class, kind)
    }
}

fence_connection!(
    MySql,
    MySqlConnection,
    STATEMENTS.touch_fence,
    Unfenced::Original
);
