//! What the next write does: a decision about a table, without any effect.

mod hand_over;
mod serve;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    admin::{Admin, is_same_grant},
    call::{CallId, WaitPolicy},
    combining::Submitted,
    config::{CHUNK, Config},
    grants::Grants,
    requests::{PendingRequest, Requests},
    sessions::OwnSessions,
    task::ReleaseId,
    time::Time,
};
use crate::{
    error::LockError,
    options::Fairness,
    report::{Blocker, Holder},
    table::{LockTable, Nonce, Order, QueuedRequest, Request, RequestId, SessionId},
};

/// What a plan looks at besides the table.
pub(super) struct PlanInput<'a> {
    pub(super) now: Time,
    /// The wall clock, in microseconds since 1970: for people to read.
    pub(super) wall: i64,
    /// The table had its content at this moment.
    pub(super) proven: Time,
    /// The version that the write makes.
    pub(super) next_version: i64,
    pub(super) requests: &'a Requests,
    pub(super) grants: &'a Grants,
    pub(super) admin: &'a Admin,
    /// The sessions of this process in the table, if it may hold entries of theirs that
    /// this process does not know of.
    pub(super) unchecked: BTreeSet<SessionId>,
    /// Sessions of the table that are dead.
    pub(super) dead: &'a BTreeSet<SessionId>,
    /// How long a queue entry may wait for another write to join.
    pub(super) deferral: Duration,
    /// How many requests the write may add to the row.
    pub(super) batch: usize,
    /// What other processes have submitted and this one has claimed.
    pub(super) submitted: &'a [Submitted],
    /// Whether what the table shows is on the disk.
    pub(super) durable: bool,
    /// The sessions of this process.
    pub(super) sessions: &'a OwnSessions,
    /// Sessions of other processes without which a write was refused.
    pub(super) suspects: &'a BTreeSet<SessionId>,
    pub(super) config: &'a Config,
}

/// What to do. The table that was handed in is already the one to write.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Plan {
    /// Whether there is anything to write.
    pub(super) changed: bool,
    /// Queue entries were left for another write, until then.
    pub(super) deferred_until: Option<Time>,
    /// Whether other requests may be granted because of the write: everything but new queue
    /// entries of requests that hold nothing.
    pub(super) frees: bool,
    /// Whether an answer needs a row that is read now.
    pub(super) needs_read: bool,
    /// Granted by this write or found granted by an earlier one, with the token.
    pub(super) granted: BTreeMap<Nonce, i64>,
    /// In the queue after this write and not known to be there before, under this session.
    pub(super) enqueued: BTreeMap<Nonce, SessionId>,
    /// Not in the row after this write, and whether the locks were there before.
    pub(super) released: BTreeMap<ReleaseId, bool>,
    /// Cancelled requests of which the row has nothing after this write.
    pub(super) cancelled: Vec<Nonce>,
    /// Refused. No write is needed to say so.
    pub(super) refused: Vec<(Nonce, LockError)>,
    /// Blocked for now, by these.
    pub(super) blocked: Vec<(Nonce, Vec<Blocker>)>,
    /// What removals take away.
    pub(super) removed: Vec<(CallId, Vec<Holder>)>,
    /// What is taken away because its session is dead.
    pub(super) recovered: Vec<Holder>,
    /// Inspections that are answered from the row as it is.
    pub(super) inspected: Vec<CallId>,
    /// Sessions whose locks were stolen. They have to be dead before anything is granted.
    pub(super) stolen: Vec<SessionId>,
    /// Whether a request was left for the next write, because this one names enough
    /// sessions.
    pub(super) cut: bool,
    /// When the row had the content that the plan is based on.
    pub(super) proven: Time,
    /// The submissions of others of which nothing is left to write after this write.
    pub(super) served: Vec<(String, i64)>,
    /// The requests whose names the write adds to the row.
    pub(super) added: BTreeSet<Nonce>,
    /// The requests of this process that are in the queue.
    queued: BTreeSet<Nonce>,
    /// New queue entries that may wait for another write, and until when.
    deferrable: Vec<(RequestId, Time)>,
    /// The sessions that the write grants to or queues for.
    sessions: BTreeSet<SessionId>,
    /// The sessions of other processes that the write grants to or queues for, because they have
    /// submitted it.
    served_sessions: BTreeSet<SessionId>,
    /// The sessions of other processes whose requests in the queue the write grants.
    handed_over: BTreeSet<SessionId>,
    /// Whether a request may be granted now that could not be a moment ago.
    again: bool,
}

impl Plan {
    /// Changes `table` to what is to be written, and says what that means.
    pub(super) fn make(table: &mut LockTable, input: &PlanInput<'_>) -> Self {
        let mut plan = Self {
            proven: input.proven,
            ..Self::default()
        };
        plan.release(table, input);
        plan.release_submitted(table, input);
        plan.cancel(table, input);
        plan.release_unknown(table, input);
        plan.admin(table, input);
        plan.move_requests(table, input);
        plan.remove_dead(table, input);
        plan.frees = plan.changed;
        let freed = plan.changed;
        plan.grant_queued(table, input);
        plan.grant_new(table, input);
        plan.serve_submitted(table, input);
        // Not earlier: a request of this process may just have returned to its position.
        if freed {
            plan.hand_over(table, input);
        }
        // If all of them are of this process, nothing else would ever make a plan.
        while std::mem::take(&mut plan.again) {
            plan.grant_queued(table, input);
            if freed {
                plan.hand_over(table, input);
            }
        }
        plan.defer(table, input);
        plan
    }

    fn release(&mut self, table: &mut LockTable, input: &PlanInput<'_>) {
        for (id, release) in input.grants.releases() {
            if release.is_ready() {
                let found = table.release(&release.id(), release.names());
                self.changed |= found;
                self.released.insert(*id, found);
            }
        }
    }

    fn cancel(&mut self, table: &mut LockTable, input: &PlanInput<'_>) {
        for (nonce, pending) in input.requests.iter() {
            if pending.is_cancelled() {
                for session in pending.sessions() {
                    let id = (session, *nonce);
                    self.changed |= table.release(&id, &pending.request().names);
                }
                self.cancelled.push(*nonce);
            }
        }
        if !self.cancelled.is_empty() {
            // Once for all of them: there may be thousands.
            let gone = |queued: &QueuedRequest| {
                let pending = input.requests.get(queued.nonce);
                let pending = pending.filter(|pending| pending.is_cancelled());
                pending.is_some_and(|p| p.sessions().any(|session| session == queued.session))
            };
            self.changed |= table.dequeue_where(gone) > 0;
        }
    }

    /// Releases what is held or queued under a session of this process and what this process
    /// does not know of: a write without answer was applied after its caller was gone.
    fn release_unknown(&mut self, table: &mut LockTable, input: &PlanInput<'_>) {
        if input.unchecked.is_empty() {
            return;
        }
        let known = input.grants.nonces();
        for (id, names) in table.grants_of(&input.unchecked) {
            let nonce = id.1;
            if !known.contains(&nonce) && !input.requests.contains(nonce) {
                self.changed |= table.release(&id, &names);
            }
        }
        let unknown = |queued: &QueuedRequest| {
            input.unchecked.contains(&queued.session) && !input.requests.contains(queued.nonce)
        };
        self.changed |= table.dequeue_where(unknown) > 0;
    }

    fn admin(&mut self, table: &mut LockTable, input: &PlanInput<'_>) {
        let (inspected, stale) = input.admin.answerable(input.proven);
        self.inspected = inspected;
        self.needs_read |= stale;
        for removal in input.admin.ready_removals() {
            let mut removed = table.release_where(|name, entry| removal.covers(name, entry));
            // This comes before the removal of dead sessions, so that what is found here is
            // reported. The write proves it. Only finding nothing needs a row that is read
            // now.
            if removed.is_empty() && !removal.is_shown_by(input.proven) {
                self.needs_read = true;
                continue;
            }
            self.changed |= !removed.is_empty();
            let reported = |h: &Holder| removed.iter().any(|r| is_same_grant(r, h));
            let by_others: Vec<_> = removal.held.iter().filter(|h| !reported(h)).collect();
            let by_others: Vec<_> = by_others.into_iter().cloned().collect();
            removed.extend(by_others);
            self.removed.push((removal.call, removed));
        }
    }

    /// Queue entries under a session that was lost go on under the new one, in their
    /// positions.
    fn move_requests(&mut self, table: &mut LockTable, input: &PlanInput<'_>) {
        for (nonce, pending) in input.requests.iter() {
            if let Some(old) = pending.queued_as()
                && old != pending.queue_session()
                && pending.is_ready()
            {
                let id = (old.clone(), *nonce);
                self.changed |= table.move_request(&id, pending.queue_session());
            }
        }
    }

    /// Removes what dead sessions left.
    fn remove_dead(&mut self, table: &mut LockTable, input: &PlanInput<'_>) {
        if !input.dead.is_empty() {
            self.recovered = table.release_where(|_, entry| {
                let grant = entry.grant.as_ref();
                grant.is_some_and(|grant| input.dead.contains(&grant.session))
            });
            self.changed |= !self.recovered.is_empty();
            // A request of this process keeps its position until its new session is open.
            let moves = |q: &QueuedRequest| {
                let pending = input.requests.get(q.nonce);
                pending.is_some_and(|p| p.queued_as() == Some(&q.session) && !p.is_cancelled())
            };
            let is_left = |q: &QueuedRequest| input.dead.contains(&q.session) && !moves(q);
            self.changed |= table.dequeue_where(is_left) > 0;
        }
        // This is written, so that no process takes the other sessions for the only ones left.
        self.changed |= table.forget_stolen(|session| input.dead.contains(session));
        self.stolen = table.stolen().cloned().collect();
        self.stolen.dedup();
    }

    /// Grants requests of this process that are in the queue, in its order.
    fn grant_queued(&mut self, table: &mut LockTable, input: &PlanInput<'_>) {
        let mut position = 0;
        while let Some(queued) = table.queue().get(position) {
            let pending = input
                .requests
                .get(queued.nonce)
                .filter(|p| p.is_ready() && *p.queue_session() == queued.session);
            if let Some(pending) = pending {
                if !self.has_room(&pending.request().session) || self.is_full(input) {
                    return;
                }
                let nonce = queued.nonce;
                let queue_id = (pending.queue_session().clone(), nonce);
                if table
                    .granted(&pending.id(), &pending.request().names)
                    .is_some()
                {
                    // A write grants and dequeues at once: this entry is left over.
                    self.changed |= table.dequeue(&queue_id);
                    continue;
                }
                self.queued.insert(nonce);
                if pending.queued_as() != Some(&queued.session) {
                    self.enqueued.insert(nonce, queued.session.clone());
                }
                let order = order(input, position);
                if self.stolen.is_empty() && table.is_free(pending.request(), order) {
                    self.queued.remove(&nonce);
                    self.enqueued.remove(&nonce);
                    table.dequeue(&queue_id);
                    self.grant(table, input, pending);
                    continue;
                }
                // A write without answer has queued it, or one of another process.
                if !pending.is_blocked() {
                    self.block(table, pending.request(), order);
                }
            }
            position += 1;
        }
    }

    /// Whether the write may name one more session, if it does not name this one already.
    fn has_room(&mut self, session: &SessionId) -> bool {
        let room = self.sessions.len() < CHUNK || self.sessions.contains(session);
        self.cut |= !room;
        room
    }

    /// Whether the write adds as many requests as it may.
    fn is_full(&mut self, input: &PlanInput<'_>) -> bool {
        let full = self.added.len() >= input.batch;
        self.cut |= full;
        full
    }

    fn grant(&mut self, table: &mut LockTable, input: &PlanInput<'_>, pending: &PendingRequest) {
        let request = pending.request();
        self.again |= table.is_nested(request);
        // The request has the time at which it was made.
        let granted = Request {
            since: input.wall,
            ..request.clone()
        };
        table.grant(&granted, input.next_version);
        self.sessions.insert(request.session.clone());
        self.granted.insert(request.nonce, input.next_version);
        self.added.insert(request.nonce);
        self.changed = true;
        // A queued request blocked more than a holder does.
        self.frees = true;
    }

    /// Grants requests that are not in the queue, in order of arrival; or queues or refuses
    /// them.
    fn grant_new(&mut self, table: &mut LockTable, input: &PlanInput<'_>) {
        for (nonce, pending) in input.requests.iter() {
            let is_decided = self.queued.contains(nonce) || self.granted.contains_key(nonce);
            if is_decided || !pending.is_ready() {
                continue;
            }
            let request = pending.request();
            if !self.has_room(&request.session) || !self.has_room(pending.queue_session()) {
                return;
            }
            if let Some(token) = table.granted(&pending.id(), &request.names) {
                // A write without answer was applied, or one of another process. Some engines show
                // a write before it is on the disk. A write on top of it proves it.
                self.granted.insert(*nonce, token);
                self.changed |= !input.durable;
                continue;
            }
            if self.is_full(input) {
                return;
            }
            let order = order(input, table.queue().len());
            if self.stolen.is_empty() && table.is_free(request, order) {
                self.grant(table, input, pending);
                continue;
            }
            let fresh = input.proven >= pending.since();
            match pending.policy() {
                // It is decided when the sessions of the stolen or lost locks are dead.
                WaitPolicy::NoWait if !self.stolen.is_empty() => {
                    if fresh && !pending.is_blocked() {
                        self.blocked.push((*nonce, table.stolen_blockers()));
                    }
                }
                WaitPolicy::NoWait if has_lost_grant(table, request) => {}
                WaitPolicy::NoWait if fresh => {
                    let error = LockError::Busy {
                        names: request.names.to_vec(),
                        blocked_by: table.blockers(request, order),
                    };
                    self.refused.push((*nonce, error));
                }
                WaitPolicy::NoWait => self.needs_read = true,
                WaitPolicy::Wait { .. } => self.wait(table, input, pending, order, fresh),
            }
        }
    }

    /// Notes what blocks a request.
    fn block(&mut self, table: &LockTable, request: &Request, order: Order) {
        let mut blockers = table.blockers(request, order);
        blockers.extend(table.stolen_blockers());
        self.blocked.push((request.nonce, blockers));
    }

    fn wait(
        &mut self,
        table: &mut LockTable,
        input: &PlanInput<'_>,
        pending: &PendingRequest,
        order: Order,
        fresh: bool,
    ) {
        let request = pending.request();
        let nonce = request.nonce;
        let queues = order != Order::Barging;
        let limit = input.config.queue_limit;
        let refusal = if let Some(cycle) = table.cycle(request) {
            let names = request.names.to_vec();
            Some(LockError::Deadlock { names, cycle })
        } else if queues && table.queue().len() >= limit {
            Some(LockError::QueueFull { limit })
        } else {
            None
        };
        if let Some(error) = refusal {
            if fresh {
                self.refused.push((nonce, error));
            } else {
                self.needs_read = true;
            }
            return;
        }
        let seen = fresh || queues;
        self.needs_read |= !seen;
        if !pending.is_blocked() && seen {
            self.block(table, request, order);
        }
        // A request that barges is not queued; it is tried again.
        if !queues {
            return;
        }
        let session = pending.queue_session();
        let ticket = pending.ticket().unwrap_or(input.next_version);
        table.enqueue(request, session, ticket);
        self.queued.insert(nonce);
        self.sessions.insert(session.clone());
        self.enqueued.insert(nonce, session.clone());
        self.added.insert(nonce);
        let until = pending.since() + input.deferral;
        self.deferrable.push(((session.clone(), nonce), until));
        // A request that waits for this one's job may pass those that are queued behind it;
        // and a request that returns to its old position was judged from the last one.
        let nested = table.is_nested(request);
        self.frees |= nested;
        self.again |= nested || pending.ticket().is_some();
    }

    /// New queue entries alone are not written at once. They are in the table until here, so
    /// that no later request is granted what they wait for.
    fn defer(&mut self, table: &mut LockTable, input: &PlanInput<'_>) {
        let until = self.deferrable.iter().map(|(_, until)| *until).min();
        if self.changed || until.is_some_and(|until| until <= input.now) {
            self.changed |= until.is_some();
            return;
        }
        self.deferred_until = until;
        for (id, _) in self.deferrable.drain(..) {
            table.dequeue(&id);
            self.queued.remove(&id.1);
            self.enqueued.remove(&id.1);
            self.added.remove(&id.1);
            // Neither a write nor a row that was read since shows that it is blocked.
            let fresh = |pending: &PendingRequest| input.proven >= pending.since();
            if !input.requests.get(id.1).is_some_and(fresh) {
                self.blocked.retain(|(nonce, _)| *nonce != id.1);
            }
        }
    }

    /// The sessions without which the plan must not be written. One that held nothing may
    /// have been evicted without notice.
    pub(super) fn must_live(&self, requests: &Requests) -> Vec<SessionId> {
        let granted = self.granted.keys().filter_map(|nonce| requests.get(*nonce));
        let granted = granted.map(|pending| pending.request().session.clone());
        let ours = granted.chain(self.enqueued.values().cloned());
        let others = self.served_sessions.iter().chain(&self.handed_over);
        let alive: BTreeSet<_> = ours.chain(others.cloned()).collect();
        alive.into_iter().collect()
    }
}

fn order(input: &PlanInput<'_>, position: usize) -> Order {
    match input.config.fairness {
        Fairness::Barging => Order::Barging,
        Fairness::InTurn => Order::Behind(position),
    }
}

/// Whether the table has a grant of this very request under a session that was lost. It goes
/// with the session.
fn has_lost_grant(table: &LockTable, request: &Request) -> bool {
    request.names.iter().any(|name| {
        let entries = table.entries(name.as_str());
        let mut grants = entries.filter_map(|entry| entry.grant.as_ref());
        grants.any(|grant| grant.nonce == request.nonce)
    })
}

#[cfg(test)]
mod tests;
