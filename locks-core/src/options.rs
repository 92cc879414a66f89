//! Options of a manager that are more than a number or a text.

use std::time::Duration;

/// When the locks of a process that no longer renews its session are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// The locks expire when their session was not renewed for this long.
    ///
    /// The driver renews a session three times in this period. The minimum is 200 ms; the
    /// default is 15 s. If the process is known to have ended on the same machine, its
    /// locks are released at once.
    After(Duration),
    /// The locks never expire: neither time nor the end of the process releases them.
    ///
    /// [`LockManager::release_task`] and [`LockManager::release_all`] still do.
    ///
    /// [`LockManager::release_task`]: crate::LockManager::release_task
    /// [`LockManager::release_all`]: crate::LockManager::release_all
    Never,
}

/// The order in which requests are granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fairness {
    /// Requests that conflict are granted in the order of their arrival, across processes.
    #[default]
    InTurn,
    /// The first request after a release is granted, as in the original platform. A
    /// request that conflicts with many others may wait without end.
    Barging,
}

/// What shows that another process of this machine has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence {
    /// The process table: if a process has ended on this machine, its session is evicted
    /// at once.
    #[default]
    Process,
    /// Time alone: a session is evicted only when it expires.
    ///
    /// Use it on machines whose process table cannot be trusted, and on virtual machines
    /// that are cloned while they run and keep the addresses of their network cards.
    Time,
}
