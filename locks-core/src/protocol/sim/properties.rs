//! What must be true of every schedule.
//!
//! Some properties are judged from what callers were told, the others from the row. A
//! supervisor, the original and a restored backup may take a lock from a living holder: such
//! a holder is told later, so it does not count for `exclusion`. Its fenced transactions do
//! count for `no-commit-after-the-next-grant`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    callers::{Caller, Told},
    database::{OnlyIf, RowChange, Statement},
    execution::parse,
    original::TASK,
    process::State,
    schedule::{Patience, ProcessId, RequestNumber, process_name},
    world::World,
};
use crate::{
    error::LockError,
    matrix::ConflictMatrix,
    name::LockName,
    options::Fairness,
    protocol::{EvictReason, Loss, config::Name},
    store::LocksRow,
    table::{LockTable, Nonce, QueuedRequest, SessionId},
};

/// How many queries a process may send in a second in which no caller calls.
const MOST_QUERIES: usize = 450;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Violation {
    pub(super) property: &'static str,
    pub(super) detail: String,
}

/// What wrote to the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// A process, and how often it was started before.
    Process(ProcessId, u32),
    Original,
    Operator,
}

/// A lock that was granted in the row.
#[derive(Debug)]
struct GrantedName {
    namespace: Name,
    name: LockName,
    nonce: Nonce,
    token: i64,
}

/// What the properties remember.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// The process of each session, and its incarnation.
    pub(super) session_owners: BTreeMap<SessionId, (ProcessId, u32)>,
    /// Every lock that was granted, in the order of the grants.
    granted: Vec<GrantedName>,
    /// The first position of each request in the queue.
    tickets: BTreeMap<Nonce, i64>,
    /// Sessions that were ended by force.
    forced: BTreeSet<SessionId>,
    /// Grants that were taken by force.
    taken: BTreeSet<Nonce>,
    /// Whether a row was deleted or restored.
    started_anew: bool,
    /// Whether a backup was restored.
    pub(super) restored: bool,
    /// Whether a wall clock was changed.
    pub(super) clocks_changed: bool,
    /// Whether a supervisor has removed everything, the original's locks included.
    pub(super) removed_all: bool,
    /// Whether every process has to end without an error.
    pub(super) must_end_well: bool,
    /// When the faults stopped.
    pub(super) calm_since: Duration,
    /// Whether the rate of queries is judged.
    pub(super) is_calm: bool,
    pub(super) grants: u64,
    pub(super) commits: u64,
    pub(super) losses: u64,
}

fn refuses(asked: &LockName, held: &LockName) -> bool {
    refuses_by(ConflictMatrix::platform(), asked, held)
}

fn refuses_by(matrix: ConflictMatrix, asked: &LockName, held: &LockName) -> bool {
    matrix.refuses(asked.as_str(), held.as_str())
}

/// Whether two requests conflict in either direction.
fn meets(a: &[LockName], b: &[LockName]) -> bool {
    let mut pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a, b)));
    pairs.any(|(a, b)| refuses(a, b) || refuses(b, a))
}

/// The grants of a table: name, session, nonce, token.
fn grants(table: &LockTable) -> BTreeMap<LockName, (SessionId, Nonce, i64)> {
    let names = table.holders().into_iter().map(|holder| holder.name);
    let grants = names.filter_map(|name| {
        let grant = table.entry(name.as_str())?.grant.as_ref()?;
        let grant = (grant.session.clone(), grant.nonce, grant.token);
        Some((name, grant))
    });
    grants.collect()
}

/// A row in words.
fn describe(row: Option<&LocksRow>, table: &LockTable) -> String {
    let Some(row) = row else {
        return "  the row is gone".into();
    };
    let holders = table.holders().into_iter();
    let held: Vec<_> = holders
        .map(|h| format!("{} by {}", h.name, h.task_id))
        .collect();
    let queue = table.queue().iter();
    let queue: Vec<_> = queue
        .map(|q| format!("{:?} for {}", q.names, q.task))
        .collect();
    let (held, queue) = (held.join(", "), queue.join(", "));
    let version = row.version.version;
    format!("  the row is of version {version}: held [{held}], queue [{queue}]")
}

fn table_of(row: Option<&LocksRow>) -> LockTable {
    row.and_then(parse).unwrap_or_default()
}

impl World {
    // The row.

    pub(super) fn check_row_change(&mut self, change: &RowChange, writer: Writer) {
        let before = table_of(change.before.as_ref());
        let after = change
            .after
            .as_ref()
            .map_or_else(|| Some(LockTable::default()), parse);
        let Some(after) = after else {
            return self.fail("row-can-be-read", format!("{:?}", change.after));
        };
        self.checks.started_anew |= writer == Writer::Operator || change.after.is_none();
        self.note(|| describe(change.after.as_ref(), &after));
        let (held_before, held_after) = (grants(&before), grants(&after));
        for (name, grant) in &held_before {
            let (session, nonce, _) = grant;
            if held_after.get(name) == Some(grant) {
                continue;
            }
            match writer {
                Writer::Process(..) => self.check_removal(writer, session, *nonce, name.as_str()),
                Writer::Original | Writer::Operator => {
                    self.checks.taken.insert(*nonce);
                }
            }
        }
        if let Writer::Process(..) = writer {
            self.check_original(&before, &after);
            for queued in before.queue() {
                let stays = |other: &QueuedRequest| other.nonce == queued.nonce;
                let is_granted = held_after
                    .values()
                    .any(|(_, nonce, _)| *nonce == queued.nonce);
                if !after.queue().iter().any(stays) && !is_granted {
                    self.check_removal(writer, &queued.session, queued.nonce, "the queue");
                }
            }
            let new: Vec<_> = held_after
                .iter()
                .filter(|(name, grant)| held_before.get(*name) != Some(*grant))
                .collect();
            for (name, (session, nonce, token)) in &new {
                self.check_row_grant(change, name, session, *nonce, *token, &after);
                self.check_order(&before, &after, name, session, *nonce);
            }
            for (name, (_, nonce, token)) in new {
                self.checks.granted.push(GrantedName {
                    namespace: change.namespace.clone(),
                    name: name.clone(),
                    nonce: *nonce,
                    token: *token,
                });
            }
        }
        for queued in after.queue() {
            let tickets = &mut self.checks.tickets;
            tickets.entry(queued.nonce).or_insert(queued.ticket);
        }
        for caller in self.callers.values_mut() {
            if caller.told == Told::Waiting && caller.namespace == change.namespace {
                caller.saw_conflict |= conflicts(&caller.names, &after);
            }
        }
    }

    /// A process may remove its own entries, and those of dead sessions.
    fn check_removal(&mut self, writer: Writer, session: &SessionId, nonce: Nonce, place: &str) {
        let owner = self.checks.session_owners.get(session).copied();
        let own = owner.is_some_and(|(p, incarnation)| writer == Writer::Process(p, incarnation));
        let rows = &self.db.tables;
        // A restore may bring back the heartbeat row of a session that is being evicted.
        let beats = rows.heartbeats.contains_key(session) && !self.checks.restored;
        let is_dead = !rows.fences.contains(&session.0) && !beats;
        if !own && !is_dead {
            let text = format!(
                "{writer:?} removed the entry of the living session {session:?} from {place}"
            );
            self.fail("only-dead-sessions-lose-entries", text);
        }
        let mut holders = self.callers.values().filter(|caller| self.relies(caller));
        if own && let Some(holder) = holders.find(|caller| caller.nonce == nonce) {
            let text = format!(
                "grant {} was removed from {place} and is held",
                holder.number
            );
            self.fail("held-locks-stay", text);
        }
    }

    /// A process leaves the locks of the original alone.
    fn check_original(&mut self, before: &LockTable, after: &LockTable) {
        let is_originals = |table: &LockTable, name: &LockName| {
            let entry = table.entry(name.as_str());
            entry.is_some_and(|entry| &*entry.task == TASK)
        };
        let mut held = before.holders().into_iter().map(|holder| holder.name);
        let lost = held.find(|name| is_originals(before, name) && !is_originals(after, name));
        if let (Some(name), false) = (lost, self.checks.removed_all) {
            self.fail("only-the-original-releases-its-locks", name.to_string());
        }
    }

    /// The matrix of a session's process. The original has the platform's.
    fn matrix_of(&self, session: Option<&SessionId>) -> ConflictMatrix {
        let owner = session.and_then(|session| self.checks.session_owners.get(session));
        let matrix = owner.map(|(p, _)| self.setup.matrix_of(*p));
        matrix.unwrap_or(ConflictMatrix::platform())
    }

    /// A lock is granted in the row: it conflicts with no other one, its session is alive,
    /// and its token is larger than those of earlier grants.
    fn check_row_grant(
        &mut self,
        change: &RowChange,
        name: &LockName,
        session: &SessionId,
        nonce: Nonce,
        token: i64,
        after: &LockTable,
    ) {
        self.checks.grants += 1;
        let version = change.after.as_ref().map(|row| row.version.version);
        for holder in after.holders() {
            let entry = after.entry(holder.name.as_str()).expect("it is held");
            let other = entry.grant.as_ref();
            if other.is_some_and(|other| other.nonce == nonce) {
                continue;
            }
            let matrix = self.matrix_of(Some(session));
            let others = self.matrix_of(other.map(|other| &other.session));
            let is_alien = matrix.fingerprint() != others.fingerprint();
            if !is_alien && !refuses_by(matrix, name, &holder.name) {
                continue;
            }
            // Two grants of one write may have been made in the other order.
            let together = other.is_some_and(|other| Some(other.token) == version);
            if !together || is_alien || refuses_by(matrix, &holder.name, name) {
                let text = format!("{name} was granted while {} is held", holder.name);
                self.fail("exclusion-in-the-row", text);
            }
        }
        if !self.setup.engine.early_preconditions
            && !self.db.tables.heartbeats.contains_key(session)
        {
            let text = format!("{name} was granted under the dead session {session:?}");
            self.fail("grants-under-living-sessions", text);
        }
        let matrix = self.matrix_of(Some(session));
        let earlier = self.checks.granted.iter().filter(|earlier| {
            earlier.namespace == change.namespace && refuses_by(matrix, name, &earlier.name)
        });
        let highest = earlier.map(|earlier| earlier.token).max();
        // Where the row starts anew, tokens grow as the clocks do.
        let clocks = self.checks.clocks_changed || self.setup.clocks_behind;
        if self.checks.started_anew && clocks {
            return;
        }
        if highest.is_some_and(|highest| token <= highest) {
            let text = format!("{name} was granted with {token} after {highest:?}");
            self.fail("tokens-grow", text);
        }
    }

    /// A request that holds nothing is not granted before an earlier one that it conflicts
    /// with.
    fn check_order(
        &mut self,
        before: &LockTable,
        after: &LockTable,
        name: &LockName,
        session: &SessionId,
        nonce: Nonce,
    ) {
        let task = |id: &SessionId| self.checks.session_owners.get(id).copied();
        let owner = task(session);
        let grants = grants(after)
            .into_values()
            .chain(grants(before).into_values());
        let mut others = grants.filter(|(_, other, _)| *other != nonce);
        let has_no_order = self.setup.fairness == Fairness::Barging || self.setup.mixed_matrices;
        if has_no_order || others.any(|(id, ..)| task(&id) == owner) {
            return;
        }
        let queue = before.queue();
        let place = queue.iter().position(|queued| queued.nonce == nonce);
        let earlier = &queue[..place.unwrap_or(queue.len())];
        let still_waits = |queued: &&QueuedRequest| {
            let mut left = after.queue().iter();
            left.any(|left| left.nonce == queued.nonce && left.ticket == queued.ticket)
        };
        let names = std::slice::from_ref(name);
        // A request that was removed from the queue returns to its position.
        let ticket = self.checks.tickets.get(&nonce).copied();
        let is_later = |queued: &&QueuedRequest| ticket.is_some_and(|t| t < queued.ticket);
        let mut overtaken = earlier.iter().filter(|q| still_waits(q) && !is_later(q));
        if let Some(overtaken) = overtaken.find(|queued| meets(&queued.names, names)) {
            let text = format!(
                "{name} was granted before {:?}, which waits",
                overtaken.names
            );
            self.fail("order-of-arrival", text);
        }
    }

    /// Whether the row, or an earlier request of the process that is not in it yet, shows
    /// something that a request conflicts with.
    pub(super) fn shows_conflict(&self, p: ProcessId, space: &Name, names: &[LockName]) -> bool {
        let mut waiting = self.callers.values().filter(|caller| {
            caller.process == p && caller.namespace == *space && caller.told == Told::Waiting
        });
        waiting.any(|caller| meets(&caller.names, names))
            || conflicts(names, &table_of(self.db.tables.locks.get(space)))
    }

    // Sessions.

    /// A statement ends sessions whether they are alive or not.
    pub(super) fn note_forced(&mut self, p: ProcessId, statement: &Statement) {
        let ids = match statement {
            Statement::DeleteHeartbeat(_, OnlyIf::HeartbeatIs(_)) => return,
            Statement::DeleteHeartbeat(id, _) => std::slice::from_ref(id),
            Statement::DeleteHeartbeats(ids) | Statement::DeleteFences(ids) => ids,
            _ => return,
        };
        for id in ids {
            let owner = self.checks.session_owners.get(id).copied();
            if owner.map(|(owner, _)| owner) != Some(p) || self.is_leased(id) {
                self.checks.forced.insert(id.clone());
            }
        }
    }

    fn is_leased(&self, id: &SessionId) -> bool {
        let mut processes = self.processes.iter();
        processes.any(|process| process.is_alive() && process.has_lease(id, self.now))
    }

    /// A session of a living process is evicted only when its lease has ended.
    pub(super) fn check_eviction(&mut self, p: ProcessId, id: &SessionId, reason: EvictReason) {
        let Some((owner, incarnation)) = self.checks.session_owners.get(id).copied() else {
            return;
        };
        let process = &self.processes[owner];
        let is_alive = process.incarnation == incarnation && process.is_alive();
        if reason == EvictReason::ProcessExited && is_alive {
            let text = format!("{} took {} for dead", process_name(p), process_name(owner));
            self.fail("only-ended-processes-are-gone", text);
        }
    }

    // Callers.

    /// Whether a caller may rely on its grant, as far as it can know.
    fn relies(&self, caller: &Caller) -> bool {
        let process = &self.processes[caller.process];
        let Some(grant) = caller.grant.as_ref().filter(|_| caller.holds()) else {
            return false;
        };
        process.has_lease(&grant.session, self.now)
            && !matches!(process.state, State::Dead | State::Ended)
            && !self.checks.forced.contains(&grant.session)
            && !self.checks.taken.contains(&grant.nonce)
    }

    /// No two callers rely on grants that conflict.
    pub(super) fn check_exclusion(&mut self) {
        let holders = self.callers.values().filter(|caller| self.relies(caller));
        let holders: Vec<_> = holders.collect();
        let token = |caller: &Caller| caller.grant.as_ref().map(|grant| grant.token);
        for (index, a) in holders.iter().enumerate() {
            for b in &holders[index + 1..] {
                if a.namespace != b.namespace {
                    continue;
                }
                let (first, second) = if token(a) <= token(b) { (a, b) } else { (b, a) };
                let matrix = self.setup.matrix_of(first.process);
                if matrix.fingerprint() == ConflictMatrix::exclusive().fingerprint() {
                    // The row is judged by it.
                    continue;
                }
                let conflict = first.names.iter().find_map(|held| {
                    let conflicts = |asked: &&LockName| {
                        let together = token(first) == token(second);
                        refuses(asked, held) && (!together || refuses(held, asked))
                    };
                    second.names.iter().find(conflicts)
                });
                if let Some(name) = conflict {
                    let (first, second) = (first.number, second.number);
                    let text = format!("grants {first} and {second} conflict on {name}");
                    return self.fail("exclusion", text);
                }
            }
        }
    }

    /// Every grant that a caller relies on is in the row.
    pub(super) fn check_grants_stand(&mut self) {
        let lost = self.callers.values().find(|caller| {
            let table = table_of(self.db.tables.locks.get(&caller.namespace));
            let grant = caller.grant.as_ref();
            let id = grant.map(|grant| (grant.session.clone(), grant.nonce));
            let stands = id.is_some_and(|id| table.granted(&id, &caller.names).is_some());
            let process = &self.processes[caller.process];
            let session = grant.map(|grant| &grant.session);
            let leased = session.is_some_and(|id| process.has_lease(id, self.now));
            caller.holds() && process.is_alive() && leased && !stands
        });
        if let Some(lost) = lost {
            let text = format!("grant {} is not in the row", lost.number);
            self.fail("a-loss-is-told", text);
        }
    }

    /// What a caller is told was written, with this token.
    pub(super) fn check_grant(&mut self, number: RequestNumber) {
        let caller = &self.callers[&number];
        let grant = caller.grant.as_ref().expect("it was granted");
        for name in &*caller.names {
            let mut granted = self.checks.granted.iter();
            let is_it = |granted: &super::properties::GrantedName| {
                granted.nonce == caller.nonce
                    && granted.name == *name
                    && granted.token == grant.token
            };
            if !granted.any(is_it) {
                let text = format!("grant {number} of {name} was never in the row");
                return self.fail("grants-are-in-the-row", text);
            }
        }
    }

    /// A refusal rests on a row that was read after the request came.
    pub(super) fn check_refusal(&mut self, number: RequestNumber, error: &LockError) {
        let caller = &self.callers[&number];
        let waited = self.clocks(caller.process).monotonic - caller.since;
        let fault = match error {
            LockError::Busy { .. }
                if !caller.saw_conflict
                    && !self.setup.engine.lags
                    && !self.setup.mixed_matrices
                    && !self.instant.is_zero() =>
            {
                Some("nothing has blocked it since it came")
            }
            LockError::Timeout { .. } => match caller.patience {
                Patience::Millis(millis) if waited.as_millis() < u128::from(millis) => {
                    Some("its time was not over")
                }
                Patience::Millis(_) => None,
                _ => Some("it has no time-out"),
            },
            _ => None,
        };
        if let Some(fault) = fault {
            self.fail(
                "refusals-are-justified",
                format!("request {number}: {fault}"),
            );
        }
    }

    /// A grant is lost only if something took it.
    pub(super) fn check_loss(&mut self, number: RequestNumber, loss: &Loss) {
        self.checks.losses += 1;
        let caller = &self.callers[&number];
        let Some(grant) = &caller.grant else { return };
        let rows = &self.db.tables;
        let table = table_of(rows.locks.get(&caller.namespace));
        let id = (grant.session.clone(), grant.nonce);
        let stands = caller.names.iter().all(|name| {
            let names = std::slice::from_ref(name);
            table.granted(&id, names).is_some()
        });
        let process = &self.processes[caller.process];
        let is_intact = stands
            && rows.heartbeats.contains_key(&grant.session)
            && process.has_lease(&grant.session, self.now)
            && !self.checks.forced.contains(&grant.session)
            && !self.checks.taken.contains(&grant.nonce)
            && !process.closing
            && !self.setup.engine.lags
            && !caller.detached;
        if is_intact {
            let text = format!("grant {number} was lost without a cause: {}", loss.reason);
            self.fail("losses-have-a-cause", text);
        }
    }

    /// A release that is done has left nothing in the row.
    pub(super) fn check_release(&mut self, number: RequestNumber) {
        let caller = &self.callers[&number];
        let table = table_of(self.db.tables.locks.get(&caller.namespace));
        let names = grants(&table);
        let left = names
            .iter()
            .find(|(_, (_, nonce, _))| *nonce == caller.nonce);
        if let Some((name, _)) = left
            && !self.checks.restored
            && !caller.detached
        {
            let text = format!("grant {number} was released, and {name} is in the row");
            self.fail("released-is-not-in-the-row", text);
        }
    }

    /// A fenced transaction commits before the next conflicting grant, or not at all.
    pub(super) fn check_commit(&mut self, number: RequestNumber) {
        self.checks.commits += 1;
        let Some(caller) = self.callers.get(&number) else {
            return;
        };
        let matrix = self.setup.matrix_of(caller.process);
        let granted = &self.checks.granted;
        let own = granted
            .iter()
            .position(|granted| granted.nonce == caller.nonce);
        let later = &granted[own.map_or(0, |own| own + 1)..];
        let next = later.iter().find(|later| {
            later.nonce != caller.nonce
                && later.namespace == caller.namespace
                && caller.names.iter().any(|name| {
                    // Of one write, the order is not known.
                    let together = own.is_some_and(|own| granted[own].token == later.token);
                    refuses_by(matrix, &later.name, name)
                        && (!together || refuses_by(matrix, name, &later.name))
                })
        });
        if let Some(next) = next {
            let text = format!(
                "grant {number} committed after {} was granted again",
                next.name
            );
            self.fail("no-commit-after-the-next-grant", text);
        }
    }

    pub(super) fn check_end(&mut self, error: Option<LockError>) {
        if let Some(error) = error
            && self.checks.must_end_well
        {
            self.fail("a-process-ends-well", error.to_string());
        }
    }

    // Cost.

    /// A process to which nothing happens asks the database seldom.
    pub(super) fn check_query_rate(&mut self, p: ProcessId) {
        let now = self.now;
        let queries = &mut self.processes[p].queries;
        while queries
            .front()
            .is_some_and(|at| now - *at > Duration::from_secs(1))
        {
            queries.pop_front();
        }
        let cheap = self.setup.engine.one_writer;
        let most = if cheap {
            3 * MOST_QUERIES
        } else {
            MOST_QUERIES
        };
        if queries.len() > most && self.checks.is_calm {
            let text = format!(
                "{} sent {} queries in a second",
                process_name(p),
                queries.len()
            );
            self.fail("no-busy-loop", text);
        }
    }
}

/// Whether a table shows something that a request conflicts with.
fn conflicts(names: &[LockName], table: &LockTable) -> bool {
    let held = table.holders().into_iter().map(|holder| holder.name);
    let held: Vec<_> = held.collect();
    let is_refused = names
        .iter()
        .any(|name| held.iter().any(|held| refuses(name, held)));
    is_refused
        || table
            .queue()
            .iter()
            .any(|queued| meets(&queued.names, names))
}
