//! What callers ask for, and what they are told.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::time::Time;
use crate::{
    error::LockError,
    name::{LockName, Names},
    report::{Holder, Snapshot, Waiter},
    scope::ScopePath,
    store::RowVersion,
    table::{Grant, LockTable, Nonce, SessionId},
};

/// Identifies a call that waits for an answer. The driver never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CallId(pub(crate) u64);

/// A request for locks.
#[derive(Clone, Debug)]
pub(crate) struct AcquireRequest {
    pub(crate) nonce: Nonce,
    pub(crate) task: Arc<str>,
    pub(crate) names: Names,
    pub(crate) path: ScopePath,
    pub(crate) policy: WaitPolicy,
    /// How long the locks may be held.
    pub(crate) max_hold: Option<Duration>,
}

/// How long a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitPolicy {
    /// The request is refused if a lock is not free.
    NoWait,
    /// The request waits in the queue, without end if there is no time-out.
    Wait { timeout: Option<Duration> },
}

/// A question about the row, which needs no write.
#[derive(Clone, Debug)]
pub(crate) enum Inspection {
    /// What is held.
    Held,
    /// What waits.
    Waiting,
    /// What is held and what waits, if the row is not of this version.
    Snapshot(Option<RowVersion>),
    /// Whether a grant is still there.
    Confirm(Nonce, Check),
    /// Whether a detached lock is there. If so, its release begins, and the call is
    /// answered when the release is done.
    ReleaseName(Arc<str>, LockName),
}

impl Inspection {
    /// Whether it is answered with what the row says, and changes nothing.
    pub(super) fn is_report(&self) -> bool {
        matches!(self, Self::Held | Self::Waiting | Self::Snapshot(_))
    }
}

/// Where a grant is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// In the row, as it is now.
    Row,
    /// In the rows of its session.
    Session,
}

/// Locks that a supervisor takes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Everything that a task holds.
    Task(Arc<str>),
    /// Everything.
    All,
    /// This grant, and everything else that is held under its session.
    Grant(Holder),
}

impl Removal {
    /// The sessions of this table whose locks it takes away. A session can occur repeatedly.
    pub(crate) fn sessions_in(&self, table: &LockTable) -> Vec<SessionId> {
        match self {
            Self::Task(task) => table.sessions_of(Some(task)),
            Self::All => table.sessions_of(None),
            Self::Grant(holder) => {
                let entries = table.entries(holder.name.as_str());
                let mut grants = entries.filter_map(|entry| entry.grant.as_ref());
                let is_it = |grant: &&Grant| {
                    Some(grant.token) == holder.token
                        && Some(&grant.session.0) == holder.session.as_ref()
                };
                let grant = grants.find(is_it);
                grant
                    .map(|grant| grant.session.clone())
                    .into_iter()
                    .collect()
            }
        }
    }

    /// What is held in this table under the sessions whose locks it takes away.
    pub(crate) fn held_in(&self, table: &LockTable) -> Vec<Holder> {
        let sessions = self.sessions_in(table).into_iter();
        let sessions: BTreeSet<_> = sessions.map(|session| session.0).collect();
        let mut held = table.holders();
        held.retain(|holder| {
            let session = holder.session.as_ref();
            session.is_some_and(|session| sessions.contains(session))
        });
        held
    }
}

/// A grant, as its guard needs it.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) nonce: Nonce,
    pub(crate) task: Arc<str>,
    pub(crate) names: Arc<[LockName]>,
    pub(crate) token: i64,
    pub(crate) session: SessionId,
    /// When the lease of the session ends, on the boot clock; `None`: never.
    pub(crate) deadline: Option<Time>,
    /// When the locks are released at the latest, on the boot clock; `None`: never.
    pub(crate) ends: Option<Time>,
    /// The fence row of the guard.
    pub(crate) fence_row: Arc<str>,
}

/// Why a grant is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) reason: &'static str,
    /// The task that holds one of the locks now, where that was seen.
    pub(crate) by: Option<Arc<str>>,
}

/// What a call is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    Holders(Vec<Holder>),
    Waiters(Vec<Waiter>),
    /// What is held and what waits, and the version of the row; `None`: there is no row.
    Snapshot(Snapshot, Option<RowVersion>),
    /// The row is still of the version that the call names.
    Unchanged,
    /// The grant that the call is about is lost.
    Lost(Loss),
    Failed(LockError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{matrix::ConflictMatrix, table::Request};

    /// Two sessions of task `a` hold one lock and two locks.
    fn table() -> LockTable {
        let mut table = LockTable::default();
        for (session, names) in [("s", vec!["x"]), ("t", vec!["y", "z"])] {
            let request = Request {
                session: SessionId(session.into()),
                nonce: Nonce(1),
                task: "a".into(),
                names: names
                    .into_iter()
                    .map(|name| LockName::found(name.into()))
                    .collect(),
                matrix: ConflictMatrix::platform(),
                path: ScopePath::default(),
                since: 0,
            };
            table.grant(&request, 7);
        }
        table
    }

    #[test]
    fn a_removal_of_a_grant_is_for_its_session_alone() {
        let table = table();
        let y = table
            .holders()
            .into_iter()
            .find(|holder| holder.name.as_str() == "y");
        let y = y.expect("it is held");
        let removal = Removal::Grant(y.clone());
        assert_eq!(removal.sessions_in(&table), [SessionId("t".into())]);
        let held = removal.held_in(&table).into_iter();
        let held: Vec<_> = held.map(|holder| holder.name.as_str().to_owned()).collect();
        assert_eq!(held, ["y", "z"]);
        let later = Holder {
            token: Some(8),
            ..y.clone()
        };
        let other = Holder {
            session: Some("s".into()),
            ..y
        };
        for holder in [later, other] {
            assert!(Removal::Grant(holder).sessions_in(&table).is_empty());
        }
    }

    #[test]
    fn a_removal_of_a_task_or_of_everything_is_for_all_its_sessions() {
        let table = table();
        let sessions = |removal: Removal| {
            let sessions: BTreeSet<_> = removal.sessions_in(&table).into_iter().collect();
            sessions.len()
        };
        assert_eq!(sessions(Removal::Task("a".into())), 2);
        assert_eq!(sessions(Removal::Task("b".into())), 0);
        assert_eq!(sessions(Removal::All), 2);
    }
}
