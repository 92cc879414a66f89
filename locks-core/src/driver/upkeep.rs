//! What goes on though nobody asks: looking after others, time-outs, evictions.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Config,
    job::Job,
    lease::Moment,
    namespace::{Namespace, PATIENCE, Row},
    plan::{ChoreId, Pending, Phase},
    request::{Chore, Mode},
    session::FenceState,
    side_job::{Evacuated, SideJob, SideOutcome},
    signal::Signal,
};
use crate::{
    error::LockError,
    options::Fairness,
    report::{Blocker, Holder},
    store::{Failure, Kind as StoreKind},
    table::{Order, QueuedRequest, Request as TableRequest, SessionId},
};

/// How often the processes of this machine are asked for.
const NEIGHBOURS: Duration = Duration::from_millis(20);
/// How long a time-out may wait for the first word of a database that answers.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// When a side job that failed is tried again.
const LATER: Duration = Duration::from_secs(1);
/// When to try again to end all sessions of a namespace, if an open transaction is in the way.
const CLEAR_AGAIN: Duration = Duration::from_millis(250);
/// How long to go on ending the sessions of a task while transactions that are fenced with
/// them are open.
const STUCK: Duration = Duration::from_mins(1);
/// When one is tried again that an open transaction is in the way of: for each that is, but
/// no later than one that failed. So they ask 20 times a second together, and keep nothing
/// else waiting.
const LOCKED: Duration = Duration::from_millis(50);

impl Namespace {
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
        // Those who barge stand in no queue, so nobody notifies them.
        let signal = match (config.fairness, config.signal.get()) {
            (Fairness::Barging, Signal::Notifications) => Signal::None,
            (_, signal) => signal,
        };
        self.poll.plan(latest, signal, now);
        if self.observing {
            let others: BTreeSet<_> = table
                .session_ids()
                .into_iter()
                .filter(|id| !self.sessions.contains(id) && !self.dead.contains(id))
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
        if self.sweep.due.is_none_or(|due| due <= now) {
            // The answer says when to look again.
            self.sweep.due = Some(now + LATER);
            return Some(Job::Sweep);
        }
        if self.observing && is_due(self.observer.due()) {
            let Row::Known(cached) = &self.row else {
                // Where there is no row to look at, once in a while is enough.
                self.observer.postpone(now + LATER);
                return Some(Job::Read);
            };
            let sessions = cached.table.session_ids().into_iter();
            let sessions: Vec<_> = sessions
                .filter(|id| !self.sessions.contains(id) && !self.dead.contains(id))
                .collect();
            if !sessions.is_empty() {
                return Some(Job::Survey {
                    at: cached.at.clone(),
                    sessions,
                    witness: self.witness(),
                });
            }
            self.observing = false;
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
                        tracing::debug!(session = %id.0, %failure, "an eviction has to wait");
                        self.observer.forget(&id);
                        let witness = self.witness();
                        let job = SideJob::Evict {
                            id: id.clone(),
                            cause,
                            witness,
                        };
                        self.side_failed(job, &failure, now);
                        self.evicting.insert(id);
                    }
                }
            }
            SideOutcome::Cleared(result) => {
                self.clearing = false;
                // It ends the pause that the clearing was waited for in.
                self.backoff.success();
                match result {
                    Err(failure) if failure.kind == StoreKind::Locked => {
                        tracing::debug!(%failure, "a fenced commit keeps the row from being made");
                        self.forget_row();
                        self.missing_due = Some(now + CLEAR_AGAIN);
                    }
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
            SideOutcome::Evacuated(chore, Ok(evacuated)) => self.evacuated(chore, evacuated, now),
            SideOutcome::Evacuated(chore, Err(failure)) => {
                if let Some(pending) = self.chores.get_mut(&chore) {
                    pending.phase = Phase::ToEvacuate;
                }
                self.failed(failure, now);
            }
            SideOutcome::Touched(_, keys, Ok(())) => {
                for key in keys {
                    if let Some(releasing) = self.releasing.get_mut(&key) {
                        releasing.fence = FenceState::Clear;
                    }
                }
            }
            SideOutcome::Touched(row, keys, Err(failure)) => {
                tracing::debug!(row, %failure, "a fenced commit is still under way");
                self.side_failed(SideJob::Touch(row, keys), &failure, now);
            }
            SideOutcome::Discarded(ids, Err(failure)) => {
                tracing::debug!(%failure, "sessions that hold nothing are left for now");
                self.side_failed(SideJob::Discard(ids), &failure, now);
            }
            SideOutcome::Prepared(Err(failure)) => {
                tracing::debug!(%failure, "the connection for evictions could not be opened");
            }
            SideOutcome::Prepared(Ok(()))
            | SideOutcome::Discarded(_, Ok(()))
            | SideOutcome::Left(_) => {}
        }
    }

    /// The sessions of a task were ended, or some of them.
    fn evacuated(&mut self, chore: ChoreId, evacuated: Evacuated, now: Instant) {
        for id in &evacuated.dead {
            self.buried(id.clone());
        }
        let Some(pending) = self.chores.get_mut(&chore) else {
            return;
        };
        // What the first attempt saw held may have been taken away since.
        let known = |h: &Holder| {
            pending
                .held
                .iter()
                .any(|k| k.name == h.name && k.token == h.token)
        };
        let held: Vec<_> = evacuated.held.into_iter().filter(|h| !known(h)).collect();
        pending.held.extend(held);
        if let Some(stuck) = evacuated.stuck {
            if now.duration_since(pending.since) >= STUCK {
                if let Some(pending) = self.chores.remove(&chore) {
                    pending.chore.fail(stuck.into());
                }
                return;
            }
            let task = match &pending.chore {
                Chore::ReleaseTask(task, _) => Some(task.clone()),
                _ => None,
            };
            self.side_failed(SideJob::Evacuate(chore, task), &stuck, now);
            return;
        }
        pending.since = now;
        pending.phase = Phase::Evacuated {
            dead: evacuated.dead.into_iter().collect(),
            held: std::mem::take(&mut pending.held),
        };
    }

    fn side_failed(&mut self, job: SideJob, failure: &Failure, now: Instant) {
        let pause = if failure.kind == StoreKind::Locked {
            let stuck = u32::try_from(self.later.len() + 1).unwrap_or(u32::MAX);
            LOCKED.saturating_mul(stuck).min(LATER)
        } else {
            LATER
        };
        self.later.push((now + pause, job));
    }

    /// A session's rows are gone for good. Where it was ours, it is lost.
    fn buried(&mut self, id: SessionId) {
        if let Some(key) = self.sessions.key_of(&id).cloned() {
            self.evicting.insert(id.clone());
            self.lose_session(&key, "its session was ended by a supervisor");
            self.evicting.remove(&id);
        }
        self.dead.insert(id);
    }

    /// What the clock brings: time-outs, lost leases, processes that are gone.
    pub(super) fn alarm(&mut self, config: &Config, now: Instant) {
        self.time_out(now);
        if Moment::now() >= self.least_deadline {
            let over: Vec<_> = self
                .sessions
                .iter()
                .filter(|(_, session)| session.lease.is_over())
                .map(|(key, _)| key.clone())
                .collect();
            for key in over {
                self.lose_session(&key, "its session was not renewed in time");
            }
            let deadlines = self.sessions.values().map(|s| s.lease.deadline());
            self.least_deadline = deadlines.min().unwrap_or(Moment::NEVER);
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
        let contended = self.backoff.is_contended();
        let trouble = || self.trouble.clone().unwrap_or_else(|| no_answer(contended));
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
    fn blockers_now(&self, claim: &TableRequest, first: &[Blocker]) -> Vec<Blocker> {
        if let Row::Known(cached) = &self.row {
            let id = |w: &QueuedRequest| w.nonce == claim.nonce;
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
        // Leases are only ever extended: the first one that was to end tells when to look.
        let lease = self.least_deadline != Moment::NEVER;
        let lease = lease.then(|| now + self.least_deadline.since(Moment::now()));
        deadlines
            .chain(patience.filter(|at| *at > now))
            .chain(later)
            .chain(lease)
            .chain(self.neighbours_due)
            .min()
    }

    /// When the connection is needed next, were it free.
    pub(super) fn next_job(&self, now: Instant) -> Option<Instant> {
        let idle = [
            self.observer.due().filter(|_| self.observing),
            self.poll.due(),
            self.poll.cheap_due(),
            self.rides_until,
            self.missing_due,
            Some(self.sweep.due.unwrap_or(now)),
        ];
        let releases = self
            .releasing
            .values()
            .filter(|r| r.fence == FenceState::Clear);
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

fn no_answer(contended: bool) -> LockError {
    let text = if contended {
        "others wrote to the locks row first, each time"
    } else {
        "the database has not answered yet"
    };
    let error = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
    LockError::Database {
        source: Arc::new(sqlx::Error::Io(error)),
        transient: true,
    }
}
