//! What the driver does on side connections: jobs that other transactions may be in the way
//! of.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time;

use super::{job::PIECE, observer::Cause, plan::ChoreId, session::ReleaseKey};
use crate::{
    report::Holder,
    store::{Class, Connection, Failure, Kind, Liveness, Reconnecting, RowVersion},
    table::{LockTable, SessionId},
};

/// The pauses after a list of fences met a lock.
const LIST_PAUSES: [Duration; 4] = [
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
];

/// Something that other transactions may be in the way of. None of these waits for one on
/// the server: it fails, and is tried again later.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum SideJob {
    /// Open the connection: an eviction may follow, and then there is a hurry.
    Prepare,
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
    /// Wait for commits that were fenced with this fence row and are still under way, so
    /// that these releases can go on.
    Touch(String, Vec<ReleaseKey>),
    /// Delete sessions of our own that hold nothing.
    Discard(Vec<SessionId>),
    /// The same, as the last thing before the driver ends.
    Leave(Vec<SessionId>),
}

#[derive(Debug)]
pub(super) enum SideOutcome {
    Prepared(Result<(), Failure>),
    /// Whether the session is dead now, or beats again.
    Evicted(SessionId, Cause, Result<bool, Failure>),
    /// Which sessions are dead now; nothing where the row had moved.
    Cleared(Result<Option<Vec<SessionId>>, Failure>),
    /// Which sessions are dead now, and what they held when it began. `Err` besides: some
    /// of them could not be ended yet.
    Evacuated(ChoreId, Result<Evacuated, Failure>),
    Touched(String, Vec<ReleaseKey>, Result<(), Failure>),
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
    pub(super) async fn run(self, link: &mut Reconnecting, namespace: &str) -> SideOutcome {
        match self {
            Self::Prepare => SideOutcome::Prepared(link.with(async |_| Ok(())).await),
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
            Self::Touch(row, keys) => {
                let result = persist(link, async |c| c.await_fence(&row).await).await;
                SideOutcome::Touched(row, keys, result)
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
    let sessions = sessions_in(c, namespace, |_| true, true).await?;
    let expected = version.map(|version| RowVersion {
        version,
        stamp: None,
    });
    if c.read_version(namespace).await? != expected {
        return Ok(None);
    }
    for id in &sessions {
        if c.delete_session_of(id, namespace, version).await? {
            c.delete_fences(id).await?;
            continue;
        }
        let moved = c.read_version(namespace).await? != expected;
        if moved || !evict(c, id, Cause::Begun, None).await? {
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
    let mut sessions = sessions_in(c, namespace, of, task.is_none()).await?;
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
        if delete_all_fences(c, piece).await? {
            dead.extend_from_slice(piece);
            continue;
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

/// Deletes the fences of all these sessions at once; whether no transaction was in the way. A
/// list may meet rows that it does not name, such as one that is just being inserted, so it is
/// tried more than once before the sessions are taken one by one.
async fn delete_all_fences(c: &mut Connection, ids: &[SessionId]) -> Result<bool, Failure> {
    for pause in LIST_PAUSES {
        match c.delete_all_fences(ids).await {
            Err(failure) if failure.kind == Kind::Locked => time::sleep(pause).await,
            result => return result.map(|()| true),
        }
    }
    Ok(false)
}

async fn sessions_in(
    c: &mut Connection,
    namespace: &str,
    wanted: impl Fn(&str) -> bool,
    wants_all: bool,
) -> Result<Vec<SessionId>, Failure> {
    // The fences first: a session that begins in between has its beat row before its
    // fence row, so a fence without one is an eviction that was begun.
    let mut ids = c.fences_in(namespace).await?;
    let beating = c.sessions_in(namespace).await?;
    let tasks: BTreeMap<_, _> = beating.iter().map(|row| (&row.id, &*row.task)).collect();
    // Of which task it is cannot be told; if it holds anything, the row tells.
    ids.retain(|id| match tasks.get(id) {
        Some(task) => wanted(task),
        None => wants_all,
    });
    let missing = beating.iter().filter(|row| wanted(&row.task));
    ids.extend(missing.map(|row| row.id.clone()));
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// Tries again what can be repeated, with growing pauses, before it is given back.
async fn persist<T>(
    link: &mut Reconnecting,
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
            Err(failure) if failure.class != Class::Permanent => {
                tracing::debug!(%failure, "asking again");
                time::sleep(pause).await;
            }
            result => return result,
        }
    }
    link.with(&work).await
}
