//! The end of a driver: what is pending is released, then its sessions are deleted.

use std::time::Duration;

use super::{
    call::CallId,
    config::{CHUNK, Name},
    requests::PATIENCE,
    task::Task,
    time::Time,
};
use crate::{error::LockError, table::SessionId};

/// The pause after sessions could not be deleted.
const RETRY: Duration = Duration::from_millis(50);

/// How far the deletion of the driver's sessions is.
#[derive(Debug, PartialEq)]
enum Deletion {
    /// It begins when nothing is pending.
    NotStarted,
    /// So many tasks are under way. These sessions are left, to be deleted again then.
    Running {
        tasks: usize,
        left: Vec<(Name, Vec<SessionId>)>,
        again: Time,
    },
    Done,
}

/// The end of a driver.
#[derive(Debug)]
pub(super) struct Shutdown {
    /// The driver ends then, whatever is left.
    deadline: Time,
    /// The calls that wait for the end.
    calls: Vec<CallId>,
    deletion: Deletion,
}

impl Shutdown {
    pub(super) fn new(call: Option<CallId>, now: Time) -> Self {
        Self {
            deadline: now + PATIENCE,
            calls: call.into_iter().collect(),
            deletion: Deletion::NotStarted,
        }
    }

    /// Whether callers were told that the driver ends.
    pub(super) fn is_closed(&self) -> bool {
        !self.calls.is_empty()
    }

    pub(super) fn add_call(&mut self, call: CallId) {
        self.calls.push(call);
    }

    pub(super) fn into_calls(self) -> Vec<CallId> {
        self.calls
    }

    /// When something is due.
    pub(super) fn poll_timeout(&self) -> Time {
        match &self.deletion {
            Deletion::Running {
                tasks: 0, again, ..
            } => self.deadline.min(*again),
            _ => self.deadline,
        }
    }

    pub(super) fn is_over(&self, now: Time) -> bool {
        self.deletion == Deletion::Done || self.deadline <= now
    }

    /// Whether all sessions of the driver are deleted.
    pub(super) fn has_deleted_sessions(&self) -> bool {
        self.deletion == Deletion::Done
    }

    /// Whether the sessions have to be taken from the namespaces, once nothing is pending.
    pub(super) fn needs_sessions(&self) -> bool {
        self.deletion == Deletion::NotStarted
    }

    /// Begins to delete these sessions.
    pub(super) fn start_deletion(&mut self, sessions: Vec<(Name, Vec<SessionId>)>, now: Time) {
        self.deletion = Deletion::Running {
            tasks: 0,
            left: sessions,
            again: now,
        };
    }

    /// The tasks to run now.
    pub(super) fn poll_tasks(&mut self, now: Time) -> Vec<(Name, Task)> {
        let Deletion::Running { tasks, left, again } = &mut self.deletion else {
            return Vec::new();
        };
        if *tasks > 0 || now < *again {
            return Vec::new();
        }
        let chunks = left.iter().flat_map(|(name, ids)| {
            let chunks = ids.chunks(CHUNK);
            chunks.map(|ids| (name.clone(), Task::DeleteOwnSessions(ids.to_vec())))
        });
        let next: Vec<_> = chunks.collect();
        left.clear();
        *tasks = next.len();
        if next.is_empty() {
            self.deletion = Deletion::Done;
        }
        next
    }

    /// Sessions were deleted, or have to be deleted again.
    pub(super) fn on_deleted(
        &mut self,
        name: &Name,
        sessions: Vec<SessionId>,
        failed: bool,
        now: Time,
    ) {
        if let Deletion::Running { tasks, left, again } = &mut self.deletion {
            *tasks = tasks.saturating_sub(1);
            if failed {
                left.push((name.clone(), sessions));
                *again = now + RETRY;
            }
        }
    }
}

/// The error of a shutdown that did not get everything done.
pub(super) fn unfinished(names: &[String], last_error: Option<&LockError>) -> LockError {
    let mut text = "the manager is closed".to_owned();
    if names.is_empty() {
        text += " and its locks are released, but sessions of this process could not be deleted \
                 within 10 s; they expire";
    } else {
        text += ", and these locks could not be released within 10 s: ";
        text += &names.join(", ");
        text += "; a transaction that is fenced with one of them may still be open; they are \
                 released when their session expires, after that transaction has ended";
    }
    if let Some(error) = last_error {
        text += "; the last error was: ";
        text += &error.to_string();
    }
    LockError::no_answer(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::new(Duration::from_millis(millis))
    }

    fn sessions(number: usize) -> Vec<SessionId> {
        let id = |number| SessionId(format!("n/{number}").into());
        (0..number).map(id).collect()
    }

    #[test]
    fn sessions_are_deleted_in_chunks_until_none_is_left() {
        let name = Name::from("n");
        let mut shutdown = Shutdown::new(None, at(0));
        assert!(shutdown.needs_sessions() && !shutdown.is_closed());
        assert!(shutdown.poll_tasks(at(0)).is_empty());
        assert_eq!(shutdown.poll_timeout(), at(10_000));
        shutdown.start_deletion(vec![(name.clone(), sessions(CHUNK + 1))], at(1));
        assert_eq!(shutdown.poll_timeout(), at(1));
        let tasks = shutdown.poll_tasks(at(1));
        assert_eq!(tasks.len(), 2);
        assert_eq!(
            tasks[1].1,
            Task::DeleteOwnSessions(sessions(CHUNK + 1)[CHUNK..].to_vec())
        );
        assert!(shutdown.poll_tasks(at(1)).is_empty(), "they are under way");
        assert_eq!(shutdown.poll_timeout(), at(10_000));
        shutdown.on_deleted(&name, sessions(1), true, at(100));
        assert!(shutdown.poll_tasks(at(200)).is_empty(), "one is under way");
        shutdown.on_deleted(&name, sessions(1), false, at(100));
        assert_eq!(shutdown.poll_timeout(), at(150));
        assert!(shutdown.poll_tasks(at(149)).is_empty());
        assert_eq!(shutdown.poll_tasks(at(150)).len(), 1);
        assert!(!shutdown.is_over(at(150)));
        shutdown.on_deleted(&name, sessions(1), false, at(160));
        assert!(shutdown.poll_tasks(at(160)).is_empty());
        assert!(shutdown.is_over(at(160)) && shutdown.has_deleted_sessions());
    }

    #[test]
    fn a_shutdown_ends_at_its_deadline() {
        let mut shutdown = Shutdown::new(Some(CallId(1)), at(0));
        shutdown.add_call(CallId(2));
        assert!(shutdown.is_closed());
        assert!(!shutdown.is_over(at(9_999)));
        assert!(shutdown.is_over(at(10_000)) && !shutdown.has_deleted_sessions());
        assert_eq!(shutdown.into_calls(), [CallId(1), CallId(2)]);
    }

    #[test]
    fn the_error_says_what_is_left() {
        let text = unfinished(&[], None).to_string();
        assert!(text.contains("sessions of this process"), "{text}");
        let text = unfinished(&["a".into(), "b".into()], Some(&LockError::Closed)).to_string();
        assert!(
            text.contains(": a, b;") && text.contains("the last error was: "),
            "{text}"
        );
    }
}
