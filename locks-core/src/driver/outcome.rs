//! What came of a namespace's jobs, and what follows.

use std::{collections::BTreeSet, time::Instant};

use super::{
    Config,
    job::{Done, Outcome, SideJob},
    namespace::{Cached, Namespace, Row},
    observer::Cause,
};
use crate::{
    error::LockError,
    store::{Class, Failure, Liveness, Row as StoredRow, Stamp},
    table::LockTable,
};

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
            Outcome::ReadLocked(Err(failure)) if failure.is_hopeless() => {
                tracing::debug!(%failure, "the row's lock is not to be had; racing for it");
                self.turns.refused();
                self.row = Row::Unknown;
            }
            Outcome::Peeked(Ok(at)) => self.peeked(at.as_ref(), sent),
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
                // The row was looked at as well.
                self.poll.looked();
                self.reviewed(config, now);
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
            Outcome::Audited(Ok(states)) => {
                for (id, state) in states {
                    if !matches!(state, Liveness::Beating(_)) {
                        self.robbed(&id);
                    }
                }
            }
            Outcome::Swept(Ok((beating, fences))) => {
                for row in beating {
                    // One that never expires is nobody's to judge.
                    let gone = row.ttl.is_some() && row.process.is_gone(&config.process);
                    if gone && config.asks_processes() {
                        self.evict(row.id, Cause::Gone);
                    }
                }
                for id in fences {
                    self.evict(id, Cause::Begun);
                }
            }
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
            | Outcome::Audited(Err(failure))
            | Outcome::Swept(Err(failure))
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

    /// The database says how the row is.
    fn looked(&mut self) {
        self.backoff.answered();
        self.turns.looked();
    }

    fn read(&mut self, row: StoredRow, sent: Instant) {
        self.looked();
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
                // Nobody else wrote, and yet we could not: a session of ours is gone.
                self.audit = self.in_vain.take().is_some_and(|at| at == row.at);
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

    fn peeked(&mut self, at: Option<&Stamp>, sent: Instant) {
        self.looked();
        match &mut self.row {
            Row::Known(cached) if at == Some(&cached.at) => {
                cached.proven = sent;
            }
            _ => self.forget_row(),
        }
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
                let from = at;
                let at = Stamp {
                    version: from.version + 1,
                    stamp: Some(stamp),
                };
                self.highest = at.version;
                let ours: BTreeSet<_> = self.sessions.values().map(|s| &s.id).collect();
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
                self.in_vain = Some(at);
            }
            Err(failure) => {
                if failure.class == Class::Unknown {
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
}
