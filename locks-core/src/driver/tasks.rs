//! How a task runs: the calls of the store that each makes.

use std::{collections::BTreeMap, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time;

use crate::{
    protocol::{CHUNK, EvictReason, Evicted, Listed, Removal, Task, TaskResult},
    store::{Class, Connection, Failure, Kind, Liveness, Reconnecting, RowVersion},
    table::{LockTable, SessionId},
};

/// The pauses after a list of fence rows met the lock of an open transaction.
const LIST_PAUSES: [Duration; 4] = [
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
];

/// Runs a task on a side connection.
pub(super) async fn run(task: Task, link: &mut Reconnecting, namespace: &str) -> TaskResult {
    match task {
        Task::Prepare => TaskResult::Prepared(link.with(async |_| Ok(())).await),
        Task::ReadRow(call) => {
            let read = async |c: &mut Connection| {
                let row = c.read(namespace).await?;
                Ok((row, c.sessions_in(namespace).await?))
            };
            let result = link.with(read).await;
            TaskResult::RowRead { call, result }
        }
        Task::ReadSessions(call) => {
            let result = link.with(async |c| c.sessions_in(namespace).await).await;
            TaskResult::SessionsRead { call, result }
        }
        Task::Evict {
            session,
            reason,
            witness,
        } => {
            let evict =
                async |c: &mut Connection| evict(c, &session, reason, witness.as_ref()).await;
            let result = persist(link, evict).await;
            TaskResult::Evicted {
                session,
                reason,
                result,
            }
        }
        Task::EvictAll(version) => {
            let clear = async |c: &mut Connection| evict_all(c, namespace, version).await;
            TaskResult::AllEvicted(persist(link, clear).await)
        }
        Task::ListHolders { call, what } => {
            let list = async |c: &mut Connection| list_holders(c, namespace, &what).await;
            let result = persist(link, list).await;
            TaskResult::HoldersListed { call, result }
        }
        Task::EvictHolders { call, sessions } => {
            let result = persist(link, async |c| end(c, &sessions).await).await;
            TaskResult::HoldersEvicted { call, result }
        }
        Task::AwaitFence { row, release } => {
            let result = persist(link, async |c| c.await_fence(&row).await).await;
            TaskResult::FenceAwaited {
                row,
                release,
                result,
            }
        }
        Task::DeleteIdleSessions(sessions) => {
            let result = persist(link, async |c| delete_own(c, &sessions).await).await;
            TaskResult::IdleSessionsDeleted { sessions, result }
        }
        Task::DeleteOwnSessions(sessions) => {
            let result = persist(link, async |c| delete_own(c, &sessions).await).await;
            TaskResult::OwnSessionsDeleted { sessions, result }
        }
    }
}

/// Deletes the rows of a session, and returns whether it is dead now.
async fn evict(
    c: &mut Connection,
    id: &SessionId,
    reason: EvictReason,
    witness: Option<&SessionId>,
) -> Result<bool, Failure> {
    let deleted = match reason {
        EvictReason::ProcessExited | EvictReason::Lost => {
            c.delete_session(id).await?;
            true
        }
        EvictReason::HeartbeatExpired { heartbeat } => c.delete_session_at(id, heartbeat).await?,
        EvictReason::Resumed => false,
    };
    if deleted {
        c.delete_fences(id).await?;
        return Ok(true);
    }
    // Its heartbeat advances, or another process evicts it. The deletion of its fence rows
    // shows which; an answer without the session never does.
    if c.delete_fences_of_dead(id, witness).await? {
        return Ok(true);
    }
    let state = c.liveness(std::slice::from_ref(id), witness).await?;
    Ok(matches!(state[..], [(_, Liveness::Dead)]))
}

/// Deletes all sessions of a namespace whose row is missing or has no stamp, and returns
/// them; nothing if the row is no longer of this version.
async fn evict_all(
    c: &mut Connection,
    namespace: &str,
    version: Option<i64>,
) -> Result<Option<Vec<SessionId>>, Failure> {
    // Listed before the row is read, so that every session in the list existed before this row
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
        if moved || !evict(c, id, EvictReason::Resumed, None).await? {
            return Ok(None);
        }
    }
    Ok(Some(sessions))
}

/// Lists the sessions whose locks a removal takes away, and what they hold.
async fn list_holders(
    c: &mut Connection,
    namespace: &str,
    what: &Removal,
) -> Result<Listed, Failure> {
    let mut sessions = match what {
        Removal::Task(task) => sessions_in(c, namespace, |t| **task == *t, false).await?,
        Removal::All => sessions_in(c, namespace, |_| true, true).await?,
        Removal::Grant(_) => Vec::new(),
    };
    let mut held = Vec::new();
    // The row also names sessions whose heartbeat row is gone.
    if let Some(row) = c.read(namespace).await?
        && let Ok(table) = LockTable::parse(row.data_json.as_deref(), row.meta_json.as_deref())
    {
        sessions.extend(what.sessions_in(&table));
        held = what.held_in(&table);
    }
    sessions.sort();
    sessions.dedup();
    Ok(Listed { sessions, held })
}

/// Deletes sessions of our own.
async fn delete_own(c: &mut Connection, ids: &[SessionId]) -> Result<(), Failure> {
    end(c, ids).await?.stuck.map_or(Ok(()), Err)
}

/// Deletes sessions, whether they are alive or not. Returns those that are dead now, and why
/// the others are not. An open transaction of one session does not stop the others.
async fn end(c: &mut Connection, ids: &[SessionId]) -> Result<Evicted, Failure> {
    let (mut dead, mut stuck) = (Vec::new(), None);
    for piece in ids.chunks(CHUNK) {
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
    Ok(Evicted { dead, stuck })
}

/// Deletes the fence rows of all these sessions in one statement. Returns whether no open
/// transaction blocked it. A list may meet rows that it does not name, such as one that is being
/// inserted, so it is tried several times before the sessions are deleted one by one.
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
    // The fence rows first. A session that is opened between the two lists has its heartbeat
    // row before its fence row, so a fence row without one is an eviction that was begun.
    let mut ids = c.fences_in(namespace).await?;
    let beating = c.sessions_in(namespace).await?;
    let tasks: BTreeMap<_, _> = beating.iter().map(|row| (&row.id, &*row.task)).collect();
    // A session without a heartbeat row has no known task. If it holds anything, the row has
    // its task.
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

/// Runs `work` again after failures that can be repeated, with growing pauses.
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
            // The protocol runs it again later, so that nothing else waits on this connection.
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
