//! What is told about locks: who holds them, who waits, what blocks, what was lost.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{error::list, name::LockName};

/// A held lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Which lock.
    pub name: LockName,
    /// The task that holds it.
    pub task_id: Arc<str>,
    /// The fencing token of its grant; `None` when the original holds it.
    pub token: Option<i64>,
    /// When it was granted, by the holder's clock: for people to read, never for
    /// decisions. `None` when the original holds it.
    pub since: Option<SystemTime>,
}

/// A request in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiter {
    /// What it waits for.
    pub names: Vec<LockName>,
    /// The task that waits.
    pub task_id: Arc<str>,
    /// Since when, by the waiter's clock: for people to read.
    pub since: Option<SystemTime>,
    /// What stands in its way, of those who wait the first twenty; empty where the
    /// waiter is itself told of as a blocker.
    pub blocked_by: Vec<Blocker>,
}

/// What stands in the way of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocker {
    /// A lock that is held.
    Holder(Holder),
    /// A request that came earlier.
    Waiter(Waiter),
    /// A task that uses another conflict matrix: until both use the same one,
    /// neither gets anything while the other holds or awaits something.
    #[non_exhaustive]
    Matrix {
        /// The task.
        task_id: Arc<str>,
    },
}

/// Why a lock that was held is held no longer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Lost {
    /// The locks of the guard.
    pub names: Arc<[LockName]>,
    /// When the loss was noticed, by this machine's clock.
    pub since: SystemTime,
    /// Who holds one of them now, where that was seen.
    pub by: Option<Arc<str>>,
    /// What happened.
    pub reason: &'static str,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is held by task {}", self.name, self.task_id)?;
        since(f, self.since)
    }
}

impl fmt::Display for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} waits for ", self.task_id)?;
        list(f, &self.names)?;
        since(f, self.since)
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holder(holder) => holder.fmt(f),
            Self::Waiter(waiter) => waiter.fmt(f),
            Self::Matrix { task_id } => {
                write!(f, "task {task_id} uses another conflict matrix")
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
            Some(by) => write!(f, "; held by task {by} now"),
            None => Ok(()),
        }
    }
}

/// How long ago, in whole seconds; nothing when the clocks disagree.
fn since(f: &mut fmt::Formatter<'_>, since: Option<SystemTime>) -> fmt::Result {
    match since.and_then(|since| since.elapsed().ok()) {
        Some(age) if age >= Duration::from_secs(1) => write!(f, " since {} s ago", age.as_secs()),
        _ => Ok(()),
    }
}
