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
    max_hold: Option<Duration>,
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

    /// How long its locks may be held.
    pub(super) fn max_hold(&self) -> Option<Duration> {
        self.max_hold
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
            max_hold: new.max_hold,
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

    /// How many queued requests block the request that the fewest block; at most twenty, which
    /// are as many as are reported.
    pub(super) fn ahead(&self) -> usize {
        let blocked = self.0.values().filter(|p| !p.cancelled && p.is_blocked());
        let is_request = |blocker: &&Blocker| matches!(blocker, Blocker::Waiter(_));
        let ahead = blocked.map(|p| p.blocked_by.iter().filter(is_request).count());
        ahead.min().unwrap_or(0)
    }

    /// The sessions of the locks that block requests.
    pub(super) fn blocking_sessions(&self) -> BTreeSet<&str> {
        let blockers = self.0.values().flat_map(|p| &p.blocked_by);
        blockers.filter_map(Blocker::session).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        name::LockName,
        protocol::{config::tests::config, time::tests::at},
        scope::ScopePath,
        store::NewSession,
    };

    const NOWAIT: WaitPolicy = WaitPolicy::NoWait;
    const FOREVER: WaitPolicy = WaitPolicy::Wait { timeout: None };
    const SECOND: WaitPolicy = WaitPolicy::Wait {
        timeout: Some(Duration::from_secs(1)),
    };

    fn ms(millis: u64) -> Time {
        at(millis).monotonic
    }

    fn blocker() -> Vec<Blocker> {
        let task_id = "other".into();
        vec![Blocker::Matrix { task_id }]
    }

    impl Requests {
        fn ask(&mut self, nonce: u64, task: &str, policy: WaitPolicy, now: Now) {
            let new = AcquireRequest {
                nonce: Nonce(nonce),
                task: task.into(),
                names: [LockName::found("x".into())].into(),
                path: ScopePath::default(),
                policy,
                max_hold: None,
            };
            self.add(new, &config(), &OwnSessions::default(), now);
        }

        fn block(&mut self, nonce: u64) {
            assert!(self.on_blocked(Nonce(nonce), blocker(), None).is_some());
        }

        fn overdue_nonces(&self, database_fails: bool, now: Time) -> Vec<u64> {
            let overdue = self.overdue(database_fails, now).into_iter();
            overdue.map(|overdue| overdue.nonce.0).collect()
        }
    }

    fn open(sessions: &mut OwnSessions, id: &str, task: &str, ttl: Option<Duration>) -> SessionId {
        let new = NewSession {
            id: SessionId(id.into()),
            namespace: "n".into(),
            task: task.into(),
            process: config().process,
            ttl,
        };
        sessions.add(new, at(0));
        SessionId(id.into())
    }

    #[test]
    fn a_request_that_does_not_wait_has_ten_seconds() {
        let mut requests = Requests::default();
        requests.ask(1, "a", NOWAIT, at(5));
        assert_eq!(requests.next_deadline(false), Some(ms(10_005)));
        assert!(requests.overdue_nonces(false, ms(10_004)).is_empty());
        assert_eq!(requests.overdue_nonces(false, ms(10_005)), [1]);
    }

    #[test]
    fn a_time_out_waits_another_second_for_the_first_answer_of_a_database_without_errors() {
        let mut requests = Requests::default();
        requests.ask(1, "a", SECOND, at(5));
        assert_eq!(requests.next_deadline(false), Some(ms(2_005)));
        assert_eq!(requests.next_deadline(true), Some(ms(1_005)));
        let overdue = requests.overdue(false, ms(2_005));
        assert_eq!(overdue[0].waited, None, "it was not seen blocked");
        requests.block(1);
        assert_eq!(requests.next_deadline(false), Some(ms(1_005)));
        let overdue = requests.overdue(false, ms(1_006));
        assert_eq!(overdue[0].waited, Some(Duration::from_millis(1_001)));
        assert_eq!(overdue[0].policy, SECOND);
        let overdue = requests.overdue(true, ms(1_006));
        assert_eq!(overdue[0].waited, None, "it may be free by now");
    }

    #[test]
    fn requests_without_time_out_and_cancelled_ones_are_never_overdue() {
        let mut requests = Requests::default();
        requests.ask(1, "a", FOREVER, at(5));
        requests.ask(2, "a", NOWAIT, at(5));
        assert!(requests.cancel(Nonce(2)));
        assert_eq!(requests.next_deadline(true), None);
        assert!(requests.overdue_nonces(true, ms(1_000_000)).is_empty());
    }

    #[test]
    fn a_request_is_cancelled_once() {
        let mut requests = Requests::default();
        requests.ask(1, "a", FOREVER, at(5));
        requests.ask(2, "b", FOREVER, at(7));
        requests.block(1);
        assert!(requests.any_blocked() && requests.any_without_session());
        assert_eq!(requests.latest(), Some(ms(7)));
        assert!(!requests.cancel(Nonce(3)));
        assert!(requests.cancel(Nonce(2)) && !requests.cancel(Nonce(2)));
        assert_eq!(requests.latest(), Some(ms(5)));
        assert!(requests.cancel(Nonce(1)));
        assert!(!requests.any_blocked() && !requests.any_without_session());
        assert_eq!(requests.latest(), None);
        let cancelled = requests
            .get(Nonce(1))
            .expect("its entry is still in the row");
        assert!(cancelled.is_cancelled() && !cancelled.is_ready());
    }

    #[test]
    fn requests_of_which_the_row_has_nothing_are_forgotten_when_all_are_cancelled() {
        for keep_all in [false, true] {
            let mut requests = Requests::default();
            for nonce in 1..=3 {
                requests.ask(nonce, "a", FOREVER, at(5));
            }
            requests.on_enqueued(Nonce(1), SessionId("s".into()), 70);
            requests.cancel(Nonce(2));
            assert_eq!(requests.cancel_all(keep_all), [Nonce(1), Nonce(3)]);
            assert!(requests.contains(Nonce(1)));
            assert_eq!(requests.contains(Nonce(3)), keep_all);
            assert!(!requests.is_empty());
            assert!(requests.remove(Nonce(1)).is_some_and(|r| r.is_cancelled()));
        }
    }

    #[test]
    fn a_request_keeps_its_first_position_in_the_queue() {
        let mut requests = Requests::default();
        requests.ask(1, "a", FOREVER, at(5));
        for (session, version) in [("s", 70), ("t", 80)] {
            requests.on_enqueued(Nonce(1), SessionId(session.into()), version);
        }
        let pending = requests.get(Nonce(1)).expect("it is there");
        assert_eq!(pending.ticket(), Some(70));
        assert_eq!(pending.queued_as(), Some(&SessionId("t".into())));
        assert!(pending.sessions().any(|id| id == SessionId("t".into())));
    }

    #[test]
    fn only_a_row_that_was_read_after_a_request_shows_that_it_is_blocked() {
        let mut requests = Requests::default();
        requests.ask(1, "a", FOREVER, at(5));
        let nonce = Nonce(1);
        assert!(requests.on_blocked(nonce, blocker(), Some(ms(4))).is_none());
        assert!(!requests.any_blocked() && requests.blocked_by(nonce).is_empty());
        assert!(requests.on_blocked(nonce, blocker(), Some(ms(5))).is_some());
        assert!(requests.any_blocked());
        assert_eq!(requests.blocked_by(nonce), blocker());
        assert!(requests.blocked_by(Nonce(2)).is_empty());
    }

    #[test]
    fn requests_are_found_by_their_task() {
        let mut requests = Requests::default();
        for (nonce, task) in [(1, "a"), (2, "b"), (3, "a")] {
            requests.ask(nonce, task, FOREVER, at(5));
        }
        let of_a: Vec<_> = requests.of_task("a").collect();
        assert_eq!(of_a, [Nonce(1), Nonce(3)]);
        assert_eq!(requests.tasks(), BTreeSet::from(["a".into(), "b".into()]));
    }

    #[test]
    fn a_request_is_ready_when_its_session_is_open_and_does_not_end_soon() {
        let mut requests = Requests::default();
        let mut sessions = OwnSessions::default();
        requests.ask(1, "a", FOREVER, at(0));
        requests.ask(2, "b", FOREVER, at(0));
        requests.cancel(Nonce(2));
        let key = ("a".into(), Kind::Expiring);
        let missing = requests.assign_sessions(&sessions, &config(), at(0));
        assert_eq!(missing, BTreeSet::from([key]));
        assert!(!requests.any_ready());
        let s = open(&mut sessions, "s", "a", config().ttl);
        for (now, ready) in [(0, true), (8_999, true), (9_000, false)] {
            let missing = requests.assign_sessions(&sessions, &config(), at(now));
            assert!(missing.is_empty(), "it is renewed and not replaced");
            assert_eq!(requests.any_ready(), ready, "{now}");
            let pending = requests.get(Nonce(1)).expect("it is there");
            assert_eq!(
                (pending.id(), pending.queue_session()),
                ((s.clone(), Nonce(1)), &s)
            );
        }
    }

    #[test]
    fn a_request_for_permanent_locks_waits_under_a_session_that_expires() {
        let mut config = config();
        config.ttl = None;
        let mut requests = Requests::default();
        let mut sessions = OwnSessions::default();
        requests.ask(1, "a", FOREVER, at(0));
        requests.ask(2, "b", NOWAIT, at(0));
        let holds_a = open(&mut sessions, "p", "a", None);
        open(&mut sessions, "q", "b", None);
        let missing = requests.assign_sessions(&sessions, &config, at(0));
        assert_eq!(missing, BTreeSet::from([("a".into(), Kind::Expiring)]));
        assert!(requests.get(Nonce(2)).is_some_and(PendingRequest::is_ready));
        assert!(!requests.get(Nonce(1)).is_some_and(PendingRequest::is_ready));
        let waits = open(&mut sessions, "s", "a", Some(config.session_ttl()));
        assert!(
            requests
                .assign_sessions(&sessions, &config, at(0))
                .is_empty()
        );
        let pending = requests.get(Nonce(1)).expect("it is there");
        assert!(pending.is_ready());
        assert_eq!((pending.id().0, pending.queue_session()), (holds_a, &waits));
    }

    #[test]
    fn the_error_says_whether_other_processes_were_in_the_way() {
        assert!(no_answer(true).to_string().contains("other processes"));
        assert!(no_answer(false).to_string().contains("not answered"));
    }
}
