//! Which sessions are alive: those of this process and those of others; and the tasks that
//! delete the rows of dead ones.

use super::{CLEAR_AGAIN, NEIGHBOURS, Namespace, RETRY, RETRY_LOCKED, writes::Writes};
use crate::{
    protocol::{
        admin::AfterEviction,
        call::{Answer, CallId, Loss},
        config::CHUNK,
        grants::{ActiveGrant, PendingRelease},
        output::Output,
        query::{Orphans, Peers},
        sessions::SessionKey,
        task::{EvictReason, Evicted, Listed, Task, TaskResult},
        time::{Now, Time},
        timers::Timer,
    },
    report::{HELD_TOO_LONG, NOT_RENEWED_AND_EVICTED, TAKEN},
    store::{Failure, Kind, Liveness, NewSession},
    table::{Nonce, SessionId},
};

/// As many processes are checked all at one time.
const FEW_NEIGHBOURS: usize = 8;
/// How many times rarer the checks become at most.
const RAREST_CHECK: u32 = 10;

impl Namespace {
    // Sessions of this process.

    pub(super) fn on_session_opened(&mut self, new: NewSession, sent: Now, now: Now) {
        if let Some(replaced) = self.sessions.add(new, sent) {
            self.on_session_removed(replaced, "another session took its place", now);
        }
        self.replan = true;
    }

    pub(super) fn end_idle_sessions(&mut self, now: Now) {
        // What a write without answer did may be under any of them.
        if self.is_unsettled() || self.is_writing() {
            return;
        }
        let (busy, requesting) = (self.grants.busy_sessions(), self.requests.tasks());
        let ended = self.sessions.remove_idle(&busy, &requesting, now.monotonic);
        for id in &ended {
            self.outputs.push_back(Output::LeaseEnded(id.clone()));
        }
        self.delete_sessions(ended);
    }

    /// Deletes sessions of this process that nothing needs.
    pub(super) fn delete_sessions(&mut self, sessions: Vec<SessionId>) {
        for chunk in sessions.chunks(CHUNK) {
            self.task(Task::DeleteIdleSessions(chunk.to_vec()));
        }
        self.deleting.extend(sessions);
    }

    /// A session is lost, and everything that is held under it.
    pub(super) fn lose_session(&mut self, key: &SessionKey, reason: &'static str, now: Now) {
        if let Some(id) = self.sessions.remove(key) {
            self.on_session_removed(id, reason, now);
        }
    }

    /// A session of this process does not exist any more.
    pub(super) fn end_session(&mut self, id: &SessionId, reason: &'static str, now: Now) {
        if let Some(key) = self.sessions.key_of(id).cloned() {
            self.lose_session(&key, reason, now);
        }
    }

    /// A lock under this session was taken away. The session is dead or has to be evicted:
    /// nothing may be granted under it any more.
    pub(super) fn on_lock_stolen(&mut self, id: &SessionId, now: Now) {
        self.end_session(id, "a lock of the session was taken away", now);
    }

    pub(super) fn on_session_removed(&mut self, id: SessionId, reason: &'static str, now: Now) {
        tracing::warn!(session = %id.0, namespace = %self.name, reason, "a session was lost");
        for grant in self.grants.lose_all(Some(&id)) {
            self.on_grant_lost(&grant, &Loss { reason, by: None });
        }
        self.outputs.push_back(Output::LeaseEnded(id.clone()));
        // It cannot be used any more, and is evicted like one of another process.
        self.evict(id, EvictReason::Lost, now);
        self.replan = true;
    }

    pub(super) fn lose_all(&mut self, reason: &'static str) {
        for grant in self.grants.lose_all(None) {
            self.on_grant_lost(&grant, &Loss { reason, by: None });
        }
    }

    /// This process sees another database than the others: what it holds is not in theirs.
    pub(in crate::protocol) fn on_replaced(&mut self) {
        self.lose_all("the database file was deleted or replaced");
    }

    pub(super) fn on_grant_lost(&mut self, grant: &ActiveGrant, loss: &Loss) {
        tracing::warn!(
            lock = %grant.names, task = %grant.task, namespace = %self.name,
            token = grant.token, reason = loss.reason, by = loss.by.as_deref(), "a lock was lost"
        );
        let output = Output::Lost(grant.nonce, loss.clone());
        self.outputs.push_back(output);
        self.refuse_fences(grant.nonce, loss);
    }

    /// Answers the fences that ask for a lost grant. Each is in an open transaction, which an
    /// adoption of the row would have to wait for.
    fn refuse_fences(&mut self, nonce: Nonce, loss: &Loss) {
        for call in self.admin.take_confirmations(nonce) {
            self.answer(call, Answer::Lost(loss.clone()));
        }
    }

    /// Ends the grants whose time is over.
    pub(super) fn end_overlong_grants(&mut self, now: Now) {
        let loss = Loss {
            reason: HELD_TOO_LONG,
            by: None,
        };
        let (guarded, releases) = self.grants.take_over(now);
        let detached = releases
            .iter()
            .filter_map(|id| self.grants.get_release(*id));
        let detached = detached.map(PendingRelease::grant);
        for grant in guarded.iter().chain(detached) {
            tracing::warn!(
                lock = %grant.names, task = %grant.task, namespace = %self.name,
                token = grant.token, reason = loss.reason, "a lock was lost"
            );
        }
        for grant in guarded {
            let output = Output::HeldTooLong(grant.nonce, loss.clone());
            self.outputs.push_back(output);
            self.refuse_fences(grant.nonce, &loss);
        }
        for release in releases {
            self.on_release_started(release);
        }
    }

    pub(super) fn on_own_sessions_checked(&mut self, states: Vec<(SessionId, Liveness)>, now: Now) {
        let (alive, gone): (Vec<_>, Vec<_>) = states
            .into_iter()
            .partition(|(_, state)| matches!(state, Liveness::Alive(_)));
        for (id, _) in gone {
            // A grant that is lost with it answers the calls that ask for it.
            let in_time = self.sessions.is_living(&id, now);
            let reason = if in_time {
                TAKEN
            } else {
                NOT_RENEWED_AND_EVICTED
            };
            self.end_session(&id, reason, now);
        }
        let alive = alive.into_iter().map(|(id, _)| id).collect();
        for call in self.admin.on_sessions_found(&alive) {
            self.answer(call, Answer::Done);
        }
    }

    // Sessions of other processes.

    pub(super) fn evict(&mut self, session: SessionId, reason: EvictReason, now: Now) {
        if !self.dead.contains(&session) && self.evicting.insert(session.clone()) {
            let witness = self.sessions.witness(now);
            self.task(Task::Evict {
                session,
                reason,
                witness,
            });
        }
    }

    /// The rows of a session were deleted. If it was one of this process, it is lost.
    pub(super) fn on_session_dead(&mut self, id: SessionId, now: Now) {
        self.evicting.insert(id.clone());
        let reason = "release_task, release_holder or release_all was called in this process";
        self.end_session(&id, reason, now);
        self.evicting.remove(&id);
        // What it left may have come into the row since this process has read it.
        let known = self.row.known().map(|cached| &cached.table);
        if known.is_some_and(|table| !table.sessions_of(None).contains(&id)) {
            self.row.forget();
        }
        self.dead.insert(id);
        self.replan = true;
    }

    pub(super) fn on_peers_checked(&mut self, peers: Peers, sent: Now, now: Now) {
        match peers.row {
            Some(row) => self.on_row(Some(row), sent, now),
            // The query has shown the row's version as well.
            None => self.timers.stop(Timer::Poll),
        }
        self.reschedule(now);
        let verdict = self
            .detector
            .on_checked(peers.states, sent.monotonic, now.monotonic);
        if self.observing {
            self.timers.set_or_stop(Timer::Peers, verdict.next);
        }
        if verdict.evict.is_empty() && self.detector.suspects(now.monotonic) {
            self.task(Task::Prepare);
        }
        for (session, reason) in verdict.evict {
            self.evict(session, reason, now);
        }
        self.replan |= !verdict.dead.is_empty();
        self.dead.extend(verdict.dead);
    }

    /// The sessions of the namespace were listed, to find those of dead processes.
    pub(super) fn on_orphans_listed(&mut self, orphans: Orphans, now: Now) {
        for session in orphans.evicting {
            self.evict(session, EvictReason::Resumed, now);
        }
        let first = !self.detector.has_listed();
        let mut others = orphans.sessions;
        others.retain(|row| !self.sessions.contains(&row.id));
        for (session, reason) in self.detector.on_listed(&others, now.monotonic) {
            self.evict(session, reason, now);
        }
        if self.config.trusts_process_table() {
            let here = &self.config.process;
            let near = others
                .into_iter()
                .filter(|row| row.ttl.is_some() && row.process.is_neighbour_of(here))
                .map(|row| (row.id, row.process));
            let near: Vec<_> = near.collect();
            if !near.is_empty() {
                self.outputs.push_back(Output::CheckProcesses(near));
            }
        }
        let ttl = self.config.session_ttl();
        let rng = &mut self.rng;
        let next = self.detector.next_list(first, ttl, now.monotonic, rng);
        self.timers.set(Timer::Orphans, next);
    }

    /// Warns the holders of sessions that were not renewed in time.
    pub(super) fn warn_of_late_renewals(&mut self, now: Now) {
        let endangered = self.sessions.endangered(self.config.session_ttl(), now);
        let warnings = endangered.into_iter().map(Output::LeaseEndangered);
        self.outputs.extend(warnings);
    }

    /// Looks which processes of this machine have ended. In a long queue every process looks at a
    /// few of the others, and less often, since all of them look.
    pub(super) fn check_processes(&mut self, now: Time) {
        let mut near = self.detector.neighbours(&self.config.process);
        let many = near.len() / FEW_NEIGHBOURS;
        if many > 0 {
            let blocking = self.requests.blocking_sessions();
            let (mut checked, others): (Vec<_>, Vec<_>) = near
                .into_iter()
                .partition(|(id, _)| blocking.contains(&*id.0));
            let others = others.into_iter();
            checked.extend(self.rng.choose_multiple(others, FEW_NEIGHBOURS / 2));
            near = checked;
        }
        if !near.is_empty() {
            self.outputs.push_back(Output::CheckProcesses(near));
        }
        let many = u32::try_from(many).unwrap_or(u32::MAX);
        let pause = NEIGHBOURS * many.clamp(1, RAREST_CHECK);
        self.timers.set(Timer::Processes, now + pause);
    }

    // Tasks.

    pub(super) fn on_task_done(&mut self, result: TaskResult, now: Now) {
        self.replan = true;
        match result {
            TaskResult::Evicted {
                session,
                reason,
                result,
            } => self.on_evicted(session, reason, result, now),
            TaskResult::RowRead { call, result } => self.on_row_read_aside(call, result, now),
            TaskResult::SessionsRead { call, result } => self.on_sessions_read(call, result, now),
            TaskResult::AllEvicted(result) => self.on_all_evicted(result, now),
            TaskResult::HoldersListed { call, result } => {
                self.on_holders_listed(call, result, now);
            }
            TaskResult::HoldersEvicted { call, result } => {
                self.on_holders_evicted(call, result, now);
            }
            TaskResult::FenceAwaited {
                release,
                result: Ok(()),
                ..
            } => self.grants.on_fence_ended(release),
            TaskResult::FenceAwaited {
                row,
                release,
                result: Err(failure),
            } => {
                tracing::debug!(%row, %failure, "a fenced transaction is open");
                self.retry(Task::AwaitFence { row, release }, &failure, now);
            }
            TaskResult::IdleSessionsDeleted {
                sessions,
                result: Err(failure),
            } => {
                tracing::debug!(%failure, "idle sessions are not deleted yet");
                self.retry(Task::DeleteIdleSessions(sessions), &failure, now);
            }
            TaskResult::Prepared(Err(failure)) => {
                tracing::debug!(%failure, "a side connection could not be opened");
            }
            TaskResult::IdleSessionsDeleted {
                sessions,
                result: Ok(()),
            } => self.deleting.retain(|id| !sessions.contains(id)),
            TaskResult::Prepared(Ok(())) | TaskResult::OwnSessionsDeleted { .. } => {}
        }
    }

    pub(super) fn on_evicted(
        &mut self,
        session: SessionId,
        reason: EvictReason,
        result: Result<bool, Failure>,
        now: Now,
    ) {
        self.evicting.remove(&session);
        self.detector.forget(&session);
        match result {
            Ok(true) => {
                if reason == EvictReason::Lost {
                    // That was logged when it was lost.
                    tracing::debug!(
                        session = %session.0, namespace = %self.name,
                        "deleted the rows of a lost session"
                    );
                } else {
                    tracing::warn!(
                        session = %session.0, namespace = %self.name, ?reason,
                        "evicted a session"
                    );
                }
                self.on_session_dead(session, now);
            }
            Ok(false) => {}
            Err(failure) => {
                tracing::debug!(session = %session.0, %failure, "an eviction has to wait");
                let task = Task::Evict {
                    session: session.clone(),
                    reason,
                    witness: self.sessions.witness(now),
                };
                self.retry(task, &failure, now);
                self.evicting.insert(session);
            }
        }
    }

    pub(super) fn on_all_evicted(
        &mut self,
        result: Result<Option<Vec<SessionId>>, Failure>,
        now: Now,
    ) {
        self.clearing = false;
        self.timers.stop(Timer::Pause);
        match result {
            Err(failure) if failure.kind == Kind::Locked => {
                tracing::debug!(%failure, "a fenced transaction delays the new locks row");
                self.forget_row();
                self.timers
                    .set(Timer::MissingRow, now.monotonic + CLEAR_AGAIN);
            }
            Ok(Some(dead)) => {
                let had_sessions = !dead.is_empty();
                for session in dead {
                    self.on_session_dead(session, now);
                }
                self.row.on_cleared(had_sessions);
            }
            Ok(None) => self.forget_row(),
            Err(failure) => self.on_failure(failure, Writes::Yes, now),
        }
    }

    pub(super) fn on_holders_listed(
        &mut self,
        call: CallId,
        result: Result<Listed, Failure>,
        now: Now,
    ) {
        match result {
            Ok(listed) => self.admin.on_listed(call, listed),
            Err(failure) => {
                self.admin.on_removal_failed(call);
                self.on_failure(failure, Writes::Yes, now);
            }
        }
    }

    pub(super) fn on_holders_evicted(
        &mut self,
        call: CallId,
        result: Result<Evicted, Failure>,
        now: Now,
    ) {
        let evicted = match result {
            Ok(evicted) => evicted,
            Err(failure) => {
                self.admin.on_removal_failed(call);
                self.on_failure(failure, Writes::Yes, now);
                return;
            }
        };
        for session in &evicted.dead {
            self.on_session_dead(session.clone(), now);
        }
        match self.admin.on_evicted(call, evicted, now.monotonic) {
            AfterEviction::Ready | AfterEviction::Gone => {}
            AfterEviction::Retry(task, failure) => self.retry(task, &failure, now),
            AfterEviction::Failed(failure) => {
                self.answer(call, Answer::Failed(failure.into()));
            }
        }
    }

    /// Runs a task again later.
    pub(super) fn retry(&mut self, task: Task, failure: &Failure, now: Now) {
        let pause = if failure.kind == Kind::Locked {
            let locked = u32::try_from(self.retries.len() + 1).unwrap_or(u32::MAX);
            RETRY_LOCKED.saturating_mul(locked).min(RETRY)
        } else {
            RETRY
        };
        self.retries.push((now.monotonic + pause, task));
    }
}
