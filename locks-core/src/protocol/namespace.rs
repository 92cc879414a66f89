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
//!            Granted, Failed, Answer; notify
//! ```

mod calls;
mod completion;
mod inspections;
mod liveness;
mod queries;
mod writes;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    admin::Admin,
    batch_limit::BatchLimit,
    call::Answer,
    combining::Combining,
    config::{Config, Name},
    failure_detector::FailureDetector,
    grants::Grants,
    input::Input,
    output::Output,
    poll_schedule::PollSchedule,
    query::Query,
    requests::{PATIENCE, Requests},
    row::RowCache,
    sessions::{OwnSessions, SessionKey},
    task::{EvictReason, Task},
    time::{Now, Time},
    timers::{Timer, Timers},
    write_schedule::WriteSchedule,
};
use crate::{
    error::LockError,
    name::LockName,
    report::NOT_RENEWED,
    store::{ChangeSource, RowVersion},
    table::SessionId,
};

/// How often to look for a row that is missing.
const MISSING: Duration = Duration::from_millis(50);
/// How often the process table of this machine is read.
const NEIGHBOURS: Duration = Duration::from_millis(20);
/// How often a lasting failure is logged.
const LOG_AGAIN: Duration = Duration::from_mins(1);
/// The pause after a task that failed.
const RETRY: Duration = Duration::from_secs(1);
/// The pause after a task that met the lock of an open transaction, for each such task, up
/// to the pause above. All of them together then ask 20 times a second.
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
        /// Whether it is a compare-and-set, or leads to one.
        writes: bool,
    },
    /// The row was read under its lock. The next query gives the lock back.
    RowLocked,
}

/// One process's view of one namespace.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
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
    combining: Combining,
    detector: FailureDetector,
    write_schedule: WriteSchedule,
    poll_schedule: PollSchedule,
    /// How many requests a write may add, and how many sessions an insert.
    requests_per_write: BatchLimit,
    sessions_per_insert: BatchLimit,
    change_source: ChangeSource,
    /// Sessions whose rows were deleted. The locks row may still have entries of theirs.
    dead: BTreeSet<SessionId>,
    /// Sessions whose eviction is under way or waits to be run again.
    evicting: BTreeSet<SessionId>,
    /// Sessions of this process that are being deleted because nothing needs them.
    deleting: BTreeSet<SessionId>,
    /// Sessions of this process whose rows have to be looked for.
    doubtful: BTreeSet<SessionId>,
    /// Sessions of other processes without which a write was refused. Nothing is handed over to
    /// them.
    suspects: BTreeSet<SessionId>,
    /// Tasks for the row connection, because no side connection can be opened.
    over_rows: VecDeque<Task>,
    /// Tasks that failed, and when to run them again.
    retries: Vec<(Time, Task)>,
    /// Whether the sessions of other processes are checked, because they block a request.
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
    /// The failure of the last write, until one succeeds.
    write_error: Option<LockError>,
    /// When a failure was logged, until a query succeeds that shows the opposite.
    failure_logged: Option<Time>,
    /// When the time of a grant is over next, on the boot clock.
    next_end: Option<Time>,
    /// How many callers the last completion answered with success.
    answered: usize,
    /// Whether the timers that depend on what is pending have to be set again.
    timers_stale: bool,
}

impl Namespace {
    pub(crate) fn new(name: Name, config: Arc<Config>, mut rng: fastrand::Rng) -> Self {
        let mut timers = Timers::default();
        timers.set(Timer::Orphans, Time::default());
        let combining = Combining::new(rng.u64(..));
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
            combining,
            detector: FailureDetector::default(),
            write_schedule: WriteSchedule::new(config.mechanisms, config.row_lock, config.turns),
            poll_schedule: PollSchedule::default(),
            requests_per_write: BatchLimit::default(),
            sessions_per_insert: BatchLimit::default(),
            change_source: ChangeSource::None,
            dead: BTreeSet::new(),
            evicting: BTreeSet::new(),
            deleting: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            suspects: BTreeSet::new(),
            over_rows: VecDeque::new(),
            retries: Vec::new(),
            observing: false,
            clearing: false,
            notify: None,
            needs_read: false,
            replan: false,
            last_error: None,
            write_error: None,
            failure_logged: None,
            next_end: None,
            answered: 0,
            timers_stale: true,
            config,
        }
    }

    /// Takes in what happened.
    pub(crate) fn handle(&mut self, now: Now, input: Input) {
        self.handle_timeout(now);
        match input {
            Input::Acquire(request) => {
                if let Some(limit) = self.config.matrix.exceeded_by(&request.names) {
                    let error = LockError::exceeds(limit);
                    self.outputs.push_back(Output::Failed(request.nonce, error));
                } else {
                    self.sessions.on_owner(&request.task, true);
                    let (config, sessions) = (&self.config, &self.sessions);
                    self.requests.add(request, config, sessions, now);
                    self.replan = true;
                }
            }
            // A request that is not there has its answer: a grant is released with its guard,
            // or by the driver.
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
            Input::NoConnection(task) => self.over_rows.push_back(task),
            Input::ProcessesExited(sessions) => {
                for session in sessions {
                    self.evict(session, EvictReason::ProcessExited, now);
                }
            }
            Input::LeaseExpired(session) => {
                self.end_session(&session, NOT_RENEWED, now);
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
        self.timers_stale = true;
    }

    /// The next thing to do that needs no row connection.
    pub(crate) fn poll(&mut self, now: Now) -> Option<Output> {
        let output = self.outputs.pop_front();
        if output.is_none() && std::mem::take(&mut self.timers_stale) {
            // Once for everything that has happened: there may be thousands of requests.
            self.set_timers(now);
        }
        output
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
            Cycle::Idle if self.combining.has_turn() => Some(self.use_turn(now)),
            Cycle::Idle => self.next_query(now),
        };
        if let Some(query) = &query {
            let writes = matches!(query, Query::CompareAndSet(_) | Query::TakeTurn(_));
            self.cycle = Cycle::InFlight { sent: now, writes };
        }
        self.timers_stale = true;
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

    /// How many requests are served before the first one that is blocked; at most twenty.
    pub(super) fn requests_ahead(&self) -> usize {
        self.requests.ahead()
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

    /// Whether the namespace must get the row connection next: it holds the row's lock, or has
    /// the turn.
    pub(super) fn holds_row_lock(&self) -> bool {
        match self.cycle {
            Cycle::RowLocked => true,
            Cycle::Idle => self.combining.has_turn(),
            Cycle::InFlight { .. } => false,
        }
    }

    /// Whether the next write waits for the turn of this process.
    pub(super) fn takes_turns(&self) -> bool {
        self.write_schedule.takes_turns()
    }

    /// Whether nothing is left to do for callers and guards that are gone.
    pub(super) fn is_settled(&self) -> bool {
        !self.grants.is_releasing()
            && self.requests.is_empty()
            && !self.is_unsettled()
            && !self.is_writing()
    }

    /// Whether a write of this process without answer, or one of another process for this one,
    /// may yet be applied.
    fn is_unsettled(&self) -> bool {
        self.row.is_unsettled() || self.combining.is_outstanding()
    }

    /// Whether a compare-and-set is in flight, or may follow.
    fn is_writing(&self) -> bool {
        matches!(self.cycle, Cycle::InFlight { writes: true, .. }) || self.combining.has_turn()
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

    /// When the lease of a session ends, on the boot clock.
    pub(super) fn lease_deadline(&self, id: &SessionId) -> Option<Time> {
        self.sessions.deadline(id)
    }

    /// A session was renewed by a statement sent at `sent`.
    pub(super) fn on_renewed(&mut self, key: &SessionKey, id: &SessionId, sent: Now, now: Now) {
        let ttl = self.config.session_ttl();
        // Requests may have waited for it.
        self.replan |= self.sessions.ends_soon(key, ttl, now);
        if let Some(deadline) = self.sessions.renew(key, id, ttl, sent, now) {
            let output = Output::LeaseExtended(id.clone(), deadline);
            self.outputs.push_back(output);
        }
    }

    /// A renewal did not find this session.
    pub(super) fn on_not_renewed(&mut self, id: &SessionId, now: Now) {
        self.end_session(id, "its session was evicted", now);
        self.timers_stale = true;
    }

    /// A renewal has read the version of the row.
    pub(super) fn on_version_seen(&mut self, version: Option<&RowVersion>) {
        if let Some(cached) = self.row.known()
            && version != Some(&cached.version)
        {
            self.forget_row();
            self.timers_stale = true;
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

    // Time.

    /// Handles what is due: overdue requests, leases that ended, tasks to repeat.
    fn handle_timeout(&mut self, now: Now) {
        let time = now.monotonic;
        for key in self.sessions.expired(now) {
            self.lose_session(&key, NOT_RENEWED, now);
        }
        self.warn_of_late_renewals(now);
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
        if self.timers.take_due(Timer::Aside, time) {
            self.look_aside(now);
        }
        if self.timers.take_due(Timer::Processes, time) && self.observing {
            self.check_processes(time);
        }
        if self.timers.take_due(Timer::RetryTask, time) {
            let due = self.retries.extract_if(.., |(at, _)| *at <= time);
            let tasks: Vec<_> = due.map(|(_, task)| task).collect();
            for task in tasks {
                self.task(task);
            }
        }
        // The timer does not go on while the machine sleeps.
        if self.next_end.is_some_and(|end| end <= now.boot) {
            self.end_overlong_grants(now);
        }
        self.timers.take_due(Timer::Lease, time);
        self.timers.take_due(Timer::Pause, time);
        self.timers.take_due(Timer::MissingRow, time);
    }

    /// Sets the timers that depend on what is pending.
    fn set_timers(&mut self, now: Now) {
        let fails = self.last_error.is_some();
        let timers = &mut self.timers;
        timers.set_or_stop(Timer::Request, self.requests.next_deadline(fails));
        let calls = self.admin.oldest().into_iter();
        let calls = calls.chain(self.grants.oldest_call()).min();
        timers.set_or_stop(Timer::Call, calls.filter(|_| fails).map(|at| at + PATIENCE));
        timers.set_or_stop(Timer::Aside, self.admin.next_aside());
        self.next_end = self.grants.next_end();
        let lease = self.sessions.next_deadline().into_iter();
        let lease = lease.chain(self.next_end).min();
        let lease = lease.map(|at| now.monotonic + (at - now.boot));
        timers.set_or_stop(Timer::Lease, lease);
        let retry = self.retries.iter().map(|(at, _)| *at).min();
        timers.set_or_stop(Timer::RetryTask, retry);
        timers.set_or_stop(Timer::Release, self.grants.next_release_due());
    }
}

#[cfg(test)]
mod tests;
