//! Statements on a driver's connections, and what they answer.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    options::Durability,
    protocol::config::Name,
    store::{LocksRow, NewSession, Preconditions, RowVersion, SessionRow, Submission, TurnOutcome},
    table::{Columns, SessionId},
};

/// A statement on a driver's connection.
#[derive(Clone, Debug)]
pub(super) enum Statement {
    Read(Name),
    /// Begins a transaction and reads the row under its lock.
    ReadLocked(Name),
    Rollback,
    Commit,
    Submit(Name, Submission),
    /// Answers 1, or 0 if the turn did not come in time.
    AwaitTurn(Name),
    /// Passes the turn on if this was served, and answers 1 then.
    PassIfServed(Submission),
    /// Claims what was submitted.
    Claim(Name, Submission),
    PassTurn(Vec<(String, i64)>),
    ReadVersion(Name),
    ReadVersions(Vec<Name>),
    CompareAndSet {
        namespace: Name,
        expected: RowVersion,
        new: RowVersion,
        columns: Columns,
        preconditions: Preconditions,
        durability: Durability,
    },
    Adopt {
        namespace: Name,
        version: i64,
        least: i64,
        stamp: String,
    },
    Create {
        namespace: Name,
        least: i64,
        stamp: String,
    },
    InsertHeartbeats(Vec<NewSession>),
    InsertFences(Vec<Arc<str>>),
    Renew(Vec<SessionId>),
    Liveness(Vec<SessionId>),
    SessionsIn(Name),
    FencesIn(Name),
    DeleteHeartbeat(SessionId, OnlyIf),
    DeleteHeartbeats(Vec<SessionId>),
    /// Fails while an open transaction is fenced with a row of these sessions.
    TryFences(Vec<SessionId>),
    DeleteFences(Vec<SessionId>),
    /// Deletes the fence rows of a session that has no heartbeat row, if the witness has one.
    DeleteFencesOfDead(SessionId, Option<SessionId>),
    /// Fails while an open transaction is fenced with this row.
    TryFence(Arc<str>),
    Notify(Name, i64),
    DataVersion,
}

/// A condition on the deletion of a heartbeat row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum OnlyIf {
    Always,
    HeartbeatIs(i64),
    /// There is no locks row of this namespace.
    NoRow(Name),
    /// The locks row of this namespace is of this version and has no stamp.
    Unstamped(Name, i64),
}

/// What a statement answers.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Nothing,
    Row(Option<LocksRow>),
    Version(Option<RowVersion>),
    Versions(BTreeMap<String, RowVersion>),
    /// How many rows it matched.
    Count(usize),
    Sessions(Vec<SessionRow>),
    Ids(Vec<SessionId>),
    /// Each session with a fence row, and its heartbeat row.
    Liveness(BTreeMap<SessionId, Option<SessionRow>>),
    Number(Option<i64>),
    Turn(TurnOutcome),
}

impl Statement {
    /// Whether the statement writes to a table.
    pub(super) fn writes(&self) -> bool {
        matches!(
            self,
            Self::Commit
                | Self::CompareAndSet { .. }
                | Self::Adopt { .. }
                | Self::Create { .. }
                | Self::InsertHeartbeats(_)
                | Self::InsertFences(_)
                | Self::Renew(_)
                | Self::DeleteHeartbeat(..)
                | Self::DeleteHeartbeats(_)
                | Self::DeleteFences(_)
                | Self::DeleteFencesOfDead(..)
        )
    }

    /// Whether the statement is on the disk before it is answered, whatever the connection does.
    pub(super) fn is_durable(&self) -> bool {
        match self {
            Self::CompareAndSet { durability, .. } => *durability == Durability::Full,
            Self::Adopt { .. } | Self::Create { .. } => true,
            _ => false,
        }
    }

    /// Whether an earlier state of the tables may be read instead.
    pub(super) fn may_be_stale(&self) -> bool {
        matches!(
            self,
            Self::Read(_)
                | Self::ReadVersion(_)
                | Self::ReadVersions(_)
                | Self::Liveness(_)
                | Self::SessionsIn(_)
                | Self::FencesIn(_)
        )
    }

    /// What a schedule calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Read(_) => "read of the row",
            Self::ReadLocked(_) => "read of the row under its lock",
            Self::Rollback => "rollback",
            Self::Commit => "commit",
            Self::Submit(..) => "submission",
            Self::AwaitTurn(_) => "wait for the turn",
            Self::PassIfServed(_) => "look whether the submission was served",
            Self::Claim(..) => "claim of submissions",
            Self::PassTurn(_) => "pass of the turn",
            Self::ReadVersion(_) => "read of the version",
            Self::ReadVersions(_) => "read of versions",
            Self::CompareAndSet { .. } => "compare-and-set",
            Self::Adopt { .. } => "adoption of the row",
            Self::Create { .. } => "insert of the row",
            Self::InsertHeartbeats(_) => "insert of heartbeat rows",
            Self::InsertFences(_) => "insert of fence rows",
            Self::Renew(_) => "renewal",
            Self::Liveness(_) => "read of sessions",
            Self::SessionsIn(_) => "list of heartbeat rows",
            Self::FencesIn(_) => "list of fence rows",
            Self::DeleteHeartbeat(..) | Self::DeleteHeartbeats(_) => "delete of heartbeat rows",
            Self::TryFences(_) => "lock of fence rows",
            Self::DeleteFences(_) | Self::DeleteFencesOfDead(..) => "delete of fence rows",
            Self::TryFence(_) => "lock of a fence row",
            Self::Notify(..) => "notification",
            Self::DataVersion => "read of the change counter",
        }
    }
}
