//! Queries: what a namespace asks of the connection that reads and writes the rows.
//!
//! A query owns what it needs. At most one is in flight at a time.

use super::{
    plan::Plan,
    task::{Task, TaskResult},
};
use crate::{
    options::Durability,
    store::{
        Failure, Liveness, LocksRow, NewSession, Preconditions, RowVersion, SessionRow, Submission,
        Turn,
    },
    table::{LockTable, SessionId},
};

/// Something for the connection that reads and writes the rows.
#[derive(Clone, Debug)]
pub(crate) enum Query {
    /// Read the row.
    Read,
    /// Begin a transaction and read the row under its lock. The next query of the
    /// namespace is a [`CompareAndSet`](Self::CompareAndSet) or an
    /// [`Unlock`](Self::Unlock), and ends the transaction.
    ReadLocked,
    /// End the transaction of [`ReadLocked`](Self::ReadLocked) without a write.
    Unlock,
    /// Submit, wait for this process's turn, and read the row. A process that has the turn sends
    /// a [`CompareAndSet`](Self::CompareAndSet) or nothing, and then
    /// [`PassTurn`](Self::PassTurn).
    TakeTurn(Submission),
    /// Pass the turn on. These submissions of others are served: driver and number.
    PassTurn(Vec<(String, i64)>),
    /// Submit, without taking the turn.
    Withdraw(Submission),
    /// Read the row's version only.
    ReadVersion,
    CompareAndSet(Box<CompareAndSet>),
    /// Give a row without stamp its first one, if it is still of this version.
    Adopt {
        version: i64,
        /// The least version that it gets.
        least: i64,
        stamp: String,
    },
    /// Insert the missing row.
    Create {
        /// The least version that it gets.
        least: i64,
        stamp: String,
    },
    /// Insert the rows of these sessions.
    OpenSessions(Vec<NewSession>),
    /// Look which of these sessions are alive. They were in the row when it was of
    /// version `at`.
    CheckPeers {
        at: RowVersion,
        sessions: Vec<SessionId>,
        /// A session of this process, which the answer has to show.
        witness: Option<SessionId>,
    },
    /// Look which sessions of this process are alive.
    CheckOwnSessions(Vec<SessionId>),
    /// List the sessions of the namespace, to find those of dead processes.
    ListOrphans,
    /// Notify other processes that the row is of this version.
    Notify(i64),
    /// Read the change counter of the database file.
    DataVersion,
    /// Run a task, because no side connection can be opened.
    Task(Task),
}

/// A replacement of the row, and the decision that it carries out.
#[derive(Clone, Debug)]
pub(crate) struct CompareAndSet {
    /// The row must be of this version.
    pub(crate) expected: RowVersion,
    /// The row gets this version.
    pub(crate) new: RowVersion,
    /// The row gets this content.
    pub(crate) table: LockTable,
    /// What else must be true.
    pub(crate) preconditions: Preconditions,
    /// What the write survives.
    pub(crate) durability: Durability,
    /// What the write means. It comes back with the completion.
    pub(super) plan: Plan,
}

/// A query that is done. A failure leaves it open whether the query had its effect, unless
/// the class of the failure says so.
#[derive(Debug)]
pub(crate) enum Completion {
    Read(Result<Option<LocksRow>, Failure>),
    ReadLocked(Result<Option<LocksRow>, Failure>),
    Unlocked(Result<(), Failure>),
    TurnTaken(Result<Turn, Failure>),
    TurnPassed(Result<(), Failure>),
    Withdrawn(Result<(), Failure>),
    VersionRead(Result<Option<RowVersion>, Failure>),
    /// Whether the row was replaced.
    CompareAndSet(Box<CompareAndSet>, Result<bool, Failure>),
    /// Whether the row was adopted.
    Adopted(Result<bool, Failure>),
    /// Whether the row was inserted.
    Created(Result<bool, Failure>),
    SessionsOpened(Vec<NewSession>, Result<(), Failure>),
    PeersChecked(Result<Peers, Failure>),
    OwnSessionsChecked(Result<Vec<(SessionId, Liveness)>, Failure>),
    OrphansListed(Result<Orphans, Failure>),
    Notified(Result<(), Failure>),
    DataVersion(Result<Option<i64>, Failure>),
    TaskDone(TaskResult),
}

/// What a look at the sessions of other processes found.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    /// The row, if it is no longer of the version that was expected.
    pub(crate) row: Option<LocksRow>,
    pub(crate) states: Vec<(SessionId, Liveness)>,
}

/// The sessions of a namespace.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    /// Those that have a heartbeat row.
    pub(crate) sessions: Vec<SessionRow>,
    /// Those that have a fence row and no heartbeat row.
    pub(crate) evicting: Vec<SessionId>,
}
