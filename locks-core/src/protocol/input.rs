//! What comes into the protocol.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    call::{AcquireRequest, CallId, Inspection, Removal},
    query::Completion,
    renewal::Renewed,
    task::{Task, TaskResult},
};
use crate::{
    store::ChangeSource,
    table::{Nonce, SessionId},
};

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
    /// No side connection could be opened for a task.
    NoConnection(Task),
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
