//! What follows when a query or a task is done.

use std::collections::BTreeSet;

use super::{Cycle, Namespace, writes::Writes};
use crate::{
    protocol::{
        failure_detector::FailureDetector, query::Completion, row::Read, time::Now, timers::Timer,
    },
    store::{Failure, Kind, LocksRow, RowVersion, Turn, TurnOutcome},
    table::LockTable,
};

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
            Completion::ReadLocked(Err(failure))
                if failure.is_permanent() && !failure.is_final() =>
            {
                tracing::debug!(%failure, "the row cannot be locked");
                self.write_schedule.on_row_lock_refused();
                self.row.forget();
            }
            Completion::TurnTaken(result) => self.on_turn_taken(result, sent, now),
            Completion::Withdrawn(Ok(())) => {
                self.combining.on_withdrawn();
                self.grants.on_submission_settled(true);
                self.row.on_withdrawn();
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
                self.sessions_per_insert.on_accepted();
                for session in sessions {
                    self.on_session_opened(session, sent, now);
                }
            }
            Completion::SessionsOpened(sessions, Err(failure)) => {
                // An id is used for one attempt only. Rows that were inserted are deleted.
                let ids = sessions.iter().map(|session| session.id.clone());
                self.delete_sessions(ids.collect());
                if failure.kind == Kind::Content {
                    self.on_sessions_rejected(&sessions, &failure);
                } else {
                    self.on_failure(failure, Writes::Yes, now);
                }
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
            Completion::Unlocked(Ok(()))
            | Completion::TurnPassed(Ok(()))
            | Completion::Notified(Ok(())) => {}
            Completion::Notified(Err(failure)) => {
                tracing::debug!(%failure, namespace = %self.name, "a notification was not sent");
            }
            Completion::DataVersion(Ok(counter)) => {
                if self.poll_schedule.has_changed(counter) {
                    self.timers.set(Timer::Poll, now.monotonic);
                }
            }
            Completion::TaskDone(result) => self.on_task_done(result, now),
            Completion::Adopted(Err(failure)) | Completion::Created(Err(failure)) => {
                self.on_failure(failure, Writes::Yes, now);
            }
            Completion::Read(Err(failure))
            | Completion::ReadLocked(Err(failure))
            | Completion::Unlocked(Err(failure))
            | Completion::TurnPassed(Err(failure))
            | Completion::Withdrawn(Err(failure))
            | Completion::VersionRead(Err(failure))
            | Completion::DataVersion(Err(failure)) => self.on_failure(failure, Writes::No, now),
        }
    }

    fn on_turn_taken(&mut self, result: Result<Turn, Failure>, sent: Now, now: Now) {
        let Turn { row, outcome } = match result {
            Ok(turn) => turn,
            Err(failure) if failure.is_permanent() && !failure.is_final() => {
                tracing::debug!(%failure, "no turn can be taken");
                self.write_schedule.on_turns_refused();
                return self.row.forget();
            }
            Err(failure) if failure.kind == Kind::Content => {
                tracing::debug!(%failure, "a submission cannot be stored");
                self.write_schedule.leave_turns();
                self.replan = true;
                return;
            }
            Err(failure) => {
                self.write_schedule.on_turn_failed();
                return self.on_failure(failure, Writes::No, now);
            }
        };
        let version = row.as_ref().map(|row| row.version.clone());
        let came = outcome != TurnOutcome::Missed;
        match outcome {
            TurnOutcome::Held { others, claimed } => {
                let may_have = self.combining.on_held(&others, claimed, &self.config);
                self.grants.on_submission_settled(may_have);
            }
            TurnOutcome::Served => {
                self.combining.on_served();
                self.grants.on_submission_settled(true);
            }
            TurnOutcome::Missed => self.write_schedule.on_turn_missed(version.as_ref()),
        }
        self.on_row(row, sent, now);
        let known = self.row.known();
        let others = known.map_or(0, |cached| self.others_in(&cached.table));
        if came && self.write_schedule.on_turn(version.as_ref(), others) {
            self.combining.on_company();
        }
    }

    /// How many sessions of other processes hold locks.
    pub(super) fn others_in(&self, table: &LockTable) -> usize {
        let ours = &self.sessions;
        table
            .holding_sessions()
            .filter(|id| !ours.contains(id))
            .count()
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

    pub(super) fn on_row(&mut self, row: Option<LocksRow>, sent: Now, now: Now) {
        self.write_schedule.on_read(&mut self.timers);
        let Some(row) = row else {
            self.row.on_missing(now.monotonic);
            self.lose_all("the locks row was deleted, as the original's releaseAll does");
            return;
        };
        match self.row.on_read(row, &self.name, sent.monotonic) {
            Read::Known { doubtful } => {
                if let Some(doubtful) = doubtful {
                    let doubtful = doubtful.into_iter();
                    let (ours, others): (Vec<_>, Vec<_>) =
                        doubtful.partition(|id| self.sessions.contains(id));
                    self.doubtful.extend(ours);
                    self.suspects.extend(others);
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
}
