//! The call of an annotated function, before it has its locks.

use std::time::Duration;

use crate::{
    error::{LockError, Result},
    manager::LockManager,
    matrix::ConflictMatrix,
    name::{LockName, Mode, Names},
    protocol::WaitPolicy,
};

/// The locks that a call needs, and the options of the attribute.
#[must_use]
pub struct Call {
    names: Result<Vec<(LockName, Mode)>>,
    matrix: Option<ConflictMatrix>,
    manager: Option<LockManager>,
    pub(super) wait_policy: WaitPolicy,
    pub(super) max_hold: Option<Duration>,
    pub(super) on_lost: OnLost,
}

/// What a call does when its lock is lost while the body runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnLost {
    /// Drops an `async` body and returns [`LockError::Lost`].
    Cancel,
    /// Lets the body run to its end and returns its result.
    Continue,
}

impl Call {
    /// A call that waits for all of `names` without end.
    pub fn new<const N: usize>(names: [Result<LockName>; N]) -> Self {
        let names = names.into_iter();
        Self {
            names: names.map(|name| Ok((name?, Mode::Exclusive))).collect(),
            matrix: None,
            manager: None,
            wait_policy: WaitPolicy::Wait { timeout: None },
            max_hold: None,
            on_lost: OnLost::Cancel,
        }
    }

    /// Asks for `names` as well, shared.
    pub fn shared<const N: usize>(mut self, names: [Result<LockName>; N]) -> Self {
        let names = names.into_iter();
        let shared = names.map(|name| Ok((name?, Mode::Shared)));
        self.names = self.names.and_then(|mut names| {
            names.extend(shared.collect::<Result<Vec<_>>>()?);
            Ok(names)
        });
        self
    }

    /// Loses the locks when they are held for `secs` seconds and `nanos` nanoseconds.
    pub fn max_hold(mut self, secs: u64, nanos: u32) -> Self {
        self.max_hold = Some(Duration::new(secs, nanos));
        self
    }

    /// Fails at once if a lock is not available.
    pub fn no_wait(mut self) -> Self {
        self.wait_policy = WaitPolicy::NoWait;
        self
    }

    /// Fails if the locks were not granted within `secs` seconds and `nanos` nanoseconds.
    pub fn timeout(mut self, secs: u64, nanos: u32) -> Self {
        self.wait_policy = WaitPolicy::Wait {
            timeout: Some(Duration::new(secs, nanos)),
        };
        self
    }

    /// Lets the body run to its end after the lock is lost.
    pub fn continue_when_lost(mut self) -> Self {
        self.on_lost = OnLost::Continue;
        self
    }

    /// Fails if the manager was built with a matrix other than `matrix`.
    pub fn matrix(mut self, matrix: &ConflictMatrix) -> Self {
        self.matrix = Some(*matrix);
        self
    }

    /// Uses `manager` instead of the default manager.
    pub fn manager(mut self, manager: &LockManager) -> Self {
        self.manager = Some(manager.clone());
        self
    }

    /// The manager to ask and the names to ask for.
    pub(super) fn into_parts(self) -> Result<(LockManager, Names)> {
        let manager = match self.manager {
            Some(manager) => manager,
            None => LockManager::current()?,
        };
        if let Some(matrix) = &self.matrix
            && !matrix.same_as(&manager.matrix())
        {
            return Err(LockError::config(
                "matrix",
                "`#[with_lock]` and the manager use different matrices; give both the same one",
            ));
        }
        Ok((manager, self.names?.into_iter().collect()))
    }
}
