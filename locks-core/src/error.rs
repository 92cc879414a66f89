//! What can go wrong, and the questions callers ask about it.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    name::LockName,
    report::{Blocker, Holder, Lost},
};

/// A result whose error is a [`LockError`] unless said otherwise.
pub type Result<T, E = LockError> = std::result::Result<T, E>;

/// Why a lock was not granted, or an operation not done.
///
/// Being refused is not a database failure: [`is_busy`](Self::is_busy),
/// [`is_timeout`](Self::is_timeout), [`is_deadlock`](Self::is_deadlock) and
/// [`is_lost`](Self::is_lost) tell the outcomes apart, [`is_transient`](Self::is_transient)
/// says whether trying again may help. It is `Clone`, because one failed write
/// answers every caller whose request was part of it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The lock is held, or waited for by somebody who came earlier.
    #[error("{} cannot be had at once: {}", Names(names), Blockers(blocked_by))]
    #[non_exhaustive]
    Busy {
        /// What was asked for.
        names: Vec<LockName>,
        /// What stands in the way; of those who wait, the first twenty.
        blocked_by: Vec<Blocker>,
    },
    /// The lock was seen refused until the time was over.
    #[error("waited {waited:.0?} for {}: {}", Names(names), Blockers(blocked_by))]
    #[non_exhaustive]
    Timeout {
        /// What was asked for.
        names: Vec<LockName>,
        /// For how long.
        waited: Duration,
        /// What stood in the way when last seen.
        blocked_by: Vec<Blocker>,
    },
    /// Waiting would never end: what blocks the request waits for its own caller.
    #[error("waiting for {} would never end: {}", Names(names), Blockers(cycle))]
    #[non_exhaustive]
    Deadlock {
        /// What was asked for.
        names: Vec<LockName>,
        /// The way from the request back to its own scope.
        cycle: Vec<Blocker>,
    },
    /// More waiters than the namespace's queue may hold.
    #[error("{limit} requests are waiting in this namespace already; try again later")]
    #[non_exhaustive]
    QueueFull {
        /// How many may wait.
        limit: usize,
    },
    /// The lock was held, and is no longer.
    #[error("{0}")]
    Lost(Lost),
    /// A release of a lock that nobody holds.
    #[error("lock {name} is not held by anybody, so it cannot be released")]
    #[non_exhaustive]
    NotHeld {
        /// Which lock.
        name: LockName,
    },
    /// A release of a lock that somebody else holds.
    #[error(
        "lock {} is held by task {}, so it cannot be released here; \
         release_task({:?}) takes it away once that task has ended",
        holder.name, holder.task_id, holder.task_id
    )]
    #[non_exhaustive]
    HeldByOther {
        /// Who holds it.
        holder: Holder,
    },
    /// A release by name of a lock that a live guard of this process holds.
    #[error("lock {name} is held by a guard of this process; drop or release the guard instead")]
    #[non_exhaustive]
    HeldByGuard {
        /// Which lock.
        name: LockName,
    },
    /// A name that cannot be a lock's.
    #[error("{name:?} cannot be a lock name: {reason}")]
    #[non_exhaustive]
    InvalidName {
        /// What was given.
        name: Box<str>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A setting that cannot be.
    #[error("invalid {what}: {reason}")]
    #[non_exhaustive]
    InvalidConfig {
        /// Which setting.
        what: &'static str,
        /// What is wrong with it, and what would be right.
        reason: Box<str>,
    },
    /// There is no default manager here.
    #[error(
        "no default lock manager: call LockManager::install and keep what it returns, \
         or run the future in LockManager::default_for"
    )]
    NotInstalled,
    /// There is a default manager already.
    #[error("a default lock manager is installed already; drop its Installed first")]
    AlreadyInstalled,
    /// The manager was closed.
    #[error("the lock manager is closed; connect again")]
    Closed,
    /// The tables, or what is in them, are not what this version understands.
    #[error("{reason}")]
    #[non_exhaustive]
    Schema {
        /// What was found, and what to do.
        reason: Box<str>,
    },
    /// The database could not be asked.
    #[error("the lock database failed: {source}")]
    #[non_exhaustive]
    Database {
        /// What the driver said.
        source: Arc<sqlx::Error>,
        /// Whether trying again may help.
        transient: bool,
    },
}

impl LockError {
    /// Whether the lock was refused because it is taken: [`Busy`](Self::Busy).
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// Whether the lock was taken all the while: [`Timeout`](Self::Timeout).
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }

    /// Whether the lock was held and is no longer: [`Lost`](Self::Lost).
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_))
    }

    /// Whether waiting would never have ended: [`Deadlock`](Self::Deadlock).
    #[must_use]
    pub fn is_deadlock(&self) -> bool {
        matches!(self, Self::Deadlock { .. })
    }

    /// Whether the same call may succeed later without anybody mending anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Timeout { .. } | Self::QueueFull { .. } => true,
            Self::Database { transient, .. } => *transient,
            _ => false,
        }
    }

    /// A commit that failed may have happened: never to be tried again blindly.
    pub(crate) fn from_commit(error: sqlx::Error) -> Self {
        Self::Database {
            source: Arc::new(error),
            transient: false,
        }
    }

    /// A fence that the caller's transaction does not see, though the lock is held.
    pub(crate) fn too_old() -> Self {
        let text = "the transaction began before the lock was granted and does not see its \
                    fence: acquire first, then begin";
        Self::Database {
            source: Arc::new(sqlx::Error::Protocol(text.into())),
            transient: true,
        }
    }

    pub(crate) fn schema(reason: impl Into<String>) -> Self {
        Self::Schema {
            reason: reason.into().into(),
        }
    }

    pub(crate) fn config(what: &'static str, reason: impl Into<String>) -> Self {
        Self::InvalidConfig {
            what,
            reason: reason.into().into(),
        }
    }
}

/// `lock a` or `locks a, b`.
struct Names<'a>(&'a [LockName]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.len() == 1 { "lock " } else { "locks " })?;
        list(f, self.0)
    }
}

/// The first few blockers, and how many more there are.
struct Blockers<'a>(&'a [Blocker]);

impl fmt::Display for Blockers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        list(f, &self.0[..self.0.len().min(SHOWN)])?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

pub(crate) fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        item.fmt(f)?;
    }
    Ok(())
}
