//! What the driver asks of the database: jobs, and what came of them.
//!
//! A job owns what it needs, so that the driver's state is free while it runs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time;

use super::{lease::Moment, observer::Cause, plan::ChoreId};
use crate::{
    report::Holder,
    store::{Class, Connection, Failure, Link, Liveness, NewSession, Row, SessionRow, Stamp},
    table::{LockTable, SessionId},
};

/// Something for the connection that reads and writes the rows.
#[derive(Debug)]
pub(super) enum Job {
    Read,
    /// Read the row under its lock, which the next job of this namespace gives back.
    ReadLocked,
    /// Give the row's lock back without a write.
    Unlock,
    Peek,
    /// Replace the row of the write `at` by `table`.
    Swap {
        at: Stamp,
        stamp: String,
        table: LockTable,
        /// The sessions that it grants to or queues for.
        alive: Vec<SessionId>,
    },
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
    /// Look whether these sessions live, if the row is still of the write `at`.
    Survey {
        at: Stamp,
        sessions: Vec<SessionId>,
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

/// What came of a job, and when it was sent.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) sent: Instant,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Read(Result<Option<Row>, Failure>),
    ReadLocked(Result<Option<Row>, Failure>),
    Unlocked(Result<(), Failure>),
    Peeked(Result<Option<Stamp>, Failure>),
    Swapped {
        at: Stamp,
        stamp: String,
        table: LockTable,
        result: Result<bool, Failure>,
    },
    Adopted(Result<bool, Failure>),
    Created(Result<bool, Failure>),
    /// When the inserts were sent, on the clock that leases run on.
    Opened(Vec<NewSession>, Moment, Result<(), Failure>),
    /// Nothing where the row had moved.
    Surveyed(Result<Option<Vec<(SessionId, Liveness)>>, Failure>),
    Audited(Result<Vec<(SessionId, Liveness)>, Failure>),
    /// Who beats, and whose fence row is all that is left.
    Swept(Result<(Vec<SessionRow>, Vec<SessionId>), Failure>),
    Notified(Result<(), Failure>),
    DataVersion(Result<Option<i64>, Failure>),
}

impl Job {
    pub(super) async fn run(self, link: &mut Link, namespace: &str) -> Done {
        let sent = Instant::now();
        let outcome = match self {
            Self::Read => Outcome::Read(link.with(async |c| c.read(namespace).await).await),
            Self::ReadLocked => {
                Outcome::ReadLocked(link.with(async |c| c.read_locked(namespace).await).await)
            }
            Self::Unlock => Outcome::Unlocked(link.with(async |c| c.unlock().await).await),
            Self::Peek => Outcome::Peeked(link.with(async |c| c.peek(namespace).await).await),
            Self::Swap {
                at,
                stamp,
                mut table,
                alive,
            } => {
                let columns = table.columns();
                let swap = async |c: &mut Connection| {
                    c.swap(namespace, &at, &stamp, &columns, &alive).await
                };
                let result = link.with(swap).await;
                Outcome::Swapped {
                    at,
                    stamp,
                    table,
                    result,
                }
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
                let open = async |c: &mut Connection| {
                    for session in &sessions {
                        c.insert_session(session).await?;
                    }
                    Ok(())
                };
                let result = link.with(open).await;
                Outcome::Opened(sessions, at, result)
            }
            Self::Survey { at, sessions } => {
                // The row first, on the same connection: who was in it and has no
                // rows now is dead, not new.
                let survey = async |c: &mut Connection| {
                    if c.peek(namespace).await?.as_ref() != Some(&at) {
                        return Ok(None);
                    }
                    c.liveness(&sessions).await.map(Some)
                };
                Outcome::Surveyed(link.with(survey).await)
            }
            Self::Audit(sessions) => {
                Outcome::Audited(link.with(async |c| c.liveness(&sessions).await).await)
            }
            Self::Sweep => {
                let sweep = async |c: &mut Connection| {
                    // In this order, as for every eviction.
                    let mut fences = c.fences_in(namespace).await?;
                    let beating = c.sessions_in(namespace).await?;
                    fences.retain(|id| !beating.iter().any(|row| row.id == *id));
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

/// Something that may have to wait for others, on a connection where nothing else
/// waits.
#[derive(Debug, PartialEq)]
pub(super) enum SideJob {
    /// Delete a session's rows, the beat row first.
    Evict(SessionId, Cause),
    /// Delete all sessions of a namespace whose row has no stamp, and is still of
    /// this version; `None`: there is no row.
    Clear(Option<i64>),
    /// Delete the sessions of one task, or of all.
    Evacuate(ChoreId, Option<Arc<str>>),
    /// Wait for commits that were fenced with this session and are still under way.
    Touch(SessionId),
    /// Delete our own sessions at the end.
    Leave(Vec<SessionId>),
}

#[derive(Debug)]
pub(super) enum SideOutcome {
    /// Whether the session is dead now, or beats again.
    Evicted(SessionId, Cause, Result<bool, Failure>),
    /// Who is dead now; nothing where the row had moved.
    Cleared(Result<Option<Vec<SessionId>>, Failure>),
    /// Who is dead now, and what they held when it began.
    Evacuated(ChoreId, Result<(Vec<SessionId>, Vec<Holder>), Failure>),
    Touched(SessionId, Result<(), Failure>),
    Left(Result<(), Failure>),
}

/// How long a deletion may wait for an open fenced transaction before it is asked
/// again.
pub(super) const SIDE_LIMIT: Duration = Duration::from_mins(1);

impl SideJob {
    pub(super) async fn run(self, link: &mut Link, namespace: &str) -> SideOutcome {
        match self {
            Self::Evict(id, cause) => {
                let beat = match cause {
                    Cause::Stopped { beat } => Some(beat),
                    Cause::Gone | Cause::Begun => None,
                };
                let result = persist(link, async |c| evict(c, &id, beat).await).await;
                SideOutcome::Evicted(id, cause, result)
            }
            Self::Clear(version) => SideOutcome::Cleared(
                persist(link, async |c| {
                    // Listed before the row is looked at: whoever is in the list
                    // was there before this row is adopted.
                    let sessions = sessions_in(c, namespace, |_| true).await?;
                    let at = c.peek(namespace).await?;
                    let expected = version.map(|version| Stamp {
                        version,
                        stamp: None,
                    });
                    if at != expected {
                        return Ok(None);
                    }
                    for id in &sessions {
                        evict(c, id, None).await?;
                    }
                    Ok(Some(sessions))
                })
                .await,
            ),
            Self::Evacuate(chore, task) => {
                let result = persist(link, async |c| {
                    let of = |t: &str| task.as_ref().is_none_or(|task| **task == *t);
                    let mut sessions = sessions_in(c, namespace, of).await?;
                    let mut held = Vec::new();
                    // Waiters and holders whose beat row is gone are in the row. What is
                    // held is noted before: once its session is dead, anybody may take
                    // it away.
                    if let Some(row) = c.read(namespace).await?
                        && let Ok(table) =
                            LockTable::parse(row.data_json.as_deref(), row.meta_json.as_deref())
                    {
                        sessions.extend(table.sessions_of(task.as_deref()));
                        held = table.holders();
                        held.retain(|holder| holder.token.is_some() && of(&holder.task_id));
                    }
                    sessions.sort();
                    sessions.dedup();
                    for id in &sessions {
                        evict(c, id, None).await?;
                    }
                    Ok((sessions, held))
                })
                .await;
                SideOutcome::Evacuated(chore, result)
            }
            Self::Touch(id) => {
                let result = persist(link, async |c| c.touch_fence(&id).await).await;
                SideOutcome::Touched(id, result)
            }
            Self::Leave(ids) => {
                let leave = async |c: &mut Connection| {
                    for id in &ids {
                        evict(c, id, None).await?;
                    }
                    Ok(())
                };
                SideOutcome::Left(persist(link, leave).await)
            }
        }
    }
}

/// Deletes a session's two rows; whether it is dead now.
async fn evict(c: &mut Connection, id: &SessionId, beat: Option<i64>) -> Result<bool, Failure> {
    if !c.delete_session(id, beat).await? {
        // Another beat, or somebody else deleted it: then the fence is ours as well.
        let state = c.liveness(std::slice::from_ref(id)).await?;
        if matches!(state[..], [(_, Liveness::Beating(_))]) {
            return Ok(false);
        }
    }
    c.delete_fence(id).await?;
    Ok(true)
}

async fn sessions_in(
    c: &mut Connection,
    namespace: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<SessionId>, Failure> {
    // The fences first: a session that begins in between has its beat row before its
    // fence row, so a fence without one is a half-done eviction, of whomever.
    let mut ids = c.fences_in(namespace).await?;
    let beating = c.sessions_in(namespace).await?;
    ids.retain(|id| {
        let row = beating.iter().find(|row| row.id == *id);
        row.is_none_or(|row| wanted(&row.task))
    });
    let missing = beating.into_iter().filter(|row| wanted(&row.task));
    ids.extend(missing.map(|row| row.id));
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// Tries again what can be repeated, with growing pauses, before it is given back.
async fn persist<T>(
    link: &mut Link,
    work: impl AsyncFn(&mut Connection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(2))
        .with_max_delay(Duration::from_millis(200))
        .with_max_times(4)
        .with_jitter()
        .build();
    for pause in pauses {
        match link.with(&work).await {
            Err(failure) if failure.class != Class::Hopeless => {
                tracing::debug!(%failure, "asking again");
                time::sleep(pause).await;
            }
            result => return result,
        }
    }
    link.with(&work).await
}

/// A tick of the connection that renews: all sessions of the process in one
/// statement, and which writes the rows are of where something is held.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    pub(super) sessions: Vec<SessionId>,
    pub(super) namespaces: Vec<Arc<str>>,
}

#[derive(Debug)]
pub(super) struct Renewed {
    pub(super) sessions: Vec<SessionId>,
    pub(super) sent: Moment,
    /// The sessions that are not there any more.
    pub(super) result: Result<Vec<SessionId>, Failure>,
    pub(super) rows: Vec<(Arc<str>, Option<Stamp>)>,
}

impl Renewal {
    pub(super) async fn run(self, link: &mut Link) -> Renewed {
        let sent = Moment::now();
        let result = link
            .with(async |c| {
                if self.sessions.is_empty()
                    || c.renew(&self.sessions).await? == self.sessions.len() as u64
                {
                    return Ok(Vec::new());
                }
                let states = c.liveness(&self.sessions).await?;
                let gone = |state: &Liveness| !matches!(state, Liveness::Beating(_));
                let lost = states.into_iter().filter(|(_, state)| gone(state));
                Ok(lost.map(|(id, _)| id).collect())
            })
            .await;
        let mut rows = Vec::new();
        if result.is_ok() {
            for namespace in self.namespaces {
                let peeked = link.with(async |c| c.peek(&namespace).await).await;
                match peeked {
                    Ok(at) => rows.push((namespace, at)),
                    Err(failure) => {
                        tracing::debug!(%failure, %namespace, "the row could not be looked at");
                        break;
                    }
                }
            }
        }
        Renewed {
            sessions: self.sessions,
            sent,
            result,
            rows,
        }
    }
}
