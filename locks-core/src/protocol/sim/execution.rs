//! How a driver carries out queries, tasks and renewals: as a sequence of statements.
//!
//! Each is an async function, as in the driver. It runs until it has sent a statement, and
//! goes on when the world has handed in the answer.

use std::{
    cell::RefCell, collections::BTreeSet, future::poll_fn, rc::Rc, sync::Arc, task::Poll,
    time::Duration,
};

use super::{
    requests,
    statement::{OnlyIf, Reply, Statement},
};
use crate::{
    protocol::{
        CHUNK, CompareAndSet, Completion, EvictReason, Evicted, Input, Listed, Orphans, Peers,
        Query, Removal, Task, TaskResult, config::Name,
    },
    store::{Class, Failure, Kind, Liveness, LocksRow, NewSession, RowVersion, SessionRow},
    table::{LockTable, SessionId},
};

/// The pauses after a list of fences met a lock, in milliseconds.
const LIST_PAUSES: [u64; 4] = [2, 5, 10, 20];
/// The pauses before a task is run again, in milliseconds.
const RETRY_PAUSES: [u64; 4] = [2, 4, 8, 16];

/// What goes over a connection.
#[derive(Debug, Default)]
struct Wire {
    sent: Option<Statement>,
    answer: Option<Result<Reply, Failure>>,
    pause: Option<Duration>,
    /// Whether a transaction is open that has the row's lock.
    locked: bool,
}

/// A driver's end of a connection, and the world's.
#[derive(Clone, Debug, Default)]
pub(super) struct Connection(Rc<RefCell<Wire>>);

impl Connection {
    // The world's end.

    pub(super) fn take_statement(&self) -> Option<Statement> {
        self.0.borrow_mut().sent.take()
    }

    pub(super) fn take_pause(&self) -> Option<Duration> {
        self.0.borrow_mut().pause.take()
    }

    pub(super) fn answer(&self, answer: Result<Reply, Failure>) {
        self.0.borrow_mut().answer = Some(answer);
    }

    /// Whether a transaction is open, so that a failure ends the connection.
    pub(super) fn is_locked(&self) -> bool {
        self.0.borrow().locked
    }

    pub(super) fn unlock(&self) {
        self.0.borrow_mut().locked = false;
    }

    // The driver's end.

    pub(super) async fn ask(&self, statement: Statement) -> Result<Reply, Failure> {
        self.0.borrow_mut().sent = Some(statement);
        self.next_answer().await
    }

    async fn pause(&self, millis: u64) {
        self.0.borrow_mut().pause = Some(Duration::from_millis(millis));
        drop(self.next_answer().await);
    }

    async fn next_answer(&self) -> Result<Reply, Failure> {
        let next = |_: &mut std::task::Context<'_>| match self.0.borrow_mut().answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        };
        poll_fn(next).await
    }

    pub(super) async fn count(&self, statement: Statement) -> Result<usize, Failure> {
        match self.ask(statement).await? {
            Reply::Count(count) => Ok(count),
            reply => panic!("no count: {reply:?}"),
        }
    }

    pub(super) async fn is_one(&self, statement: Statement) -> Result<bool, Failure> {
        match self.ask(statement).await? {
            Reply::Number(number) => Ok(number == Some(1)),
            reply => panic!("no number: {reply:?}"),
        }
    }

    pub(super) async fn read(&self, namespace: &Name) -> Result<Option<LocksRow>, Failure> {
        self.row(Statement::Read(namespace.clone())).await
    }

    async fn row(&self, statement: Statement) -> Result<Option<LocksRow>, Failure> {
        match self.ask(statement).await? {
            Reply::Row(row) => Ok(row),
            reply => panic!("no row: {reply:?}"),
        }
    }

    async fn read_version(&self, namespace: &Name) -> Result<Option<RowVersion>, Failure> {
        match self.ask(Statement::ReadVersion(namespace.clone())).await? {
            Reply::Version(version) => Ok(version),
            reply => panic!("no version: {reply:?}"),
        }
    }

    async fn compare_and_set(
        &self,
        namespace: &Name,
        write: &mut CompareAndSet,
    ) -> Result<bool, Failure> {
        let statement = Statement::CompareAndSet {
            namespace: namespace.clone(),
            expected: write.expected.clone(),
            new: write.new.clone(),
            columns: write.table.columns(),
            preconditions: write.preconditions.clone(),
            durability: write.durability,
        };
        let replaced = self.count(statement).await? == 1;
        if self.is_locked() {
            let committed = self.ask(Statement::Commit).await;
            committed.map_err(|mut failure| {
                failure.class = Class::Indeterminate;
                failure
            })?;
            self.unlock();
        }
        Ok(replaced)
    }

    async fn insert_sessions(&self, new: &[NewSession], fence_rows: usize) -> Result<(), Failure> {
        self.count(Statement::InsertHeartbeats(new.to_vec()))
            .await?;
        let rows = new.iter().flat_map(|new| {
            let rows = 0..fence_rows;
            rows.map(|number| Arc::from(new.id.fence_row(number)))
        });
        let fences = Statement::InsertFences(rows.collect());
        self.count(fences).await.map(drop)
    }

    pub(super) async fn liveness(
        &self,
        sessions: &[SessionId],
        witness: Option<&SessionId>,
    ) -> Result<Vec<(SessionId, Liveness)>, Failure> {
        if sessions.is_empty() {
            return Ok(Vec::new());
        }
        let asked = sessions.iter().chain(witness).cloned().collect();
        let mut found = match self.ask(Statement::Liveness(asked)).await? {
            Reply::Liveness(found) => found,
            reply => panic!("no sessions: {reply:?}"),
        };
        if witness.is_some_and(|witness| !found.contains_key(witness)) {
            let text = "the answer does not show this process's own session";
            return Err(Failure::inconsistent(Class::NotApplied, text));
        }
        let states = sessions.iter().map(|id| {
            let state = match found.remove(id) {
                Some(Some(row)) => Liveness::Alive(row),
                Some(None) => Liveness::Evicting,
                None => Liveness::Dead,
            };
            (id.clone(), state)
        });
        Ok(states.collect())
    }

    async fn sessions_in(&self, namespace: &Name) -> Result<Vec<SessionRow>, Failure> {
        match self.ask(Statement::SessionsIn(namespace.clone())).await? {
            Reply::Sessions(rows) => Ok(rows),
            reply => panic!("no sessions: {reply:?}"),
        }
    }

    async fn fences_in(&self, namespace: &Name) -> Result<Vec<SessionId>, Failure> {
        match self.ask(Statement::FencesIn(namespace.clone())).await? {
            Reply::Ids(ids) => Ok(ids),
            reply => panic!("no ids: {reply:?}"),
        }
    }

    /// Fails with [`Kind::Locked`] while a transaction is fenced with a session of these.
    async fn delete_fences(&self, ids: &[SessionId]) -> Result<(), Failure> {
        self.ask(Statement::TryFences(ids.to_vec())).await?;
        self.count(Statement::DeleteFences(ids.to_vec())).await?;
        Ok(())
    }
}

/// Carries out a query.
pub(super) async fn run_query(
    c: Connection,
    namespace: Name,
    query: Query,
    fence_rows: usize,
) -> Input {
    if let Query::Task(task) = query {
        let Input::TaskDone(result) = run_task(c, namespace, task).await else {
            unreachable!("a task is done");
        };
        return Input::Completed(Completion::TaskDone(result));
    }
    let c = &c;
    Input::Completed(match query {
        Query::Task(_) => unreachable!("it was run"),
        Query::Read => Completion::Read(c.read(&namespace).await),
        Query::ReadLocked => {
            c.0.borrow_mut().locked = true;
            Completion::ReadLocked(c.row(Statement::ReadLocked(namespace)).await)
        }
        Query::Unlock => {
            let done = c.ask(Statement::Rollback).await;
            c.unlock();
            Completion::Unlocked(done.map(drop))
        }
        Query::TakeTurn(submission) => {
            Completion::TurnTaken(requests::take_turn(c, &namespace, submission).await)
        }
        Query::PassTurn(served) => {
            let passed = c.ask(Statement::PassTurn(served)).await;
            Completion::TurnPassed(passed.map(drop))
        }
        Query::Withdraw(submission) => {
            let submit = c.ask(Statement::Submit(namespace, submission)).await;
            Completion::Withdrawn(submit.map(drop))
        }
        Query::ReadVersion => Completion::VersionRead(c.read_version(&namespace).await),
        Query::CompareAndSet(mut write) => {
            let result = c.compare_and_set(&namespace, &mut write).await;
            Completion::CompareAndSet(write, result)
        }
        Query::Adopt {
            version,
            least,
            stamp,
        } => {
            let adopt = Statement::Adopt {
                namespace,
                version,
                least,
                stamp,
            };
            Completion::Adopted(c.count(adopt).await.map(|rows| rows == 1))
        }
        Query::Create { least, stamp } => {
            let create = Statement::Create {
                namespace,
                least,
                stamp,
            };
            Completion::Created(match c.count(create).await {
                Ok(rows) => Ok(rows == 1),
                Err(failure) if failure.kind == Kind::Exists => Ok(false),
                Err(failure) => Err(failure),
            })
        }
        Query::OpenSessions(sessions) => {
            let result = c.insert_sessions(&sessions, fence_rows).await;
            Completion::SessionsOpened(sessions, result)
        }
        Query::CheckPeers {
            at,
            sessions,
            witness,
        } => {
            let checked = check_peers(c, &namespace, &at, &sessions, witness.as_ref()).await;
            Completion::PeersChecked(checked)
        }
        Query::CheckOwnSessions(sessions) => {
            Completion::OwnSessionsChecked(c.liveness(&sessions, None).await)
        }
        Query::ListOrphans => Completion::OrphansListed(list_orphans(c, &namespace).await),
        Query::Notify(version) => {
            let notify = c.ask(Statement::Notify(namespace, version)).await;
            Completion::Notified(notify.map(drop))
        }
        Query::DataVersion => Completion::DataVersion(match c.ask(Statement::DataVersion).await {
            Ok(Reply::Number(number)) => Ok(number),
            Ok(reply) => panic!("no number: {reply:?}"),
            Err(failure) => Err(failure),
        }),
    })
}

/// Looks which of these sessions are alive. The row is read first, on one connection: a
/// session that is in it and has no rows afterwards is dead, not new.
async fn check_peers(
    c: &Connection,
    namespace: &Name,
    at: &RowVersion,
    sessions: &[SessionId],
    witness: Option<&SessionId>,
) -> Result<Peers, Failure> {
    if c.read_version(namespace).await?.as_ref() == Some(at) {
        let states = c.liveness(sessions, witness).await?;
        return Ok(Peers { row: None, states });
    }
    let row = c.read(namespace).await?;
    let table = row.as_ref().and_then(parse);
    let known = table.map(|table| table.session_ids()).unwrap_or_default();
    let sessions = sessions.iter().filter(|id| known.contains(id)).cloned();
    let sessions: Vec<_> = sessions.collect();
    let states = c.liveness(&sessions, witness).await?;
    Ok(Peers { row, states })
}

/// The table of a row, if it can be read.
pub(super) fn parse(row: &LocksRow) -> Option<LockTable> {
    LockTable::parse(row.data_json.as_deref(), row.meta_json.as_deref()).ok()
}

async fn list_orphans(c: &Connection, namespace: &Name) -> Result<Orphans, Failure> {
    // In this order, as for every eviction.
    let mut evicting = c.fences_in(namespace).await?;
    let sessions = c.sessions_in(namespace).await?;
    let ids: BTreeSet<_> = sessions.iter().map(|row| &row.id).collect();
    evicting.retain(|id| !ids.contains(id));
    Ok(Orphans { sessions, evicting })
}

/// Carries out a task.
pub(super) async fn run_task(c: Connection, namespace: Name, task: Task) -> Input {
    let (c, namespace) = (&c, &namespace);
    Input::TaskDone(match task {
        Task::Prepare => TaskResult::Prepared(Ok(())),
        Task::ReadRow(call) => {
            let result = match c.read(namespace).await {
                Ok(row) => c.sessions_in(namespace).await.map(|all| (row, all)),
                Err(failure) => Err(failure),
            };
            TaskResult::RowRead { call, result }
        }
        Task::ReadSessions(call) => {
            let result = c.sessions_in(namespace).await;
            TaskResult::SessionsRead { call, result }
        }
        Task::Evict {
            session,
            reason,
            witness,
        } => {
            let evict = async || evict(c, &session, reason, witness.as_ref()).await;
            let result = persist(c, evict).await;
            TaskResult::Evicted {
                session,
                reason,
                result,
            }
        }
        Task::EvictAll(version) => {
            let evict = async || evict_all(c, namespace, version).await;
            TaskResult::AllEvicted(persist(c, evict).await)
        }
        Task::ListHolders { call, what } => {
            let list = async || list_holders(c, namespace, &what).await;
            let result = persist(c, list).await;
            TaskResult::HoldersListed { call, result }
        }
        Task::EvictHolders { call, sessions } => {
            let result = persist(c, async || delete_sessions(c, &sessions).await).await;
            TaskResult::HoldersEvicted { call, result }
        }
        Task::AwaitFence { row, release } => {
            let wait = async || c.ask(Statement::TryFence(row.clone())).await.map(drop);
            let result = persist(c, wait).await;
            TaskResult::FenceAwaited {
                row,
                release,
                result,
            }
        }
        Task::DeleteIdleSessions(sessions) => {
            let result = persist(c, async || delete_own(c, &sessions).await).await;
            TaskResult::IdleSessionsDeleted { sessions, result }
        }
        Task::DeleteOwnSessions(sessions) => {
            let result = persist(c, async || delete_own(c, &sessions).await).await;
            TaskResult::OwnSessionsDeleted { sessions, result }
        }
    })
}

/// Runs something again that failed, after growing pauses.
async fn persist<T>(
    c: &Connection,
    work: impl AsyncFn() -> Result<T, Failure>,
) -> Result<T, Failure> {
    for pause in RETRY_PAUSES {
        match work().await {
            Err(failure) if failure.kind == Kind::Locked => return Err(failure),
            Err(failure) if failure.class != Class::Permanent => c.pause(pause).await,
            result => return result,
        }
    }
    work().await
}

/// Deletes a session's rows. Returns whether it is dead now.
async fn evict(
    c: &Connection,
    id: &SessionId,
    reason: EvictReason,
    witness: Option<&SessionId>,
) -> Result<bool, Failure> {
    let deleted = match reason {
        EvictReason::ProcessExited | EvictReason::Lost => {
            let delete = Statement::DeleteHeartbeat(id.clone(), OnlyIf::Always);
            c.count(delete).await?;
            true
        }
        EvictReason::HeartbeatExpired { heartbeat } => {
            let only_if = OnlyIf::HeartbeatIs(heartbeat);
            c.count(Statement::DeleteHeartbeat(id.clone(), only_if))
                .await?
                == 1
        }
        EvictReason::Resumed => false,
    };
    if deleted {
        c.delete_fences(std::slice::from_ref(id)).await?;
        return Ok(true);
    }
    c.ask(Statement::TryFences(vec![id.clone()])).await?;
    let delete = Statement::DeleteFencesOfDead(id.clone(), witness.cloned());
    if c.count(delete).await? > 0 {
        return Ok(true);
    }
    let state = c.liveness(std::slice::from_ref(id), witness).await?;
    Ok(matches!(state[..], [(_, Liveness::Dead)]))
}

/// Deletes all sessions of a namespace whose row has no stamp.
async fn evict_all(
    c: &Connection,
    namespace: &Name,
    version: Option<i64>,
) -> Result<Option<Vec<SessionId>>, Failure> {
    // Listed before the row is looked at: a session in the list was there before this row
    // is adopted.
    let sessions = sessions_in(c, namespace, |_| true, true).await?;
    let stamp = None;
    let expected = version.map(|version| RowVersion { version, stamp });
    if c.read_version(namespace).await? != expected {
        return Ok(None);
    }
    for id in &sessions {
        let only_if = match version {
            None => OnlyIf::NoRow(namespace.clone()),
            Some(version) => OnlyIf::Unstamped(namespace.clone(), version),
        };
        if c.count(Statement::DeleteHeartbeat(id.clone(), only_if))
            .await?
            == 1
        {
            c.delete_fences(std::slice::from_ref(id)).await?;
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
async fn list_holders(c: &Connection, namespace: &Name, what: &Removal) -> Result<Listed, Failure> {
    let mut sessions = match what {
        Removal::Task(task) => sessions_in(c, namespace, |t| **task == *t, false).await?,
        Removal::All => sessions_in(c, namespace, |_| true, true).await?,
        Removal::Grant(_) => Vec::new(),
    };
    let mut held = Vec::new();
    let row = c.read(namespace).await?;
    if let Some(table) = row.as_ref().and_then(parse) {
        sessions.extend(what.sessions_in(&table));
        held = what.held_in(&table);
    }
    sessions.sort();
    sessions.dedup();
    Ok(Listed { sessions, held })
}

/// Deletes sessions of this process.
async fn delete_own(c: &Connection, ids: &[SessionId]) -> Result<(), Failure> {
    delete_sessions(c, ids).await?.stuck.map_or(Ok(()), Err)
}

/// Deletes sessions, the heartbeat rows first. Returns those that are dead now, and why the
/// others are not.
async fn delete_sessions(c: &Connection, ids: &[SessionId]) -> Result<Evicted, Failure> {
    let (mut dead, mut stuck) = (Vec::new(), None);
    for chunk in ids.chunks(CHUNK) {
        c.ask(Statement::DeleteHeartbeats(chunk.to_vec())).await?;
        if delete_fences_at_once(c, chunk).await? {
            dead.extend_from_slice(chunk);
            continue;
        }
        for id in chunk {
            match c.delete_fences(std::slice::from_ref(id)).await {
                Ok(()) => dead.push(id.clone()),
                Err(failure) if failure.kind == Kind::Locked => stuck = Some(failure),
                Err(failure) => return Err(failure),
            }
        }
    }
    Ok(Evicted { dead, stuck })
}

async fn delete_fences_at_once(c: &Connection, ids: &[SessionId]) -> Result<bool, Failure> {
    for pause in LIST_PAUSES {
        match c.delete_fences(ids).await {
            Err(failure) if failure.kind == Kind::Locked => c.pause(pause).await,
            result => return result.map(|()| true),
        }
    }
    Ok(false)
}

async fn sessions_in(
    c: &Connection,
    namespace: &Name,
    wanted: impl Fn(&str) -> bool,
    wants_all: bool,
) -> Result<Vec<SessionId>, Failure> {
    // The fence rows first: a session that is opened in between has its heartbeat row before
    // its fence row, so a fence row without one belongs to an eviction.
    let mut ids = c.fences_in(namespace).await?;
    let rows = c.sessions_in(namespace).await?;
    ids.retain(|id| match rows.iter().find(|row| row.id == *id) {
        Some(row) => wanted(&row.task),
        None => wants_all,
    });
    let rows = rows.iter().filter(|row| wanted(&row.task));
    ids.extend(rows.map(|row| row.id.clone()));
    ids.sort();
    ids.dedup();
    Ok(ids)
}
