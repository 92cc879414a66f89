//! What goes on though nobody asks: looking after others, time-outs, evictions.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Config,
    job::{Job, SideJob, SideOutcome},
    namespace::{Namespace, PATIENCE, Row},
    plan::{ChoreId, Pending, Phase},
    request::{Chore, Mode},
    session::Fence,
    signal::Signal,
};
use crate::{
    builder::Fairness,
    error::LockError,
    report::Blocker,
    table::{Claim, Order, SessionId, Waiting},
};

/// How often the processes of this machine are asked for.
const NEIGHBOURS: Duration = Duration::from_millis(20);
/// How long a time-out may wait for the first word of a database that answers.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// When a side job that failed is tried again.
const LATER: Duration = Duration::from_secs(1);

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
        if !std::mem::replace(&mut self.swept, true) {
            return Some(Job::Sweep);
        }
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
                self.backoff.success();
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
            SideOutcome::Evacuated(chore, Ok((sessions, held))) => {
                for id in &sessions {
                    self.buried(id.clone());
                }
                if let Some(pending) = self.chores.get_mut(&chore) {
                    pending.since = now;
                    let dead = sessions.into_iter().collect();
                    pending.phase = Phase::Evacuated { dead, held };
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
        self.later.push((now + LATER, job));
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
    fn blockers_now(&self, claim: &Claim, first: &[Blocker]) -> Vec<Blocker> {
        if let Row::Known(cached) = &self.row {
            let id = |w: &Waiting| w.nonce == claim.nonce;
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
            self.rides_until,
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
