//! The answers to inspections: what the row says, and what the rows of sessions add to it.

use std::{collections::BTreeMap, sync::Arc};

use super::Namespace;
use crate::{
    error::LockError,
    protocol::{
        call::{Answer, CallId, Inspection},
        config::Config,
        task::Task,
        time::Now,
    },
    report::{Blocker, Holder, Snapshot, Waiter},
    store::{Failure, LocksRow, RowVersion, SessionRow},
    table::LockTable,
};

impl Namespace {
    /// Answers calls from a row of this version.
    pub(super) fn answer_inspections(
        &mut self,
        calls: Vec<CallId>,
        table: &LockTable,
        version: Option<&RowVersion>,
        now: Now,
    ) {
        for call in calls {
            let Some(what) = self.admin.inspection(call) else {
                continue;
            };
            if let Some(report) = report(what, table, version, &self.config) {
                if has_sessions(&report) {
                    self.admin.on_report(call, report);
                    self.over_rows.push_back(Task::ReadSessions(call));
                } else {
                    self.admin.take_inspection(call);
                    self.answer(call, report);
                }
                continue;
            }
            let answer = match self.admin.take_inspection(call) {
                Some(Inspection::ReleaseName(task, name)) => {
                    match self.release_name(table, &task, &name, call, now) {
                        Some(error) => Answer::Failed(error),
                        None => continue,
                    }
                }
                _ => Answer::Done,
            };
            self.answer(call, answer);
        }
    }

    /// The rows of sessions were read for a call.
    pub(super) fn on_sessions_read(
        &mut self,
        call: CallId,
        result: Result<Vec<SessionRow>, Failure>,
        now: Now,
    ) {
        match result {
            Ok(sessions) => {
                if let Some(mut report) = self.admin.take_report(call) {
                    describe(&mut report, &sessions);
                    self.answer(call, report);
                }
            }
            Err(failure) => self.ask_again(call, Task::ReadSessions(call), failure, now),
        }
    }

    /// Reads the row on a side connection for calls that a write must not delay.
    pub(super) fn look_aside(&mut self, now: Now) {
        let fails = self.failure_logged.is_some();
        for call in self.admin.go_aside(fails, now.monotonic) {
            self.task(Task::ReadRow(call));
        }
    }

    /// The row and the rows of sessions were read on a side connection.
    pub(super) fn on_row_read_aside(
        &mut self,
        call: CallId,
        result: Result<(Option<LocksRow>, Vec<SessionRow>), Failure>,
        now: Now,
    ) {
        let (row, sessions) = match result {
            Ok(read) => read,
            Err(failure) => return self.ask_again(call, Task::ReadRow(call), failure, now),
        };
        let Some(what) = self.admin.take_inspection(call) else {
            return;
        };
        let version = row.as_ref().map(|row| row.version.clone());
        // Without a row nothing is held.
        let table = row.map_or_else(
            || Ok(LockTable::default()),
            |row| LockTable::parse(row.data_json.as_deref(), row.meta_json.as_deref()),
        );
        let answer = match table {
            Ok(table) => {
                let report = report(&what, &table, version.as_ref(), &self.config);
                let mut report = report.unwrap_or(Answer::Done);
                describe(&mut report, &sessions);
                report
            }
            Err(unreadable) => Answer::Failed(LockError::schema(unreadable.to_string())),
        };
        self.answer(call, answer);
    }

    /// What was read for a call has failed.
    fn ask_again(&mut self, call: CallId, task: Task, failure: Failure, now: Now) {
        if self.admin.inspection(call).is_some() {
            self.retry(task, &failure, now);
            self.last_error.get_or_insert(failure.into());
        }
    }
}

/// What a row of this version says; `None` if the inspection is not about what it says.
fn report(
    what: &Inspection,
    table: &LockTable,
    version: Option<&RowVersion>,
    config: &Config,
) -> Option<Answer> {
    match what {
        Inspection::Held => Some(Answer::Holders(table.holders())),
        Inspection::Waiting => Some(Answer::Waiters(waiters(table, config))),
        Inspection::Snapshot(seen) if version.is_some() && version == seen.as_ref() => {
            Some(Answer::Unchanged)
        }
        Inspection::Snapshot(_) => {
            let snapshot = Snapshot {
                held: table.holders(),
                waiting: waiters(table, config),
            };
            Some(Answer::Snapshot(snapshot, version.cloned()))
        }
        Inspection::Confirm(..) | Inspection::ReleaseName(..) => None,
    }
}

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

/// Whether an answer names sessions, so that their rows say more.
fn has_sessions(report: &Answer) -> bool {
    match report {
        Answer::Holders(held) => held.iter().any(|holder| holder.session.is_some()),
        Answer::Waiters(waiting) => !waiting.is_empty(),
        Answer::Snapshot(snapshot, _) => {
            let Snapshot { held, waiting } = snapshot;
            !waiting.is_empty() || held.iter().any(|holder| holder.session.is_some())
        }
        _ => false,
    }
}

/// Adds the hosts and processes of sessions. A session without rows has ended since.
fn describe(report: &mut Answer, sessions: &[SessionRow]) {
    let sessions = Sessions(sessions.iter().map(|row| (&*row.id.0, row)).collect());
    match report {
        Answer::Holders(holders) => sessions.describe_holders(holders),
        Answer::Waiters(waiters) => sessions.describe_waiters(waiters),
        Answer::Snapshot(snapshot, _) => {
            sessions.describe_holders(&mut snapshot.held);
            sessions.describe_waiters(&mut snapshot.waiting);
        }
        _ => {}
    }
}

/// The heartbeat rows of sessions, by their ids.
struct Sessions<'a>(BTreeMap<&'a str, &'a SessionRow>);

impl Sessions<'_> {
    /// The host and the process of a session.
    fn place(&self, session: Option<&str>) -> (Option<Arc<str>>, Option<u32>) {
        let Some(row) = session.and_then(|session| self.0.get(session)) else {
            return (None, None);
        };
        let host = row.process.host_name.clone();
        (Some(host).filter(|name| !name.is_empty()), row.process.id())
    }

    fn describe_holders(&self, holders: &mut [Holder]) {
        for holder in holders {
            (holder.host, holder.process) = self.place(holder.session.as_deref());
        }
    }

    fn describe_waiters(&self, waiters: &mut [Waiter]) {
        for waiter in waiters {
            (waiter.host, waiter.process) = self.place(Some(&waiter.session));
            self.describe_blockers(&mut waiter.blocked_by);
        }
    }

    fn describe_blockers(&self, blockers: &mut [Blocker]) {
        for blocker in blockers {
            match blocker {
                Blocker::Holder(holder) => self.describe_holders(std::slice::from_mut(holder)),
                Blocker::Waiter(waiter) => self.describe_waiters(std::slice::from_mut(waiter)),
                Blocker::Limit { used_by, .. } => self.describe_blockers(used_by),
                Blocker::Matrix { .. } => {}
            }
        }
    }
}
