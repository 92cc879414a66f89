//! A database in memory. Each statement of the store is a function on its tables.
//!
//! What engines do differently is a switch of [`Engine`]. A statement that has to wait for
//! another transaction is not applied: [`Database::blocks`] says so.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    engine::Engine,
    generate::UNSTORABLE,
    requests::RequestRows,
    statement::{OnlyIf, Reply, Statement},
    tables::{Heartbeat, NotOnDisk, RowChange, Tables},
};
use crate::{
    protocol::config::Name,
    store::{Class, Failure, Kind, LocksRow, Preconditions, RowVersion, SessionRow},
    table::{Nonce, SessionId},
};

/// A server ends a transaction that is idle for this long while it has the row's lock.
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(1);
/// How many earlier states a lagging node may still show.
const HISTORY: usize = 6;
/// What the database's wall clock shows when the simulation starts, in microseconds.
pub(super) const EPOCH: i64 = 1_700_000_000_000_000;

/// A connection of a driver. A new one has a new number.
pub(super) type ConnectionId = u64;

/// An application's transaction that is fenced.
#[derive(Clone, Debug)]
struct Fenced {
    row: Arc<str>,
}

/// A transaction of a driver that has a row's lock.
#[derive(Clone, Debug)]
struct RowLock {
    connection: ConnectionId,
    /// When its last statement was applied.
    idle_since: Duration,
    /// What it commits, and the sessions that this needs.
    write: Option<(LocksRow, Vec<SessionId>)>,
}

/// A database in memory.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) engine: Engine,
    pub(super) tables: Tables,
    /// The time since the simulation started.
    pub(super) now: Duration,
    /// Counts writes.
    writes: i64,
    /// Earlier states, and the number of the write that ended each.
    history: VecDeque<(i64, Tables)>,
    /// The oldest state that a connection may still be shown.
    shown: BTreeMap<ConnectionId, i64>,
    fenced: BTreeMap<u32, Fenced>,
    row_locks: BTreeMap<Name, RowLock>,
    pub(super) requests: RequestRows,
    /// Connections that the server has closed.
    closed: BTreeSet<ConnectionId>,
    changes: Vec<RowChange>,
    notifications: Vec<(Name, i64)>,
    /// `None`: every commit is on the disk before it is answered.
    pub(super) not_on_disk: Option<NotOnDisk>,
}

impl Database {
    pub(super) fn new(engine: Engine) -> Self {
        Self {
            engine,
            tables: Tables::default(),
            now: Duration::ZERO,
            writes: 0,
            history: VecDeque::new(),
            shown: BTreeMap::new(),
            fenced: BTreeMap::new(),
            row_locks: BTreeMap::new(),
            requests: RequestRows::default(),
            closed: BTreeSet::new(),
            changes: Vec::new(),
            notifications: Vec::new(),
            not_on_disk: None,
        }
    }

    /// The changes of locks rows since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<RowChange> {
        std::mem::take(&mut self.changes)
    }

    pub(super) fn take_notifications(&mut self) -> Vec<(Name, i64)> {
        std::mem::take(&mut self.notifications)
    }

    /// Whether the statement has to wait for another transaction.
    pub(super) fn blocks(&self, connection: ConnectionId, statement: &Statement) -> bool {
        if self.engine.one_writer {
            return !self.fenced.is_empty() && statement.writes();
        }
        let has_lock = |namespace: &Name| {
            let lock = self.row_locks.get(namespace);
            lock.is_some_and(|lock| lock.connection != connection)
        };
        let needed = |id: &SessionId| {
            let mut locks = self.row_locks.values();
            let needs = |lock: &RowLock| {
                let write = lock.write.as_ref();
                write.is_some_and(|(_, sessions)| sessions.contains(id))
            };
            // The condition on the sessions locks their rows.
            !self.engine.early_preconditions && locks.any(needs)
        };
        match statement {
            Statement::ReadLocked(namespace)
            | Statement::CompareAndSet { namespace, .. }
            | Statement::Adopt { namespace, .. } => has_lock(namespace),
            Statement::AwaitTurn(namespace) => self.requests.has_turn(namespace, connection),
            Statement::DeleteFences(ids) => ids.iter().any(|id| self.is_fenced(id)),
            Statement::DeleteFencesOfDead(id, _) => self.is_fenced(id),
            Statement::DeleteHeartbeat(id, _) => needed(id),
            Statement::DeleteHeartbeats(ids) => ids.iter().any(needed),
            _ => false,
        }
    }

    /// Whether an open transaction is fenced with a row of this session.
    fn is_fenced(&self, id: &SessionId) -> bool {
        let mut fenced = self.fenced.values();
        fenced.any(|fenced| SessionId::of_fence_row(&fenced.row) == *id)
    }

    /// Runs a statement. `early` is what [`Self::preconditions_hold`] said when it began, if
    /// it began before.
    pub(super) fn apply(
        &mut self,
        connection: ConnectionId,
        statement: &Statement,
        early: Option<bool>,
    ) -> Result<Reply, Failure> {
        if self.closed.contains(&connection) {
            return Err(Failure::simulated(Class::Indeterminate, Kind::Other));
        }
        if statement.writes() {
            self.remember();
        }
        self.shown.insert(connection, self.writes);
        self.run(connection, statement, early)
    }

    /// Runs a statement that reads, on the oldest state that this connection may be shown.
    pub(super) fn apply_stale(
        &mut self,
        connection: ConnectionId,
        statement: &Statement,
    ) -> Result<Reply, Failure> {
        let least = self.shown.get(&connection).copied().unwrap_or(0);
        let mut history = self.history.iter();
        let Some((number, tables)) = history.find(|(number, _)| *number >= least).cloned() else {
            return self.apply(connection, statement, None);
        };
        self.shown.insert(connection, number);
        let tables = std::mem::replace(&mut self.tables, tables);
        let reply = self.run(connection, statement, None);
        self.tables = tables;
        reply
    }

    pub(super) fn remember(&mut self) {
        if let Some(not_on_disk) = &mut self.not_on_disk {
            not_on_disk.before_commit(&self.tables);
        }
        if self.engine.lags {
            self.history.push_back((self.writes, self.tables.clone()));
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
        self.writes += 1;
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each statement")]
    fn run(
        &mut self,
        connection: ConnectionId,
        statement: &Statement,
        early: Option<bool>,
    ) -> Result<Reply, Failure> {
        if let Some(reply) = self.requests.run(connection, statement) {
            return Ok(reply);
        }
        let tables = &mut self.tables;
        let count = |matched: bool| Ok(Reply::Count(usize::from(matched)));
        match statement {
            Statement::Read(namespace) => Ok(Reply::Row(tables.locks.get(namespace).cloned())),
            Statement::ReadLocked(namespace) => {
                let row = tables.locks.get(namespace).cloned();
                if row.is_some() {
                    let lock = RowLock {
                        connection,
                        idle_since: self.now,
                        write: None,
                    };
                    self.row_locks.insert(namespace.clone(), lock);
                }
                Ok(Reply::Row(row))
            }
            Statement::Rollback => {
                self.row_locks.retain(|_, l| l.connection != connection);
                Ok(Reply::Nothing)
            }
            Statement::Commit => {
                let of = |_: &Name, lock: &mut RowLock| lock.connection == connection;
                let locks: Vec<_> = self.row_locks.extract_if(.., of).collect();
                for (namespace, lock) in locks {
                    if let Some((row, _)) = lock.write {
                        self.put(&namespace, Some(row));
                    }
                }
                Ok(Reply::Nothing)
            }
            Statement::Submit(..)
            | Statement::AwaitTurn(_)
            | Statement::PassIfServed(_)
            | Statement::Claim(..)
            | Statement::PassTurn(_) => unreachable!("it was run"),
            Statement::ReadVersion(namespace) => {
                let row = tables.locks.get(namespace);
                Ok(Reply::Version(row.map(|row| row.version.clone())))
            }
            Statement::ReadVersions(namespaces) => {
                let version = |name: &Name| Some(tables.locks.get(name)?.version.clone());
                let row = |name| Some((Name::to_string(name), version(name)?));
                Ok(Reply::Versions(namespaces.iter().filter_map(row).collect()))
            }
            Statement::CompareAndSet {
                namespace,
                expected,
                new,
                columns,
                preconditions,
                durability: _,
            } => {
                let holds = early.unwrap_or_else(|| self.preconditions_hold(preconditions));
                let row = self.tables.locks.get(namespace);
                let is_expected = row.is_some_and(|row| row.version == *expected);
                let texts = [&columns.data_json, &columns.meta_json];
                if texts.iter().any(|text| text.contains(UNSTORABLE)) {
                    return Err(Failure::simulated(Class::NotApplied, Kind::Content));
                }
                if !is_expected || !holds {
                    return count(false);
                }
                let row = LocksRow {
                    version: new.clone(),
                    data_json: Some(columns.data_json.clone()),
                    meta_json: Some(columns.meta_json.clone()),
                };
                match self.row_locks.get_mut(namespace) {
                    Some(lock) => {
                        lock.write = Some((row, preconditions.alive.clone()));
                        lock.idle_since = self.now;
                    }
                    None => self.put(namespace, Some(row)),
                }
                count(true)
            }
            Statement::Adopt {
                namespace,
                version,
                least,
                stamp,
            } => {
                let row = tables.locks.get(namespace).cloned();
                let unstamped = RowVersion {
                    version: *version,
                    stamp: None,
                };
                let Some(mut row) = row.filter(|row| row.version == unstamped) else {
                    return count(false);
                };
                row.version = RowVersion {
                    version: self.clock().max(*least).max(version.saturating_add(1)),
                    stamp: Some(stamp.clone()),
                };
                row.meta_json = Some("{}".into());
                self.put(namespace, Some(row));
                count(true)
            }
            Statement::Create {
                namespace,
                least,
                stamp,
            } => {
                if tables.locks.contains_key(namespace) {
                    return Err(Failure::simulated(Class::Permanent, Kind::Exists));
                }
                let row = LocksRow {
                    version: RowVersion {
                        version: self.clock().max(*least),
                        stamp: Some(stamp.clone()),
                    },
                    data_json: Some("{}".into()),
                    meta_json: Some("{}".into()),
                };
                self.put(namespace, Some(row));
                count(true)
            }
            Statement::InsertHeartbeats(sessions) => {
                for new in sessions {
                    let row = SessionRow {
                        id: new.id.clone(),
                        task: new.task.to_string(),
                        process: new.process.clone(),
                        ttl: new.ttl,
                        heartbeat: 0,
                    };
                    let heartbeat = Heartbeat {
                        namespace: new.namespace.clone(),
                        row,
                        renewed: None,
                    };
                    tables.heartbeats.insert(new.id.clone(), heartbeat);
                }
                Ok(Reply::Count(sessions.len()))
            }
            Statement::InsertFences(rows) => {
                tables.fences.extend(rows.iter().cloned());
                Ok(Reply::Count(rows.len()))
            }
            Statement::Renew(ids) => {
                let mut renewed = 0;
                for id in ids {
                    if let Some(found) = tables.heartbeats.get_mut(id) {
                        found.row.heartbeat += 1;
                        found.renewed = Some(self.now);
                        renewed += 1;
                    }
                }
                Ok(Reply::Count(renewed))
            }
            Statement::Liveness(ids) => {
                let found = ids.iter().filter(|id| tables.fences.contains(&id.0));
                let found = found.map(|id| {
                    let row = tables.heartbeats.get(id).map(|found| found.row.clone());
                    (id.clone(), row)
                });
                Ok(Reply::Liveness(found.collect()))
            }
            Statement::SessionsIn(namespace) => {
                let rows = tables.heartbeats.values();
                let rows = rows.filter(|found| found.namespace == *namespace);
                Ok(Reply::Sessions(
                    rows.map(|found| found.row.clone()).collect(),
                ))
            }
            Statement::FencesIn(namespace) => {
                let start = SessionId::start_of(namespace);
                let rows = tables.fences.iter().filter(|row| row.starts_with(&start));
                let ids: BTreeSet<_> = rows.map(|row| SessionId::of_fence_row(row)).collect();
                Ok(Reply::Ids(ids.into_iter().collect()))
            }
            Statement::DeleteHeartbeat(id, only_if) => {
                let row = tables.heartbeats.get(id);
                let holds = row.is_some_and(|found| match only_if {
                    OnlyIf::Always => true,
                    OnlyIf::HeartbeatIs(heartbeat) => found.row.heartbeat == *heartbeat,
                    OnlyIf::NoRow(namespace) => !tables.locks.contains_key(namespace),
                    OnlyIf::Unstamped(namespace, version) => {
                        let row = tables.locks.get(namespace).map(|row| &row.version);
                        row.is_some_and(|row| row.version == *version && row.stamp.is_none())
                    }
                });
                if holds {
                    tables.heartbeats.remove(id);
                }
                count(holds)
            }
            Statement::DeleteHeartbeats(ids) => {
                tables.heartbeats.retain(|id, _| !ids.contains(id));
                Ok(Reply::Nothing)
            }
            Statement::TryFences(ids) => {
                if !self.engine.one_writer && ids.iter().any(|id| self.is_fenced(id)) {
                    return Err(Failure::simulated(Class::NotApplied, Kind::Locked));
                }
                Ok(Reply::Nothing)
            }
            Statement::DeleteFences(ids) => Ok(Reply::Count(self.delete_fences(ids))),
            Statement::DeleteFencesOfDead(id, witness) => {
                let beats = |id: &SessionId| tables.heartbeats.contains_key(id);
                if beats(id) || witness.as_ref().is_some_and(|witness| !beats(witness)) {
                    return count(false);
                }
                let deleted = self.delete_fences(std::slice::from_ref(id));
                Ok(Reply::Count(deleted))
            }
            Statement::TryFence(row) => {
                let mut fenced = self.fenced.values();
                if !self.engine.one_writer && fenced.any(|fenced| fenced.row == *row) {
                    return Err(Failure::simulated(Class::NotApplied, Kind::Locked));
                }
                Ok(Reply::Nothing)
            }
            Statement::Notify(namespace, version) => {
                self.notifications.push((namespace.clone(), *version));
                Ok(Reply::Nothing)
            }
            Statement::DataVersion => Ok(Reply::Number(Some(self.writes))),
        }
    }

    /// Whether the sessions that a write grants to are alive, and those that it takes from
    /// are dead.
    pub(super) fn preconditions_hold(&self, needed: &Preconditions) -> bool {
        let beats = |id: &SessionId| self.tables.heartbeats.contains_key(id);
        let fenced = |id: &SessionId| self.tables.fences.contains(&id.0);
        let witness = needed.witness.as_ref().filter(|_| !needed.dead.is_empty());
        needed.alive.iter().all(beats)
            && !needed.dead.iter().any(fenced)
            && witness.is_none_or(fenced)
    }

    fn delete_fences(&mut self, ids: &[SessionId]) -> usize {
        let before = self.tables.fences.len();
        let of_these = |row: &Arc<str>| ids.contains(&SessionId::of_fence_row(row));
        self.tables.fences.retain(|row| !of_these(row));
        before - self.tables.fences.len()
    }

    /// What the database's wall clock shows.
    fn clock(&self) -> i64 {
        EPOCH + i64::try_from(self.now.as_micros()).unwrap_or(i64::MAX)
    }

    /// Writes or deletes a locks row.
    pub(super) fn put(&mut self, namespace: &Name, row: Option<LocksRow>) {
        let before = match row.clone() {
            Some(row) => self.tables.locks.insert(namespace.clone(), row),
            None => self.tables.locks.remove(namespace),
        };
        self.changes.push(RowChange {
            namespace: namespace.clone(),
            before,
            after: row,
        });
    }

    // Connections.

    /// A driver has closed a connection: its transaction is rolled back.
    pub(super) fn disconnect(&mut self, connection: ConnectionId) {
        self.row_locks
            .retain(|_, lock| lock.connection != connection);
        self.shown.remove(&connection);
        if !self.requests.is_broken(connection) {
            self.requests.free(connection);
        }
    }

    /// When the server ends an idle transaction next.
    pub(super) fn next_idle_limit(&self) -> Option<Duration> {
        let locks = self.row_locks.values();
        let idle = locks.map(|lock| lock.idle_since + IDLE_LIMIT);
        idle.chain(self.requests.next_end()).min()
    }

    /// Ends the transactions that are idle for too long, and their connections.
    pub(super) fn end_idle(&mut self) {
        let now = self.now;
        let over = |_: &Name, lock: &mut RowLock| lock.idle_since + IDLE_LIMIT <= now;
        let ended = self.row_locks.extract_if(.., over);
        self.closed.extend(ended.map(|(_, lock)| lock.connection));
        self.closed.extend(self.requests.end_broken(now));
    }

    // Applications.

    /// Fences a transaction, unless the fence row is not there. `None`: another transaction
    /// writes.
    pub(super) fn fence(
        &mut self,
        transaction: u32,
        row: &Arc<str>,
        namespace: &Name,
        nonce: Nonce,
    ) -> Option<bool> {
        if self.engine.one_writer && !self.fenced.is_empty() {
            return None;
        }
        let mut is_there = self.tables.fences.contains(row);
        if self.engine.fence_looks_at_row {
            let marker = crate::table::LockTable::marker_of(nonce);
            let meta = self.tables.locks.get(namespace);
            let meta = meta.and_then(|row| row.meta_json.as_deref());
            let held = meta.and_then(|meta| meta.split_once("\"queue\":["));
            is_there &= held.is_some_and(|(held, _)| held.contains(&marker));
        }
        if is_there {
            self.fenced.insert(transaction, Fenced { row: row.clone() });
        }
        Some(is_there)
    }

    /// A fenced transaction has ended.
    pub(super) fn end_transaction(&mut self, transaction: u32) {
        self.fenced.remove(&transaction);
    }

    // What others do to the locks row.

    /// Whether the locks row can be written by another program now.
    pub(super) fn is_writable(&self, namespace: &Name) -> bool {
        !self.row_locks.contains_key(namespace)
            && (!self.engine.one_writer || self.fenced.is_empty())
    }

    /// A row that a process has created.
    pub(super) fn create_empty(&mut self, namespace: &Name) {
        let row = LocksRow {
            version: RowVersion {
                version: 1,
                stamp: Some("first".into()),
            },
            data_json: Some("{}".into()),
            meta_json: Some("{}".into()),
        };
        self.tables.locks.insert(namespace.clone(), row);
    }

    /// Everything that was committed is on the disk.
    pub(super) fn flush(&mut self) {
        if let Some(not_on_disk) = &mut self.not_on_disk {
            not_on_disk.flush();
        }
    }

    /// The tables are these from now on, and the database is restarted.
    pub(super) fn restore(&mut self, tables: Tables) {
        self.history.clear();
        self.shown.clear();
        // A transaction ends with its connection.
        let locks = std::mem::take(&mut self.row_locks).into_values();
        self.closed.extend(locks.map(|lock| lock.connection));
        self.fenced.clear();
        self.requests = RequestRows::default();
        self.writes += 1;
        let names = self.tables.locks.keys().chain(tables.locks.keys()).cloned();
        let names: BTreeSet<_> = names.collect();
        for name in names {
            self.put(&name, tables.locks.get(&name).cloned());
        }
        self.tables = tables;
        self.flush();
    }
}
