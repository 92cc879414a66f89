//! A handle to the driver's thread.

use std::{
    fmt,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, ThreadId},
    time::Duration,
};

use tokio::sync::mpsc;

use super::{
    command::{Command, Reply},
    event_loop,
    held::HeldGrants,
};
use crate::{
    error::LockError,
    matrix::ConflictMatrix,
    name::LockName,
    protocol::{Config, Name},
    random::unique,
    store::Target,
    table::Nonce,
};

/// How long the drop of the last handle waits for what is pending.
const FLUSH: Duration = Duration::from_secs(2);

/// A handle to the driver's thread. The thread ends with the last one.
pub(crate) struct Driver {
    commands: mpsc::UnboundedSender<Command>,
    next_nonce: AtomicU64,
    /// The process that the thread runs in.
    process: u32,
    matrix: ConflictMatrix,
    thread: ThreadId,
    flushed: Arc<Flushed>,
    held: HeldGrants,
}

/// Reports that nothing is pending any more.
#[derive(Debug, Default)]
pub(super) struct Flushed {
    done: Mutex<bool>,
    changed: Condvar,
}

impl Flushed {
    pub(super) fn report(&self) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn wait(&self, limit: Duration) {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        // Past the limit the driver goes on, as long as the process does.
        drop(self.changed.wait_timeout_while(done, limit, |done| !*done));
    }
}

impl Driver {
    /// Starts a driver's thread, which answers when it is connected. It looks after
    /// `namespace` from the start.
    pub(crate) fn start(config: Config, namespace: Name, target: Target, reply: Reply<Arc<Self>>) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let flushed = Arc::new(Flushed::default());
        let matrix = config.matrix;
        let report = flushed.clone();
        let spawned = thread::Builder::new()
            .name("locks-driver".into())
            .spawn(move || {
                // Whatever ends this thread, no handle waits for it any longer.
                let _reported = scopeguard::guard((), move |()| report.report());
                let driver = Self {
                    commands,
                    next_nonce: AtomicU64::new(unique()),
                    process: std::process::id(),
                    matrix,
                    thread: thread::current().id(),
                    flushed,
                    held: HeldGrants::default(),
                };
                event_loop::run(config, namespace, target, driver, inbox, reply);
            });
        if let Err(error) = spawned {
            // The reply was dropped with the closure, so that the caller gets `Closed`.
            tracing::error!(%error, "the driver's thread could not be started");
        }
    }

    /// A number that identifies a request of this driver.
    pub(crate) fn nonce(&self) -> Nonce {
        Nonce(self.next_nonce.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn matrix(&self) -> ConflictMatrix {
        self.matrix
    }

    pub(super) fn held(&self) -> HeldGrants {
        self.held.clone()
    }

    /// The names of the locks that guards of this task hold, as far as this process knows.
    pub(crate) fn names_held(&self, namespace: &str, task: &str) -> Vec<LockName> {
        self.held.names(namespace, task)
    }

    pub(super) fn flushed(&self) -> Arc<Flushed> {
        self.flushed.clone()
    }

    /// Sends a command. After the driver's end the reply in it is dropped, which tells its
    /// caller.
    pub(crate) fn send(&self, command: Command) {
        if self.process == std::process::id() {
            drop(self.commands.send(command));
        } else {
            command.fail(LockError::config(
                "process",
                "this process was forked from the one that connected; connect in it",
            ));
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        drop(self.commands.send(Command::HandlesGone));
        // The driver's own thread drops the last handle when a caller is gone.
        if self.thread != thread::current().id() {
            self.flushed.wait(FLUSH);
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}
