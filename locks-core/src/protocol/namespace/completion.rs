//! What follows when a query or a task is done.

use super::*;

impl Namespace {
    pub(super) fn on_completed(&mut self, completion: Completion, now: Now) {
        let sent = match std::mem::replace(&mut self.cycle, Cycle::Idle) {
            Cycle::InFlight { sent, .. } => sent,
            Cycle::Idle | Cycle::RowLocked => now,
        };
        match completion {
            Completion::Read(Ok(row)) => self.on_row(row, sent, now),
            Completion::ReadLocked(Ok(row)) => {
                self.cycle = Cycle::RowLocked;
                self.on_row(row, sent, now);
            }
            Completion::ReadLocked(Err(failure)) if failure.is_permanent() => {
                tracing::debug!(%failure, "the row cannot be locked");
                self.write_schedule.on_row_lock_refused();
                self.row.forget();
            }
            Completion::VersionRead(Ok(version)) => self.on_version_read(version.as_ref(), sent),
            Completion::CompareAndSet(write, result) => self.on_written(*write, result, sent, now),
            Completion::Adopted(Ok(done)) | Completion::Created(Ok(done)) => {
                if done {
                    tracing::info!(namespace = %self.name, "the locks row was initialised");
                }
                self.write_schedule.on_progress(&mut self.timers);
                self.forget_row();
            }
            Completion::SessionsOpened(sessions, Ok(())) => {
                self.write_schedule.on_progress(&mut self.timers);
                for session in sessions {
                    self.on_session_opened(session, sent, now);
                }
            }
            Completion::SessionsOpened(sessions, Err(failure)) => {
                // An id is used for one attempt only. What arrived of it is deleted.
                let ids = sessions.into_iter().map(|session| session.id);
                self.delete_sessions(ids.collect());
                self.on_failure(failure, Writes::Yes, now);
            }
            Completion::PeersChecked(Ok(peers)) => self.on_peers_checked(peers, sent, now),
            Completion::PeersChecked(Err(failure)) => {
                let next = self.detector.on_check_failed(now.monotonic);
                self.timers.set(Timer::Peers, next);
                self.on_failure(failure, Writes::No, now);
            }
            Completion::OwnSessionsChecked(Ok(states)) => self.on_own_sessions_checked(states, now),
            Completion::OwnSessionsChecked(Err(failure)) => {
                self.doubtful.extend(self.admin.doubtful_sessions());
                self.on_failure(failure, Writes::No, now);
            }
            Completion::OrphansListed(Ok(orphans)) => self.on_orphans_listed(orphans, now),
            Completion::OrphansListed(Err(failure)) => {
                let next = FailureDetector::list_after_failure(now.monotonic);
                self.timers.set(Timer::Orphans, next);
                self.on_failure(failure, Writes::No, now);
            }
            Completion::Unlocked(Ok(())) | Completion::Notified(Ok(())) => {}
            Completion::Notified(Err(failure)) => {
                tracing::debug!(%failure, namespace = %self.name, "a notification was not sent");
            }
            Completion::DataVersion(Ok(counter)) => {
                if self.poll_schedule.has_changed(counter) {
                    self.timers.set(Timer::Poll, now.monotonic);
                }
            }
            Completion::Adopted(Err(failure)) | Completion::Created(Err(failure)) => {
                self.on_failure(failure, Writes::Yes, now);
            }
            Completion::Read(Err(failure))
            | Completion::ReadLocked(Err(failure))
            | Completion::Unlocked(Err(failure))
            | Completion::VersionRead(Err(failure))
            | Completion::DataVersion(Err(failure)) => self.on_failure(failure, Writes::No, now),
        }
    }

    // The row.

    /// What is known of the row is out of date.
    pub(super) fn forget_row(&mut self) {
        self.row.forget();
        self.replan = true;
        self.needs_read = true;
    }

    /// Another process says that the row is of this version, and that something is free.
    pub(super) fn on_changed(&mut self, version: i64, now: Now) {
        match self.row.known() {
            Some(cached) if cached.version.version >= version => {}
            // The query in flight shows it, or the next look does.
            None if matches!(self.cycle, Cycle::InFlight { .. }) => {
                self.timers.set(Timer::Poll, now.monotonic);
            }
            _ if self.requests.any_blocked() => self.forget_row(),
            _ => {}
        }
    }

    fn on_row(&mut self, row: Option<LocksRow>, sent: Now, now: Now) {
        self.write_schedule.on_read(&mut self.timers);
        let Some(row) = row else {
            self.row.on_missing(now.monotonic);
            self.lose_all("the locks row was deleted, as the original's releaseAll does");
            return;
        };
        match self.row.on_read(row, &self.name, sent.monotonic) {
            Read::Known { doubtful } => {
                if !doubtful.is_empty() {
                    self.doubtful.extend(doubtful);
                    // A session that was taken for dead may not be: it is looked for again.
                    self.observing |= !self.dead.is_empty();
                    self.dead.clear();
                }
                self.replan = true;
                self.needs_read = false;
                self.reconcile(now);
            }
            Read::Unstamped => {
                let reason = "the lock table was started anew, as the original's releaseAll does";
                self.lose_all(reason);
            }
            Read::Unusable(error) => self.fail_all(&error, now),
        }
    }

    fn on_version_read(&mut self, version: Option<&RowVersion>, sent: Now) {
        self.write_schedule.on_read(&mut self.timers);
        if !self.row.on_version_read(version, sent.monotonic) {
            self.forget_row();
        }
    }

    /// What this process holds and the row does not show is lost.
    fn reconcile(&mut self, now: Now) {
        let Some(cached) = self.row.known() else {
            return;
        };
        let (missing, stolen) = self.grants.missing_in(&cached.table);
        let stolen = missing
            .iter()
            .map(|(grant, _)| grant.session.clone())
            .chain(stolen);
        let stolen: BTreeSet<_> = stolen.collect();
        for (grant, loss) in &missing {
            self.grants.lose(grant);
            self.on_grant_lost(grant, loss);
        }
        for session in stolen {
            self.on_lock_stolen(&session, now);
        }
    }

    // Writes.

    fn on_written(
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
            plan,
        } = write;
        self.row.forget();
        match result {
            Ok(true) => {
                let ours = &self.sessions;
                let others = table.holding_sessions().filter(|id| !ours.contains(id));
                let others = others.count();
                let others_wait = table.queue().iter().any(|q| !ours.contains(&q.session));
                self.write_schedule.on_written(
                    &expected,
                    &new,
                    others,
                    sent.monotonic,
                    now.monotonic,
                    &mut self.timers,
                    &mut self.rng,
                );
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
            Ok(false) => {
                tracing::trace!(namespace = %self.name, "another process wrote first");
                self.last_error = None;
                self.replan = true;
                let (timers, rng) = (&mut self.timers, &mut self.rng);
                self.write_schedule.on_conflict(now.monotonic, timers, rng);
                self.note_blocked(plan.blocked, Some(plan.proven));
                let ours = preconditions.alive.into_iter().chain(preconditions.witness);
                self.row.on_refused(expected, ours.collect());
            }
            Err(failure) => {
                if failure.class == Class::Indeterminate {
                    tracing::warn!(
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

    /// Does what a plan means, once the row says so.
    pub(super) fn apply(&mut self, plan: Plan, cached: CachedRow, now: Now) {
        let version = cached.version.version;
        self.refuse(plan.refused);
        self.answer_inspections(plan.inspected, &cached.table, now);
        self.row.put_back(cached);
        // Either the plan was written, or nothing had to be. That a row can be read says
        // nothing to a request that needs a write.
        self.last_error = None;
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
                token = holder.token, "recovered a lock of a dead session"
            );
        }
        for (call, holders) in plan.removed {
            if !self.admin.finish_removal(call) {
                continue;
            }
            for holder in &holders {
                tracing::warn!(
                    lock = %holder.name, task = %holder.task_id, namespace = %self.name,
                    token = holder.token, "removed a lock that its task had not released"
                );
            }
            self.answer(call, Answer::Holders(holders));
        }
        for (nonce, token) in plan.granted {
            self.on_granted(nonce, token, now);
        }
        if let Some(cached) = self.row.known()
            && !self.dead.is_empty()
        {
            let known: BTreeSet<_> = cached.table.sessions_of(None).into_iter().collect();
            self.dead.retain(|id| known.contains(id));
        }
        self.reschedule(now);
    }

    fn refuse(&mut self, refused: Vec<(Nonce, LockError)>) {
        for (nonce, error) in refused {
            let Some(pending) = self.requests.remove(nonce) else {
                continue;
            };
            tracing::debug!(
                lock = joined(&pending.request().names), task = %pending.request().task,
                namespace = %self.name, %error, "refused"
            );
            self.observing = true;
            if !pending.is_cancelled() {
                self.outputs.push_back(Output::Failed(nonce, error));
            }
        }
    }

    fn answer_inspections(&mut self, calls: Vec<CallId>, table: &LockTable, now: Now) {
        for call in calls {
            let answer = match self.admin.take_inspection(call) {
                None => continue,
                Some(Inspection::Held) => Answer::Holders(table.holders()),
                Some(Inspection::Waiting) => Answer::Waiters(waiters(table, &self.config)),
                Some(Inspection::Confirm(..)) => Answer::Done,
                Some(Inspection::ReleaseName(task, name)) => {
                    match self.release_name(table, &task, &name, call, now) {
                        Some(error) => Answer::Failed(error),
                        None => continue,
                    }
                }
            };
            self.answer(call, answer);
        }
    }

    /// Begins the release of a detached lock; or says why that cannot be done.
    fn release_name(
        &mut self,
        table: &LockTable,
        task: &Arc<str>,
        name: &LockName,
        call: CallId,
        now: Now,
    ) -> Option<LockError> {
        let name = name.clone();
        let Some(entry) = table.entry(name.as_str()) else {
            return Some(LockError::NotHeld { name });
        };
        let nonce = entry.grant.as_ref().map(|grant| grant.nonce);
        let (ownership, release) =
            self.grants
                .release_name(task, &name, nonce, call, now.monotonic);
        if let Some(release) = release {
            self.on_release_started(release);
        }
        match ownership {
            Ownership::Releasing => None,
            Ownership::Guarded => Some(LockError::HeldByGuard { name }),
            Ownership::Other => {
                let holder = crate::table::holder(&name, entry);
                Some(LockError::HeldByOther { holder })
            }
        }
    }

    fn on_released(&mut self, id: ReleaseId, found: bool, now: Now) {
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
        tracing::info!(
            lock = joined(&grant.names), task = %grant.task, namespace = %self.name,
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
                tracing::info!(
                    lock = joined(&pending.request().names), task = %pending.request().task,
                    namespace = %self.name, blocked_by = first.map(tracing::field::display),
                    "waiting"
                );
                self.observing = true;
            }
        }
    }

    fn on_granted(&mut self, nonce: Nonce, token: i64, now: Now) {
        let Some(pending) = self.requests.get(nonce) else {
            return;
        };
        let session = pending.request().session.clone();
        // The session may have been lost while the write was in flight. Then the grant goes
        // with it, and the request goes on under another one.
        let Some(deadline) = self.sessions.deadline(&session, now) else {
            return;
        };
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
        let grant = ActiveGrant {
            nonce,
            session: session.clone(),
            task: request.task.clone(),
            names: request.names.clone(),
            token,
            fence_row: fence_row.clone(),
        };
        tracing::info!(
            lock = joined(&grant.names), task = %grant.task, namespace = %self.name, token,
            "acquired"
        );
        self.grants.add(grant);
        if pending.is_cancelled() {
            self.on_guard_released(nonce, false, None, now);
            return;
        }
        self.answered += 1;
        self.outputs.push_back(Output::Granted(Granted {
            nonce,
            task: request.task.clone(),
            names: request.names.clone(),
            token,
            session,
            deadline,
            fence_row,
        }));
    }

    // Failures.

    /// The database did not do what it was asked to do.
    fn on_failure(&mut self, failure: Failure, writes: Writes, now: Now) {
        tracing::warn!(namespace = %self.name, %failure, "a query failed and is run again");
        self.row.forget();
        self.replan = true;
        let (timers, rng) = (&mut self.timers, &mut self.rng);
        let writes = writes == Writes::Yes;
        self.write_schedule
            .on_failure(writes, now.monotonic, timers, rng);
        let permanent = failure.is_permanent();
        let error = LockError::from(failure);
        if permanent {
            self.fail_all(&error, now);
        }
        self.last_error = Some(error);
    }

    /// Tells every caller that it cannot be done.
    fn fail_all(&mut self, error: &LockError, now: Now) {
        let (timers, rng) = (&mut self.timers, &mut self.rng);
        self.write_schedule
            .on_failure(false, now.monotonic, timers, rng);
        self.needs_read = false;
        // What was never written need not be undone.
        self.fail_requests(error, self.row.is_unsettled());
        let calls = self.admin.take_all().into_iter();
        let calls: Vec<_> = calls.chain(self.grants.take_calls(|_| true)).collect();
        for call in calls {
            self.answer(call, Answer::Failed(error.clone()));
        }
        self.last_error = Some(error.clone());
    }

    // Sessions of this process.

    fn on_session_opened(&mut self, new: crate::store::NewSession, sent: Now, now: Now) {
        if let Some(replaced) = self.sessions.add(new, sent) {
            self.on_session_removed(replaced, "another session took its place", now);
        }
        self.replan = true;
    }

    pub(super) fn end_idle_sessions(&mut self, now: Now) {
        // What a write without answer did may be under any of them.
        if self.row.is_unsettled() || self.is_writing() {
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
    fn delete_sessions(&mut self, sessions: Vec<SessionId>) {
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

    /// A session of this process is not there any more.
    pub(super) fn end_session(&mut self, id: &SessionId, reason: &'static str, now: Now) {
        if let Some(key) = self.sessions.key_of(id).cloned() {
            self.lose_session(&key, reason, now);
        }
    }

    /// A lock under this session was taken away, so the session is dead or has to be: nothing
    /// may be granted under it any more.
    fn on_lock_stolen(&mut self, id: &SessionId, now: Now) {
        self.end_session(id, "a lock of the session was taken away", now);
    }

    fn on_session_removed(&mut self, id: SessionId, reason: &'static str, now: Now) {
        tracing::warn!(session = %id.0, namespace = %self.name, reason, "a session was lost");
        for grant in self.grants.lose_all(Some(&id)) {
            self.on_grant_lost(&grant, &Loss { reason, by: None });
        }
        self.outputs.push_back(Output::LeaseEnded(id.clone()));
        // It is of no use any more, and is evicted like one of another process.
        self.evict(id, EvictReason::Lost, now);
        self.replan = true;
    }

    fn lose_all(&mut self, reason: &'static str) {
        for grant in self.grants.lose_all(None) {
            self.on_grant_lost(&grant, &Loss { reason, by: None });
        }
    }

    fn on_grant_lost(&mut self, grant: &ActiveGrant, loss: &Loss) {
        tracing::warn!(
            lock = joined(&grant.names), task = %grant.task, namespace = %self.name,
            token = grant.token, reason = loss.reason, by = loss.by.as_deref(), "a lock was lost"
        );
        let output = Output::Lost(grant.nonce, loss.clone());
        self.outputs.push_back(output);
        // A fence that asks for the grant is in an open transaction, which an adoption of
        // the row would have to wait for: it is answered before.
        for call in self.admin.take_confirmations(grant.nonce) {
            self.answer(call, Answer::Lost(loss.clone()));
        }
    }

    fn on_own_sessions_checked(&mut self, states: Vec<(SessionId, Liveness)>, now: Now) {
        let (alive, gone): (Vec<_>, Vec<_>) = states
            .into_iter()
            .partition(|(_, state)| matches!(state, Liveness::Alive(_)));
        for (id, _) in gone {
            // A grant that is lost with it answers the calls that ask for it.
            self.end_session(&id, "its session was evicted", now);
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

    /// The rows of a session are gone for good. If it was one of this process, it is lost.
    fn on_session_dead(&mut self, id: SessionId, now: Now) {
        self.evicting.insert(id.clone());
        self.end_session(&id, "its session was ended by a supervisor", now);
        self.evicting.remove(&id);
        self.dead.insert(id);
        self.replan = true;
    }

    fn on_peers_checked(&mut self, peers: Peers, sent: Now, now: Now) {
        match peers.row {
            Some(row) => self.on_row(Some(row), sent, now),
            // The look has shown the row's version as well.
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
    fn on_orphans_listed(&mut self, orphans: Orphans, now: Now) {
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

    // Tasks.

    pub(super) fn on_task_done(&mut self, result: TaskResult, now: Now) {
        self.replan = true;
        match result {
            TaskResult::Evicted {
                session,
                reason,
                result,
            } => self.on_evicted(session, reason, result, now),
            TaskResult::AllEvicted(result) => self.on_all_evicted(result, now),
            TaskResult::TaskEvicted { call, result } => self.on_task_evicted(call, result, now),
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

    fn on_evicted(
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
                tracing::warn!(
                    session = %session.0, namespace = %self.name, ?reason,
                    "evicted a session"
                );
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

    fn on_all_evicted(&mut self, result: Result<Option<Vec<SessionId>>, Failure>, now: Now) {
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

    fn on_task_evicted(&mut self, call: CallId, result: Result<Evicted, Failure>, now: Now) {
        let evicted = match result {
            Ok(evicted) => evicted,
            Err(failure) => {
                self.admin.on_eviction_failed(call);
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
    fn retry(&mut self, task: Task, failure: &Failure, now: Now) {
        let pause = if failure.kind == Kind::Locked {
            let locked = u32::try_from(self.retries.len() + 1).unwrap_or(u32::MAX);
            RETRY_LOCKED.saturating_mul(locked).min(RETRY)
        } else {
            RETRY
        };
        self.retries.push((now.monotonic + pause, task));
    }
}

/// Whether a query that failed was a write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    Yes,
    No,
}

/// The queue, with what blocks each request.
fn waiters(table: &LockTable, config: &Config) -> Vec<Waiter> {
    let queue = table.queue().iter().enumerate();
    queue
        .map(|(position, queued)| {
            let mut waiter = queued.report();
            waiter.blocked_by = table.blockers_of(position, &config.matrix);
            waiter
        })
        .collect()
}

/// Lock names, for log events.
fn joined(names: &[LockName]) -> String {
    let names: Vec<_> = names.iter().map(LockName::as_str).collect();
    names.join(", ")
}
