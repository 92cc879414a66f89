//! What callers ask of their driver.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::session::Tenure;

use crate::{
    error::{LockError, Result},
    guard::LockGuard,
    name::LockName,
    report::{Holder, Waiter},
    scope::ScopePath,
    table::Nonce,
};

/// Where the answer goes. Nobody may be there any more.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// For whom a handle acts.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seat {
    pub(crate) namespace: Arc<str>,
    pub(crate) task: Arc<str>,
}

/// How long a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// At once, or not at all.
    AtOnce,
    /// In turn, for at most so long.
    InTurn { limit: Option<Duration> },
}

/// A lock that is asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) seat: Arc<Seat>,
    pub(crate) nonce: Nonce,
    pub(crate) names: Arc<[LockName]>,
    pub(crate) path: ScopePath,
    pub(crate) mode: Mode,
    pub(crate) sent: Instant,
    pub(crate) reply: Reply<LockGuard>,
}

/// A message to the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Acquire(Request),
    /// The caller of this request is gone.
    Abandon(Arc<Seat>, Nonce),
    /// The guard of this grant is gone; whether somebody waits for its release.
    Release(Arc<Seat>, Nonce, Arc<Tenure>, Option<Reply<()>>),
    /// The guard is gone, and the lock stays.
    Detach(Arc<Seat>, Nonce),
    Chore(Arc<str>, Chore),
    Close(Reply<()>),
    /// Nobody can ask for anything any more.
    LastHandle,
}

impl Command {
    /// Answers with an error, where an answer is waited for.
    pub(crate) fn fail(self, error: LockError) {
        // Where the caller is gone, nobody wants the error.
        match self {
            Self::Acquire(request) => drop(request.reply.send(Err(error))),
            Self::Release(.., Some(reply)) | Self::Close(reply) => drop(reply.send(Err(error))),
            Self::Chore(_, chore) => chore.fail(error),
            Self::Release(.., None) | Self::Abandon(..) | Self::Detach(..) | Self::LastHandle => {}
        }
    }
}

/// What is not about a request of one's own.
#[derive(Debug)]
pub(crate) enum Chore {
    /// Release a detached lock by its name.
    ReleaseName(Arc<str>, LockName, Reply<()>),
    ReleaseTask(Arc<str>, Reply<Vec<Holder>>),
    ReleaseAll(Reply<Vec<Holder>>),
    Held(Reply<Vec<Holder>>),
    Waiting(Reply<Vec<Waiter>>),
    /// Is this grant still there?
    Confirm(Nonce, Check, Reply<()>),
}

/// Where a grant is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// In the row, as it is now.
    Row,
    /// In the rows of its session.
    Session,
}

impl Chore {
    /// Whether it asks for this grant.
    pub(super) fn confirms(&self, nonce: Nonce) -> bool {
        matches!(self, Self::Confirm(asked, ..) if *asked == nonce)
    }

    /// Answers with an error.
    pub(crate) fn fail(self, error: LockError) {
        // Where the caller is gone, nobody wants the error.
        match self {
            Self::ReleaseName(_, _, reply) | Self::Confirm(_, _, reply) => {
                drop(reply.send(Err(error)));
            }
            Self::ReleaseTask(_, reply) | Self::ReleaseAll(reply) | Self::Held(reply) => {
                drop(reply.send(Err(error)));
            }
            Self::Waiting(reply) => drop(reply.send(Err(error))),
        }
    }
}
