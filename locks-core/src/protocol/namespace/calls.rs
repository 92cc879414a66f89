//! What callers and guards ask for.

use std::collections::BTreeSet;

use super::Namespace;
use crate::{
    error::LockError,
    protocol::{
        admin::Admin,
        call::{Answer, CallId, Inspection, Loss, WaitPolicy},
        output::Output,
        requests::no_answer,
        task::{ReleaseId, Task},
        time::{Now, Time},
    },
    report::Blocker,
    table::{Nonce, Order, Request},
};

impl Namespace {
    pub(super) fn on_guard_released(
        &mut self,
        nonce: Nonce,
        fenced: bool,
        call: Option<CallId>,
        now: Now,
    ) {
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
    pub(super) fn others_wait(&self) -> bool {
        let queue = self.row.known().map(|cached| cached.table.queue());
        queue.is_some_and(|queue| !queue.is_empty())
    }

    pub(super) fn on_release_started(&mut self, id: ReleaseId) {
        if let Some(release) = self.grants.get_release(id)
            && !release.is_ready()
        {
            let row = release.grant().fence_row.clone();
            self.task(Task::AwaitFence { row, release: id });
        }
        self.replan = true;
    }

    pub(super) fn inspect(&mut self, call: CallId, what: Inspection, now: Now) {
        if let Inspection::Confirm(nonce, _) = &what
            && self.grants.session_of(*nonce).is_none()
        {
            // The grant was lost before, and its guard knows.
            self.answer(call, Answer::Done);
            return;
        }
        let session = Admin::session_to_check(&what);
        let session = session.and_then(|nonce| self.grants.session_of(nonce).cloned());
        self.doubtful.extend(session.clone());
        self.admin.inspect(call, what, session, now.monotonic);
        self.replan = true;
        self.look_aside(now);
    }

    pub(super) fn close(&mut self, fenced: &BTreeSet<Nonce>, now: Now) {
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

    pub(super) fn fail_requests(&mut self, error: &LockError, keep_all: bool) {
        for nonce in self.requests.cancel_all(keep_all) {
            self.outputs.push_back(Output::Failed(nonce, error.clone()));
        }
    }

    pub(super) fn answer(&mut self, call: CallId, answer: Answer) {
        self.outputs.push_back(Output::Answer(call, answer));
    }

    pub(super) fn task(&mut self, task: Task) {
        self.outputs.push_back(Output::Task(task));
    }

    pub(super) fn fail_overdue_requests(&mut self, now: Time) {
        let contended = self.write_schedule.is_contended();
        let overdue = self.requests.overdue(self.last_error.is_some(), now);
        for overdue in overdue {
            let pending = self.requests.get(overdue.nonce).zip(overdue.waited);
            let error = if let Some((pending, waited)) = pending {
                let names = pending.request().names.to_vec();
                let blocked_by = self.blockers_now(pending.request());
                match overdue.policy {
                    // It was not decided, because a lock was stolen whose session is not dead.
                    WaitPolicy::NoWait => LockError::Busy { names, blocked_by },
                    WaitPolicy::Wait { .. } => LockError::Timeout {
                        names,
                        waited,
                        blocked_by,
                    },
                }
            } else {
                let last = self.last_error.as_ref().or(self.write_error.as_ref());
                last.cloned().unwrap_or_else(|| no_answer(contended))
            };
            self.requests.cancel(overdue.nonce);
            self.outputs.push_back(Output::Failed(overdue.nonce, error));
            self.replan = true;
        }
    }

    /// What blocks a request now, or blocked it when that was last known.
    pub(super) fn blockers_now(&self, request: &Request) -> Vec<Blocker> {
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
}
