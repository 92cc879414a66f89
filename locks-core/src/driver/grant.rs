//! A grant that is released when it is dropped.

use std::{fmt, sync::Arc};

use super::{
    command::{Command, Reply},
    handle::Driver,
    lease::GrantState,
};
use crate::{protocol::Check, table::Nonce};

/// A grant of the driver. Dropping it releases the locks through the driver, without
/// blocking.
///
/// It exists before it is sent to the caller, so that it releases also when the caller is
/// gone.
pub(crate) struct Grant {
    driver: Arc<Driver>,
    namespace: Arc<str>,
    nonce: Nonce,
    state: Arc<GrantState>,
    /// Whether it was released or detached by name.
    done: bool,
}

impl Grant {
    pub(super) fn new(
        driver: Arc<Driver>,
        namespace: Arc<str>,
        nonce: Nonce,
        state: Arc<GrantState>,
    ) -> Self {
        Self {
            driver,
            namespace,
            nonce,
            state,
            done: false,
        }
    }

    /// The grant ends, or goes on without a guard.
    fn end(&mut self) {
        self.done = true;
        self.state.on_guard_gone();
    }

    pub(crate) fn state(&self) -> &Arc<GrantState> {
        &self.state
    }

    /// Asks the driver whether the grant is still there.
    pub(crate) fn confirm(&self, check: Check, reply: Reply<()>) {
        self.driver.send(Command::Confirm {
            namespace: self.namespace.clone(),
            nonce: self.nonce,
            check,
            state: self.state.clone(),
            reply,
        });
    }

    /// Releases the locks and answers when that is done.
    pub(crate) fn release(mut self, reply: Reply<()>) {
        self.end();
        self.driver.send(Command::Release {
            namespace: self.namespace.clone(),
            nonce: self.nonce,
            state: self.state.clone(),
            reply: Some(reply),
        });
    }

    /// Keeps the locks without a guard.
    pub(crate) fn detach(mut self) {
        self.end();
        self.driver.send(Command::Detach {
            namespace: self.namespace.clone(),
            nonce: self.nonce,
            state: self.state.clone(),
        });
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if !self.done {
            self.end();
            self.driver.send(Command::Release {
                namespace: self.namespace.clone(),
                nonce: self.nonce,
                state: self.state.clone(),
                reply: None,
            });
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
