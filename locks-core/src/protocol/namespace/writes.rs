//! What follows from a write: answers, grants, releases; or a failure.

use std::{collections::BTreeSet, sync::Arc};

use super::{LOG_AGAIN, Namespace};
use crate::{
    error::LockError,
    name::LockName,
    protocol::{
        call::{Answer, CallId, Granted, Loss, Removal},
        grants::{ActiveGrant, Ownership},
        output::Output,
        plan::Plan,
        query::CompareAndSet,
        row::CachedRow,
        task::ReleaseId,
        time::{Now, Time},
        write_schedule::Written,
    },
    report::{Blocker, Holder},
    store::{Class, Failure, Kind, NewSession},
    table::{LockTable, Nonce},
};

impl Namespace {
    pub(super) fn on_written(
        &mut self,
        write: CompareAndSet,
        result: Result<bool, Failure>,
        sent: Now,
        now: Now,
    ) {
        let CompareAndSet {
            expected,
            new,
            table,
            preconditions,
            mut plan,
            ..
        } = write;
        self.row.forget();
        let others = self.others_in(&table);
        match result {
            Ok(true) => {
                self.row.on_written();
                self.combining.on_written(std::mem::take(&mut plan.served));
                let ours = &self.sessions;
                let others_wait =
                    plan.hands_over() || table.queue().iter().any(|q| !ours.contains(&q.session));
                let written = Written {
                    from: &expected,
                    to: &new,
                    others,
                    sent: sent.monotonic,
                };
                let (timers, rng) = (&mut self.timers, &mut self.rng);
                self.write_schedule
                    .on_written(written, now.monotonic, timers, rng);
                self.requests_per_write.on_accepted();
                self.write_error = None;
                self.notify = (plan.frees && others_wait).then_some(new.version);
                // An answer that needs a row that is read now has one.
                self.replan |= plan.needs_read;
                let cached = CachedRow {
                    version: new,
                    table,
                    proven: sent.monotonic,
                };
                self.apply(plan, cached, now);
            }
            // An engine may report the write of another process as a conflict.
            Ok(false)
            | Err(Failure {
                kind: Kind::Conflict,
                class: Class::NotApplied,
                ..
            }) => {
                tracing::trace!(namespace = %self.name, "another process wrote first");
                self.on_success();
                self.replan = true;
                let (timers, rng) = (&mut self.timers, &mut self.rng);
                let (sent, time) = (sent.monotonic, now.monotonic);
                self.write_schedule
                    .on_conflict(others, sent, time, timers, rng);
                // A session of another process may be dead. It finds out when it writes itself.
                if plan.serves_others() {
                    self.combining.on_rejected();
                }
                self.note_blocked(plan.blocked, Some(plan.proven));
                let alive = preconditions.alive.into_iter();
                let alive = alive.chain(preconditions.witness).collect();
                self.row.on_refused(expected, alive);
            }
            // What is at fault may be what another process has submitted, which is claimed only once.
            Err(failure) if failure.kind == Kind::Content && plan.serves_others() => {
                self.combining.on_rejected();
                self.replan = true;
            }
            Err(failure) if failure.kind == Kind::Content && !plan.added.is_empty() => {
                self.on_content_rejected(&plan, &failure);
            }
            Err(failure) => {
                if failure.class == Class::Indeterminate {
                    tracing::debug!(
                        namespace = %self.name, %failure,
                        "a write has no answer; the row will show whether it was applied"
                    );
                    self.row.on_indeterminate(expected);
                    for id in plan.released.keys() {
                        self.grants.on_release_indeterminate(*id);
                    }
                }
                self.on_failure(failure, Writes::Yes, now);
            }
        }
    }

    /// The database cannot store what one of the requests adds to the row. The next write
    /// carries fewer of them, until the one at fault is alone.
    fn on_content_rejected(&mut self, plan: &Plan, failure: &Failure) {
        self.replan = true;
        if self.requests_per_write.on_rejected(plan.added.len()) {
            return;
        }
        for nonce in &plan.added {
            if let Some(pending) = self.requests.get(*nonce) {
                let what = format!("lock {}", pending.request().names);
                let error = failure.clone().into_rejected(what);
                self.refuse(vec![(*nonce, error)]);
            }
        }
    }

    /// The database cannot store the id of one of the tasks for which sessions were to be
    /// opened.
    pub(super) fn on_sessions_rejected(&mut self, sessions: &[NewSession], failure: &Failure) {
        self.replan = true;
        if self.sessions_per_insert.on_rejected(sessions.len()) {
            return;
        }
        for session in sessions {
            let what = format!("task id {:?}", session.task);
            let error = failure.clone().into_rejected(what);
            let refused = self.requests.of_task(&session.task);
            let refused = refused.map(|nonce| (nonce, error.clone())).collect();
            self.refuse(refused);
        }
    }

    /// A query succeeded that shows that requests are served.
    pub(super) fn on_success(&mut self) {
        self.last_error = None;
        if self.failure_logged.take().is_some() {
            tracing::info!(namespace = %self.name, "the database serves requests again");
        }
    }

    /// Does what a plan means, once the row says so.
    pub(super) fn apply(&mut self, plan: Plan, cached: CachedRow, now: Now) {
        let version = cached.version.version;
        self.refuse(plan.refused);
        self.answer_inspections(plan.inspected, &cached.table, Some(&cached.version), now);
        self.row.put_back(cached);
        // Either the plan was written, or nothing had to be. That a row can be read says
        // nothing to a request that needs a write.
        self.on_success();
        for (nonce, session) in plan.enqueued {
            self.requests.on_enqueued(nonce, session, version);
        }
        self.note_blocked(plan.blocked, None);
        for (id, found) in plan.released {
            self.on_released(id, found, now);
        }
        for nonce in plan.cancelled {
            self.requests.remove(nonce);
        }
        for holder in &plan.recovered {
            tracing::warn!(
                lock = %holder.name, task = %holder.task_id, namespace = %self.name,
                token = holder.token, mode = %holder.mode, "recovered a lock of a dead session"
            );
        }
        for (call, holders) in plan.removed {
            let Some(what) = self.admin.finish_removal(call) else {
                continue;
            };
            for holder in &holders {
                self.log_removal(&what, holder);
            }
            self.answer(call, Answer::Holders(holders));
        }
        for (nonce, token) in plan.granted {
            self.on_granted(nonce, token, now);
        }
        if let Some(cached) = self.row.known()
            && !(self.dead.is_empty() && self.suspects.is_empty())
        {
            let known: BTreeSet<_> = cached.table.sessions_of(None).into_iter().collect();
            self.dead.retain(|id| known.contains(id));
            self.suspects.retain(|id| known.contains(id));
        }
        self.reschedule(now);
    }

    pub(super) fn refuse(&mut self, refused: Vec<(Nonce, LockError)>) {
        for (nonce, error) in refused {
            let Some(pending) = self.requests.remove(nonce) else {
                continue;
            };
            tracing::debug!(
                lock = %pending.request().names, task = %pending.request().task,
                namespace = %self.name, %error, "refused"
            );
            self.observing = true;
            if !pending.is_cancelled() {
                self.outputs.push_back(Output::Failed(nonce, error));
            }
        }
    }

    fn log_removal(&self, what: &Removal, holder: &Holder) {
        if matches!(what, Removal::Task(_)) {
            tracing::warn!(
                lock = %holder.name, task = %holder.task_id, namespace = %self.name,
                token = holder.token, mode = %holder.mode,
                "removed a lock that its task forgot to release"
            );
        } else {
            tracing::warn!(
                lock = %holder.name, task = %holder.task_id, namespace = %self.name,
                token = holder.token, mode = %holder.mode, "took a lock away from its holder"
            );
        }
    }

    /// Begins the release of a detached lock, or returns why it cannot.
    pub(super) fn release_name(
        &mut self,
        table: &LockTable,
        task: &Arc<str>,
        name: &LockName,
        call: CallId,
        now: Now,
    ) -> Option<LockError> {
        let name = name.clone();
        let Some(first) = table.entries(name.as_str()).next() else {
            return Some(LockError::NotHeld { name });
        };
        let grants = table
            .entries(name.as_str())
            .filter_map(|e| e.grant.as_ref());
        let nonces: Vec<_> = grants.map(|grant| grant.nonce).collect();
        let (ownership, release) =
            self.grants
                .release_name(task, &name, &nonces, call, now.monotonic);
        if let Some(release) = release {
            self.on_release_started(release);
        }
        match ownership {
            Ownership::Releasing => None,
            Ownership::Guarded => Some(LockError::HeldByGuard { name }),
            Ownership::Other => {
                let holder = crate::table::holder(&name, first);
                Some(LockError::HeldByOther { holder })
            }
        }
    }

    pub(super) fn on_released(&mut self, id: ReleaseId, found: bool, now: Now) {
        let Some(release) = self.grants.remove_release(id) else {
            return;
        };
        let grant = release.grant().clone();
        if !found && !release.maybe_applied() {
            let reason = "another process had released it before";
            for call in release.into_calls() {
                self.answer(call, Answer::Lost(Loss { reason, by: None }));
            }
            self.on_lock_stolen(&grant.session, now);
            return;
        }
        tracing::debug!(
            lock = %grant.names, task = %grant.task, namespace = %self.name,
            token = grant.token, "released"
        );
        for call in release.into_calls() {
            self.answered += 1;
            self.answer(call, Answer::Done);
        }
    }

    /// Remembers what blocks requests. Where that was not written, only a row that was read
    /// after the request came (`proven`) shows it.
    fn note_blocked(&mut self, blocked: Vec<(Nonce, Vec<Blocker>)>, proven: Option<Time>) {
        for (nonce, blockers) in blocked {
            let first = blockers.first().cloned();
            if let Some(pending) = self.requests.on_blocked(nonce, blockers, proven) {
                tracing::debug!(
                    lock = %pending.request().names, task = %pending.request().task,
                    namespace = %self.name, blocked_by = first.map(tracing::field::display),
                    "waiting"
                );
                self.observing = true;
            }
        }
    }

    pub(super) fn on_granted(&mut self, nonce: Nonce, token: i64, now: Now) {
        let Some(pending) = self.requests.get(nonce) else {
            return;
        };
        let session = pending.request().session.clone();
        // The session may have been lost while the write was in flight. Then the grant goes
        // with it, and the request goes on under another one.
        if !self.sessions.is_living(&session, now) {
            return;
        }
        let deadline = self.sessions.deadline(&session);
        let Some(pending) = self.requests.remove(nonce) else {
            return;
        };
        let in_use = if self.config.fence_rows > 1 {
            self.grants.fence_rows_in_use(&session)
        } else {
            BTreeSet::new()
        };
        let rows = self.config.fence_rows;
        let fence_row = self.sessions.next_fence_row(&session, rows, &in_use);
        let request = pending.request();
        let ends = pending.max_hold().map(|max_hold| now.boot + max_hold);
        let grant = ActiveGrant {
            nonce,
            session: session.clone(),
            task: request.task.clone(),
            names: request.names.clone(),
            token,
            ends,
            fence_row: fence_row.clone(),
        };
        tracing::debug!(
            lock = %grant.names, task = %grant.task, namespace = %self.name, token,
            "acquired"
        );
        self.grants.add(grant);
        if pending.is_cancelled() {
            self.on_guard_released(nonce, false, None, now);
            return;
        }
        self.answered += 1;
        let endangered = self
            .sessions
            .is_endangered(&session)
            .then(|| session.clone());
        self.outputs.push_back(Output::Granted(Granted {
            nonce,
            task: request.task.clone(),
            names: request.names.all().clone(),
            token,
            session,
            deadline,
            ends,
            fence_row,
        }));
        let warning = endangered.map(Output::LeaseEndangered);
        self.outputs.extend(warning);
    }

    // Failures.

    /// The database did not do what it was asked to do.
    pub(super) fn on_failure(&mut self, failure: Failure, writes: Writes, now: Now) {
        self.log_failure(&failure, now.monotonic);
        self.look_aside(now);
        self.row.forget();
        self.replan = true;
        let (timers, rng) = (&mut self.timers, &mut self.rng);
        let writes = writes == Writes::Yes;
        self.write_schedule
            .on_failure(writes, now.monotonic, timers, rng);
        let is_final = failure.is_final();
        if failure.is_replaced() {
            self.on_replaced();
        }
        let error = LockError::from(failure);
        if is_final {
            self.fail_all(&error, now);
        }
        if writes {
            self.write_error = Some(error.clone());
        }
        self.last_error = Some(error);
    }

    /// Logs a failure, and one that lasts once in a while.
    fn log_failure(&mut self, failure: &Failure, now: Time) {
        let logged = self.failure_logged;
        if matches!(failure.kind, Kind::Conflict | Kind::Busy | Kind::Locked) {
            tracing::debug!(namespace = %self.name, %failure, "other connections are in the way");
        } else if logged.is_some_and(|at| now - at < LOG_AGAIN) {
            tracing::debug!(namespace = %self.name, %failure, "a query failed again");
        } else {
            tracing::warn!(namespace = %self.name, %failure, "queries fail and are run again");
            self.failure_logged = Some(now);
        }
    }

    /// Answers every caller with an error.
    pub(super) fn fail_all(&mut self, error: &LockError, now: Now) {
        let (timers, rng) = (&mut self.timers, &mut self.rng);
        self.write_schedule
            .on_failure(false, now.monotonic, timers, rng);
        self.needs_read = false;
        // What was never written need not be undone.
        self.fail_requests(error, self.is_unsettled());
        let calls = self.admin.take_all().into_iter();
        let calls: Vec<_> = calls.chain(self.grants.take_calls(|_| true)).collect();
        for call in calls {
            self.answer(call, Answer::Failed(error.clone()));
        }
        self.last_error = Some(error.clone());
    }
}

/// Whether a query that failed was a write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writes {
    Yes,
    No,
}
