//! What goes out of the protocol.

use std::sync::Arc;

use super::{
    call::{Answer, CallId, Granted, Loss},
    query::Query,
    renewal::Renewal,
    task::Task,
    time::Time,
};
use crate::{
    error::LockError,
    process::Identity,
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
    /// The time of a grant is over, so that it is lost. It is released when
    /// [`Input::Release`](super::Input::Release) comes, which says whether a transaction that was
    /// fenced with its guard may still be open.
    HeldTooLong(Nonce, Loss),
    /// The lease of a session ends at this point of the boot clock.
    LeaseExtended(SessionId, Time),
    /// Renewals of a session are late: at most half of its ttl is left of its lease.
    LeaseEndangered(SessionId),
    /// A session is no longer used.
    LeaseEnded(SessionId),
}

/// What a driver has to do for its namespaces.
#[derive(Debug)]
pub(crate) enum DriverOutput {
    /// Run a query of this namespace on the connection of the rows.
    Query(Arc<str>, Query),
    /// Run a renewal on its connection.
    Renew(Renewal),
    /// Run a renewal on the connection of the rows, because its own could not be opened.
    RenewOverRows(Renewal),
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
