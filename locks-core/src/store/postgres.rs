//! PostgreSQL, and what speaks its protocol.

use sqlx::{PgConnection, Postgres, error::DatabaseError, postgres::PgQueryResult};

use super::{
    connection::{Lock, Statements},
    failure::{Class, Kind},
    run::Engine,
};
use crate::{
    error::Result,
    fence::{fence_connection, sealed::Unfenced},
};

/// The channel on which changes are told; the payload is the namespace.
pub(super) const CHANNEL: &str = "locks_changed";

const STATEMENTS: Statements = Statements {
    settings: &[],
    // A long text is packed before it is written: in half the time, where the server can.
    optional_settings: &["SET default_toast_compression = 'lz4'"],
    migration: include_str!("../../migrations/postgres/0001_locks.sql"),
    migration_path: "migrations/postgres/0001_locks.sql",
    placeholder: |number| format!("${number}"),

    read: "SELECT dataJson, version, stamp, metaJson FROM locks WHERE id = $1",
    lock: Some(Lock {
        begin: "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '1s'",
        read: "SELECT dataJson, version, stamp, metaJson FROM locks WHERE id = $1 FOR UPDATE",
    }),
    peek: "SELECT version, stamp FROM locks WHERE id = $1",
    swap: "UPDATE locks SET dataJson = $1, metaJson = $2, stamp = $3, version = version + 1 \
           WHERE id = $4 AND version = $5 AND stamp = $6",
    // The lock keeps an eviction back until the write is done; renewals go on.
    alive: (
        " AND (SELECT COUNT(*) FROM (SELECT 1 FROM lock_sessions WHERE id IN",
        " FOR KEY SHARE) AS alive) = ",
    ),
    adopt: "UPDATE locks \
            SET version = GREATEST($1, (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint), \
                stamp = $2, metaJson = '{}' \
            WHERE id = $3 AND version = $4 AND stamp IS NULL",
    create: "INSERT INTO locks (id, dataJson, version, stamp, metaJson) \
             VALUES ($1, '{}', \
                     GREATEST($2, (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint), \
                     $3, '{}')",

    insert_session: "INSERT INTO lock_sessions \
                     (id, namespace, taskId, host, process, ttlMs, beat, seenAt) \
                     VALUES ($1, $2, $3, $4, $5, $6, 0, clock_timestamp())",
    insert_fence: "INSERT INTO lock_fences (session, touched) VALUES ($1, 0)",
    renew: "UPDATE lock_sessions SET beat = beat + 1, seenAt = clock_timestamp() WHERE id IN",
    liveness: "SELECT f.session, s.id, s.taskId, s.host, s.process, s.ttlMs, s.beat \
               FROM lock_fences f LEFT JOIN lock_sessions s ON s.id = f.session \
               WHERE f.session IN",
    sessions_in: "SELECT id, taskId, host, process, ttlMs, beat FROM lock_sessions \
                  WHERE namespace = $1",
    fences_in: "SELECT session FROM lock_fences WHERE SUBSTR(session, 1, $1::int) = $2",
    delete_session: "DELETE FROM lock_sessions WHERE id = $1",
    delete_session_at: "DELETE FROM lock_sessions WHERE id = $1 AND beat = $2",
    delete_fence: "DELETE FROM lock_fences WHERE session = $1",
    touch_fence: "UPDATE lock_fences SET touched = touched + 1 WHERE session = $1",

    // It need not be on the disk: who misses it looks before long.
    notify: Some(
        "SELECT set_config('synchronous_commit', 'off', true), pg_notify('locks_changed', $1)",
    ),
    data_version: None,
};

impl Engine for Postgres {
    const STATEMENTS: &'static Statements = &STATEMENTS;

    fn rows_affected(result: &PgQueryResult) -> u64 {
        result.rows_affected()
    }

    fn classify(error: &dyn DatabaseError) -> (Class, Kind) {
        let code = error.code().unwrap_or_default();
        // https://www.postgresql.org/docs/current/errcodes-appendix.html
        let class = match &*code {
            "40001" | "40P01" | "55P03" | "57014" | "53300" | "57P03" => Class::Retry,
            "25006" => Class::WrongNode,
            "22003" | "23505" => Class::Hopeless,
            code if ["42", "28", "3D", "22"]
                .iter()
                .any(|class| code.starts_with(class)) =>
            {
                Class::Hopeless
            }
            _ => Class::Unknown,
        };
        let kind = match &*code {
            "42P01" | "42703" => Kind::Missing,
            "23505" | "42P07" | "42701" | "42710" => Kind::Exists,
            "42501" | "25006" => Kind::Denied,
            _ => Kind::Other,
        };
        (class, kind)
    }
}

fence_connection!(
    Postgres,
    PgConnection,
    STATEMENTS.touch_fence,
    Unfenced::Original
);
