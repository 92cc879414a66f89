//! The SQL text of one engine, with the tables' names in it.

use std::sync::Arc;

use crate::error::{LockError, Result};

/// The statements of one engine. Placeholders stand in the order of the arguments.
#[derive(Debug)]
pub(super) struct Statements {
    /// Name of the placeholder with this number, from 1.
    pub(super) placeholder: fn(usize) -> String,

    /// id → dataJson, version, stamp, metaJson
    pub(super) read: String,
    /// The row lock, where the server grants it in order of arrival and ends a
    /// transaction that is idle while it holds it.
    pub(super) lock: Option<Lock>,
    /// id → version, stamp
    pub(super) read_version: String,
    /// (list of ids follows) → id, version, stamp, number of rows
    pub(super) read_versions: String,
    /// dataJson, metaJson, new stamp, new version, id, version, stamp
    pub(super) compare_and_set: String,
    /// A condition behind `compare_and_set`, for a list of sessions that must have their rows; the
    /// number of sessions follows as the last argument.
    pub(super) alive: Condition,
    /// A condition behind `compare_and_set`, for a list of sessions; how many of them must have a
    /// fence row follows.
    pub(super) dead: Condition,
    /// new version, stamp, id, version: only where the row has no stamp
    pub(super) adopt: String,
    /// id, version, stamp
    pub(super) create: String,

    /// (rows follow, each: id, namespace, task, host, process, ttl)
    pub(super) insert_sessions: String,
    /// What a row of `insert_sessions` has behind its arguments.
    pub(super) insert_sessions_end: &'static str,
    /// (rows follow, each: session)
    pub(super) insert_fences: String,
    /// (list of ids follows)
    pub(super) renew: String,
    /// (list of ids follows) → those with a fence: fence, id, taskId, host, process,
    /// ttlMs, beat, number of rows; all but the fence and the number NULL where the
    /// beat row is gone
    pub(super) liveness: String,
    /// namespace → id, taskId, host, process, ttlMs, beat, number of rows
    pub(super) sessions_in: String,
    /// start and end of a range of sessions → session, number of rows
    pub(super) fences_in: String,
    /// id
    pub(super) delete_session: String,
    /// id, beat
    pub(super) delete_session_at: String,
    /// (list of ids follows)
    pub(super) delete_sessions: String,
    /// start and end of a range of fence rows; fails at once where a transaction has one
    /// of them, where the engine can
    pub(super) try_fences: Option<String>,
    /// start and end of a range of fence rows
    pub(super) delete_fences: String,
    /// (list of fence rows and `FOR UPDATE NOWAIT` follow)
    pub(super) try_fence_list: Option<String>,
    /// (list of fence rows follows)
    pub(super) delete_fence_list: String,
    /// A condition behind `delete_fences`: session, other session, number → the first has
    /// no beat row, and the other one has this number
    pub(super) without_beat: String,
    /// A condition behind `delete_session`: namespace → there is no locks row
    pub(super) without_row: String,
    /// A condition behind `delete_session`: namespace, version → the locks row is of
    /// this version and has no stamp
    pub(super) with_unstamped_row: String,
    /// fence row: they fail while an open transaction is fenced with it. None: every write
    /// of the engine waits for such transactions.
    pub(super) await_fence: Vec<String>,

    /// namespace and version, where the engine can wake other processes
    pub(super) notify: Option<String>,
    /// → a number that changes when another connection writes, where asking is nearly free
    pub(super) data_version: Option<&'static str>,
}

/// How a row is read under its lock.
#[derive(Debug)]
pub(super) struct Lock {
    pub(super) begin: &'static str,
    /// What follows `begin`: the server ends the transaction if it is idle for a second.
    pub(super) limit: Option<&'static str>,
    /// id → dataJson, version, stamp, metaJson
    pub(super) read: String,
    /// Both name their chain and release behaviour, where a setting could change it.
    pub(super) commit: &'static str,
    pub(super) rollback: &'static str,
}

/// A condition on a list: the text before the list, and behind it.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) before: String,
    pub(super) after: &'static str,
}

/// What an application's transaction runs to be fenced.
#[derive(Clone, Debug)]
pub(crate) struct FenceStatement {
    pub(super) sql: Arc<str>,
    /// A query to run instead where the transaction has read, and may not write any more.
    pub(super) reader: Option<Arc<str>>,
    /// Whether `sql` is a query, which returns one row, or an update of one.
    pub(super) kind: FenceKind,
    pub(super) engine: &'static str,
    /// Whether the statements also look for the grant in the locks row: their arguments
    /// are then the fence row, the namespace, and a text that only this grant has.
    pub(super) looks_at_row: bool,
    /// How many fence rows a session has.
    pub(crate) rows: usize,
}

#[allow(dead_code, reason = "which of them are made depends on the engines")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FenceKind {
    Query,
    Update,
}

/// The fence of one grant.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    pub(super) statement: FenceStatement,
    /// The key of the fence row.
    row: Arc<str>,
    namespace: Arc<str>,
    /// A text that `metaJson` has while the grant stands in it, and only then.
    marker: Arc<str>,
}

impl Fence {
    pub(crate) fn new(
        statement: FenceStatement,
        row: Arc<str>,
        namespace: Arc<str>,
        marker: Arc<str>,
    ) -> Self {
        Self {
            statement,
            row,
            namespace,
            marker,
        }
    }

    /// The arguments of its statements.
    pub(super) fn args(&self) -> impl Iterator<Item = &str> {
        let more = if self.statement.looks_at_row { 3 } else { 1 };
        let all = [&*self.row, &*self.namespace, &*self.marker];
        all.into_iter().take(more)
    }
}

impl FenceStatement {
    /// Whether a connection of this engine can be in the database of the locks.
    pub(super) fn check(&self, engine: &str) -> Result<()> {
        if self.engine == engine {
            return Ok(());
        }
        Err(LockError::config(
            "connection",
            format!(
                "the locks are in {}, and this connection is to {engine}: \
                 a transaction is fenced in the database of its locks",
                self.engine
            ),
        ))
    }
}
