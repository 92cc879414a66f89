//! What handles and guards send to their driver.

use std::{fmt, sync::Arc, time::Duration};

use super::{grant::Grant, lease::GrantState, watches::Watch};
use crate::{
    error::{LockError, Result},
    name::{LockName, Names},
    protocol::{Check, Removal, WaitPolicy},
    report::{Holder, Waiter},
    scope::ScopePath,
    table::Nonce,
};

/// Where an answer goes. The caller may be gone.
pub(crate) struct Reply<T>(Box<dyn FnOnce(Result<T>) + Send>);

impl<T> Reply<T> {
    pub(crate) fn new(send: impl FnOnce(Result<T>) + Send + 'static) -> Self {
        Self(Box::new(send))
    }

    pub(super) fn send(self, answer: Result<T>) {
        (self.0)(answer);
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// For which namespace and task a handle acts.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) namespace: Arc<str>,
    pub(crate) task: Arc<str>,
}

/// A message to the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Acquire {
        owner: Arc<Owner>,
        nonce: Nonce,
        names: Names,
        path: ScopePath,
        policy: WaitPolicy,
        max_hold: Option<Duration>,
        reply: Reply<Grant>,
    },
    /// The caller of a request is gone.
    Cancel {
        namespace: Arc<str>,
        nonce: Nonce,
    },
    /// The guard of a grant is gone.
    Release {
        namespace: Arc<str>,
        nonce: Nonce,
        state: Arc<GrantState>,
        reply: Option<Reply<()>>,
    },
    /// The guard of a grant is gone, and its locks stay.
    Detach {
        namespace: Arc<str>,
        nonce: Nonce,
        state: Arc<GrantState>,
    },
    /// Is this grant still there?
    Confirm {
        namespace: Arc<str>,
        nonce: Nonce,
        check: Check,
        state: Arc<GrantState>,
        reply: Reply<()>,
    },
    /// Release a detached lock by its name.
    ReleaseName {
        owner: Arc<Owner>,
        name: LockName,
        reply: Reply<()>,
    },
    Remove {
        namespace: Arc<str>,
        what: Removal,
        reply: Reply<Vec<Holder>>,
    },
    Held {
        namespace: Arc<str>,
        reply: Reply<Vec<Holder>>,
    },
    Waiting {
        namespace: Arc<str>,
        reply: Reply<Vec<Waiter>>,
    },
    /// Answer when what is held or waits has changed.
    Watch(Watch),
    Close(Reply<()>),
    /// No handle is left.
    HandlesGone,
}

impl Command {
    /// Answers with an error, if an answer is waited for.
    pub(super) fn fail(self, error: LockError) {
        match self {
            Self::Acquire { reply, .. } => reply.send(Err(error)),
            Self::Release {
                reply: Some(reply), ..
            }
            | Self::Confirm { reply, .. }
            | Self::ReleaseName { reply, .. }
            | Self::Close(reply) => reply.send(Err(error)),
            Self::Remove { reply, .. } | Self::Held { reply, .. } => reply.send(Err(error)),
            Self::Waiting { reply, .. } => reply.send(Err(error)),
            Self::Watch(watch) => watch.reply.send(Err(error)),
            Self::Release { reply: None, .. }
            | Self::Cancel { .. }
            | Self::Detach { .. }
            | Self::HandlesGone => {}
        }
    }
}
