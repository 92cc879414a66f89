//! The errors of the library, and predicates that tell them apart.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use crate::{
    matrix::Limit,
    name::LockName,
    report::{Blocker, Blockers, Holder, Locks, Lost},
};

/// A result whose error is a [`LockError`] by default.
pub type Result<T, E = LockError> = std::result::Result<T, E>;

/// Why a lock was not granted, or why an operation failed.
///
/// A refused lock is not a database failure. [`is_busy`](Self::is_busy),
/// [`is_timeout`](Self::is_timeout), [`is_deadlock`](Self::is_deadlock) and
/// [`is_lost`](Self::is_lost) tell the cases apart. [`is_transient`](Self::is_transient)
/// tells whether a retry may succeed.
///
/// The error is `Clone`, because one failed write can be the answer to several requests. Its
/// text contains the text of the database driver's error, which is in the field `source` of
/// [`Database`](Self::Database) and [`Rejected`](Self::Rejected). `Error::source` returns `None`,
/// so that reports of the chain of errors do not repeat the text.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LockError {
    /// A lock is held, or an earlier request waits for it.
    #[non_exhaustive]
    Busy {
        /// The requested locks.
        names: Vec<LockName>,
        /// What blocks the request: every holder, and at most the first twenty waiters.
        blocked_by: Vec<Blocker>,
    },
    /// The locks were refused until the timeout ended.
    #[non_exhaustive]
    Timeout {
        /// The requested locks.
        names: Vec<LockName>,
        /// How long the request waited.
        waited: Duration,
        /// What blocked the request when it was last checked.
        blocked_by: Vec<Blocker>,
    },
    /// The request was refused because what blocks it waits for the caller.
    #[non_exhaustive]
    Deadlock {
        /// The requested locks.
        names: Vec<LockName>,
        /// The path of the cycle, from the request back to a lock of its own scope.
        cycle: Vec<Blocker>,
    },
    /// The queue of the namespace is full.
    #[non_exhaustive]
    QueueFull {
        /// The maximum length of the queue.
        limit: usize,
    },
    /// The lock was held and is not held any more.
    Lost(Lost),
    /// A lock cannot be released because it is not held, or was granted again since.
    #[non_exhaustive]
    NotHeld {
        /// The name of the lock.
        name: LockName,
    },
    /// A lock cannot be released because another task holds it, or another process of this task.
    #[non_exhaustive]
    HeldByOther {
        /// The holder of the lock.
        holder: Holder,
    },
    /// A lock cannot be released by name because a guard of this process holds it.
    #[non_exhaustive]
    HeldByGuard {
        /// The name of the lock.
        name: LockName,
    },
    /// The text cannot be a lock name.
    #[non_exhaustive]
    InvalidName {
        /// The text that was passed.
        name: Box<str>,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// A setting has an invalid value.
    #[non_exhaustive]
    InvalidConfig {
        /// The name of the setting.
        what: &'static str,
        /// What is wrong with the value, and what to pass instead.
        reason: Box<str>,
    },
    /// There is no default manager.
    NotInstalled,
    /// Another default manager is installed.
    AlreadyInstalled,
    /// The manager is closed.
    Closed,
    /// This version cannot use the tables, or a row in them.
    #[non_exhaustive]
    Schema {
        /// What was found, and what to do.
        reason: Box<str>,
    },
    /// The database cannot store the name of a lock or the id of a task: it lacks a character,
    /// or the text is too long. Other requests are not affected.
    #[non_exhaustive]
    Rejected {
        /// The locks or the task.
        what: Box<str>,
        /// The error of the database driver.
        source: Arc<sqlx::Error>,
    },
    /// The database failed or could not be reached.
    #[non_exhaustive]
    Database {
        /// The error of the database driver.
        source: Arc<sqlx::Error>,
        /// Whether a retry may succeed.
        transient: bool,
    },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { names, blocked_by } => {
                let (names, blockers) = (Locks(names), Blockers(blocked_by));
                write!(f, "{names} is not available: {blockers}")
            }
            Self::Timeout {
                names,
                waited,
                blocked_by,
            } => {
                let (names, blockers) = (Locks(names), Blockers(blocked_by));
                write!(
                    f,
                    "timed out after {waited:.0?} of waiting for {names}: {blockers}"
                )
            }
            Self::Deadlock { names, cycle } => {
                let (names, cycle) = (Locks(names), Blockers(cycle));
                write!(f, "waiting for {names} would deadlock: {cycle}")
            }
            Self::QueueFull { limit } => write!(
                f,
                "the queue of the namespace is full: {limit} requests are waiting; retry later"
            ),
            Self::Lost(lost) => lost.fmt(f),
            Self::NotHeld { name } => write!(
                f,
                "lock {name} cannot be released, because it is not held, or not by that grant any \
                 more; `held` lists the held locks"
            ),
            Self::HeldByOther { holder } => write!(
                f,
                "lock {} is held by task {} and cannot be released by another task; if that task \
                 has ended, call release_task({:?})",
                holder.name, holder.task_id, holder.task_id
            ),
            Self::HeldByGuard { name } => write!(
                f,
                "lock {name} is held by a guard of this process; drop or release the guard instead"
            ),
            Self::InvalidName { name, reason } => {
                write!(f, "invalid lock name {name:?}: {reason}")
            }
            Self::InvalidConfig { what, reason } => write!(f, "invalid {what}: {reason}"),
            Self::NotInstalled => f.write_str(
                "no default lock manager: call LockManager::install and keep the returned value, \
                 or run the code in LockManager::default_for or default_for_sync",
            ),
            Self::AlreadyInstalled => f.write_str(
                "a default lock manager is already installed; drop its `Installed` value first",
            ),
            Self::Closed => f.write_str("the lock manager is closed; connect again"),
            Self::Schema { reason } => f.write_str(reason),
            Self::Rejected { what, source } => {
                write!(f, "the database rejects {what}: {source}")
            }
            Self::Database { source, .. } => write!(f, "the lock database failed: {source}"),
        }
    }
}

impl Error for LockError {}

impl LockError {
    /// Whether the lock is not available now: [`Busy`](Self::Busy).
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// Whether the lock was refused until the timeout ended: [`Timeout`](Self::Timeout).
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }

    /// Whether the lock was held and is not held any more: [`Lost`](Self::Lost).
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_))
    }

    /// Whether the wait would have been a deadlock: [`Deadlock`](Self::Deadlock).
    #[must_use]
    pub fn is_deadlock(&self) -> bool {
        matches!(self, Self::Deadlock { .. })
    }

    /// Whether a later call with equal arguments may succeed without a repair.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Timeout { .. } | Self::QueueFull { .. } => true,
            Self::Database { transient, .. } => *transient,
            _ => false,
        }
    }

    /// The error of a commit. It is never transient: the commit may have been applied.
    pub(crate) fn from_commit(error: sqlx::Error) -> Self {
        Self::Database {
            source: Arc::new(error),
            transient: false,
        }
    }

    /// The error of a transaction that cannot see the fence of a lock that is held.
    pub(crate) fn too_old() -> Self {
        let text = "the transaction cannot see the fence of the lock: either it began before the \
                    lock was granted, or it is in another database; acquire the lock first, then \
                    begin the transaction in the database of the locks";
        Self::Database {
            source: Arc::new(sqlx::Error::Protocol(text.into())),
            transient: true,
        }
    }

    /// The database did not answer in time.
    pub(crate) fn no_answer(text: impl Into<String>) -> Self {
        let error = std::io::Error::new(std::io::ErrorKind::TimedOut, text.into());
        Self::Database {
            source: Arc::new(sqlx::Error::Io(error)),
            transient: true,
        }
    }

    pub(crate) fn schema(reason: impl Into<String>) -> Self {
        Self::Schema {
            reason: reason.into().into(),
        }
    }

    /// A request names more locks than a limit allows.
    pub(crate) fn exceeds(limit: Limit) -> Self {
        let Limit { pattern, most } = limit;
        let reason = format!("{pattern} ({most}): the request names more locks that match it");
        Self::config("limit", reason)
    }

    pub(crate) fn config(what: &'static str, reason: impl Into<String>) -> Self {
        Self::InvalidConfig {
            what,
            reason: reason.into().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_of_an_error_has_the_text_of_its_source_once() {
        for error in [
            LockError::no_answer("the cause"),
            LockError::Rejected {
                what: "lock x".into(),
                source: Arc::new(sqlx::Error::Protocol("the cause".into())),
            },
        ] {
            let first: &dyn Error = &error;
            let chain = std::iter::successors(Some(first), |&error| error.source());
            let chain: Vec<_> = chain.map(ToString::to_string).collect();
            let chain = chain.join(": ");
            assert_eq!(chain.matches("the cause").count(), 1, "{chain}");
        }
    }
}
