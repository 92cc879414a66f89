//! Tasks: what runs on side connections, because an application's transaction may be in
//! the way.
//!
//! No task waits for such a transaction on the server. It fails with
//! [`Kind::Locked`](crate::store::Kind::Locked) and is run again later.

use std::sync::Arc;

use super::call::{CallId, Removal};
use crate::{
    report::Holder,
    store::{Failure, LocksRow, SessionRow},
    table::SessionId,
};

/// Why a session may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EvictReason {
    /// Its heartbeat did not change from this value.
    HeartbeatExpired { heartbeat: i64 },
    /// Its process has ended.
    ProcessExited,
    /// It is a session of this process that must not be used any more, or one whose lock
    /// was stolen.
    Lost,
    /// Another process began to evict it.
    Resumed,
}

/// Identifies a release of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReleaseId(u64);

impl ReleaseId {
    pub(super) fn new(number: u64) -> Self {
        Self(number)
    }
}

/// Something for a side connection.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::enum_variant_names,
    reason = "the names are those of the statements"
)]
pub(crate) enum Task {
    /// Open the connection, because an eviction may follow soon.
    Prepare,
    /// Read the row and the sessions of the namespace, to answer a call that the connection of the
    /// rows does not answer in time.
    ReadRow(CallId),
    /// Read the sessions of the namespace, to answer a call.
    ReadSessions(CallId),
    /// Delete the rows of a session, the heartbeat row first.
    Evict {
        session: SessionId,
        reason: EvictReason,
        /// A session of this process, which an answer has to show.
        witness: Option<SessionId>,
    },
    /// Delete all sessions of the namespace, whose row has no stamp and is still of this
    /// version. `None`: there is no row.
    EvictAll(Option<i64>),
    /// List the sessions whose locks a removal takes away, and what they hold.
    ListHolders { call: CallId, what: Removal },
    /// Delete these sessions, whose locks a removal takes away.
    EvictHolders {
        call: CallId,
        sessions: Vec<SessionId>,
    },
    /// Check that no open transaction is fenced with this fence row, so that the release
    /// can go on.
    AwaitFence { row: Arc<str>, release: ReleaseId },
    /// Delete sessions of this process that hold and wait for nothing.
    DeleteIdleSessions(Vec<SessionId>),
    /// Delete sessions of this process, as the last thing before the driver ends.
    DeleteOwnSessions(Vec<SessionId>),
}

/// A task that is done.
#[derive(Debug)]
pub(crate) enum TaskResult {
    Prepared(Result<(), Failure>),
    RowRead {
        call: CallId,
        result: Result<(Option<LocksRow>, Vec<SessionRow>), Failure>,
    },
    SessionsRead {
        call: CallId,
        result: Result<Vec<SessionRow>, Failure>,
    },
    /// Whether the session is dead now. If it is not, it is alive.
    Evicted {
        session: SessionId,
        reason: EvictReason,
        result: Result<bool, Failure>,
    },
    /// The sessions that are dead now. `None`: the row had changed.
    AllEvicted(Result<Option<Vec<SessionId>>, Failure>),
    HoldersListed {
        call: CallId,
        result: Result<Listed, Failure>,
    },
    HoldersEvicted {
        call: CallId,
        result: Result<Evicted, Failure>,
    },
    FenceAwaited {
        row: Arc<str>,
        release: ReleaseId,
        result: Result<(), Failure>,
    },
    IdleSessionsDeleted {
        sessions: Vec<SessionId>,
        result: Result<(), Failure>,
    },
    OwnSessionsDeleted {
        sessions: Vec<SessionId>,
        result: Result<(), Failure>,
    },
}

/// The sessions whose locks a removal takes away.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) sessions: Vec<SessionId>,
    /// What they hold.
    pub(crate) held: Vec<Holder>,
}

/// What the eviction of sessions did.
#[derive(Debug, Default)]
pub(crate) struct Evicted {
    /// The sessions that are dead now.
    pub(crate) dead: Vec<SessionId>,
    /// Why the others are not dead yet.
    pub(crate) stuck: Option<Failure>,
}
