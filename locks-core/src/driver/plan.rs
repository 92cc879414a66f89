//! What the next write of a row should do: a decision, without any effect.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    asking::Asking,
    job::PIECE,
    request::{Chore, Mode},
    session::{FenceState, ReleaseKey, Releasing},
};
use crate::{
    builder::Fairness,
    error::LockError,
    name::LockName,
    report::{Blocker, Holder},
    table::{LockTable, Nonce, Order, QueuedRequest, RequestId, SessionId},
};

/// How long a write may be put off that nobody waits for: a release by drop, or a
/// place in the queue. It rides along with any other write.
pub(super) const LINGER: Duration = Duration::from_millis(1);

/// What the plan may look at beside the table.
pub(super) struct Due<'a> {
    pub(super) now: Instant,
    /// The table was as it is now at this moment.
    pub(super) proven: Instant,
    /// The version that the write will make.
    pub(super) next_version: i64,
    pub(super) asking: &'a BTreeMap<Nonce, Asking>,
    pub(super) releasing: &'a BTreeMap<ReleaseKey, Releasing>,
    pub(super) held: &'a dyn Fn(Nonce) -> bool,
    /// Our sessions, where the row is new to us and may hold what we do not know.
    pub(super) strays_of: BTreeSet<SessionId>,
    pub(super) dead: &'a BTreeSet<SessionId>,
    pub(super) chores: &'a BTreeMap<ChoreId, Pending>,
    pub(super) fairness: Fairness,
    pub(super) queue_limit: usize,
}

/// A chore, and how far it is.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) chore: Chore,
    pub(super) since: Instant,
    pub(super) phase: Phase,
    /// What was held before the first session was ended, where ending them takes several
    /// attempts.
    pub(super) held: Vec<Holder>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Phase {
    /// The sessions concerned have to go first.
    ToEvacuate,
    Evacuating,
    /// The session of the grant is looked for.
    Auditing,
    /// It needs a row read after it came.
    Ready,
    /// These sessions are dead, and held this; it can be taken away, if nobody else
    /// has done so.
    Evacuated {
        dead: BTreeSet<SessionId>,
        held: Vec<Holder>,
    },
}

/// Tells one chore from another.
pub(super) type ChoreId = u64;

/// What to do: the table that was handed in is already the one to write.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Whether there is anything to write.
    pub(super) changed: bool,
    /// Those who are blocked can queue with whatever is written until then.
    pub(super) rides_until: Option<Instant>,
    /// Whether others may get something by it: all but new waiters who hold nothing.
    pub(super) freed: bool,
    /// Whether somebody's answer needs a row that is read now.
    pub(super) needs_fresh: bool,
    /// Granted by this write, with its token, or found granted by an earlier one.
    pub(super) granted: BTreeMap<Nonce, i64>,
    /// In the queue after this write, and not known to be there before, under this session.
    pub(super) enqueued: BTreeMap<Nonce, SessionId>,
    /// Those of ours who stand in the queue.
    queued: BTreeSet<Nonce>,
    /// No longer in the row after this write, and whether it was there before.
    pub(super) released: BTreeMap<ReleaseKey, bool>,
    pub(super) abandoned: Vec<Nonce>,
    /// Refused for good; no write is needed to say so.
    pub(super) refused: Vec<(Nonce, LockError)>,
    /// Blocked for now, by these.
    pub(super) blocked: Vec<(Nonce, Vec<Blocker>)>,
    /// What chores took away.
    pub(super) removed: Vec<(ChoreId, Vec<Holder>)>,
    /// Chores that are answered from the row as it is.
    pub(super) answered: Vec<ChoreId>,
    /// Sessions that have to die before anything can be granted.
    pub(super) disowned: Vec<SessionId>,
    /// Whether what was done may let somebody go on who could not a moment ago.
    again: bool,
    /// When the row was as it is thought to be.
    pub(super) proven: Option<Instant>,
    /// New in the queue, with no hurry to be written, and until when.
    riding: Vec<(RequestId, Instant)>,
    /// The sessions that are granted to or queued for.
    sessions: BTreeSet<SessionId>,
    /// Whether a request was left for the next write, since this one names enough sessions.
    pub(super) cut: bool,
}

impl Plan {
    /// Changes `table` to what should be written, and says what that means.
    pub(super) fn make(table: &mut LockTable, due: &Due<'_>) -> Self {
        let mut plan = Self {
            proven: Some(due.proven),
            ..Self::default()
        };
        plan.release(table, due);
        plan.chores(table, due);
        plan.bury(table, due);
        plan.freed = plan.changed;
        plan.grant_queued(table, due);
        plan.grant_new(table, due);
        // Nothing else would ever make a plan, were all of them of this process.
        while std::mem::take(&mut plan.again) {
            plan.grant_queued(table, due);
        }
        plan.put_off(table, due);
        plan
    }

    fn release(&mut self, table: &mut LockTable, due: &Due<'_>) {
        for (key, releasing) in due.releasing {
            if releasing.fence == FenceState::Clear {
                let found = table.release(&releasing.id, &releasing.tenure.names);
                self.changed |= found;
                self.released.insert(*key, found);
            }
        }
        for (nonce, asking) in due.asking {
            if asking.abandoned {
                for session in asking.sessions() {
                    let id = (session, *nonce);
                    self.changed |= table.release(&id, &asking.claim.names);
                }
                self.abandoned.push(*nonce);
            }
        }
        if !self.abandoned.is_empty() {
            // Once for all of them: there may be thousands.
            let gone = |waiting: &QueuedRequest| {
                let asking = due.asking.get(&waiting.nonce).filter(|a| a.abandoned);
                asking.is_some_and(|a| a.sessions().any(|session| session == waiting.session))
            };
            self.changed |= table.dequeue_where(gone) > 0;
        }
        // What carries a session of ours and nothing of ours knows: an answer that
        // came too late for somebody.
        for (id, names) in table.grants_of(&due.strays_of) {
            let nonce = id.1;
            let mut releasing = due.releasing.range((nonce, 0)..=(nonce, usize::MAX));
            let known =
                (due.held)(nonce) || due.asking.contains_key(&nonce) || releasing.next().is_some();
            if !known {
                self.changed |= table.release(&id, &names);
            }
        }
        if !due.strays_of.is_empty() {
            let stray = |session: &SessionId, nonce: &Nonce| {
                due.strays_of.contains(session) && !due.asking.contains_key(nonce)
            };
            self.changed |= table.dequeue_where(|w| stray(&w.session, &w.nonce)) > 0;
        }
    }

    fn chores(&mut self, table: &mut LockTable, due: &Due<'_>) {
        for (id, pending) in due.chores {
            let fresh = due.proven >= pending.since;
            match &pending.phase {
                Phase::ToEvacuate | Phase::Evacuating | Phase::Auditing => {}
                Phase::Ready if fresh => self.answered.push(*id),
                Phase::Ready => self.needs_fresh = true,
                Phase::Evacuated { dead, held } => {
                    let mut removed =
                        table.release_where(|entry| match (&entry.grant, &pending.chore) {
                            (Some(grant), _) => dead.contains(&grant.session),
                            (None, Chore::ReleaseTask(task, _)) => entry.task == *task,
                            (None, _) => true,
                        });
                    // Before they are buried as dead by whatever write is next: what is
                    // found here is told. The write proves it; only finding nothing
                    // needs a row that is read now.
                    if removed.is_empty() && !fresh {
                        self.needs_fresh = true;
                    } else {
                        self.changed |= !removed.is_empty();
                        let told = |h: &Holder| removed.iter().any(|r| same_grant(r, h));
                        let buried: Vec<_> = held.iter().filter(|h| !told(h)).cloned().collect();
                        removed.extend(buried);
                        self.removed.push((*id, removed));
                    }
                }
            }
        }
    }

    /// Takes away what the dead left, after letting our own waiters of lost sessions
    /// go on under new ones.
    fn bury(&mut self, table: &mut LockTable, due: &Due<'_>) {
        for (nonce, asking) in due.asking {
            if let Some(old) = &asking.queued_as
                && *old != asking.queue_session
                && !asking.abandoned
            {
                self.changed |= table.move_request(&(old.clone(), *nonce), &asking.queue_session);
            }
        }
        if !due.dead.is_empty() {
            let holders = table.release_where(|entry| {
                let grant = entry.grant.as_ref();
                grant.is_some_and(|grant| due.dead.contains(&grant.session))
            });
            for holder in &holders {
                tracing::warn!(
                    lock = %holder.name, task = %holder.task_id, token = holder.token,
                    "a lock whose holder is gone comes back"
                );
            }
            self.changed |= !holders.is_empty();
            self.changed |= table.dequeue_where(|w| due.dead.contains(&w.session)) > 0;
        }
        table.forget_stolen(|session| due.dead.contains(session));
        self.disowned = table.stolen().cloned().collect();
        self.disowned.dedup();
    }

    /// Those of ours who stand in the queue, in its order.
    fn grant_queued(&mut self, table: &mut LockTable, due: &Due<'_>) {
        let mut place = 0;
        while let Some(waiting) = table.queue().get(place) {
            let asking = due
                .asking
                .get(&waiting.nonce)
                .filter(|asking| !asking.abandoned && asking.queue_session == waiting.session)
                .filter(|asking| asking.ready);
            if let Some(asking) = asking {
                if !self.has_room(&asking.claim.session) {
                    return;
                }
                let nonce = waiting.nonce;
                if table.granted(&asking.id(), &asking.claim.names).is_some() {
                    // Both cannot be: a write grants and dequeues at once.
                    self.changed |= table.dequeue(&(asking.queue_session.clone(), nonce));
                    continue;
                }
                self.queued.insert(nonce);
                if asking.queued_as.as_ref() != Some(&waiting.session) {
                    self.enqueued.insert(nonce, waiting.session.clone());
                }
                let order = self.order(due, place);
                if self.disowned.is_empty() && table.is_free(&asking.claim, order) {
                    self.queued.remove(&nonce);
                    self.enqueued.remove(&nonce);
                    table.dequeue(&(asking.queue_session.clone(), nonce));
                    self.grant(table, due, asking);
                    continue;
                }
            }
            place += 1;
        }
    }

    /// Whether the write may name one more session, if it does not name this one already.
    fn has_room(&mut self, session: &SessionId) -> bool {
        let room = self.sessions.len() < PIECE || self.sessions.contains(session);
        self.cut |= !room;
        room
    }

    #[allow(clippy::unused_self)]
    fn order(&self, due: &Due<'_>, place: usize) -> Order {
        match due.fairness {
            Fairness::Barging => Order::Barging,
            Fairness::InTurn => Order::Behind(place),
        }
    }

    fn grant(&mut self, table: &mut LockTable, due: &Due<'_>, asking: &Asking) {
        self.again |= table.is_nested(&asking.claim);
        table.grant(&asking.claim, due.next_version);
        self.sessions.insert(asking.claim.session.clone());
        self.granted.insert(asking.claim.nonce, due.next_version);
        self.changed = true;
        // A waiter stood in the way of more than a holder does.
        self.freed = true;
    }

    /// Those who stand nowhere yet, in the order they came.
    fn grant_new(&mut self, table: &mut LockTable, due: &Due<'_>) {
        for (nonce, asking) in due.asking {
            if asking.abandoned || self.queued.contains(nonce) || self.granted.contains_key(nonce) {
                continue;
            }
            if !asking.ready {
                continue;
            }
            if !self.has_room(&asking.claim.session) || !self.has_room(&asking.queue_session) {
                return;
            }
            if let Some(token) = table.granted(&asking.id(), &asking.claim.names) {
                self.granted.insert(*nonce, token);
                continue;
            }
            let place = table.queue().len();
            let order = self.order(due, place);
            if self.disowned.is_empty() && table.is_free(&asking.claim, order) {
                self.grant(table, due, asking);
                continue;
            }
            let fresh = due.proven >= asking.since;
            match asking.mode {
                // Blocked by what will be gone in a moment, and by nothing else.
                Mode::AtOnce if !self.disowned.is_empty() => {}
                Mode::AtOnce if fresh => {
                    let blocked_by = table.blockers(&asking.claim, order);
                    let error = LockError::Busy {
                        names: asking.claim.names.to_vec(),
                        blocked_by,
                    };
                    self.refused.push((*nonce, error));
                }
                Mode::AtOnce => self.needs_fresh = true,
                Mode::InTurn { .. } => self.wait(table, due, asking, order, fresh),
            }
        }
    }

    fn wait(
        &mut self,
        table: &mut LockTable,
        due: &Due<'_>,
        asking: &Asking,
        order: Order,
        fresh: bool,
    ) {
        let nonce = asking.claim.nonce;
        let names = || asking.claim.names.to_vec();
        let refusal = if let Some(cycle) = table.cycle(&asking.claim) {
            Some(LockError::Deadlock {
                names: names(),
                cycle,
            })
        } else if order != Order::Barging && table.queue().len() >= due.queue_limit {
            Some(LockError::QueueFull {
                limit: due.queue_limit,
            })
        } else {
            None
        };
        match refusal {
            Some(error) if fresh => self.refused.push((nonce, error)),
            Some(_) => self.needs_fresh = true,
            None => {
                let seen = fresh || order != Order::Barging;
                self.needs_fresh |= !seen;
                if asking.blocked_by.is_empty() && seen {
                    let blockers = table.blockers(&asking.claim, order);
                    self.blocked.push((nonce, blockers));
                }
                // Who barges stands in no queue and is tried again.
                if order != Order::Barging {
                    let ticket = asking.ticket.unwrap_or(due.next_version);
                    table.enqueue(&asking.claim, &asking.queue_session, ticket);
                    self.queued.insert(nonce);
                    self.sessions.insert(asking.queue_session.clone());
                    self.enqueued.insert(nonce, asking.queue_session.clone());
                    let id = (asking.queue_session.clone(), nonce);
                    self.riding.push((id, asking.since + LINGER));
                    // Who waits for the waiter may pass those who do so behind it; and who
                    // comes back to an old place was judged from the last one.
                    let nested = table.is_nested(&asking.claim);
                    self.freed |= nested;
                    self.again |= nested || asking.ticket.is_some();
                }
            }
        }
    }

    /// New waiters alone are not written at once. They were in the table all the same,
    /// so that nobody who came after them was granted what they wait for.
    fn put_off(&mut self, table: &mut LockTable, due: &Due<'_>) {
        let until = self.riding.iter().map(|(_, until)| *until).min();
        if self.changed || until.is_some_and(|until| until <= due.now) {
            self.changed |= until.is_some();
            return;
        }
        self.rides_until = until;
        for (id, _) in self.riding.drain(..) {
            table.dequeue(&id);
            self.queued.remove(&id.1);
            self.enqueued.remove(&id.1);
            // Neither a write nor a row that was read since shows that it is refused.
            let fresh = |a: &Asking| due.proven >= a.since;
            if !due.asking.get(&id.1).is_some_and(fresh) {
                self.blocked.retain(|(nonce, _)| *nonce != id.1);
            }
        }
    }
}

fn same_grant(a: &Holder, b: &Holder) -> bool {
    a.name == b.name && a.token == b.token
}

/// The names of everything a plan granted, for events.
pub(super) fn joined(names: &[LockName]) -> String {
    let names: Vec<_> = names.iter().map(LockName::as_str).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
