//! One process's view of one namespace.
//!
//! The cycle of a write:
//!
//! ```text
//!   request, release ─▶ [row unknown: Read] ─▶ [sessions missing: OpenSessions]
//!         ▲                                            │
//!         │                                            ▼
//!   conflict, failure ◀── CompareAndSet ◀── Plan on the cached row
//!                              │
//!                              ▼
//!                 Granted, Failed, Answer; notify
//! ```

mod completion;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    admin::{Admin, AfterEviction},
    config::{Config, Name},
    failure_detector::{EvictReason, FailureDetector},
    grants::{ActiveGrant, Grants, Ownership, ReleaseId},
    input::{CallId, Input, Inspection},
    output::{Answer, Granted, Loss, Output},
    plan::{Plan, PlanInput},
    poll_schedule::PollSchedule,
    query::{CHUNK, CompareAndSet, Completion, Orphans, Peers, Query},
    requests::{PATIENCE, Requests, no_answer},
    row::{CachedRow, Read, Row, RowCache},
    sessions::{OwnSessions, SessionKey},
    task::{Evicted, Task, TaskResult},
    time::{Now, Time},
    timers::{Timer, Timers},
    write_schedule::WriteSchedule,
};
use crate::{
    error::LockError,
    name::LockName,
    options::Fairness,
    report::{Blocker, Waiter},
    store::{ChangeSource, Class, Failure, Kind, Liveness, LocksRow, Preconditions, RowVersion},
    table::{LockTable, Nonce, Order, Request, SessionId},
};

/// How often to look for a row that is missing.
const MISSING: Duration = Duration::from_millis(50);
/// How often the processes of this machine are looked at.
const NEIGHBOURS: Duration = Duration::from_millis(20);
/// The pause after a task that failed.
const RETRY: Duration = Duration::from_secs(1);
/// The pause after a task that met the lock of an open transaction, for each such task, up
/// to the pause above. So they ask 20 times a second together.
const RETRY_LOCKED: Duration = Duration::from_millis(50);
/// The pause after sessions could not be deleted because of an open transaction.
const CLEAR_AGAIN: Duration = Duration::from_millis(250);

/// What the row connection does for this namespace.
#[derive(Debug)]
enum Cycle {
    Idle,
    /// A query is in flight.
    InFlight {
        sent: Now,
        /// Whether it is a compare-and-set.
        writes: bool,
    },
    /// The row was read under its lock. The next query gives the lock back.
    RowLocked,
}

/// One process's view of one namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: Name,
    config: Arc<Config>,
    rng: fastrand::Rng,
    timers: Timers,
    outputs: VecDeque<Output>,
    cycle: Cycle,
    row: RowCache,
    sessions: OwnSessions,
    requests: Requests,
    grants: Grants,
    admin: Admin,
    detector: FailureDetector,
    write_schedule: WriteSchedule,
    poll_schedule: PollSchedule,
    change_source: ChangeSource,
    /// Sessions whose rows are gone for good, while the locks row may have entries of them.
    dead: BTreeSet<SessionId>,
    /// Sessions whose eviction is under way or waits to be run again.
    evicting: BTreeSet<SessionId>,
    /// Sessions of this process that are being deleted because nothing needs them.
    deleting: BTreeSet<SessionId>,
    /// Sessions of this process that are to be looked for.
    doubtful: BTreeSet<SessionId>,
    /// Tasks that failed, and when to run them again.
    retries: Vec<(Time, Task)>,
    /// Whether the sessions of other processes are looked at: they block a request.
    observing: bool,
    /// Whether all sessions of the namespace are being deleted.
    clearing: bool,
    /// The version that waiting processes are to be notified of.
    notify: Option<i64>,
    /// Whether an answer needs a row that is read now.
    needs_read: bool,
    /// Whether anything happened since the last plan.
    replan: bool,
    /// The last failure, until a query succeeds that shows the opposite.
    last_error: Option<LockError>,
    /// How many callers the last completion answered with success.
    answered: usize,
}

impl Namespace {
    pub(crate) fn new(name: Name, config: Arc<Config>, rng: fastrand::Rng) -> Self {
        let mut timers = Timers::default();
        timers.set(Timer::Orphans, Time::default());
        Self {
            name,
            rng,
            timers,
            outputs: VecDeque::new(),
            cycle: Cycle::Idle,
            row: RowCache::default(),
            sessions: OwnSessions::default(),
            requests: Requests::default(),
            grants: Grants::default(),
            admin: Admin::default(),
            detector: FailureDetector::default(),
            write_schedule: WriteSchedule::new(config.mechanisms, config.row_lock),
            poll_schedule: PollSchedule::default(),
            change_source: ChangeSource::None,
            dead: BTreeSet::new(),
            evicting: BTreeSet::new(),
            deleting: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            retries: Vec::new(),
            observing: false,
            clearing: false,
            notify: None,
            needs_read: false,
            replan: false,
            last_error: None,
            answered: 0,
            config,
        }
    }

    /// Takes in what happened.
    pub(crate) fn handle(&mut self, now: Now, input: Input) {
        self.handle_timeout(now);
        match input {
            Input::Acquire(request) => {
                self.sessions.on_owner(&request.task, true);
                let (config, sessions) = (&self.config, &self.sessions);
                self.requests.add(request, config, sessions, now);
                self.replan = true;
            }
            // A request that is not there was granted: its guard is dropped with the answer.
            Input::Cancel(nonce) => self.replan |= self.requests.cancel(nonce),
            Input::Release {
                nonce,
                fenced,
                call,
            } => self.on_guard_released(nonce, fenced, call, now),
            Input::Detach { nonce, fenced } => self.grants.detach(nonce, fenced),
            Input::Inspect(call, what) => self.inspect(call, what, now),
            Input::Remove(call, what) => {
                self.admin.remove(call, what, now.monotonic);
                self.replan = true;
            }
            Input::Close { fenced } => self.close(&fenced, now),
            Input::OwnerGone(task) => self.sessions.on_owner(&task, false),
            Input::Completed(completion) => self.on_completed(completion, now),
            Input::TaskDone(result) => self.on_task_done(result, now),
            Input::ProcessesExited(sessions) => {
                for session in sessions {
                    self.evict(session, EvictReason::ProcessExited, now);
                }
            }
            Input::LeaseExpired(session) => {
                self.end_session(&session, "its session was not renewed in time", now);
            }
            Input::Changed(version) => self.on_changed(version, now),
            Input::MayHaveChanged => {
                if self.requests.any_blocked() {
                    self.timers.set(Timer::Poll, now.monotonic);
                }
            }
            Input::ChangeSource(source) => {
                self.change_source = source;
                self.reschedule(now);
            }
            Input::Timeout => {}
        }
        self.set_timers(now);
    }

    /// The next thing to do that needs no row connection.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle`](Self::handle) has to be called with [`Input::Timeout`] at the latest.
    /// `connected` says whether the row connection is free for this namespace.
    pub(crate) fn poll_timeout(&self, connected: bool) -> Option<Time> {
        let idle = connected && matches!(self.cycle, Cycle::Idle);
        let query = self.timers.next_query().filter(|_| idle);
        query.into_iter().chain(self.timers.next_action()).min()
    }

    /// The next query for the row connection, which is free.
    pub(crate) fn poll_query(&mut self, now: Now) -> Option<Query> {
        let query = match self.cycle {
            Cycle::InFlight { .. } => None,
            Cycle::RowLocked => Some(self.use_row_lock(now)),
            Cycle::Idle => self.next_query(now),
        };
        if let Some(query) = &query {
            let writes = matches!(query, Query::CompareAndSet(_));
            self.cycle = Cycle::InFlight { sent: now, writes };
        }
        self.set_timers(now);
        query
    }

    /// How changes of other processes become known.
    pub(super) fn set_change_source(&mut self, source: ChangeSource) {
        self.change_source = source;
    }

    // What the driver's other parts need to know.

    /// Whether a request is blocked and waits.
    pub(super) fn has_blocked_requests(&self) -> bool {
        self.requests.any_blocked()
    }

    /// Whether anything is to be renewed.
    pub(super) fn needs_renewal(&self) -> bool {
        !self.sessions.is_empty() || !self.grants.is_empty()
    }

    pub(super) fn holds_locks(&self) -> bool {
        !self.grants.is_empty()
    }

    pub(super) fn has_detached(&self) -> bool {
        self.grants.has_detached()
    }

    /// Whether the namespace must get the row connection next: it holds the row's lock.
    pub(super) fn holds_row_lock(&self) -> bool {
        matches!(self.cycle, Cycle::RowLocked)
    }

    /// Whether nothing is left to do for callers and guards that are gone.
    pub(super) fn is_settled(&self) -> bool {
        !self.grants.is_releasing()
            && self.requests.is_empty()
            && !self.row.is_unsettled()
            && !self.is_writing()
    }

    /// Whether a compare-and-set is in flight.
    fn is_writing(&self) -> bool {
        matches!(self.cycle, Cycle::InFlight { writes: true, .. })
    }

    /// The locks that are still to be released.
    pub(super) fn names_in_release(&self) -> impl Iterator<Item = &LockName> {
        self.grants.names_in_release()
    }

    pub(super) fn last_error(&self) -> Option<&LockError> {
        self.last_error.as_ref()
    }

    /// How many callers were answered with success since the last call.
    pub(super) fn take_answered(&mut self) -> usize {
        std::mem::take(&mut self.answered)
    }

    /// Whether a write could begin now, if the connection were free.
    pub(super) fn wants_write(&self, now: Now) -> bool {
        matches!(self.cycle, Cycle::Idle)
            && !self.is_paused(now.monotonic)
            && self.has_work(now.monotonic)
    }

    // Renewals.

    /// Ends idle sessions, and returns those to renew with the ends of their leases.
    pub(super) fn sessions_to_renew(&mut self, now: Now) -> Vec<(Time, SessionKey, SessionId)> {
        self.end_idle_sessions(now);
        let sessions = self.sessions.to_renew();
        sessions
            .map(|(deadline, key, id)| (deadline, key.clone(), id.clone()))
            .collect()
    }

    /// When the lease of a session ends, on the boot clock, unless it has ended.
    pub(super) fn lease_deadline(&self, id: &SessionId, now: Now) -> Option<Time> {
        self.sessions.deadline(id, now)?
    }

    /// A session was renewed by a statement sent at `sent`.
    pub(super) fn on_renewed(&mut self, key: &SessionKey, id: &SessionId, sent: Now, now: Now) {
        let ttl = self.config.session_ttl();
        if let Some(deadline) = self.sessions.renew(key, id, ttl, sent, now) {
            let output = Output::LeaseExtended(id.clone(), deadline);
            self.outputs.push_back(output);
        }
    }

    /// A renewal did not find this session.
    pub(super) fn on_not_renewed(&mut self, id: &SessionId, now: Now) {
        self.end_session(id, "its session was evicted", now);
        self.set_timers(now);
    }

    /// A renewal has read the version of the row.
    pub(super) fn on_version_seen(&mut self, version: Option<&RowVersion>, now: Now) {
        if let Some(cached) = self.row.known()
            && version != Some(&cached.version)
        {
            self.forget_row();
            self.set_timers(now);
        }
    }

    /// Removes all sessions, and returns those that hold nothing: they are to be deleted
    /// before the driver ends.
    pub(super) fn take_sessions(&mut self) -> Vec<SessionId> {
        let holding = self.grants.holding_sessions();
        let all = self.sessions.remove_all().into_iter();
        let idle = all.filter(|id| !holding.contains(id));
        // A deletion that is under way may not come to its end.
        idle.chain(std::mem::take(&mut self.deleting)).collect()
    }

    // Calls.

    fn on_guard_released(&mut self, nonce: Nonce, fenced: bool, call: Option<CallId>, now: Now) {
        let defers = call.is_none() && !self.others_wait();
        let due = if defers {
            now.monotonic + self.write_schedule.deferral()
        } else {
            now.monotonic
        };
        if let Some(release) = self.grants.start_release(nonce, fenced, call, due) {
            self.on_release_started(release);
        } else if let Some(call) = call {
            let reason = "it was lost before it was released";
            self.answer(call, Answer::Lost(Loss { reason, by: None }));
        }
    }

    /// Whether a request waits in the queue, as far as is known.
    fn others_wait(&self) -> bool {
        match self.row.known() {
            Some(cached) => !cached.table.queue().is_empty(),
            None => !self.requests.is_empty(),
        }
    }

    fn on_release_started(&mut self, id: ReleaseId) {
        if let Some(release) = self.grants.get_release(id)
            && !release.is_ready()
        {
            let row = release.grant().fence_row.clone();
            self.task(Task::AwaitFence { row, release: id });
        }
        self.replan = true;
    }

    fn inspect(&mut self, call: CallId, what: Inspection, now: Now) {
        if let Inspection::Confirm(nonce, _) = &what
            && self.grants.session_of(*nonce).is_none()
        {
            // It was lost before, and the guard was told.
            self.answer(call, Answer::Done);
            return;
        }
        let session = Admin::session_to_check(&what);
        let session = session.and_then(|nonce| self.grants.session_of(nonce).cloned());
        self.doubtful.extend(session.clone());
        self.admin.inspect(call, what, session, now.monotonic);
        self.replan = true;
    }

    fn close(&mut self, fenced: &BTreeSet<Nonce>, now: Now) {
        self.fail_requests(&LockError::Closed, true);
        for call in self.admin.take_all() {
            self.answer(call, Answer::Failed(LockError::Closed));
        }
        let keep_detached = self.config.ttl.is_none();
        let (guarded, releases) = self
            .grants
            .release_all(keep_detached, fenced, now.monotonic);
        for release in releases {
            self.on_release_started(release);
        }
        for nonce in guarded {
            let reason = "the manager was closed";
            let loss = Loss { reason, by: None };
            self.outputs.push_back(Output::Lost(nonce, loss));
        }
        self.replan = true;
    }

    fn fail_requests(&mut self, error: &LockError, keep_all: bool) {
        for nonce in self.requests.cancel_all(keep_all) {
            self.outputs.push_back(Output::Failed(nonce, error.clone()));
        }
    }

    fn answer(&mut self, call: CallId, answer: Answer) {
        self.outputs.push_back(Output::Answer(call, answer));
    }

    fn task(&mut self, task: Task) {
        self.outputs.push_back(Output::Task(task));
    }

    // Time.

    /// What time has brought: requests that are overdue, leases that ended, tasks to repeat.
    fn handle_timeout(&mut self, now: Now) {
        let time = now.monotonic;
        for key in self.sessions.expired(now) {
            self.lose_session(&key, "its session was not renewed in time", now);
        }
        if self.timers.take_due(Timer::Request, time) {
            self.fail_overdue_requests(time);
        }
        if self.timers.take_due(Timer::Call, time)
            && let Some(error) = self.last_error.clone()
        {
            let calls = self.admin.take_overdue(time).into_iter();
            let over = |due: Time| due + PATIENCE <= time;
            for call in calls.chain(self.grants.take_calls(over)) {
                self.answer(call, Answer::Failed(error.clone()));
            }
        }
        if self.timers.take_due(Timer::Processes, time) && self.observing {
            let near = self.detector.neighbours(&self.config.process);
            if !near.is_empty() {
                self.outputs.push_back(Output::CheckProcesses(near));
            }
            self.timers.set(Timer::Processes, time + NEIGHBOURS);
        }
        if self.timers.take_due(Timer::RetryTask, time) {
            let due = self.retries.extract_if(.., |(at, _)| *at <= time);
            let tasks: Vec<_> = due.map(|(_, task)| task).collect();
            for task in tasks {
                self.task(task);
            }
        }
        self.timers.take_due(Timer::Lease, time);
        self.timers.take_due(Timer::Pause, time);
        self.timers.take_due(Timer::MissingRow, time);
    }

    fn fail_overdue_requests(&mut self, now: Time) {
        let contended = self.write_schedule.is_contended();
        let overdue = self.requests.overdue(self.last_error.is_some(), now);
        for overdue in overdue {
            let error = match (overdue.waited, self.requests.get(overdue.nonce)) {
                (Some(waited), Some(pending)) => LockError::Timeout {
                    names: pending.request().names.to_vec(),
                    waited,
                    blocked_by: self.blockers_now(pending.request()),
                },
                _ => {
                    let last = self.last_error.clone();
                    last.unwrap_or_else(|| no_answer(contended))
                }
            };
            self.requests.cancel(overdue.nonce);
            self.outputs.push_back(Output::Failed(overdue.nonce, error));
            self.replan = true;
        }
    }

    /// What blocks a request now, or blocked it when that was last known.
    fn blockers_now(&self, request: &Request) -> Vec<Blocker> {
        let before = || self.requests.blocked_by(request.nonce).to_vec();
        let Some(cached) = self.row.known() else {
            return before();
        };
        let mut queue = cached.table.queue().iter();
        let position = queue.position(|queued| queued.nonce == request.nonce);
        let order = position.map_or(Order::Barging, Order::Behind);
        let blockers = cached.table.blockers(request, order);
        if blockers.is_empty() {
            before()
        } else {
            blockers
        }
    }

    /// Sets the timers that depend on what is pending.
    fn set_timers(&mut self, now: Now) {
        let fails = self.last_error.is_some();
        let timers = &mut self.timers;
        timers.set_or_stop(Timer::Request, self.requests.next_deadline(fails));
        let calls = self.admin.oldest().into_iter();
        let calls = calls.chain(self.grants.oldest_call()).min();
        timers.set_or_stop(Timer::Call, calls.filter(|_| fails).map(|at| at + PATIENCE));
        let lease = self.sessions.earliest_deadline();
        let lease = lease.map(|at| now.monotonic + (at - now.boot));
        timers.set_or_stop(Timer::Lease, lease);
        let retry = self.retries.iter().map(|(at, _)| *at).min();
        timers.set_or_stop(Timer::RetryTask, retry);
        timers.set_or_stop(Timer::Release, self.grants.next_release_due());
    }

    // Queries.

    fn is_paused(&self, now: Time) -> bool {
        let waits = |timer| self.timers.get(timer).is_some_and(|at| now < at);
        waits(Timer::Pause) || waits(Timer::MissingRow)
    }

    fn next_query(&mut self, now: Now) -> Option<Query> {
        if let Some(version) = self.notify.take() {
            return Some(Query::Notify(version));
        }
        if self.is_paused(now.monotonic) {
            return None;
        }
        for task in self.admin.start_evictions() {
            self.task(task);
        }
        if self.has_work(now.monotonic)
            && let Some(query) = self.work(now)
        {
            return Some(query);
        }
        self.look(now)
    }

    /// Whether something is to be done with the row.
    fn has_work(&self, now: Time) -> bool {
        self.needs_read
            || self.timers.is_due(Timer::Enqueue, now)
            || self.row.is_unsettled()
            || !self.doubtful.is_empty()
            || self.grants.any_release_due(now)
            || (self.replan
                && (!self.requests.is_empty() || !self.dead.is_empty() || self.admin.needs_row()))
    }

    /// A step towards what is requested.
    fn work(&mut self, now: Now) -> Option<Query> {
        match self.row.state() {
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
                let stamp = self.stamp();
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
                let stamp = self.stamp();
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
            Row::Known(_) if self.write_schedule.locks_row() => {
                Some(self.open_sessions(now).unwrap_or(Query::ReadLocked))
            }
            Row::Known(_) if self.write_schedule.must_reread(now.monotonic) => Some(Query::Read),
            Row::Known(_) => self
                .open_sessions(now)
                .or_else(|| self.plan_write(now))
                .or_else(|| self.open_sessions(now)),
        }
    }

    /// Deletes all sessions of the namespace, because its row is missing or not ours.
    fn clear(&mut self, version: Option<i64>, now: Time) {
        if !self.clearing {
            self.clearing = true;
            self.task(Task::EvictAll(version));
        }
        // Its end ends the pause.
        self.timers.set(Timer::Pause, now + PATIENCE);
    }

    /// Uses the row's lock, or gives it back: other processes wait for it.
    fn use_row_lock(&mut self, now: Now) -> Query {
        let found = self.row.known().map(|cached| cached.version.clone());
        self.write_schedule.on_row_unlocked(found.as_ref());
        // Sessions are opened before. A request that has come to need one since then has to
        // wait for the next write.
        if found.is_some() && self.doubtful.is_empty() {
            self.assign_sessions(now);
            if let Some(query @ Query::CompareAndSet(_)) = self.plan_write(now) {
                return query;
            }
        }
        Query::Unlock
    }

    fn assign_sessions(&mut self, now: Now) -> BTreeSet<SessionKey> {
        self.requests
            .assign_sessions(&self.sessions, &self.config, now)
    }

    /// Opens sessions that requests need, some at a time.
    fn open_sessions(&mut self, now: Now) -> Option<Query> {
        let missing = self.assign_sessions(now);
        let ready = self.requests.values().any(|pending| pending.is_ready());
        let (config, rng) = (&self.config, &mut self.rng);
        let sessions = self
            .sessions
            .open_next(missing, ready, &self.name, config, rng)?;
        Some(Query::OpenSessions(sessions))
    }

    /// Plans the next write on the cached row, and answers what needs none.
    fn plan_write(&mut self, now: Now) -> Option<Query> {
        let (mut cached, settles) = self.row.take()?;
        self.replan = false;
        self.needs_read = false;
        self.timers.stop(Timer::Enqueue);
        let unchecked = if self.row.take_unchecked() {
            self.sessions.own_among(cached.table.session_ids())
        } else {
            BTreeSet::new()
        };
        let dead = self.dead_in(&cached.table);
        let next_version = self.row.next_version(cached.version.version, now.wall);
        let mut plan = Plan::make(
            &mut cached.table,
            &PlanInput {
                now: now.monotonic,
                proven: cached.proven,
                next_version,
                requests: &self.requests,
                grants: &self.grants,
                admin: &self.admin,
                unchecked,
                dead: &dead,
                deferral: self.write_schedule.deferral(),
                config: &self.config,
            },
        );
        for session in std::mem::take(&mut plan.stolen) {
            self.evict(session, EvictReason::Lost, now);
        }
        self.timers.set_or_stop(Timer::Enqueue, plan.deferred_until);
        let unready = self.requests.any_without_session();
        self.replan |= plan.cut || dead.len() == CHUNK || unready;
        if plan.changed || settles {
            let preconditions = Preconditions {
                alive: plan.must_live(&self.requests),
                dead: dead.into_iter().collect(),
                witness: self.sessions.witness(now),
            };
            let new = RowVersion {
                version: next_version,
                stamp: Some(self.stamp()),
            };
            return Some(Query::CompareAndSet(Box::new(CompareAndSet {
                expected: cached.version,
                new,
                table: cached.table,
                preconditions,
                plan,
            })));
        }
        self.needs_read = plan.needs_read;
        self.apply(plan, cached, now);
        self.needs_read.then_some(Query::Read)
    }

    /// The dead sessions that the table knows, as many as one write can remove.
    fn dead_in(&self, table: &LockTable) -> BTreeSet<SessionId> {
        if self.dead.is_empty() {
            return BTreeSet::new();
        }
        let known = table.sessions_of(None).into_iter();
        let dead: BTreeSet<_> = known.filter(|id| self.dead.contains(id)).collect();
        dead.into_iter().take(CHUNK).collect()
    }

    /// A random text that no other write has.
    fn stamp(&mut self) -> String {
        format!("{:016x}{:016x}", self.rng.u64(..), self.rng.u64(..))
    }

    /// What is to be looked at although no caller asked for anything.
    fn look(&mut self, now: Now) -> Option<Query> {
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

    fn stop_observing(&mut self) {
        self.observing = false;
        self.timers.stop(Timer::Peers);
        self.timers.stop(Timer::Processes);
    }

    /// Schedules the next looks at the row and at the sessions in it.
    fn reschedule(&mut self, now: Now) {
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
        self.poll_schedule
            .schedule(latest, source, timers, rng, now.monotonic);
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
