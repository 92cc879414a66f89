//! The end of a driver: what is pending is released, then our sessions are deleted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    job::PIECE,
    namespace::{Namespace, PATIENCE},
    request::Reply,
    run::Driving,
    session::Keeper,
    side_job::SideJob,
};
use crate::{error::LockError, table::SessionId};

/// When to try again to delete our own sessions.
const LEAVE_AGAIN: Duration = Duration::from_millis(50);

/// The driver is to end once nothing is pending, or at this moment.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) deadline: Instant,
    pub(super) replies: Vec<Reply<()>>,
    leaving: Leaving,
    /// When those that are left are tried again.
    again_at: Instant,
}

/// Deleting our own sessions, as the last thing.
#[derive(Debug, PartialEq)]
enum Leaving {
    NotYet,
    /// So many deletions are under way; these sessions are left to try again.
    Now(usize, Vec<(Arc<str>, Vec<SessionId>)>),
    Done,
}

impl Ending {
    /// Some sessions of a namespace were deleted, but for these.
    pub(super) fn left(&mut self, name: &Arc<str>, ids: &[SessionId], now: Instant) {
        if let Leaving::Now(under_way, again) = &mut self.leaving {
            *under_way = under_way.saturating_sub(1);
            self.again_at = now + LEAVE_AGAIN;
            if !ids.is_empty() {
                again.push((name.clone(), ids.to_vec()));
            }
        }
    }

    /// When something is due.
    pub(super) fn due(&self) -> Instant {
        match &self.leaving {
            Leaving::Now(0, again) if !again.is_empty() => self.again_at.min(self.deadline),
            _ => self.deadline,
        }
    }
}

impl Driving {
    pub(super) fn begin_end(&mut self, reply: Option<Reply<()>>, now: Instant) {
        self.ending = Some(Ending {
            deadline: now + PATIENCE,
            replies: reply.into_iter().collect(),
            leaving: Leaving::NotYet,
            again_at: now,
        });
    }

    /// Without handles the driver goes on for detached locks only.
    pub(super) fn end_without_handles(&mut self, now: Instant) {
        let namespaces = || self.namespaces.values();
        if namespaces().all(Namespace::is_settled) {
            self.flushed.tell();
        }
        let detached = |n: &Namespace| n.held.values().any(|h| h.keeper == Keeper::Detached);
        if self.ending.is_none() && !namespaces().any(detached) {
            self.begin_end(None, now);
        }
    }

    /// Whether the end has come: nothing is pending, and our sessions are gone.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        let Some(ending) = &mut self.ending else {
            return false;
        };
        if now >= ending.deadline {
            return true;
        }
        if !self.namespaces.values().all(Namespace::is_settled) {
            return false;
        }
        let again = match &mut ending.leaving {
            Leaving::Done => return true,
            Leaving::NotYet => {
                let leave = |(name, n): (&Arc<str>, &mut Namespace)| (name.clone(), n.leave());
                self.namespaces.iter_mut().map(leave).collect()
            }
            Leaving::Now(0, again) if again.is_empty() || now >= ending.again_at => {
                std::mem::take(again)
            }
            Leaving::Now(..) => return false,
        };
        let pieces = again.iter().flat_map(|(name, ids)| {
            let pieces = ids.chunks(PIECE);
            pieces.map(|piece| (name.clone(), SideJob::Leave(piece.to_vec())))
        });
        let before = self.side_queue.len();
        self.side_queue.extend(pieces);
        let under_way = self.side_queue.len() - before;
        ending.leaving = if under_way == 0 {
            Leaving::Done
        } else {
            Leaving::Now(under_way, Vec::new())
        };
        self.start_side_jobs();
        self.ending
            .as_ref()
            .is_some_and(|ending| ending.leaving == Leaving::Done)
    }

    /// Closes the connections, and tells the callers of `close` what is left.
    pub(super) async fn end(mut self) {
        let pending = self.namespaces.values().any(|n| !n.is_settled());
        let trouble = self.namespaces.values().find_map(|n| n.trouble.clone());
        let ending = self.ending.take();
        let left = ending.as_ref().is_some_and(|e| e.leaving != Leaving::Done);
        let result = if pending || left {
            let names = self.namespaces.values().flat_map(Namespace::pending_names);
            let names: Vec<_> = names.map(|name| name.as_str().to_owned()).collect();
            Err(unfinished(&names, trouble.as_ref()))
        } else {
            Ok(())
        };
        let side = self.side.drain(..).map(|(link, _)| link);
        // What is under way may wait for other transactions; its connections are dropped.
        for mut link in self.link.take().into_iter().chain(side) {
            link.close().await;
        }
        self.renewals.close().await;
        for reply in ending.into_iter().flat_map(|ending| ending.replies) {
            drop(reply.send(result.clone()));
        }
    }
}

/// What `close` says when its time is over.
fn unfinished(names: &[String], trouble: Option<&LockError>) -> LockError {
    let mut text = "the manager is closed".to_owned();
    if names.is_empty() {
        text += " and its locks are released, but sessions of this process could not be deleted \
                 within 10 s; they expire";
    } else {
        let names = names.join(", ");
        text += ", and these locks could not be released within 10 s: ";
        text += &names;
        text += "; a transaction that is fenced with one of them may still be open; they are \
                 released when their session expires, after that transaction has ended";
    }
    if let Some(trouble) = trouble {
        text += "; the last error was: ";
        text += &trouble.to_string();
    }
    let error = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
    LockError::Database {
        source: Arc::new(sqlx::Error::Io(error)),
        transient: true,
    }
}
