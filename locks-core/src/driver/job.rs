//! What the driver asks of the database: jobs, and what came of them.
//!
//! A job owns what it needs, so that the driver's state is free while it runs.

use std::{collections::BTreeSet, time::Instant};

use super::lease::Moment;
use crate::{
    store::{
        Connection, Failure, Liveness, LocksRow, NewSession, Preconditions, Reconnecting,
        RowVersion, SessionRow,
    },
    table::{LockTable, SessionId},
};

/// How many sessions, or namespaces, one statement may name: far below every engine's
/// limit for arguments, and few enough that a statement stays short.
pub(super) const PIECE: usize = 512;
/// How many sessions one statement inserts, so that only a few statements are ever prepared.
pub(super) const INSERTS: [usize; 7] = [64, 32, 16, 8, 4, 2, 1];

/// Something for the connection that reads and writes the rows.
#[derive(Debug)]
pub(super) enum Job {
    Read,
    /// Read the row under its lock, which the next job of this namespace gives back.
    ReadLocked,
    /// Give the row's lock back without a write.
    Unlock,
    Peek,
    /// Replace the row.
    Swap(Box<Swap>),
    Adopt {
        version: i64,
        least: i64,
        stamp: String,
    },
    Create {
        least: i64,
        stamp: String,
    },
    /// Insert the rows of these sessions.
    Open(Vec<NewSession>),
    /// Look whether these sessions live, as far as the row knows them. They were in the
    /// row of the write `at`.
    Survey {
        at: RowVersion,
        sessions: Vec<SessionId>,
        /// A session of our own.
        witness: Option<SessionId>,
    },
    /// Look whether our own sessions are still there.
    Audit(Vec<SessionId>),
    /// Look who has rows in this namespace.
    Sweep,
    /// Tell others that the row is of this version.
    Notify(i64),
    /// Has anybody written anything? Only asked where the answer is nearly free.
    DataVersion,
}

/// The row of the write `at` is replaced by `table`, which makes it the write `to`.
#[derive(Debug)]
pub(super) struct Swap {
    pub(super) at: RowVersion,
    pub(super) to: RowVersion,
    pub(super) table: LockTable,
    pub(super) proof: Preconditions,
}

/// What came of a job, and when it was sent.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) sent: Instant,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Read(Result<Option<LocksRow>, Failure>),
    ReadLocked(Result<Option<LocksRow>, Failure>),
    Unlocked(Result<(), Failure>),
    Peeked(Result<Option<RowVersion>, Failure>),
    Swapped(Box<Swap>, Result<bool, Failure>),
    Adopted(Result<bool, Failure>),
    Created(Result<bool, Failure>),
    /// When the inserts were sent, on the clock that leases run on.
    Opened(Vec<NewSession>, Moment, Result<(), Failure>),
    Surveyed(Result<Surveyed, Failure>),
    Audited(Result<Vec<(SessionId, Liveness)>, Failure>),
    /// Who beats, and whose fence row is all that is left.
    Swept(Result<(Vec<SessionRow>, Vec<SessionId>), Failure>),
    Notified(Result<(), Failure>),
    DataVersion(Result<Option<i64>, Failure>),
}

impl Job {
    pub(super) async fn run(self, link: &mut Reconnecting, namespace: &str) -> Done {
        let sent = Instant::now();
        let outcome = match self {
            Self::Read => Outcome::Read(link.with(async |c| c.read(namespace).await).await),
            Self::ReadLocked => {
                Outcome::ReadLocked(link.with(async |c| c.read_locked(namespace).await).await)
            }
            Self::Unlock => Outcome::Unlocked(link.with(async |c| c.unlock().await).await),
            Self::Peek => {
                Outcome::Peeked(link.with(async |c| c.read_version(namespace).await).await)
            }
            Self::Swap(mut swap) => {
                let columns = swap.table.columns();
                let Swap { at, to, proof, .. } = &*swap;
                let work = async |c: &mut Connection| {
                    c.compare_and_set(namespace, at, to, &columns, proof).await
                };
                let result = link.with(work).await;
                Outcome::Swapped(swap, result)
            }
            Self::Adopt {
                version,
                least,
                stamp,
            } => {
                let adopt =
                    async |c: &mut Connection| c.adopt(namespace, version, least, &stamp).await;
                Outcome::Adopted(link.with(adopt).await)
            }
            Self::Create { least, stamp } => {
                let create = async |c: &mut Connection| c.create(namespace, least, &stamp).await;
                Outcome::Created(link.with(create).await)
            }
            Self::Open(sessions) => {
                let at = Moment::now();
                let open = async |c: &mut Connection| c.insert_sessions(&sessions).await;
                let result = link.with(open).await;
                Outcome::Opened(sessions, at, result)
            }
            Self::Survey {
                at,
                sessions,
                witness,
            } => {
                let survey = async |c: &mut Connection| {
                    survey(c, namespace, &at, &sessions, witness.as_ref()).await
                };
                Outcome::Surveyed(link.with(survey).await)
            }
            Self::Audit(sessions) => Outcome::Audited(
                link.with(async |c| liveness(c, &sessions, None).await)
                    .await,
            ),
            Self::Sweep => {
                let sweep = async |c: &mut Connection| {
                    // In this order, as for every eviction.
                    let mut fences = c.fences_in(namespace).await?;
                    let beating = c.sessions_in(namespace).await?;
                    let ids: BTreeSet<_> = beating.iter().map(|row| &row.id).collect();
                    fences.retain(|id| !ids.contains(id));
                    Ok((beating, fences))
                };
                Outcome::Swept(link.with(sweep).await)
            }
            Self::Notify(version) => {
                let notify = async |c: &mut Connection| c.notify(namespace, version).await;
                Outcome::Notified(link.with(notify).await)
            }
            Self::DataVersion => {
                Outcome::DataVersion(link.with(async |c| c.data_version().await).await)
            }
        };
        Done { sent, outcome }
    }
}

/// What came of a look at sessions.
#[derive(Debug, Default)]
pub(super) struct Surveyed {
    /// The row as it is now, where it has moved.
    pub(super) row: Option<LocksRow>,
    pub(super) states: Vec<(SessionId, Liveness)>,
}

/// Looks whether these sessions live. The row is looked at first, on the same connection:
/// a session that is in it, and has no rows afterwards, is dead and not new. Where the row
/// has moved since `at`, only the sessions that are still in it are asked for.
async fn survey(
    c: &mut Connection,
    namespace: &str,
    at: &RowVersion,
    sessions: &[SessionId],
    witness: Option<&SessionId>,
) -> Result<Surveyed, Failure> {
    if c.read_version(namespace).await?.as_ref() == Some(at) {
        let states = liveness(c, sessions, witness).await?;
        return Ok(Surveyed { row: None, states });
    }
    let row = c.read(namespace).await?;
    let table = row
        .as_ref()
        .and_then(|row| LockTable::parse(row.data_json.as_deref(), row.meta_json.as_deref()).ok());
    let known = table.map(|table| table.session_ids()).unwrap_or_default();
    let sessions = sessions.iter().filter(|id| known.contains(id)).cloned();
    let sessions: Vec<_> = sessions.collect();
    let states = liveness(c, &sessions, witness).await?;
    Ok(Surveyed { row, states })
}

async fn liveness(
    c: &mut Connection,
    sessions: &[SessionId],
    witness: Option<&SessionId>,
) -> Result<Vec<(SessionId, Liveness)>, Failure> {
    let mut states = Vec::new();
    for piece in sessions.chunks(PIECE) {
        states.extend(c.liveness(piece, witness).await?);
    }
    Ok(states)
}
