//! The rows of the three tables as values.

use std::{sync::Arc, time::Duration};

use crate::{process::Identity, table::SessionId};

/// Identifies the write that made a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowVersion {
    pub(crate) version: i64,
    /// `None`: the original made this row, and it has not been adopted.
    pub(crate) stamp: Option<String>,
}

/// The locks row of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocksRow {
    pub(crate) version: RowVersion,
    pub(crate) data_json: Option<String>,
    pub(crate) meta_json: Option<String>,
}

/// A session to be inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewSession {
    pub(crate) id: SessionId,
    pub(crate) namespace: Arc<str>,
    pub(crate) task: Arc<str>,
    pub(crate) process: Identity,
    /// `None`: it never expires.
    pub(crate) ttl: Option<Duration>,
}

/// The row of a session in `lock_sessions`: its heartbeat row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionRow {
    pub(crate) id: SessionId,
    pub(crate) task: String,
    pub(crate) process: Identity,
    /// `None`: it never expires.
    pub(crate) ttl: Option<Duration>,
    /// It grows with every renewal.
    pub(crate) heartbeat: i64,
}

/// The conditions of a compare-and-set on the rows of sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preconditions {
    /// The sessions of new grants and queued requests: each must have its heartbeat row.
    pub(crate) alive: Vec<SessionId>,
    /// Sessions whose locks the write removes: none may have a fence row.
    pub(crate) dead: Vec<SessionId>,
    /// A session of this process, whose fence row must be visible if `dead` is not empty. It
    /// proves that fence rows are visible at all.
    pub(crate) witness: Option<SessionId>,
}

/// The state of a session, from its two rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// Both rows exist. The heartbeat may have stopped.
    Alive(SessionRow),
    /// The heartbeat row was deleted and the fence row was not: an eviction is under way.
    Evicting,
    /// Both rows were deleted. A session never leaves this state.
    Dead,
}
