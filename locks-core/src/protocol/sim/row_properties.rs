//! What must be true of every change of the row.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    callers::{Caller, Told},
    execution::parse,
    original::TASK,
    properties::{GrantedName, Writer, exceeded, refuses, refuses_by, table_of},
    schedule::ProcessId,
    tables::RowChange,
    world::World,
};
use crate::{
    matrix::ConflictMatrix,
    name::{LockName, Names},
    options::Fairness,
    protocol::config::Name,
    store::LocksRow,
    table::{Grant, LockTable, Nonce, QueuedRequest, SessionId},
};

/// Whether two requests conflict in either direction.
fn meets(a: &Names, b: &Names) -> bool {
    let mut pairs = a
        .with_modes()
        .flat_map(|a| b.with_modes().map(move |b| (a, b)));
    pairs.any(|(a, b)| refuses(a, b) || refuses(b, a))
}

/// The grants of a table, by name and request.
pub(super) fn grants(table: &LockTable) -> BTreeMap<(LockName, Nonce), Grant> {
    let names = table.holders().into_iter().map(|holder| holder.name);
    let names: BTreeSet<_> = names.collect();
    let mut grants = BTreeMap::new();
    for name in names {
        let entries = table.entries(name.as_str());
        let of_name = entries.filter_map(|entry| entry.grant.clone());
        grants.extend(of_name.map(|grant| ((name.clone(), grant.nonce), grant)));
    }
    grants
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
        .map(|q| format!("{} for {}", q.names, q.task))
        .collect();
    let (held, queue) = (held.join(", "), queue.join(", "));
    let version = row.version.version;
    format!("  the row is of version {version}: held [{held}], queue [{queue}]")
}

impl World {
    pub(super) fn check_row_change(&mut self, change: &RowChange, writer: Writer) {
        self.checks.reports.on_row(change);
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
        for ((name, nonce), grant) in &held_before {
            let key = (name.clone(), *nonce);
            if held_after.get(&key) == Some(grant) {
                continue;
            }
            match writer {
                Writer::Process(..) => {
                    self.check_removal(writer, &grant.session, *nonce, name.as_str());
                }
                Writer::Original | Writer::Operator | Writer::PowerLoss => {
                    self.checks.taken.insert(*nonce);
                }
            }
        }
        if let Writer::Process(..) = writer {
            self.check_original(&before, &after);
            for queued in before.queue() {
                let stays = |other: &QueuedRequest| other.nonce == queued.nonce;
                let is_granted = held_after.keys().any(|(_, nonce)| *nonce == queued.nonce);
                if !after.queue().iter().any(stays) && !is_granted {
                    self.check_removal(writer, &queued.session, queued.nonce, "the queue");
                }
            }
            let new: Vec<_> = held_after
                .iter()
                .filter(|(name, grant)| held_before.get(*name) != Some(*grant))
                .collect();
            for ((name, nonce), grant) in &new {
                self.check_row_grant(change, name, grant, &after);
                self.check_served_once(change, writer, &grant.session, *nonce);
                self.check_order(&before, &after, name, grant);
            }
            for ((name, nonce), grant) in new {
                self.checks.granted.push(GrantedName {
                    namespace: change.namespace.clone(),
                    name: name.clone(),
                    mode: grant.mode,
                    session: grant.session.clone(),
                    nonce: *nonce,
                    token: grant.token,
                });
            }
        }
        for queued in after.queue() {
            let tickets = &mut self.checks.tickets;
            tickets.entry(queued.nonce).or_insert(queued.ticket);
        }
        let processes = 0..self.setup.processes;
        let waited_for = processes.map(|p| self.waited_for(p, &change.namespace));
        let waited_for: Vec<_> = waited_for.collect();
        for caller in self.callers.values_mut() {
            if caller.told == Told::Waiting && caller.namespace == change.namespace {
                let matrix = self.setup.matrix_of(caller.process);
                let waited_for = &waited_for[caller.process];
                caller.saw_conflict |= conflicts(matrix, &caller.names, &after, waited_for);
            }
        }
    }

    /// A process may remove its own entries, and those of dead sessions.
    fn check_removal(&mut self, writer: Writer, session: &SessionId, nonce: Nonce, place: &str) {
        let owner = self.checks.session_owners.get(session).copied();
        let own = owner.is_some_and(|(p, incarnation)| writer == Writer::Process(p, incarnation));
        // A process may write what another one has submitted.
        let over = |told: &Told| matches!(told, Told::Gone | Told::Failed | Told::Lost);
        let ended = |caller: &Caller| {
            let is_over = caller.is_over(self.clocks(caller.process).boot);
            over(&caller.told) || caller.detached && is_over
        };
        let asked = |caller: &Caller| caller.nonce == nonce && ended(caller);
        let own = own || self.setup.turns && self.callers.values().any(asked);
        let rows = &self.db.tables;
        let is_dead = !rows.fences.contains(&session.0) && !rows.heartbeats.contains_key(session);
        // A known limit: a restore may bring back the rows of a session that was evicted for a
        // removal.
        if !own && !is_dead && !self.checks.restored {
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

    /// What another process has submitted or queued takes effect once.
    fn check_served_once(
        &mut self,
        change: &RowChange,
        writer: Writer,
        session: &SessionId,
        nonce: Nonce,
    ) {
        let owner = self.checks.session_owners.get(session).copied();
        let own = owner.is_some_and(|(p, incarnation)| writer == Writer::Process(p, incarnation));
        let version = change.after.as_ref().map(|row| row.version.version);
        let mut granted = self.checks.granted.iter();
        let before =
            granted.any(|g| (&g.session, g.nonce) == (session, nonce) && Some(g.token) != version);
        // The first grant may have been undone, with its process.
        let excused = self.checks.restored || self.power_losses > 0;
        if before && !own && !excused {
            let text = format!("{writer:?} granted {nonce:?} of {session:?} again");
            self.fail("submissions-take-effect-once", text);
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
        // A known limit: the original keeps the stamp, so a row that it wrote before a restore and one
        // that it wrote after it may have the same version and stamp.
        let excused = self.checks.removed_all || self.checks.restored;
        if let (Some(name), false) = (lost, excused) {
            self.fail("only-the-original-releases-its-locks", name.to_string());
        }
    }

    /// The matrix of a session's process. The original has the platform's.
    fn matrix_of(&self, session: Option<&SessionId>) -> ConflictMatrix {
        let owner = session.and_then(|session| self.checks.session_owners.get(session));
        let matrix = owner.map(|(p, _)| self.setup.matrix_of(*p));
        matrix.unwrap_or_default()
    }

    /// A lock is granted in the row: it conflicts with no other one, its session is alive,
    /// and its token is larger than those of earlier grants.
    fn check_row_grant(
        &mut self,
        change: &RowChange,
        name: &LockName,
        grant: &Grant,
        after: &LockTable,
    ) {
        self.checks.grants += 1;
        let (session, nonce, token) = (&grant.session, grant.nonce, grant.token);
        let version = change.after.as_ref().map(|row| row.version.version);
        let asked = (name, grant.mode);
        for holder in after.holders() {
            let other = holder.session.clone().map(SessionId);
            let entries = after.entries(holder.name.as_str());
            let mut its = entries.filter_map(|entry| entry.grant.as_ref());
            if its.any(|its| its.nonce == nonce && Some(&its.session) == other.as_ref()) {
                continue;
            }
            let matrix = self.matrix_of(Some(session));
            let others = self.matrix_of(other.as_ref());
            // The original obeys no limit, and has the platform's rules.
            let mine = if other.is_some() {
                matrix
            } else {
                matrix.limits(&[])
            };
            let is_alien = mine.fingerprint() != others.fingerprint();
            let held = (&holder.name, holder.mode);
            if !is_alien && !refuses_by(matrix, asked, held) {
                continue;
            }
            // Two grants of one write may have been made in the other order.
            let together = holder.token.is_some() && holder.token == version;
            if !together || is_alien || refuses_by(matrix, held, asked) {
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
        let holders = after.holders();
        if let Some(pattern) = exceeded(
            matrix,
            std::slice::from_ref(name),
            holders.iter().map(|holder| &holder.name),
        ) {
            let text = format!("{name} was granted above the limit of {pattern}");
            self.fail("limits-in-the-row", text);
        }
        let earlier = self.checks.granted.iter().filter(|earlier| {
            earlier.namespace == change.namespace
                && refuses_by(matrix, asked, (&earlier.name, earlier.mode))
        });
        let highest = earlier.map(|earlier| earlier.token).max();
        // Where the row starts anew, tokens grow as the clocks do: a new row begins with the
        // database's clock, and after a restore versions go on with the processes' clocks.
        let changed = self.checks.clocks_changed;
        let behind = self.setup.clocks_behind && self.checks.restored;
        // After a power loss the versions are ahead of the clocks for some minutes.
        let ahead = self.power_losses > 0;
        if self.checks.started_anew && (changed || behind || ahead) {
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
        grant: &Grant,
    ) {
        let nonce = grant.nonce;
        let task = |id: &SessionId| self.checks.session_owners.get(id).copied();
        let owner = task(&grant.session);
        let all = [grants(after), grants(before)].into_iter().flatten();
        let mut others = all.filter(|((_, other), _)| *other != nonce);
        let has_no_order = self.setup.fairness == Fairness::Barging || self.setup.mixed_matrices;
        if has_no_order || others.any(|(_, other)| task(&other.session) == owner) {
            return;
        }
        let queue = before.queue();
        let place = queue.iter().position(|queued| queued.nonce == nonce);
        let earlier = &queue[..place.unwrap_or(queue.len())];
        let still_waits = |queued: &&QueuedRequest| {
            let mut left = after.queue().iter();
            left.any(|left| left.nonce == queued.nonce && left.ticket == queued.ticket)
        };
        let names = Names::one(name.clone(), grant.mode);
        // A request that was removed from the queue returns to its position.
        let ticket = self.checks.tickets.get(&nonce).copied();
        let is_later = |queued: &&QueuedRequest| ticket.is_some_and(|t| t < queued.ticket);
        let overtaken = earlier.iter().filter(|q| still_waits(q) && !is_later(q));
        let overtaken: Vec<_> = overtaken.collect();
        // Of what was held, this was held for sure when the request was granted.
        let (held_before, held_after) = (before.holders(), after.holders());
        let held = held_before.iter().filter(|h| held_after.contains(h));
        let counted = overtaken.iter().flat_map(|queued| queued.names.iter());
        let counted = counted.chain(held.map(|holder| &holder.name)).chain([name]);
        let matrix = self.matrix_of(Some(&grant.session));
        if let Some(pattern) = exceeded(matrix, std::slice::from_ref(name), counted) {
            let text = format!("{name} was granted before others to which {pattern} belongs");
            self.fail("limits-in-order-of-arrival", text);
        }
        if let Some(overtaken) = overtaken.iter().find(|q| meets(&q.names, &names)) {
            let text = format!("{name} was granted before {}, which waits", overtaken.names);
            self.fail("order-of-arrival", text);
        }
    }

    /// Whether the row, or an earlier request of the process that is not in it yet, shows
    /// something that a request conflicts with.
    pub(super) fn shows_conflict(&self, p: ProcessId, space: &Name, names: &Names) -> bool {
        let matrix = self.setup.matrix_of(p);
        let table = table_of(self.db.tables.locks.get(space));
        let mut waiting = self.waiting(p, space);
        waiting.any(|caller| meets(&caller.names, names))
            || conflicts(matrix, names, &table, &self.waited_for(p, space))
    }

    /// The requests of a process that wait, whether or not they are in the row yet.
    fn waiting(&self, p: ProcessId, space: &Name) -> impl Iterator<Item = &Caller> {
        self.callers.values().filter(move |caller| {
            caller.process == p && caller.namespace == *space && caller.told == Told::Waiting
        })
    }

    /// What they wait for.
    fn waited_for(&self, p: ProcessId, space: &Name) -> Vec<LockName> {
        let waiting = self.waiting(p, space);
        waiting.flat_map(|caller| caller.names.to_vec()).collect()
    }
}

/// Whether a table shows something that a request conflicts with. A lock that was stolen is in the
/// way of every request.
///
/// `waited_for` is what the same process waits for: a limit counts it before it is in the row.
fn conflicts(
    matrix: ConflictMatrix,
    names: &Names,
    table: &LockTable,
    waited_for: &[LockName],
) -> bool {
    let held = table.holders();
    let is_refused = |asked| {
        held.iter()
            .any(|held| refuses(asked, (&held.name, held.mode)))
    };
    let counted = table.queue().iter().flat_map(|queued| queued.names.iter());
    let counted = counted
        .chain(held.iter().map(|h| &h.name))
        .chain(waited_for)
        .chain(names.iter());
    names.with_modes().any(is_refused)
        || exceeded(matrix, names, counted).is_some()
        || table.stolen().next().is_some()
        || table
            .queue()
            .iter()
            .any(|queued| meets(&queued.names, names))
}
