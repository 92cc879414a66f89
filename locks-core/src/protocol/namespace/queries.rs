//! Which query is next.

use std::collections::BTreeSet;

use super::{MISSING, NEIGHBOURS, Namespace, RETRY};
use crate::{
    options::{Durability, Fairness},
    protocol::{
        combining::Submitted,
        config::CHUNK,
        durability::LastWriter,
        plan::{Plan, PlanInput},
        poll_schedule::PollSchedule,
        query::{CompareAndSet, Query},
        requests::PATIENCE,
        row::Row,
        sessions::SessionKey,
        task::{EvictReason, Task},
        time::{Now, Time},
        timers::Timer,
    },
    store::{ChangeSource, Preconditions, RowVersion},
    table::{LockTable, SessionId},
};

/// How a write comes about.
#[derive(Clone, Copy)]
pub(super) enum Way<'a> {
    /// It is written at once, together with what other processes have submitted.
    AtOnce(&'a [Submitted]),
    /// It waits for the turn of this process.
    ByTurn,
}

impl Namespace {
    pub(super) fn is_paused(&self, now: Time) -> bool {
        let waits = |timer| self.timers.get(timer).is_some_and(|at| now < at);
        waits(Timer::Pause) || waits(Timer::MissingRow)
    }

    pub(super) fn next_query(&mut self, now: Now) -> Option<Query> {
        if let Some(version) = self.notify.take() {
            return Some(Query::Notify(version));
        }
        if let Some(task) = self.over_rows.pop_front() {
            return Some(Query::Task(task));
        }
        if self.is_paused(now.monotonic) {
            return None;
        }
        for task in self.admin.start_removals() {
            self.task(task);
        }
        if self.has_work(now.monotonic)
            && let Some(query) = self.work(now)
        {
            return Some(query);
        }
        // An inspection that was just answered.
        if let Some(task) = self.over_rows.pop_front() {
            return Some(Query::Task(task));
        }
        self.look(now)
    }

    /// Whether something is to be done with the row.
    pub(super) fn has_work(&self, now: Time) -> bool {
        self.needs_read
            || self.timers.is_due(Timer::Enqueue, now)
            || self.is_unsettled()
            || !self.doubtful.is_empty()
            || self.grants.any_release_due(now)
            || (self.replan
                && (!self.requests.is_empty() || !self.dead.is_empty() || self.admin.needs_row()))
    }

    /// A step towards what is requested.
    pub(super) fn work(&mut self, now: Now) -> Option<Query> {
        let turns = self.write_schedule.takes_turns();
        if self.combining.is_outstanding() && !turns {
            return Some(Query::Withdraw(self.combining.withdraw()));
        }
        match self.row.state() {
            Row::Unknown if turns && self.wants_turn() => {
                Some(self.open_sessions(now).unwrap_or_else(|| self.turn()))
            }
            Row::Unknown if self.write_schedule.locks_row() => {
                Some(self.open_sessions(now).unwrap_or(Query::ReadLocked))
            }
            Row::Unknown => Some(Query::Read),
            Row::Missing { .. } if self.row.may_reappear(now.monotonic) => {
                self.timers.set(Timer::MissingRow, now.monotonic + MISSING);
                Some(Query::Read)
            }
            Row::Missing { cleared: true } => {
                let least = self.row.next_version(0, now.wall);
                let stamp = self.stamp_of_new_row(least);
                Some(Query::Create { least, stamp })
            }
            Row::Missing { cleared: false } => {
                self.clear(None, now.monotonic);
                None
            }
            Row::Unstamped {
                version,
                cleared: true,
            } => {
                let version = *version;
                let least = self.row.next_version(version, now.wall);
                let stamp = self.stamp_of_new_row(least);
                Some(Query::Adopt {
                    version,
                    least,
                    stamp,
                })
            }
            Row::Unstamped {
                version,
                cleared: false,
            } => {
                let version = *version;
                self.clear(Some(version), now.monotonic);
                None
            }
            Row::Known(_) if !self.doubtful.is_empty() => {
                self.replan = true;
                let sessions = std::mem::take(&mut self.doubtful);
                Some(Query::CheckOwnSessions(sessions.into_iter().collect()))
            }
            Row::Known(_) if turns => {
                if self.combining.take_served() {
                    self.read_served(now);
                }
                self.open_sessions(now)
                    .or_else(|| self.plan_write(Way::ByTurn, now))
            }
            Row::Known(_) if self.write_schedule.locks_row() => {
                Some(self.open_sessions(now).unwrap_or(Query::ReadLocked))
            }
            Row::Known(_) if self.write_schedule.must_reread(now.monotonic) => Some(Query::Read),
            Row::Known(_) => self
                .open_sessions(now)
                .or_else(|| self.plan_write(Way::AtOnce(&[]), now))
                .or_else(|| self.open_sessions(now)),
        }
    }

    /// Deletes all sessions of the namespace, because its row is missing or not ours.
    pub(super) fn clear(&mut self, version: Option<i64>, now: Time) {
        if !self.clearing {
            self.clearing = true;
            self.task(Task::EvictAll(version));
        }
        // Its end ends the pause.
        self.timers.set(Timer::Pause, now + PATIENCE);
    }

    /// Uses the row's lock, or gives it back: other processes wait for it.
    pub(super) fn use_row_lock(&mut self, now: Now) -> Query {
        let found = self.row.known().map(|cached| cached.version.clone());
        self.write_schedule.on_row_unlocked(found.as_ref());
        // Sessions are opened before the row is locked. If a request needs one since then, it
        // waits for the next write.
        let submitted = self.combining.take_submitted().unwrap_or_default();
        if found.is_some() && self.doubtful.is_empty() {
            self.assign_sessions(now);
            let way = Way::AtOnce(&submitted);
            if let Some(query @ Query::CompareAndSet(_)) = self.plan_write(way, now) {
                return query;
            }
        }
        Query::Unlock
    }

    /// Whether there may be something to write.
    fn wants_turn(&self) -> bool {
        !self.requests.is_empty()
            || !self.dead.is_empty()
            || self.grants.is_releasing()
            || self.admin.needs_row()
            || self.is_unsettled()
    }

    /// Submits what is wanted, and takes the turn.
    fn turn(&mut self) -> Query {
        let (requests, grants) = (&self.requests, &mut self.grants);
        let submission = self.combining.submit(requests, grants, &self.config);
        Query::TakeTurn(submission)
    }

    /// Uses the turn, or passes it on.
    pub(super) fn use_turn(&mut self, now: Now) -> Query {
        let usable = self.row.known().is_some() && self.doubtful.is_empty();
        if usable && self.combining.is_turn_unused() && self.write_schedule.locks_row_at_turn() {
            return Query::ReadLocked;
        }
        if let Some(submitted) = self.combining.take_submitted()
            && usable
        {
            self.assign_sessions(now);
            if let Some(query @ Query::CompareAndSet(_)) =
                self.plan_write(Way::AtOnce(&submitted), now)
            {
                return query;
            }
        }
        if self.combining.take_alone() {
            self.write_schedule.on_alone();
        }
        Query::PassTurn(self.combining.pass())
    }

    /// Answers what the row shows, which was read at a turn that was passed on.
    fn read_served(&mut self, now: Now) {
        let Some((cached, _)) = self.row.take() else {
            return;
        };
        let (dead, version) = (BTreeSet::new(), cached.version.version);
        let input = self.plan_input(cached.proven, version, &[], &dead, now);
        let plan = Plan::look(&cached.table, &input);
        self.replan = plan.cut || !self.dead.is_empty() || self.admin.needs_row();
        self.apply(plan, cached, now);
    }

    pub(super) fn assign_sessions(&mut self, now: Now) -> BTreeSet<SessionKey> {
        self.requests
            .assign_sessions(&self.sessions, &self.config, now)
    }

    /// Opens sessions that requests need, some at a time.
    pub(super) fn open_sessions(&mut self, now: Now) -> Option<Query> {
        let missing = self.assign_sessions(now);
        let ready = self.requests.any_ready();
        let (config, rng) = (&self.config, &mut self.rng);
        let at_most = self.sessions_per_insert.get();
        let sessions = self
            .sessions
            .open_next(missing, ready, at_most, &self.name, config, rng)?;
        Some(Query::OpenSessions(sessions))
    }

    /// Plans the next write on the cached row, and answers what needs none.
    pub(super) fn plan_write(&mut self, way: Way<'_>, now: Now) -> Option<Query> {
        let (mut cached, settles) = self.row.take()?;
        let (submitted, before) = match way {
            Way::AtOnce(submitted) => (submitted, None),
            Way::ByTurn => (&[][..], Some(cached.clone())),
        };
        self.replan = false;
        self.needs_read = false;
        self.timers.stop(Timer::Enqueue);
        let unchecked = if self.row.take_unchecked() {
            self.sessions.own_among(cached.table.session_ids())
        } else {
            BTreeSet::new()
        };
        let dead = self.dead_in(&cached.table);
        let last = LastWriter::of(&cached.version, self.config.boot.as_ref());
        let base = last.base(cached.version.version);
        let next_version = self.row.next_version(base, now.wall);
        let input = PlanInput {
            unchecked,
            ..self.plan_input(cached.proven, next_version, submitted, &dead, now)
        };
        let mut plan = Plan::make(&mut cached.table, &input);
        for session in std::mem::take(&mut plan.stolen) {
            self.evict(session, EvictReason::Lost, now);
        }
        self.timers.set_or_stop(Timer::Enqueue, plan.deferred_until);
        let unready = self.requests.any_without_session();
        self.replan |= plan.cut || dead.len() == CHUNK || unready;
        if plan.changed || settles || self.combining.is_outstanding() {
            if let Some(before) = before {
                self.row.put_back(before);
                // Nothing is done yet, whatever row the turn shows.
                self.replan = true;
                return Some(self.turn());
            }
            let preconditions = Preconditions {
                alive: plan.must_live(&self.requests),
                dead: dead.into_iter().collect(),
                witness: self.sessions.witness(now),
            };
            // The locks that are removed may be of sessions that never expire.
            let wanted = if plan.removed.is_empty() {
                self.config.durability()
            } else {
                Durability::Full
            };
            let durability = last.durability(next_version, wanted);
            let new = RowVersion {
                version: next_version,
                stamp: Some(self.stamp(last, next_version, durability)),
            };
            return Some(Query::CompareAndSet(Box::new(CompareAndSet {
                expected: cached.version,
                new,
                table: cached.table,
                preconditions,
                durability,
                plan,
            })));
        }
        self.needs_read = plan.needs_read;
        if !plan.granted.is_empty() {
            self.write_schedule.on_grant_found(now.monotonic);
        }
        self.combining.on_written(std::mem::take(&mut plan.served));
        self.apply(plan, cached, now);
        self.needs_read.then_some(Query::Read)
    }

    fn plan_input<'a>(
        &'a self,
        proven: Time,
        next_version: i64,
        submitted: &'a [Submitted],
        dead: &'a BTreeSet<SessionId>,
        now: Now,
    ) -> PlanInput<'a> {
        PlanInput {
            now: now.monotonic,
            wall: now.wall,
            proven,
            next_version,
            requests: &self.requests,
            grants: &self.grants,
            admin: &self.admin,
            unchecked: BTreeSet::new(),
            dead,
            deferral: self.write_schedule.deferral(),
            batch: self.requests_per_write.get(),
            submitted,
            durable: self.config.reads_durable || self.combining.has_turn(),
            sessions: &self.sessions,
            suspects: &self.suspects,
            config: &self.config,
        }
    }

    /// The dead sessions that the table knows, as many as one write can remove.
    pub(super) fn dead_in(&self, table: &LockTable) -> BTreeSet<SessionId> {
        if self.dead.is_empty() {
            return BTreeSet::new();
        }
        let known = table.sessions_of(None).into_iter();
        let dead: BTreeSet<_> = known.filter(|id| self.dead.contains(id)).collect();
        dead.into_iter().take(CHUNK).collect()
    }

    /// The stamp of a write that makes this version, on a row with that last writer.
    fn stamp(&mut self, last: LastWriter, version: i64, durability: Durability) -> String {
        let (random, boot) = (self.rng.u128(..), self.config.boot.as_ref());
        last.stamp(random, boot, version, durability)
    }

    /// The stamp of a row that is created or adopted, with this version or a later one.
    fn stamp_of_new_row(&mut self, version: i64) -> String {
        self.stamp(LastWriter::Unknown, version, Durability::Full)
    }

    /// The next query that no caller asked for.
    pub(super) fn look(&mut self, now: Now) -> Option<Query> {
        let time = now.monotonic;
        if self.timers.is_due(Timer::Orphans, time) {
            // The answer says when to list them again.
            self.timers.set(Timer::Orphans, time + RETRY);
            return Some(Query::ListOrphans);
        }
        if self.timers.is_due(Timer::Peers, time) {
            let known = |id: &SessionId| self.sessions.contains(id) || self.dead.contains(id);
            let Some(sessions) = self.row.peers(known) else {
                // Where there is no row to look at, once in a while is enough.
                self.timers.set(Timer::Peers, time + RETRY);
                return Some(Query::Read);
            };
            if let (false, Some(cached)) = (sessions.is_empty(), self.row.known()) {
                return Some(Query::CheckPeers {
                    at: cached.version.clone(),
                    sessions: sessions.into_iter().collect(),
                    witness: self.sessions.witness(now),
                });
            }
            self.stop_observing();
        }
        if self.timers.take_due(Timer::Poll, time) {
            self.reschedule(now);
            return Some(Query::ReadVersion);
        }
        if self.timers.take_due(Timer::CheapPoll, time) {
            self.reschedule(now);
            return Some(Query::DataVersion);
        }
        None
    }

    pub(super) fn stop_observing(&mut self) {
        self.observing = false;
        self.timers.stop(Timer::Peers);
        self.timers.stop(Timer::Processes);
    }

    /// Schedules the next looks at the row and at the sessions in it.
    pub(super) fn reschedule(&mut self, now: Now) {
        // Requests that barge are not queued, so no process notifies them.
        let source = match (self.config.fairness, self.change_source) {
            (Fairness::Barging, ChangeSource::Notifications) => ChangeSource::None,
            (_, source) => source,
        };
        if self.row.known().is_none() {
            return;
        }
        let latest = self.requests.latest();
        let (timers, rng) = (&mut self.timers, &mut self.rng);
        PollSchedule::schedule(latest, source, timers, rng, now.monotonic);
        // A request that was blocked by this process before may be blocked by another one now.
        self.observing |= self.requests.any_blocked();
        if !self.observing {
            return;
        }
        let known = |id: &SessionId| self.sessions.contains(id) || self.dead.contains(id);
        let peers = self.row.peers(known).unwrap_or_default();
        if peers.is_empty() {
            self.detector.watch(&peers, None, now.monotonic);
            self.stop_observing();
            return;
        }
        let due = self.timers.get(Timer::Peers);
        let due = self.detector.watch(&peers, due, now.monotonic);
        self.timers.set_or_stop(Timer::Peers, due);
        if self.config.trusts_process_table() && !self.timers.is_set(Timer::Processes) {
            let next = now.monotonic + NEIGHBOURS;
            self.timers.set(Timer::Processes, next);
        }
    }
}
