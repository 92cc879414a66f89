//! What comes into the protocol.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{query::Completion, renewals::Renewed, task::TaskResult};
use crate::{
    name::LockName,
    scope::ScopePath,
    store::ChangeSource,
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

/// What happens to one namespace.
#[derive(Debug)]
pub(crate) enum Input {
    Acquire(AcquireRequest),
    /// The caller of a request is gone.
    Cancel(Nonce),
    /// The guard of a grant is gone.
    Release {
        nonce: Nonce,
        /// Whether a transaction that was fenced with the guard may still be open.
        fenced: bool,
        /// The call that waits for the release.
        call: Option<CallId>,
    },
    /// The guard of a grant is gone, and its locks stay.
    Detach {
        nonce: Nonce,
        fenced: bool,
    },
    Inspect(CallId, Inspection),
    Remove(CallId, Removal),
    /// Everything is released, except for detached locks that never expire. `fenced` are
    /// the grants with a fenced transaction that may still be open.
    Close {
        fenced: BTreeSet<Nonce>,
    },
    /// No handle acts for this task any more.
    OwnerGone(Arc<str>),
    /// A query is done.
    Completed(Completion),
    /// A task is done.
    TaskDone(TaskResult),
    /// The processes of these sessions have ended.
    ProcessesExited(Vec<SessionId>),
    /// A lease ended before it could be extended.
    LeaseExpired(SessionId),
    /// Another process says that the row is of this version now.
    Changed(i64),
    /// The row may have changed without a notification.
    MayHaveChanged,
    /// How changes of other processes become known from now on.
    ChangeSource(ChangeSource),
    /// Time has passed.
    Timeout,
}

/// What happens to all namespaces of a driver.
#[derive(Debug)]
pub(crate) enum DriverInput {
    /// Something happens to one namespace.
    To(Arc<str>, Input),
    /// A renewal is done.
    Renewed(Renewed),
    /// Everything is released and the driver ends. The calls are answered when it has ended.
    Close {
        call: Option<CallId>,
        fenced: BTreeSet<Nonce>,
    },
    /// No handle is left: the driver ends, unless it has to renew detached locks.
    HandlesGone {
        fenced: BTreeSet<Nonce>,
    },
    MayHaveChanged,
    ChangeSource(ChangeSource),
    Timeout,
}
