//! The driver: a thread that owns the connections and does all the writing.
//!
//! ```text
//! guard/request ──mpsc──▶ collect ─▶ plan on the cached row ─▶ compare-and-set ─▶ answer
//!    ▲  oneshot               ▲        (plan.rs: pure)            │ conflict
//!    └────────────────────────┴──────────── read again ◀──────────┘
//! ```
//!
//! It has a runtime of its own, so that neither blocking code in the caller's runtime
//! nor its end can stop releases and renewals.

mod agenda;
mod answer;
mod asking;
mod awake;
mod backoff;
mod gather;
mod job;
mod lease;
mod namespace;
mod observer;
mod outcome;
mod own_sessions;
mod plan;
mod poll;
mod renewal;
mod renewals;
mod request;
mod run;
mod session;
mod shutdown;
mod side_job;
mod signal;
mod turns;
mod upkeep;
mod write;

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

use self::{session::Kind, signal::Current};
use crate::{
    error::LockError,
    manager::LockManager,
    matrix::ConflictMatrix,
    options::{Evidence, Fairness},
    process::Identity,
    random::unique,
    store::Target,
    table::Nonce,
};

pub(crate) use self::{
    request::{Check, Chore, Command, Mode, Reply, Request as Asked, Seat},
    session::Tenure,
    signal::Current as Signalled,
};

/// How long the drop of the last handle may wait for what is pending.
const FLUSH: Duration = Duration::from_secs(2);
/// The life of sessions that only wait, where what is held never expires.
const WAITERS_TTL: Duration = Duration::from_secs(15);

/// What all handles of a driver have in common.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) namespace: Arc<str>,
    pub(crate) task: Arc<str>,
    pub(crate) matrix: ConflictMatrix,
    /// `None`: what is held never expires.
    pub(crate) ttl: Option<Duration>,
    pub(crate) fairness: Fairness,
    pub(crate) queue_limit: usize,
    pub(crate) process: Identity,
    pub(crate) evidence: Evidence,
    pub(crate) signal: Current,
}

impl Config {
    /// The kind of session that holds.
    fn holding(&self) -> Kind {
        match self.ttl {
            Some(_) => Kind::Expiring,
            None => Kind::Never,
        }
    }

    /// The ttl of sessions that expire.
    fn beat_ttl(&self) -> Duration {
        self.ttl.unwrap_or(WAITERS_TTL)
    }

    fn asks_processes(&self) -> bool {
        self.evidence == Evidence::Process
    }
}

/// A handle to the driver's thread. The last one to go ends it.
pub(crate) struct Driver {
    commands: mpsc::UnboundedSender<Command>,
    next_nonce: AtomicU64,
    process: u32,
    matrix: ConflictMatrix,
    thread: ThreadId,
    flushed: Arc<Flushed>,
}

/// Told when nothing is pending any more.
#[derive(Debug, Default)]
struct Flushed {
    done: Mutex<bool>,
    changed: Condvar,
}

impl Flushed {
    fn tell(&self) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn wait(&self, limit: Duration) {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        // Past the limit the driver goes on by itself, as long as the process does.
        drop(self.changed.wait_timeout_while(done, limit, |done| !*done));
    }
}

impl Driver {
    /// Starts a driver's thread, which answers when it is connected.
    pub(crate) fn start(config: Config, target: Target, reply: Reply<LockManager>) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let flushed = Arc::new(Flushed::default());
        let matrix = config.matrix;
        let tell = flushed.clone();
        let spawned = thread::Builder::new()
            .name("locks-driver".into())
            .spawn(move || {
                // Whatever ends this thread, nobody waits for it any longer.
                let _told = scopeguard::guard((), move |()| tell.tell());
                let driver = Self {
                    commands,
                    next_nonce: AtomicU64::new(unique()),
                    process: std::process::id(),
                    matrix,
                    thread: thread::current().id(),
                    flushed,
                };
                run::main(config, target, driver, inbox, reply);
            });
        if let Err(error) = spawned {
            // The closure is gone, and with it the reply: the caller gets `Closed`.
            tracing::error!(%error, "the driver's thread could not be started");
        }
    }

    /// A number for a request that no other of this driver has.
    pub(crate) fn nonce(&self) -> Nonce {
        Nonce(self.next_nonce.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn matrix(&self) -> ConflictMatrix {
        self.matrix
    }

    /// Sends a command. After the driver's end nobody receives it: the reply in it is
    /// dropped, which tells its caller.
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
        drop(self.commands.send(Command::LastHandle));
        // The driver's own thread drops the last handle when an answer finds nobody.
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
