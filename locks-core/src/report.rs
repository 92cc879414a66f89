//! Reports about locks: holders, waiters, blockers and lost locks.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::name::{LockName, Mode, Names};

/// A held lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The name of the lock.
    pub name: LockName,
    /// The task that holds the lock.
    pub task_id: Arc<str>,
    /// The fencing token of the grant; `None` if the original platform granted it.
    pub token: Option<i64>,
    /// The time of the grant, for display only, by the clock of the process that wrote it, which
    /// may be another one than the holder's; `None` if the original platform granted it.
    pub since: Option<SystemTime>,
    /// The id of the session that holds the lock; `None` if the original platform granted it.
    ///
    /// Each task of each process has a session of its own. So two lives of a worker with one task
    /// id have different sessions.
    pub session: Option<Arc<str>>,
    /// How the lock is held.
    pub mode: Mode,
    /// The name of the machine of the holder's process. [`held`](crate::LockManager::held),
    /// [`waiting`](crate::LockManager::waiting) and [`changes`](crate::LockManager::changes) report
    /// it. `None` in errors, for a lock of the original platform, and for a process of version 0.1.
    pub host: Option<Arc<str>>,
    /// The id of the holder's process on its machine, or in its container. It is reported where
    /// [`host`](Self::host) is.
    pub process: Option<u32>,
}

/// A request in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiter {
    /// The names of the requested locks.
    pub names: Vec<LockName>,
    /// Those of the names that the request asks for in [`Mode::Shared`].
    pub shared: Vec<LockName>,
    /// The task that waits.
    pub task_id: Arc<str>,
    /// The time at which the request was made, by the waiter's clock, for display only.
    pub since: Option<SystemTime>,
    /// What blocks the request: at most the first twenty waiters, and every holder. It is
    /// empty if this waiter is itself part of a list of blockers.
    pub blocked_by: Vec<Blocker>,
    /// The id of the session that waits.
    pub session: Arc<str>,
    /// The name of the machine of the waiter's process, as in [`Holder::host`].
    pub host: Option<Arc<str>>,
    /// The id of the waiter's process, as in [`Holder::process`].
    pub process: Option<u32>,
}

/// What is held and what waits in a namespace at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The locks that are held.
    pub held: Vec<Holder>,
    /// The requests that wait, in the order of the queue.
    pub waiting: Vec<Waiter>,
}

/// What blocks a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocker {
    /// A lock that is held.
    Holder(Holder),
    /// A request that was queued earlier.
    Waiter(Waiter),
    /// A task that uses a different conflict matrix. It holds or awaits a lock, and until
    /// both tasks use one matrix, every lock of one conflicts with every lock of the other.
    #[non_exhaustive]
    Matrix {
        /// The id of the task.
        task_id: Arc<str>,
    },
    /// A [limit](crate::ConflictMatrix::limits) of the conflict matrix that is used up.
    #[non_exhaustive]
    Limit {
        /// The pattern of the names that the limit counts.
        pattern: &'static str,
        /// How many of them may be held.
        limit: u32,
        /// What uses it up: locks that are held, and earlier requests. At most the first twenty.
        used_by: Vec<Blocker>,
    },
}

impl Blocker {
    /// The session that holds the lock.
    pub(crate) fn session(&self) -> Option<&str> {
        match self {
            Self::Holder(holder) => holder.session.as_deref(),
            Self::Waiter(_) | Self::Matrix { .. } | Self::Limit { .. } => None,
        }
    }
}

/// The reason of a loss by the clock alone: nothing shows that the lock was taken.
pub(crate) const NOT_RENEWED: &str = "its session was not renewed in time";

/// The reason of a loss by an eviction while the lease of the session was valid. Then no other
/// process takes the session for dead.
pub(crate) const TAKEN: &str = "its session was evicted although it was renewed in time: by \
                                release_task, release_holder or release_all, or by hand";

/// The reason of a loss by an eviction after the lease of the session had ended.
pub(crate) const NOT_RENEWED_AND_EVICTED: &str =
    "its session was not renewed in time, and was evicted";

/// The reason of a loss by the limit of the request.
pub(crate) const HELD_TOO_LONG: &str = "it was held for longer than its limit";

/// A lock that was held and is not held any more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Lost {
    /// The names of the guard's locks.
    pub names: Arc<[LockName]>,
    /// The time at which the loss was noticed, by the clock of this machine.
    pub since: SystemTime,
    /// The id of a task that now holds one of the locks, if this process has seen one.
    pub by: Option<Arc<str>>,
    /// The cause of the loss.
    pub reason: &'static str,
}

/// A warning that locks may be lost soon.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Endangered {
    /// The names of the guard's locks.
    pub names: Arc<[LockName]>,
    /// How long the locks are held if their session is not renewed. It is zero if they are lost.
    pub expires_in: Duration,
}

impl fmt::Display for Endangered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, expires_in } = self;
        let names = Locks(names);
        if expires_in.is_zero() {
            return write!(f, "{names} is lost");
        }
        let left = Duration::from_millis(u64::try_from(expires_in.as_millis()).unwrap_or(u64::MAX));
        write!(
            f,
            "{names} will be lost in {left:?}: its session was not renewed in time"
        )
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.mode {
            Mode::Exclusive => "held",
            Mode::Shared => "shared",
        };
        write!(f, "{} is {how} by task {}", self.name, self.task_id)?;
        age(f, "granted", self.since)
    }
}

impl fmt::Display for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} waits for ", self.task_id)?;
        let modes = Names::new(self.names.clone().into(), self.shared.clone().into());
        write!(f, "{modes}")?;
        age(f, "queued", self.since)
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holder(holder) => holder.fmt(f),
            Self::Waiter(waiter) => waiter.fmt(f),
            Self::Matrix { task_id } => {
                write!(f, "task {task_id} uses a different conflict matrix")
            }
            Self::Limit {
                pattern,
                limit,
                used_by,
            } => {
                write!(f, "limit {pattern} ({limit}) is used up by ")?;
                for (index, blocker) in used_by.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    match blocker {
                        Self::Holder(holder) => {
                            write!(f, "{comma}{} of task {}", holder.name, holder.task_id)?;
                        }
                        other => write!(f, "{comma}{other}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("lost ")?;
        list(f, &self.names)?;
        write!(f, ": {}", self.reason)?;
        match &self.by {
            Some(by) => write!(f, "; now held by task {by}"),
            None => Ok(()),
        }
    }
}

/// Writes how many seconds ago `event` was. It writes nothing below one second, and nothing
/// if the clocks of the two machines disagree.
fn age(f: &mut fmt::Formatter<'_>, event: &str, time: Option<SystemTime>) -> fmt::Result {
    match time.and_then(|time| time.elapsed().ok()) {
        Some(age) if age >= Duration::from_secs(1) => {
            write!(f, " ({event} {} s ago)", age.as_secs())
        }
        _ => Ok(()),
    }
}

/// Displays as `lock a` or `locks a, b`.
pub(crate) struct Locks<'a>(pub(crate) &'a [LockName]);

impl fmt::Display for Locks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.len() == 1 { "lock " } else { "locks " })?;
        list(f, self.0)
    }
}

/// Displays the first three blockers and the number of the others.
pub(crate) struct Blockers<'a>(pub(crate) &'a [Blocker]);

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

/// Writes `items` with commas between them.
fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        item.fmt(f)?;
    }
    Ok(())
}
