//! What came of a namespace's jobs, and what follows.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    Config,
    job::{Done, Job, Outcome, SideJob, SideOutcome},
    namespace::{Cached, Namespace, PATIENCE, Row},
    plan::{ChoreId, Pending, Phase, Plan, joined},
    request::{Chore, Mode, Reply, Seat},
    session::{Fence, Held, Keeper, Tenure},
};
use crate::{
    error::LockError,
    guard::LockGuard,
    report::{Blocker, Waiter},
    store::{Failure, Stamp, Row as StoredRow},
    table::{Claim, LockTable, Nonce, Order, SessionId},
};

/// How often the processes of this machine are asked for.
const NEIGHBOURS: Duration = Duration::from_millis(20);
/// How long a time-out may wait for the first word of a database that answers.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// A grant whose guard is to be made.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) seat: Arc<Seat>,
    pub(super) nonce: Nonce,
    pub(super) tenure: Arc<Tenure>,
    pub(super) reply: Reply<LockGuard>,
}

impl Namespace {
    /// Takes in what came of a job.
    pub(super) fn done(&mut self, done: Done, config: &Config, now: Instant) {
        let sent = done.sent;
        match done.outcome {
            Outcome::Read(Ok(Some(row))) => self.read(row, sent),
            Outcome::Read(Ok(None)) => self.missing(now),
            Outcome::Peeked(Ok(at)) => self.peeked(at.as_ref(), sent, now),
            Outcome::Swapped {
                at,
                stamp,
                table,
                result,
            } => self.swapped(at, stamp, table, result, sent, config, now),
            Outcome::Adopted(Ok(done)) | Outcome::Created(Ok(done)) => {
                if done {
                    tracing::info!(namespace = %self.name, "the locks row is ours now");
                }
                self.forget_row();
            }
            Outcome::Opened(sessions, at, Ok(())) => {
                self.backoff.success();
                for session in sessions {
                    self.opened(session, at);
                }
            }
            Outcome::Opened(sessions, _, Err(failure)) => {
                // Their ids are never tried again; what arrived of them goes.
                let ids = sessions.into_iter().map(|session| session.id).collect();
                self.side.push_back(SideJob::Leave(ids));
                self.failed(failure, now);
            }
            Outcome::Surveyed(Ok(Some(states))) => {
                let (evict, dead) = self.observer.see(states, now);
                for (id, cause) in evict {
                    self.evict(id, cause);
                }
                if !dead.is_empty() {
                    self.dead.extend(dead);
                    self.dirty = true;
                }
            }
            Outcome::Surveyed(Ok(None)) => self.forget_row(),
            Outcome::Surveyed(Err(failure)) => {
                self.observer.blind(now);
                self.failed(failure, now);
            }
            Outcome::Notified(Ok(())) => {}
            Outcome::Notified(Err(failure)) => {
                tracing::debug!(%failure, namespace = %self.name, "nobody was notified");
            }
            Outcome::DataVersion(Ok(number)) => {
                if self.poll.moved(number) {
                    self.poll.wake(now);
                }
            }
            Outcome::Read(Err(failure))
            | Outcome::Peeked(Err(failure))
            | Outcome::Adopted(Err(failure))
            | Outcome::Created(Err(failure))
            | Outcome::DataVersion(Err(failure)) => self.failed(failure, now),
        }
    }

    /// What was known of the row is out of date.
    pub(super) fn forget_row(&mut self) {
        if !matches!(self.row, Row::Writing) {
            self.row = Row::Unknown;
        }
        self.dirty = true;
        self.needs_fresh = true;
    }

    fn read(&mut self, row: StoredRow, sent: Instant) {
        self.backoff.success();
        self.trouble = None;
        self.seen = true;
        self.missing_since = None;
        self.highest = self.highest.max(row.at.version);
        if row.at.stamp.is_none() {
            let reason = "the lock table was started anew, as the original's releaseAll does";
            self.lose_all(reason);
            let version = row.at.version;
            self.row = Row::Unstamped {
                version,
                cleared: false,
            };
            return;
        }
        match LockTable::parse(row.data_json.as_deref(), row.meta_json.as_deref()) {
            Ok(table) => {
                self.row = Row::Known(Cached {
                    at: row.at,
                    table,
                    proven: sent,
                });
                self.strays = true;
                self.dirty = true;
                self.needs_fresh = false;
                self.reconcile();
            }
            Err(unreadable) => {
                self.row = Row::Unknown;
                self.give_up(&LockError::schema(unreadable.to_string()), sent);
            }
        }
    }

    fn missing(&mut self, now: Instant) {
        self.backoff.success();
        let since = *self.missing_since.get_or_insert(now);
        self.lose_all("the locks row was deleted, as the original's releaseAll does");
        self.row = Row::Missing {
            since,
            cleared: false,
        };
    }

    fn lose_all(&mut self, reason: &'static str) {
        let all: Vec<_> = self.held.keys().copied().collect();
        for nonce in all {
            self.lose(nonce, reason, None);
        }
    }

    /// What we hold, and the row does not say so, is lost.
    fn reconcile(&mut self) {
        let Row::Known(cached) = &self.row else {
            return;
        };
        let lost: Vec<_> = self
            .held
            .iter()
            .filter(|(nonce, held)| {
                let id = (held.tenure.session.clone(), **nonce);
                cached.table.granted(&id, &held.tenure.names) != Some(held.tenure.token)
            })
            .map(|(nonce, held)| {
                let names = held.tenure.names.iter();
                let by = names.filter_map(|name| cached.table.entry(name.as_str()));
                (*nonce, by.map(|entry| entry.task.clone()).next())
            })
            .collect();
        for (nonce, by) in lost {
            let reason = "somebody released it: a supervisor, an eviction, or the original";
            self.lose(nonce, reason, by);
        }
    }

    fn peeked(&mut self, at: Option<&Stamp>, sent: Instant, now: Instant) {
        self.backoff.success();
        match &mut self.row {
            Row::Known(cached) if at == Some(&cached.at) => {
                cached.proven = sent;
                self.trouble = None;
            }
            _ => self.forget_row(),
        }
        let _ = now;
    }

    #[allow(clippy::too_many_arguments)]
    fn swapped(
        &mut self,
        at: Stamp,
        stamp: String,
        table: LockTable,
        result: Result<bool, Failure>,
        sent: Instant,
        config: &Config,
        now: Instant,
    ) {
        let plan = self.plan.take().unwrap_or_default();
        self.row = Row::Unknown;
        match result {
            Ok(true) => {
                self.backoff.success();
                self.trouble = None;
                let at = Stamp {
                    version: at.version + 1,
                    stamp: Some(stamp),
                };
                self.highest = at.version;
                let ours: BTreeSet<_> = self.sessions.values().map(|s| &s.id).collect();
                self.notify = table.queue().iter().any(|w| !ours.contains(&w.session));
                self.row = Row::Known(Cached {
                    at: at.clone(),
                    table,
                    proven: sent,
                });
                self.carry_out(plan, &at, config, now);
            }
            Ok(false) => {
                tracing::trace!(namespace = %self.name, "somebody else wrote first");
                self.dirty = true;
                self.backoff.conflict(now);
            }
            Err(failure) => {
                if failure.class == crate::store::Class::Unknown {
                    tracing::warn!(
                        namespace = %self.name, %failure,
                        "a write has no answer: whether it happened will be looked up"
                    );
                    self.unsettled = Some(at);
                }
                self.failed(failure, now);
            }
        }
    }

    /// The database did not do what it was asked.
    fn failed(&mut self, failure: Failure, now: Instant) {
        let hopeless = failure.is_hopeless();
        tracing::warn!(namespace = %self.name, %failure, "trying again");
        self.row = Row::Unknown;
        self.dirty = true;
        self.backoff.failure(now);
        let error = LockError::from(failure);
        if hopeless {
            self.give_up(&error, now);
        }
        self.trouble = Some(error);
    }

    /// Tells everybody who waits that it cannot be done.
    fn give_up(&mut self, error: &LockError, now: Instant) {
        self.backoff.failure(now);
        self.needs_fresh = false;
        let doubtful = self.unsettled.is_some();
        self.asking.retain(|_, asking| {
            if let Some(reply) = asking.reply.take() {
                drop(reply.send(Err(error.clone())));
            }
            asking.abandoned = true;
            // What was never written need not be undone.
            doubtful || asking.queued_as.is_some()
        });
        for pending in std::mem::take(&mut self.chores).into_values() {
            pending.chore.fail(error.clone());
        }
        for releasing in self.releasing.values_mut() {
            for reply in releasing.replies.drain(..) {
                drop(reply.send(Err(error.clone())));
            }
        }
        self.trouble = Some(error.clone());
    }

    /// Answers those whom the plan refuses for good.
    pub(super) fn refuse(&mut self, plan: &mut Plan) {
        for (nonce, error) in plan.refused.drain(..) {
            let Some(mut asking) = self.asking.remove(&nonce) else {
                continue;
            };
            tracing::debug!(
                lock = joined(&asking.claim.names), task = %asking.claim.task,
                namespace = %self.name, %error, "refused"
            );
            self.observing = true;
            if let Some(reply) = asking.reply.take() {
                drop(reply.send(Err(error)));
            }
        }
    }

    /// Answers the chores that only look, from the table that is known.
    pub(super) fn answer_chores(&mut self, plan: &mut Plan, table: &LockTable, config: &Config) {
        for id in plan.answered.drain(..) {
            let Some(Pending { chore, .. }) = self.chores.remove(&id) else {
                continue;
            };
            match chore {
                Chore::Held(reply) => drop(reply.send(Ok(table.holders()))),
                Chore::Waiting(reply) => drop(reply.send(Ok(waiters(table, config)))),
                Chore::Confirm(nonce, reply) => drop(reply.send(self.confirm(nonce))),
                Chore::ReleaseName(task, name, reply) => {
                    self.release_name(table, &task, name, reply);
                }
                chore @ (Chore::ReleaseTask(..) | Chore::ReleaseAll(_)) => {
                    chore.fail(LockError::Closed);
                }
            }
        }
    }

    fn confirm(&self, nonce: Nonce) -> crate::error::Result<()> {
        match self.held.get(&nonce) {
            Some(held) => match held.tenure.lost.borrow().clone() {
                None => Ok(()),
                Some(lost) => Err(LockError::Lost(lost)),
            },
            // Lost, and the guard has been told; it says so itself.
            None => Ok(()),
        }
    }

    fn release_name(
        &mut self,
        table: &LockTable,
        task: &Arc<str>,
        name: crate::name::LockName,
        reply: Reply<()>,
    ) {
        let Some(entry) = table.entry(name.as_str()) else {
            drop(reply.send(Err(LockError::NotHeld { name })));
            return;
        };
        let nonce = entry.grant.as_ref().map(|grant| grant.nonce);
        let ours = nonce.and_then(|nonce| self.held.get(&nonce).map(|held| (nonce, held)));
        match ours {
            Some((nonce, held)) if held.task == *task && held.keeper == Keeper::Detached => {
                self.release(nonce, None, Some(reply), Instant::now());
            }
            Some((_, held)) if held.task == *task => {
                drop(reply.send(Err(LockError::HeldByGuard { name })));
            }
            _ => {
                let holder = crate::table::holder(&name, entry);
                drop(reply.send(Err(LockError::HeldByOther { holder })));
            }
        }
    }

    /// Does what a plan means, once the row says so.
    pub(super) fn carry_out(
        &mut self,
        plan: Plan,
        at: &Stamp,
        config: &Config,
        now: Instant,
    ) {
        for (nonce, session) in plan.enqueued {
            if let Some(asking) = self.asking.get_mut(&nonce) {
                asking.queued_as = Some(session);
                asking.ticket.get_or_insert(at.version);
            }
        }
        for (nonce, blockers) in plan.blocked {
            if let Some(asking) = self.asking.get_mut(&nonce) {
                tracing::info!(
                    lock = joined(&asking.claim.names), task = %asking.claim.task,
                    namespace = %self.name, blocked_by = blockers.first().map(tracing::field::display), "waiting"
                );
                asking.blocked_by = blockers;
                self.observing = true;
            }
        }
        for nonce in plan.released {
            if let Some(releasing) = self.releasing.remove(&nonce) {
                tracing::info!(
                    lock = joined(&releasing.tenure.names), task = %releasing.task,
                    namespace = %self.name, token = releasing.tenure.token, "released"
                );
                for reply in releasing.replies {
                    drop(reply.send(Ok(())));
                }
            }
        }
        for nonce in plan.abandoned {
            self.asking.remove(&nonce);
        }
        for (id, holders) in plan.removed {
            let Some(Pending { chore, .. }) = self.chores.remove(&id) else {
                continue;
            };
            for holder in &holders {
                tracing::warn!(
                    lock = %holder.name, task = %holder.task_id, namespace = %self.name,
                    token = holder.token, "taken away: its task forgot to unlock"
                );
            }
            match chore {
                Chore::ReleaseTask(_, reply) | Chore::ReleaseAll(reply) => {
                    drop(reply.send(Ok(holders)));
                }
                chore => chore.fail(LockError::Closed),
            }
        }
        for (nonce, token) in plan.granted {
            let delivery = self.granted(nonce, token);
            self.deliveries.extend(delivery);
        }
        self.reviewed(config, now);
    }

    fn granted(&mut self, nonce: Nonce, token: i64) -> Option<Delivery> {
        let session = &self.asking.get(&nonce)?.claim.session;
        // Its session may have been lost while the write was under way: then the
        // grant goes with it, and the request goes on under another one.
        let session = self.sessions.values().find(|s| s.id == *session)?;
        if session.lease.is_over() {
            return None;
        }
        let lease = session.lease.clone();
        let mut asking = self.asking.remove(&nonce)?;
        let tenure = Arc::new(Tenure {
            session: asking.claim.session.clone(),
            lease,
            fenced: AtomicBool::new(false),
            lost: watch::Sender::new(None),
            names: asking.claim.names.clone(),
            token,
        });
        let held = Held {
            task: asking.claim.task.clone(),
            keeper: Keeper::Guard,
            tenure: tenure.clone(),
        };
        self.held.insert(nonce, held);
        tracing::info!(
            lock = joined(&asking.claim.names), task = %asking.claim.task,
            namespace = %self.name, token, "acquired"
        );
        match asking.reply.take() {
            Some(reply) => Some(Delivery {
                seat: asking.seat,
                nonce,
                tenure,
                reply,
            }),
            None => {
                self.release(nonce, None, None, Instant::now());
                None
            }
        }
    }

    /// The row is known: whom to look after, and when to look again.
    pub(super) fn reviewed(&mut self, config: &Config, now: Instant) {
        let Row::Known(cached) = &self.row else {
            return;
        };
        let table = &cached.table;
        if !self.dead.is_empty() {
            let known: BTreeSet<_> = table.sessions_of(None).into_iter().collect();
            self.dead.retain(|id| known.contains(id));
        }
        let waiting = self.asking.values().filter(|a| !a.abandoned);
        let latest = waiting.map(|asking| asking.since).max();
        self.poll.plan(latest, config.signal.get(), now);
        if self.observing {
            let ours: BTreeSet<_> = self.sessions.values().map(|s| &s.id).collect();
            let others: BTreeSet<_> = table
                .session_ids()
                .into_iter()
                .filter(|id| !ours.contains(id) && !self.dead.contains(id))
                .collect();
            self.observing = !others.is_empty();
            self.observer.watch(&others, now);
        }
        if self.observing && config.asks_processes() {
            self.neighbours_due.get_or_insert(now + NEIGHBOURS);
        }
    }

    /// What is to be looked at, though nobody asked for anything new.
    pub(super) fn look(&mut self, config: &Config, now: Instant) -> Option<Job> {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if self.observing && is_due(self.observer.due()) {
            match &self.row {
                Row::Known(cached) => {
                    let ours: BTreeSet<_> = self.sessions.values().map(|s| &s.id).collect();
                    let sessions: Vec<_> = cached
                        .table
                        .session_ids()
                        .into_iter()
                        .filter(|id| !ours.contains(id) && !self.dead.contains(id))
                        .collect();
                    if sessions.is_empty() {
                        self.observing = false;
                    } else {
                        let at = cached.at.clone();
                        return Some(Job::Survey { at, sessions });
                    }
                }
                _ => return Some(Job::Read),
            }
        }
        if is_due(self.poll.due()) {
            self.poll.looked();
            self.reviewed(config, now);
            return Some(Job::Peek);
        }
        if is_due(self.poll.cheap_due()) {
            self.poll.asked();
            self.reviewed(config, now);
            return Some(Job::DataVersion);
        }
        None
    }

    /// Lets those evictions begin that chores are in need of.
    pub(super) fn start_evacuations(&mut self) {
        for (id, pending) in &mut self.chores {
            if pending.phase == Phase::ToEvacuate {
                let task = match &pending.chore {
                    Chore::ReleaseTask(task, _) => Some(task.clone()),
                    _ => None,
                };
                self.side.push_back(SideJob::Evacuate(*id, task));
                pending.phase = Phase::Evacuating;
            }
        }
    }

    /// Takes in what came of a side job.
    pub(super) fn side_done(&mut self, outcome: SideOutcome, now: Instant) {
        self.dirty = true;
        match outcome {
            SideOutcome::Evicted(id, cause, result) => {
                self.evicting.remove(&id);
                match result {
                    Ok(true) => {
                        tracing::warn!(
                            session = %id.0, namespace = %self.name, ?cause, "a session was evicted"
                        );
                        self.observer.forget(&id);
                        self.buried(id);
                    }
                    Ok(false) => self.observer.forget(&id),
                    Err(failure) => {
                        tracing::warn!(session = %id.0, %failure, "an eviction failed");
                        self.observer.forget(&id);
                        self.side_failed(SideJob::Evict(id.clone(), cause), now);
                        self.evicting.insert(id);
                    }
                }
            }
            SideOutcome::Cleared(result) => {
                self.clearing = false;
                match result {
                    Ok(Some(dead)) => {
                        // Sessions without a row: it was there a moment ago.
                        self.seen |= !dead.is_empty();
                        for id in dead {
                            self.buried(id);
                        }
                        match &mut self.row {
                            Row::Missing { cleared, .. } | Row::Unstamped { cleared, .. } => {
                                *cleared = true;
                            }
                            _ => {}
                        }
                    }
                    Ok(None) => self.forget_row(),
                    Err(failure) => self.failed(failure, now),
                }
            }
            SideOutcome::Evacuated(chore, Ok(sessions)) => {
                for id in &sessions {
                    self.buried(id.clone());
                }
                if let Some(pending) = self.chores.get_mut(&chore) {
                    pending.since = now;
                    pending.phase = Phase::Evacuated(sessions.into_iter().collect());
                }
            }
            SideOutcome::Evacuated(chore, Err(failure)) => {
                if let Some(pending) = self.chores.get_mut(&chore) {
                    pending.phase = Phase::ToEvacuate;
                }
                self.failed(failure, now);
            }
            SideOutcome::Touched(id, Ok(())) => {
                for releasing in self.releasing.values_mut() {
                    if releasing.id.0 == id && releasing.fence == Fence::Touching {
                        releasing.fence = Fence::Clear;
                    }
                }
            }
            SideOutcome::Touched(id, Err(failure)) => {
                tracing::warn!(session = %id.0, %failure, "a fenced commit is still under way");
                self.side_failed(SideJob::Touch(id), now);
            }
            SideOutcome::Left(result) => {
                if let Err(failure) = result {
                    tracing::debug!(%failure, "sessions were left behind; they expire");
                }
            }
        }
    }

    fn side_failed(&mut self, job: SideJob, now: Instant) {
        self.later.push((now + FIRST_WORD, job));
    }

    /// A session's rows are gone for good. Where it was ours, it is lost.
    fn buried(&mut self, id: SessionId) {
        let ours = self.sessions.iter().find(|(_, s)| s.id == id);
        if let Some(key) = ours.map(|(key, _)| key.clone()) {
            self.evicting.insert(id.clone());
            self.lose_session(&key, "its session was ended by a supervisor");
            self.evicting.remove(&id);
        }
        self.dead.insert(id);
    }

    /// What the clock brings: time-outs, lost leases, processes that are gone.
    pub(super) fn alarm(&mut self, config: &Config, now: Instant) {
        self.time_out(now);
        let over: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.lease.is_over())
            .map(|(key, _)| key.clone())
            .collect();
        for key in over {
            self.lose_session(&key, "its session was not renewed in time");
        }
        if self.neighbours_due.is_some_and(|due| due <= now) {
            self.neighbours_due = None;
            if self.observing {
                for (id, cause) in self.observer.gone(&config.process) {
                    self.evict(id, cause);
                }
                self.neighbours_due = Some(now + NEIGHBOURS);
            }
        }
        let (due, later) = std::mem::take(&mut self.later)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.later = later;
        let due: Vec<(Instant, SideJob)> = due;
        self.side.extend(due.into_iter().map(|(_, job)| job));
    }

    fn time_out(&mut self, now: Instant) {
        let trouble = || self.trouble.clone().unwrap_or_else(no_answer);
        let mut over = Vec::new();
        for (nonce, asking) in &self.asking {
            let waited = now.duration_since(asking.since);
            match asking.mode {
                _ if asking.abandoned => {}
                Mode::AtOnce if waited >= PATIENCE => over.push((*nonce, trouble())),
                Mode::InTurn { limit: Some(limit) } if waited >= limit => {
                    if asking.blocked_by.is_empty() || self.trouble.is_some() {
                        if self.trouble.is_some() || waited >= limit + FIRST_WORD {
                            over.push((*nonce, trouble()));
                        }
                    } else {
                        let error = LockError::Timeout {
                            names: asking.claim.names.to_vec(),
                            waited,
                            blocked_by: self.blockers_now(&asking.claim, &asking.blocked_by),
                        };
                        over.push((*nonce, error));
                    }
                }
                _ => {}
            }
        }
        for (nonce, error) in over {
            if let Some(asking) = self.asking.get_mut(&nonce) {
                asking.abandoned = true;
                self.dirty = true;
                if let Some(reply) = asking.reply.take() {
                    drop(reply.send(Err(error)));
                }
            }
        }
        let error = trouble();
        if self.trouble.is_some() {
            let over = |_: &ChoreId, p: &mut Pending| now.duration_since(p.since) >= PATIENCE;
            for (_, pending) in self.chores.extract_if(.., over) {
                pending.chore.fail(error.clone());
            }
        }
        for releasing in self.releasing.values_mut() {
            if self.trouble.is_some() && now.duration_since(releasing.due) >= PATIENCE {
                for reply in releasing.replies.drain(..) {
                    drop(reply.send(Err(error.clone())));
                }
            }
        }
    }

    /// What blocks a waiter as far as is known now; else what did at first.
    fn blockers_now(&self, claim: &Claim, first: &[Blocker]) -> Vec<Blocker> {
        if let Row::Known(cached) = &self.row {
            let id = |w: &crate::table::Waiting| w.nonce == claim.nonce;
            let place = cached.table.queue().iter().position(id);
            let order = place.map_or(Order::Barging, Order::Behind);
            let now = cached.table.blockers(claim, order);
            if !now.is_empty() {
                return now;
            }
        }
        first.to_vec()
    }

    /// When the clock brings something next.
    pub(super) fn next_alarm(&self, now: Instant) -> Option<Instant> {
        let asking = self.asking.values().filter(|a| !a.abandoned);
        let deadlines = asking.filter_map(|asking| match asking.mode {
            Mode::AtOnce => Some(asking.since + PATIENCE),
            Mode::InTurn { .. } if asking.blocked_by.is_empty() && self.trouble.is_none() => {
                asking.deadline().map(|deadline| deadline + FIRST_WORD)
            }
            Mode::InTurn { .. } => asking.deadline(),
        });
        let patience = self.trouble.iter().flat_map(|_| {
            let chores = self.chores.values().map(|pending| pending.since);
            let releases = self.releasing.values().map(|releasing| releasing.due);
            chores.chain(releases).map(|since| since + PATIENCE)
        });
        let later = self.later.iter().map(|(at, _)| *at);
        let leases = self.sessions.values().filter_map(|s| s.lease.left());
        deadlines
            .chain(patience.filter(|at| *at > now))
            .chain(later)
            .chain(leases.map(|left| now + left))
            .chain(self.neighbours_due)
            .min()
    }

    /// When the connection is needed next, were it free.
    pub(super) fn next_job(&self, now: Instant) -> Option<Instant> {
        let idle = [
            self.observer.due().filter(|_| self.observing),
            self.poll.due(),
            self.poll.cheap_due(),
        ];
        let releases = self.releasing.values().filter(|r| r.fence == Fence::Clear);
        let next = idle
            .into_iter()
            .flatten()
            .chain(releases.map(|releasing| releasing.due))
            .chain(self.backoff.until().filter(|until| *until > now))
            .min()?;
        // Nothing is asked for during a pause.
        let pause = self.backoff.until().unwrap_or(next);
        Some(next.max(pause))
    }
}

/// The queue, and what blocks each.
fn waiters(table: &LockTable, config: &Config) -> Vec<Waiter> {
    let queue = table.queue().iter().enumerate();
    queue
        .map(|(place, waiting)| {
            let mut waiter = waiting.report();
            waiter.blocked_by = table.blockers_of(place, &config.matrix);
            waiter
        })
        .collect()
}

fn no_answer() -> LockError {
    let text = "the database has not answered yet";
    let error = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
    LockError::Database {
        source: Arc::new(sqlx::Error::Io(error)),
        transient: true,
    }
}
