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
    /// The guard, [`LockManager::release`], [`LockManager::release_holder`],
    /// [`LockManager::release_task`] and [`LockManager::release_all`] still do.
    ///
    /// [`LockManager::release`]: crate::LockManager::release
    /// [`LockManager::release_holder`]: crate::LockManager::release_holder
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

/// What a write of the locks survives, on SQLite.
///
/// On servers a write is durable as they are configured: by `innodb_flush_log_at_trx_commit` on
/// MySQL and MariaDB, and by `fsync` on PostgreSQL, where the connections set
/// `synchronous_commit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// A write survives the end of its process, and may be undone by a power loss or a crash of
    /// the operating system: `synchronous = NORMAL`.
    ///
    /// Locks that expire lose nothing by this, because the processes that held them have ended
    /// with the machine. Tokens are never given twice: the first write after a restart of the
    /// machine skips all that may have been undone. Locks that never expire are written as with
    /// [`Full`](Self::Full), and everything is if the system does not tell its boot id (only
    /// Linux does).
    ///
    /// A session that cannot be renewed, because an application keeps the file busy, is renewed
    /// beside the file, in the directory `<file>-beats`.
    ///
    /// Processes of version 0.1 know neither of the restart nor of this directory. Use
    /// [`Full`](Self::Full) while they use the same file.
    #[default]
    Normal,
    /// A write is on the disk before it is answered: `synchronous = FULL`. Sessions are renewed in
    /// the file alone, and other processes hand no lock to this one.
    Full,
}

/// What shows that another process of this machine has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence {
    /// The process table: if a process has ended on this machine, its session is evicted
    /// at once. Only Linux has one that is read. On other systems this is as
    /// [`Time`](Self::Time).
    #[default]
    Process,
    /// Time alone: a session is evicted only when it expires.
    ///
    /// Use it on machines whose process table cannot be trusted, and on virtual machines
    /// that are cloned while they run and keep the addresses of their network cards.
    Time,
}
