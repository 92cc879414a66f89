//! What came of a namespace's jobs, and what follows.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    Config,
    job::{Done, Outcome, Surveyed, Swap},
    namespace::{Cached, LAST_VERSION, Namespace, Row},
    observer::Cause,
    plan::Phase,
    request::{Check, Chore},
    side_job::SideJob,
};
use crate::{
    error::LockError,
    store::{Class, Failure, Liveness, LocksRow, RowVersion, SessionRow},
    table::{LockTable, SessionId},
};

/// How much longer than its ttl a session is watched before it is found dead, in parts of
/// the ttl.
const MARGIN: u32 = 10;
/// How often to look for sessions that dead processes left behind, in ttls, and within which
/// limits.
const SWEEP: u32 = 10;
const SWEEP_LIMITS: [Duration; 2] = [Duration::from_secs(5), Duration::from_mins(10)];

impl Namespace {
    /// Takes in what came of a job.
    pub(super) fn done(&mut self, done: Done, config: &Config, now: Instant) {
        let sent = done.sent;
        match done.outcome {
            Outcome::Read(Ok(Some(row))) => self.read(row, sent),
            Outcome::Read(Ok(None)) => self.missing(now),
            Outcome::ReadLocked(Ok(row)) => {
                self.turns.begin();
                match row {
                    Some(row) => self.read(row, sent),
                    None => self.missing(now),
                }
            }
            Outcome::ReadLocked(Err(failure)) if failure.is_permanent() => {
                tracing::debug!(%failure, "the row's lock is not to be had; racing for it");
                self.turns.refused();
                self.row = Row::Unknown;
            }
            Outcome::Peeked(Ok(at)) => self.peeked(at.as_ref(), sent),
            Outcome::Swapped(swap, result) => self.swapped(*swap, result, sent, config, now),
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
                self.side.push_back(SideJob::Discard(ids));
                self.failed(failure, now);
            }
            Outcome::Surveyed(Ok(Surveyed { row, states })) => {
                match row {
                    Some(row) => self.read(row, sent),
                    None => self.poll.looked(),
                }
                self.reviewed(config, now);
                let (evict, dead) = self.observer.see(states, sent, now);
                if evict.is_empty() && self.observer.suspects(now) {
                    self.side.push_back(SideJob::Prepare);
                }
                for (id, cause) in evict {
                    self.evict(id, cause);
                }
                if !dead.is_empty() {
                    self.dead.extend(dead);
                    self.dirty = true;
                }
            }
            Outcome::Surveyed(Err(failure)) => {
                self.observer.blind(now);
                self.failed(failure, now);
            }
            Outcome::Audited(Ok(states)) => self.audited(states),
            Outcome::Swept(Ok((beating, fences))) => self.swept(beating, fences, config, now),
            Outcome::Unlocked(Ok(())) | Outcome::Notified(Ok(())) => {}
            Outcome::Notified(Err(failure)) => {
                tracing::debug!(%failure, namespace = %self.name, "nobody was notified");
            }
            Outcome::DataVersion(Ok(number)) => {
                if self.poll.moved(number) {
                    self.poll.wake(now);
                }
            }
            Outcome::Read(Err(failure))
            | Outcome::ReadLocked(Err(failure))
            | Outcome::Unlocked(Err(failure))
            | Outcome::Peeked(Err(failure))
            | Outcome::Adopted(Err(failure))
            | Outcome::Created(Err(failure))
            | Outcome::DataVersion(Err(failure)) => self.failed(failure, now),
            Outcome::Swept(Err(failure)) => {
                self.sweep.due = Some(now + SWEEP_LIMITS[0]);
                self.failed(failure, now);
            }
            Outcome::Audited(Err(failure)) => {
                // What asked for it asks again.
                let sessions = self
                    .chores
                    .values()
                    .filter_map(|pending| match pending.chore {
                        Chore::Confirm(nonce, Check::Session, _) => self.held.get(&nonce),
                        _ => None,
                    });
                let sessions = sessions.map(|held| held.tenure.session.clone());
                self.audit.extend(sessions);
                self.failed(failure, now);
            }
        }
    }

    /// Some sessions of our own were in doubt.
    fn audited(&mut self, states: Vec<(SessionId, Liveness)>) {
        let asked: BTreeSet<_> = states.iter().map(|(id, _)| id.clone()).collect();
        for (id, state) in states {
            if !matches!(state, Liveness::Alive(_)) {
                self.session_ended(&id, "its session was evicted");
            }
        }
        // A grant that is lost has answered.
        let held = &self.held;
        let there = |_: &_, pending: &mut super::plan::Pending| {
            let Chore::Confirm(nonce, Check::Session, _) = pending.chore else {
                return false;
            };
            let held = held.get(&nonce);
            held.is_none_or(|held| asked.contains(&held.tenure.session))
        };
        let answered: Vec<_> = self.chores.extract_if(.., there).collect();
        for (_, pending) in answered {
            debug_assert_eq!(pending.phase, Phase::Auditing);
            if let Chore::Confirm(_, _, reply) = pending.chore {
                drop(reply.send(Ok(())));
            }
        }
    }

    /// The sessions of the namespace were listed. Those of processes that are gone are
    /// evicted, and those whose beat stood still since the list before.
    fn swept(
        &mut self,
        beating: Vec<SessionRow>,
        fences: Vec<SessionId>,
        config: &Config,
        now: Instant,
    ) {
        for id in fences {
            self.evict(id, Cause::Begun);
        }
        let before = std::mem::take(&mut self.sweep.beats);
        let first = before.is_empty();
        let mut beats = BTreeMap::new();
        for row in beating {
            // One that never expires is judged by a supervisor alone.
            let Some(ttl) = row.ttl.filter(|_| !self.sessions.contains(&row.id)) else {
                continue;
            };
            let seen = before
                .get(&row.id)
                .filter(|(beat, _)| *beat == row.heartbeat);
            let since = seen.map_or(now, |(_, since)| *since);
            if config.asks_processes() && row.process.is_gone(&config.process) {
                self.evict(row.id, Cause::Gone);
            } else if now.duration_since(since) >= ttl.saturating_add(ttl / MARGIN) {
                self.evict(
                    row.id,
                    Cause::Stopped {
                        beat: row.heartbeat,
                    },
                );
            } else {
                beats.insert(row.id, (row.heartbeat, since));
            }
        }
        let [least, most] = SWEEP_LIMITS;
        let ttl = config.beat_ttl();
        let pause = if first && !beats.is_empty() {
            // What others left before we came goes soon.
            ttl.saturating_add(ttl / MARGIN).min(most)
        } else {
            let pause = ttl.saturating_mul(SWEEP).clamp(least, most);
            pause.mul_f64(0.9 + fastrand::f64() / 5.0)
        };
        self.sweep.beats = beats;
        self.sweep.due = now.checked_add(pause);
    }

    /// What was known of the row is out of date.
    pub(super) fn forget_row(&mut self) {
        if !matches!(self.row, Row::Writing) {
            self.row = Row::Unknown;
        }
        self.dirty = true;
        self.needs_fresh = true;
    }

    /// The database says how the row is.
    fn looked(&mut self) {
        self.backoff.answered();
        self.turns.looked();
    }

    fn read(&mut self, row: LocksRow, sent: Instant) {
        self.looked();
        self.seen = true;
        self.missing_since = None;
        if row.version.version > LAST_VERSION {
            let reason = format!(
                "the version of the locks row is {}: no further write is possible; \
                 stop all processes that lock and delete the row",
                row.version.version
            );
            self.row = Row::Unknown;
            self.give_up(&LockError::schema(reason), sent);
            return;
        }
        if row.version.version < self.highest && self.told_back != self.highest {
            self.told_back = self.highest;
            tracing::warn!(
                namespace = %self.name, version = row.version.version, seen = self.highest,
                "the locks row went back in time, as after a restore or a failover"
            );
        }
        self.highest = self.highest.max(row.version.version);
        if row.version.stamp.is_none() {
            let reason = "the lock table was started anew, as the original's releaseAll does";
            self.lose_all(reason);
            let version = row.version.version;
            self.row = Row::Unstamped {
                version,
                cleared: false,
            };
            return;
        }
        match LockTable::parse(row.data_json.as_deref(), row.meta_json.as_deref()) {
            Ok(table) => {
                // Nobody else wrote, and yet we could not: a session of ours is gone.
                if let Some((at, sessions)) = self.in_vain.take()
                    && at == row.version
                {
                    self.audit.extend(sessions);
                    // One that was taken for dead may not be: it is looked for again.
                    if !self.dead.is_empty() {
                        self.dead.clear();
                        self.observing = true;
                    }
                }
                self.row = Row::Known(Cached {
                    at: row.version,
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
        self.looked();
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
                let by = by.map(|entry| entry.task.clone()).next();
                (*nonce, held.tenure.session.clone(), by)
            })
            .collect();
        // A release that has nothing to release any more.
        let vain = self.releasing.values().filter(|releasing| {
            let granted = cached.table.granted(&releasing.id, &releasing.tenure.names);
            !releasing.tried && granted.is_none()
        });
        let vain: Vec<_> = vain.map(|releasing| releasing.id.0.clone()).collect();
        for session in vain {
            self.robbed(&session);
        }
        for (nonce, session, by) in lost {
            let reason = "somebody released it: a supervisor, an eviction, or the original";
            self.lose(nonce, reason, by);
            self.robbed(&session);
        }
    }

    fn peeked(&mut self, at: Option<&RowVersion>, sent: Instant) {
        self.looked();
        match &mut self.row {
            Row::Known(cached) if at == Some(&cached.at) => {
                cached.proven = sent;
            }
            _ => self.forget_row(),
        }
    }

    fn swapped(
        &mut self,
        swap: Swap,
        result: Result<bool, Failure>,
        sent: Instant,
        config: &Config,
        now: Instant,
    ) {
        let Swap {
            at,
            to,
            table,
            proof,
        } = swap;
        let plan = self.plan.take().unwrap_or_default();
        self.row = Row::Unknown;
        match result {
            Ok(true) => {
                self.backoff.success();
                let (from, at) = (at, to);
                self.highest = self.highest.max(at.version);
                let ours = &self.sessions;
                let others = table.holding_sessions().filter(|id| !ours.contains(id));
                self.turns.wrote(&from, &at, now);
                if let Some(pause) = self
                    .turns
                    .courtesy(others.count(), now.duration_since(sent))
                {
                    self.backoff.pause(now, pause.mul_f64(fastrand::f64()));
                }
                let others_wait = table.queue().iter().any(|w| !ours.contains(&w.session));
                self.notify = (plan.freed && others_wait).then_some(at.version);
                // Who asked for a row that is read now has one.
                self.dirty |= plan.needs_fresh;
                let cached = Cached {
                    at,
                    table,
                    proven: sent,
                };
                self.carry_out(plan, cached, config, now);
            }
            Ok(false) => {
                tracing::trace!(namespace = %self.name, "somebody else wrote first");
                self.trouble = None;
                self.dirty = true;
                self.turns.conflict();
                if !self.turns.are_taken() {
                    self.backoff.conflict(now);
                }
                self.note_blocked(plan.blocked, plan.proven);
                let ours = proof.alive.into_iter().chain(proof.witness);
                self.in_vain = Some((at, ours.collect()));
            }
            Err(failure) => {
                if failure.class == Class::Indeterminate {
                    tracing::warn!(
                        namespace = %self.name, %failure,
                        "a write has no answer: whether it happened will be looked up"
                    );
                    self.unsettled = Some(at);
                    for key in plan.released.keys() {
                        if let Some(releasing) = self.releasing.get_mut(key) {
                            releasing.tried = true;
                        }
                    }
                }
                self.failed(failure, now);
            }
        }
    }

    /// The database did not do what it was asked.
    pub(super) fn failed(&mut self, failure: Failure, now: Instant) {
        let hopeless = failure.is_permanent();
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
}
