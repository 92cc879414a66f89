//! What callers ask for, and what they are told.

use std::{sync::Arc, time::Duration};

use super::time::Time;
use crate::{
    error::LockError,
    name::LockName,
    report::{Holder, Waiter},
    scope::ScopePath,
    table::{Nonce, SessionId},
};

/// Identifies a call that waits for an answer. The driver never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CallId(pub(crate) u64);

/// A request for locks.
#[derive(Clone, Debug)]
pub(crate) struct AcquireRequest {
    pub(crate) nonce: Nonce,
    pub(crate) task: Arc<str>,
    /// Sorted, each once.
    pub(crate) names: Arc<[LockName]>,
    pub(crate) path: ScopePath,
    pub(crate) policy: WaitPolicy,
}

/// How long a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitPolicy {
    /// The request is refused if a lock is not free.
    NoWait,
    /// The request waits in the queue, without end if there is no time-out.
    Wait { timeout: Option<Duration> },
}

/// A question about the row, which needs no write.
#[derive(Clone, Debug)]
pub(crate) enum Inspection {
    /// What is held.
    Held,
    /// What waits.
    Waiting,
    /// Whether a grant is still there.
    Confirm(Nonce, Check),
    /// Whether a detached lock is there. If so, its release begins, and the call is
    /// answered when the release is done.
    ReleaseName(Arc<str>, LockName),
}

/// Where a grant is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// In the row, as it is now.
    Row,
    /// In the rows of its session.
    Session,
}

/// Locks that a supervisor takes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Everything that a task holds.
    Task(Arc<str>),
    /// Everything.
    All,
}

/// A grant, as its guard needs it.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) nonce: Nonce,
    pub(crate) names: Arc<[LockName]>,
    pub(crate) token: i64,
    pub(crate) session: SessionId,
    /// When the lease of the session ends, on the boot clock; `None`: never.
    pub(crate) deadline: Option<Time>,
    /// The fence row of the guard.
    pub(crate) fence_row: Arc<str>,
}

/// Why a grant is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) reason: &'static str,
    /// The task that holds one of the locks now, where that was seen.
    pub(crate) by: Option<Arc<str>>,
}

/// What a call is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    Holders(Vec<Holder>),
    Waiters(Vec<Waiter>),
    /// The grant that the call is about is lost.
    Lost(Loss),
    Failed(LockError),
}
