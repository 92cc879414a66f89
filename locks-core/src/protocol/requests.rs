//! Requests for locks that are not decided yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    call::{AcquireRequest, WaitPolicy},
    config::Config,
    sessions::{Kind, OwnSessions, SessionKey},
    time::{Now, Time},
};
use crate::{
    error::LockError,
    report::Blocker,
    table::{Nonce, Request, RequestId, SessionId},
};

/// How long a request that does not wait may take, and how long a call waits for a
/// database that reports errors.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How much longer than its time-out a request waits for the first answer of the database.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// A request that is not decided yet.
#[derive(Clone, Debug)]
pub(super) struct PendingRequest {
    /// What is requested, under the session that will hold it.
    request: Request,
    /// The session that waits. It always expires, while the one that holds may not.
    queue_session: SessionId,
    /// Whether both sessions are open.
    ready: bool,
    /// The session of its queue entry, if the row was seen with one.
    queued_as: Option<SessionId>,
    /// Its position in the queue, kept when it has to queue again.
    ticket: Option<i64>,
    policy: WaitPolicy,
    since: Time,
    /// What blocked it when it was first seen blocked.
    blocked_by: Vec<Blocker>,
    /// The caller has its answer or is gone. What the row has of the request is removed.
    cancelled: bool,
}

impl PendingRequest {
    pub(super) fn request(&self) -> &Request {
        &self.request
    }

    pub(super) fn queue_session(&self) -> &SessionId {
        &self.queue_session
    }

    pub(super) fn queued_as(&self) -> Option<&SessionId> {
        self.queued_as.as_ref()
    }

    pub(super) fn ticket(&self) -> Option<i64> {
        self.ticket
    }

    pub(super) fn policy(&self) -> WaitPolicy {
        self.policy
    }

    pub(super) fn since(&self) -> Time {
        self.since
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Whether it was seen blocked.
    pub(super) fn is_blocked(&self) -> bool {
        !self.blocked_by.is_empty()
    }

    /// Whether a plan may decide it.
    pub(super) fn is_ready(&self) -> bool {
        self.ready && !self.cancelled
    }

    /// How its grant is known in the row.
    pub(super) fn id(&self) -> RequestId {
        (self.request.session.clone(), self.request.nonce)
    }

    /// Every session under which the row may know the request.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        let now = [self.request.session.clone(), self.queue_session.clone()];
        now.into_iter().chain(self.queued_as.clone())
    }

    /// When the request has to be looked at because of its time limit.
    fn deadline(&self, database_fails: bool) -> Option<Time> {
        match self.policy {
            WaitPolicy::NoWait => Some(self.since + PATIENCE),
            WaitPolicy::Wait { timeout: None } => None,
            WaitPolicy::Wait {
                timeout: Some(timeout),
            } if self.is_blocked() || database_fails => Some(self.since + timeout),
            WaitPolicy::Wait {
                timeout: Some(timeout),
            } => Some(self.since + timeout + FIRST_ANSWER),
        }
    }
}

/// A request whose time is over, and what it waited for.
#[derive(Debug)]
pub(super) struct Overdue {
    pub(super) nonce: Nonce,
    /// How long a request waited that was blocked all the time; `None`: the database did
    /// not answer.
    pub(super) waited: Option<Duration>,
    pub(super) policy: WaitPolicy,
}

/// The requests that are not decided yet, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Requests(BTreeMap<Nonce, PendingRequest>);

impl Requests {
    pub(super) fn add(
        &mut self,
        new: AcquireRequest,
        config: &Config,
        sessions: &OwnSessions,
        now: Now,
    ) {
        let request = Request {
            session: sessions.id_of(&new.task, Kind::holding(config)),
            nonce: new.nonce,
            task: new.task.clone(),
            names: new.names,
            matrix: config.matrix,
            path: new.path,
            since: now.wall,
        };
        let pending = PendingRequest {
            request,
            queue_session: sessions.id_of(&new.task, Kind::Expiring),
            ready: false,
            queued_as: None,
            ticket: None,
            policy: new.policy,
            since: now.monotonic,
            blocked_by: Vec::new(),
            cancelled: false,
        };
        self.0.insert(new.nonce, pending);
    }

    pub(super) fn get(&self, nonce: Nonce) -> Option<&PendingRequest> {
        self.0.get(&nonce)
    }

    pub(super) fn contains(&self, nonce: Nonce) -> bool {
        self.0.contains_key(&nonce)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Nonce, &PendingRequest)> {
        self.0.iter()
    }

    pub(super) fn remove(&mut self, nonce: Nonce) -> Option<PendingRequest> {
        self.0.remove(&nonce)
    }

    /// Marks a request as cancelled, and says whether it was not before.
    pub(super) fn cancel(&mut self, nonce: Nonce) -> bool {
        let pending = self.0.get_mut(&nonce);
        pending.is_some_and(|pending| !std::mem::replace(&mut pending.cancelled, true))
    }

    /// Cancels all requests and returns those that were not cancelled before. Requests
    /// of which the row has nothing are removed, unless `keep_all` is set.
    pub(super) fn cancel_all(&mut self, keep_all: bool) -> Vec<Nonce> {
        let cancelled = self.0.iter_mut().filter(|(_, pending)| !pending.cancelled);
        let cancelled = cancelled.map(|(nonce, pending)| {
            pending.cancelled = true;
            *nonce
        });
        let cancelled = cancelled.collect();
        self.0
            .retain(|_, pending| keep_all || pending.queued_as.is_some());
        cancelled
    }

    /// Whether a request is seen blocked and waits.
    pub(super) fn any_blocked(&self) -> bool {
        self.0.values().any(|p| !p.cancelled && p.is_blocked())
    }

    /// Whether a plan may decide a request.
    pub(super) fn any_ready(&self) -> bool {
        self.0.values().any(PendingRequest::is_ready)
    }

    /// Whether a request waits for its sessions.
    pub(super) fn any_without_session(&self) -> bool {
        self.0.values().any(|p| !p.cancelled && !p.ready)
    }

    /// When the request that came last was made.
    pub(super) fn latest(&self) -> Option<Time> {
        let waiting = self.0.values().filter(|pending| !pending.cancelled);
        waiting.map(|pending| pending.since).max()
    }

    /// The requests of a task.
    pub(super) fn of_task(&self, task: &str) -> impl Iterator<Item = Nonce> {
        let of = self.0.iter().filter(move |(_, p)| *p.request.task == *task);
        of.map(|(nonce, _)| *nonce)
    }

    /// The tasks that have a request.
    pub(super) fn tasks(&self) -> BTreeSet<std::sync::Arc<str>> {
        let tasks = self.0.values().map(|pending| pending.request.task.clone());
        tasks.collect()
    }

    /// Gives each request the sessions that are open for it, and returns the sessions
    /// that are missing.
    pub(super) fn assign_sessions(
        &mut self,
        sessions: &OwnSessions,
        config: &Config,
        now: Now,
    ) -> BTreeSet<SessionKey> {
        let mut missing = BTreeSet::new();
        for pending in self.0.values_mut().filter(|pending| !pending.cancelled) {
            let waits = matches!(pending.policy, WaitPolicy::Wait { .. });
            let mut open = |kind| {
                let key = (pending.request.task.clone(), kind);
                let id = sessions.living(&key, now);
                if id.is_none() {
                    missing.insert(key);
                    return None;
                }
                let soon = sessions.ends_soon(&key, config.session_ttl(), now);
                id.filter(|_| !soon)
            };
            let hold = open(Kind::holding(config));
            let queue = if waits {
                open(Kind::Expiring)
            } else {
                hold.clone()
            };
            pending.ready = hold.is_some() && queue.is_some();
            if let Some(id) = hold {
                pending.request.session = id;
            }
            if let Some(id) = queue.filter(|_| waits) {
                pending.queue_session = id;
            }
        }
        missing
    }

    /// The row has a queue entry of the request.
    pub(super) fn on_enqueued(&mut self, nonce: Nonce, session: SessionId, version: i64) {
        if let Some(pending) = self.0.get_mut(&nonce) {
            pending.queued_as = Some(session);
            pending.ticket.get_or_insert(version);
        }
    }

    /// A request was found blocked. Where that was not written, only a row that was read
    /// after the request came (`proven`) shows it. Returns the request if it counts.
    pub(super) fn on_blocked(
        &mut self,
        nonce: Nonce,
        blockers: Vec<Blocker>,
        proven: Option<Time>,
    ) -> Option<&PendingRequest> {
        let pending = self.0.get_mut(&nonce)?;
        if proven.is_some_and(|proven| proven < pending.since) {
            return None;
        }
        pending.blocked_by = blockers;
        Some(pending)
    }

    pub(super) fn blocked_by(&self, nonce: Nonce) -> &[Blocker] {
        self.0.get(&nonce).map_or(&[], |p| &p.blocked_by)
    }

    /// The requests whose time is over.
    pub(super) fn overdue(&self, database_fails: bool, now: Time) -> Vec<Overdue> {
        let pending = self.0.iter().filter(|(_, pending)| !pending.cancelled);
        let overdue = pending.filter_map(|(nonce, pending)| {
            let deadline = pending.deadline(database_fails)?;
            let answers = pending.is_blocked() && !database_fails;
            (deadline <= now).then(|| Overdue {
                nonce: *nonce,
                waited: answers.then(|| now - pending.since),
                policy: pending.policy,
            })
        });
        overdue.collect()
    }

    /// When the first request has to be looked at because of its time limit.
    pub(super) fn next_deadline(&self, database_fails: bool) -> Option<Time> {
        let pending = self.0.values().filter(|pending| !pending.cancelled);
        pending
            .filter_map(|pending| pending.deadline(database_fails))
            .min()
    }
}

/// The error of a request that the database never answered.
pub(super) fn no_answer(contended: bool) -> LockError {
    LockError::no_answer(if contended {
        "other processes wrote to the locks row first at every attempt"
    } else {
        "the database has not answered yet"
    })
}
