//! What the driver asks of the database: jobs, and what came of them.
//!
//! A job owns what it needs, so that the driver's state is free while it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time;

use super::{lease::Moment, observer::Cause, plan::ChoreId, session::SessionKey};
use crate::{
    report::Holder,
    store::{
        Class, Connection, Failure, Kind, Link, Liveness, NewSession, Proof, Row, SessionRow, Stamp,
    },
    table::{LockTable, SessionId},
};

/// How many sessions, or namespaces, one statement may name: far below every engine's
/// limit for arguments, and few enough that a statement stays short.
pub(super) const PIECE: usize = 512;
/// How many sessions one statement inserts: whole pieces first, then smaller ones, so that
/// only a few statements are ever prepared.
pub(super) const INSERTS: [usize; 3] = [64, 8, 1];

/// Something for the connection that reads and writes the rows.
#[derive(Debug)]
pub(super) enum Job {
    Read,
    /// Read the row under its lock, which the next job of this namespace gives back.
    ReadLocked,
    /// Give the row's lock back without a write.
    Unlock,
    Peek,
    /// Replace the row of the write `at` by `table`, which makes it the write `to`.
    Swap {
        at: Stamp,
        to: Stamp,
        table: LockTable,
        proof: Proof,
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
    /// Look whether these sessions live, as far as the row knows them. They were in the
    /// row of the write `at`.
    Survey {
        at: Stamp,
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
        to: Stamp,
        table: LockTable,
        proof: Proof,
        result: Result<bool, Failure>,
    },
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
                to,
                mut table,
                proof,
            } => {
                let columns = table.columns();
                let swap =
                    async |c: &mut Connection| c.swap(namespace, &at, &to, &columns, &proof).await;
                let result = link.with(swap).await;
                Outcome::Swapped {
                    at,
                    to,
                    table,
                    proof,
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
                    let mut rest = &sessions[..];
                    for size in INSERTS {
                        while rest.len() >= size {
                            let (piece, behind) = rest.split_at(size);
                            c.insert_sessions(piece).await?;
                            rest = behind;
                        }
                    }
                    Ok(())
                };
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

/// What came of a look at sessions.
#[derive(Debug, Default)]
pub(super) struct Surveyed {
    /// The row as it is now, where it has moved.
    pub(super) row: Option<Row>,
    pub(super) states: Vec<(SessionId, Liveness)>,
}

/// Looks whether these sessions live. The row is looked at first, on the same connection:
/// a session that is in it, and has no rows afterwards, is dead and not new. Where the row
/// has moved since `at`, only the sessions that are still in it are asked for.
async fn survey(
    c: &mut Connection,
    namespace: &str,
    at: &Stamp,
    sessions: &[SessionId],
    witness: Option<&SessionId>,
) -> Result<Surveyed, Failure> {
    if c.peek(namespace).await?.as_ref() == Some(at) {
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

/// Something that other transactions may be in the way of. None of these waits for one on
/// the server: it fails, and is tried again later.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum SideJob {
    /// Delete a session's rows, the beat row first. `witness` is a session of our own.
    Evict {
        id: SessionId,
        cause: Cause,
        witness: Option<SessionId>,
    },
    /// Delete all sessions of a namespace whose row has no stamp, and is still of
    /// this version; `None`: there is no row.
    Clear(Option<i64>),
    /// Delete the sessions of one task, or of all.
    Evacuate(ChoreId, Option<Arc<str>>),
    /// Wait for commits that were fenced with this fence row and are still under way.
    Touch(String),
    /// Delete sessions of our own that hold nothing.
    Discard(Vec<SessionId>),
    /// The same, as the last thing before the driver ends.
    Leave(Vec<SessionId>),
}

#[derive(Debug)]
pub(super) enum SideOutcome {
    /// Whether the session is dead now, or beats again.
    Evicted(SessionId, Cause, Result<bool, Failure>),
    /// Which sessions are dead now; nothing where the row had moved.
    Cleared(Result<Option<Vec<SessionId>>, Failure>),
    /// Which sessions are dead now, and what they held when it began. `Err` besides: some
    /// of them could not be ended yet.
    Evacuated(ChoreId, Result<Evacuated, Failure>),
    Touched(String, Result<(), Failure>),
    Discarded(Vec<SessionId>, Result<(), Failure>),
    /// The sessions that are left.
    Left(Vec<SessionId>),
}

/// What came of ending the sessions of a task.
#[derive(Debug, Default)]
pub(super) struct Evacuated {
    pub(super) dead: Vec<SessionId>,
    /// What was held when it began.
    pub(super) held: Vec<Holder>,
    /// Why some sessions are not dead yet.
    pub(super) stuck: Option<Failure>,
}

/// How long a side statement may take.
pub(super) const SIDE_LIMIT: Duration = Duration::from_secs(5);

impl SideJob {
    pub(super) async fn run(self, link: &mut Link, namespace: &str) -> SideOutcome {
        match self {
            Self::Evict { id, cause, witness } => {
                let evict = async |c: &mut Connection| evict(c, &id, cause, witness.as_ref()).await;
                let result = persist(link, evict).await;
                SideOutcome::Evicted(id, cause, result)
            }
            Self::Clear(version) => {
                let clear = async |c: &mut Connection| clear(c, namespace, version).await;
                SideOutcome::Cleared(persist(link, clear).await)
            }
            Self::Evacuate(chore, task) => {
                let evacuate =
                    async |c: &mut Connection| evacuate(c, namespace, task.as_deref()).await;
                SideOutcome::Evacuated(chore, persist(link, evacuate).await)
            }
            Self::Touch(row) => {
                let result = persist(link, async |c| c.await_fence(&row).await).await;
                SideOutcome::Touched(row, result)
            }
            Self::Discard(ids) => {
                let result = persist(link, async |c| discard(c, &ids).await).await;
                SideOutcome::Discarded(ids, result)
            }
            Self::Leave(ids) => {
                let result = persist(link, async |c| discard(c, &ids).await).await;
                if let Err(failure) = &result {
                    tracing::debug!(%failure, "sessions are left behind for now");
                }
                SideOutcome::Left(if result.is_ok() { Vec::new() } else { ids })
            }
        }
    }
}

/// Deletes a session's rows; whether it is dead now.
async fn evict(
    c: &mut Connection,
    id: &SessionId,
    cause: Cause,
    witness: Option<&SessionId>,
) -> Result<bool, Failure> {
    let deleted = match cause {
        Cause::Gone => {
            c.delete_session(id).await?;
            true
        }
        Cause::Stopped { beat } => c.delete_session_at(id, beat).await?,
        Cause::Begun => false,
    };
    if deleted {
        c.delete_fences(id).await?;
        return Ok(true);
    }
    // It beats again, or another process evicts it: that is shown by what the deletion of
    // its fence finds, never by an answer that does not have it.
    if c.delete_fences_of_dead(id, witness).await? {
        return Ok(true);
    }
    let state = c.liveness(std::slice::from_ref(id), witness).await?;
    Ok(matches!(state[..], [(_, Liveness::Dead)]))
}

async fn clear(
    c: &mut Connection,
    namespace: &str,
    version: Option<i64>,
) -> Result<Option<Vec<SessionId>>, Failure> {
    // Listed before the row is looked at: a session in the list was there before this row
    // is adopted.
    let sessions = sessions_in(c, namespace, |_| true).await?;
    let expected = version.map(|version| Stamp {
        version,
        stamp: None,
    });
    if c.peek(namespace).await? != expected {
        return Ok(None);
    }
    for id in &sessions {
        if c.delete_session_of(id, namespace, version).await? {
            c.delete_fences(id).await?;
        } else if c.peek(namespace).await? != expected {
            return Ok(None);
        } else if !evict(c, id, Cause::Begun, None).await? {
            return Ok(None);
        }
    }
    Ok(Some(sessions))
}

async fn evacuate(
    c: &mut Connection,
    namespace: &str,
    task: Option<&str>,
) -> Result<Evacuated, Failure> {
    let of = |t: &str| task.is_none_or(|task| task == t);
    let mut sessions = sessions_in(c, namespace, of).await?;
    let mut evacuated = Evacuated::default();
    // Waiters and holders whose beat row is gone are in the row. What is held is noted
    // before: once its session is dead, any process may take it away.
    if let Some(row) = c.read(namespace).await?
        && let Ok(table) = LockTable::parse(row.data_json.as_deref(), row.meta_json.as_deref())
    {
        sessions.extend(table.sessions_of(task));
        evacuated.held = table.holders();
        evacuated
            .held
            .retain(|holder| holder.token.is_some() && of(&holder.task_id));
    }
    sessions.sort();
    sessions.dedup();
    (evacuated.dead, evacuated.stuck) = end(c, sessions).await?;
    Ok(evacuated)
}

/// Deletes sessions of our own.
async fn discard(c: &mut Connection, ids: &[SessionId]) -> Result<(), Failure> {
    match end(c, ids.to_vec()).await? {
        (_, None) => Ok(()),
        (_, Some(stuck)) => Err(stuck),
    }
}

/// Deletes sessions, whether they beat or not: those that are dead now, and why the others
/// are not. One open transaction does not keep the others.
async fn end(
    c: &mut Connection,
    ids: Vec<SessionId>,
) -> Result<(Vec<SessionId>, Option<Failure>), Failure> {
    let (mut dead, mut stuck) = (Vec::new(), None);
    for piece in ids.chunks(PIECE) {
        c.delete_sessions(piece).await?;
        match c.delete_all_fences(piece).await {
            Ok(()) => {
                dead.extend_from_slice(piece);
                continue;
            }
            Err(failure) if failure.kind == Kind::Locked => {}
            Err(failure) => return Err(failure),
        }
        for id in piece {
            match c.delete_fences(id).await {
                Ok(()) => dead.push(id.clone()),
                Err(failure) if failure.kind == Kind::Locked => stuck = Some(failure),
                Err(failure) => return Err(failure),
            }
        }
    }
    Ok((dead, stuck))
}

async fn sessions_in(
    c: &mut Connection,
    namespace: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<SessionId>, Failure> {
    // The fences first: a session that begins in between has its beat row before its
    // fence row, so a fence without one is an eviction that was begun.
    let mut ids = c.fences_in(namespace).await?;
    let beating = c.sessions_in(namespace).await?;
    let tasks: BTreeMap<_, _> = beating.iter().map(|row| (&row.id, &*row.task)).collect();
    ids.retain(|id| tasks.get(id).is_none_or(|task| wanted(task)));
    let missing = beating.iter().filter(|row| wanted(&row.task));
    ids.extend(missing.map(|row| row.id.clone()));
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
            // A lock is waited for elsewhere, so that it keeps nothing else waiting.
            Err(failure) if failure.kind == Kind::Locked => return Err(failure),
            Err(failure) if failure.class != Class::Hopeless => {
                tracing::debug!(%failure, "asking again");
                time::sleep(pause).await;
            }
            result => return result,
        }
    }
    link.with(&work).await
}

/// A piece of what the connection that renews does at a tick.
#[derive(Debug)]
pub(super) enum Renewal {
    /// Nothing: it opens the connection, before there is any hurry.
    Open,
    /// Renew these sessions.
    Sessions(Vec<RenewedSession>),
    /// Which writes the rows are of, where something is held.
    Rows(Vec<Arc<str>>),
}

/// A session that is renewed, and where it belongs.
#[derive(Clone, Debug)]
pub(super) struct RenewedSession {
    pub(super) namespace: Arc<str>,
    pub(super) key: SessionKey,
    pub(super) id: SessionId,
}

#[derive(Debug)]
pub(super) enum Renewed {
    Opened(Result<(), Failure>),
    Sessions {
        sessions: Vec<RenewedSession>,
        sent: Moment,
        /// The sessions that are not there any more.
        result: Result<BTreeSet<SessionId>, Failure>,
    },
    Rows {
        namespaces: Vec<Arc<str>>,
        result: Result<BTreeMap<String, Stamp>, Failure>,
    },
}

impl Renewal {
    pub(super) async fn run(self, link: &mut Link) -> Renewed {
        match self {
            Self::Open => Renewed::Opened(link.with(async |_| Ok(())).await),
            Self::Sessions(sessions) => {
                let ids: Vec<_> = sessions.iter().map(|session| session.id.clone()).collect();
                let sent = Moment::now();
                let result = link.with(async |c| renew(c, &ids).await).await;
                Renewed::Sessions {
                    sessions,
                    sent,
                    result,
                }
            }
            Self::Rows(namespaces) => {
                let result = link.with(async |c| c.peek_many(&namespaces).await).await;
                Renewed::Rows {
                    namespaces,
                    result: result.map(|rows| rows.into_iter().collect()),
                }
            }
        }
    }
}

/// Renews sessions; those that are not there any more.
async fn renew(c: &mut Connection, ids: &[SessionId]) -> Result<BTreeSet<SessionId>, Failure> {
    let renewed = c.renew(ids).await?;
    if renewed == ids.len() as u64 {
        return Ok(BTreeSet::new());
    }
    let states = c.liveness(ids, None).await?.into_iter();
    let gone = states.filter(|(_, state)| !matches!(state, Liveness::Beating(_)));
    let gone: BTreeSet<_> = gone.map(|(id, _)| id).collect();
    // Those that the answer does not have are those that were not renewed, or the answer
    // is not believed.
    let found = (ids.len() - gone.len()) as u64;
    if found == renewed {
        return Ok(gone);
    }
    let text = format!("{renewed} sessions were renewed and {found} were found");
    Err(Failure::unfit(Class::Retry, text))
}
