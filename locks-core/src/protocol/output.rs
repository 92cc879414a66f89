//! What goes out of the protocol.

use std::sync::Arc;

use super::{input::CallId, query::Query, renewals::Renewal, task::Task, time::Time};
use crate::{
    error::LockError,
    name::LockName,
    process::Identity,
    report::{Holder, Waiter},
    table::{Nonce, SessionId},
};

/// What one namespace wants done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Run a task on a side connection.
    Task(Task),
    /// Look which of these processes have ended. The answer is
    /// [`Input::ProcessesExited`](super::Input::ProcessesExited).
    CheckProcesses(Vec<(SessionId, Identity)>),
    /// A request is granted.
    Granted(Granted),
    /// A request is refused.
    Failed(Nonce, LockError),
    /// A call has its answer.
    Answer(CallId, Answer),
    /// A grant is lost.
    Lost(Nonce, Loss),
    /// The lease of a session ends at this point of the boot clock.
    LeaseExtended(SessionId, Time),
    /// A session is no longer used.
    LeaseEnded(SessionId),
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

/// What a driver has to do for its namespaces.
#[derive(Debug)]
pub(crate) enum DriverOutput {
    /// Run a query of this namespace on the connection of the rows.
    Query(Arc<str>, Query),
    /// Run a renewal on its connection.
    Renew(Renewal),
    /// What one namespace wants done.
    From(Arc<str>, Output),
    /// Nothing is pending any more.
    Flushed,
    /// The driver ends. The calls are answered when its connections are closed.
    Ended {
        calls: Vec<CallId>,
        error: Option<LockError>,
    },
}
