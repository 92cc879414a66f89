//! Flat combining: under contention one process writes for all that wait for their turn.
//!
//! A process submits what it wants to a row of its own, the request row, and takes its turn: a
//! session-level lock of the server, which is granted in order of arrival. The process that has the
//! turn reads the locks row, then claims what was submitted, plans for all, writes the locks row by
//! compare-and-set, and passes the turn. The turn sets the order and proves nothing.
//!
//! - A submission is claimed once, and the locks row is read before. So it takes effect at most
//!   once, and only if nothing was written since it was claimed.
//! - A process that had its turn knows that no other process writes for it any more. Before it
//!   writes without a turn, it withdraws what it has submitted.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{call::WaitPolicy, config::Config, grants::Grants, requests::Requests};
use crate::{
    matrix::Fingerprint,
    name::{LockName, Names},
    options::Fairness,
    store::Submission,
    table::{Nonce, Request, RequestId, SessionId},
};

/// How long a submission may be, in characters. A longer one is not made; the process takes its
/// turn without it.
const LONGEST: usize = 1000;
/// After this many turns in a row for which no other process had submitted anything, a process
/// takes no more turns.
const ALONE: u32 = 8;

/// The content of a submission.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    matrix: u64,
    barging: bool,
    requests: Vec<RequestContent>,
    /// Entries to remove: session, nonce, names.
    releases: Vec<(Arc<str>, u64, Vec<Arc<str>>)>,
}

/// A request in a submission.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RequestContent {
    session: Arc<str>,
    queue_session: Arc<str>,
    nonce: u64,
    task: Arc<str>,
    names: Vec<Arc<str>>,
    /// Those that are shared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    shared: Vec<Arc<str>>,
    path: Vec<u64>,
    waits: bool,
    since: i64,
    /// Its earlier position in the queue.
    ticket: Option<i64>,
}

/// A request of another process.
#[derive(Debug)]
pub(super) struct SubmittedRequest {
    pub(super) request: Request,
    pub(super) queue_session: SessionId,
    pub(super) waits: bool,
    pub(super) ticket: Option<i64>,
}

/// The content of another process that has the same matrix and fairness as this one.
#[derive(Debug)]
pub(super) struct Submitted {
    pub(super) driver: String,
    pub(super) number: i64,
    pub(super) requests: Vec<SubmittedRequest>,
    pub(super) releases: Vec<(RequestId, Vec<LockName>)>,
}

/// This process's part in combining.
#[derive(Debug, Default)]
pub(super) struct Combining {
    driver: String,
    number: i64,
    /// Other processes may still do what was submitted.
    outstanding: bool,
    /// Up to this number, it is known what became of each submission.
    settled: i64,
    turn: TurnState,
    /// Whether the row was read at a turn that was passed on.
    served: bool,
    /// Whether a write for others was rejected or refused since the last one that succeeded: then
    /// each process writes for itself until the request or the session at fault is found.
    rejected: bool,
    /// Turns in a row for which no other process had submitted anything.
    alone: u32,
}

/// What this process has of the turn.
#[derive(Debug, Default)]
enum TurnState {
    #[default]
    None,
    /// It has the turn and has not planned yet.
    Held(Vec<Submitted>),
    /// It has planned, and has to pass the turn on.
    Used { served: Vec<(String, i64)> },
}

impl Combining {
    pub(super) fn new(random: u64) -> Self {
        Self {
            driver: format!("{random:016x}"),
            ..Self::default()
        }
    }

    /// Whether the process has the turn.
    pub(super) fn has_turn(&self) -> bool {
        !matches!(self.turn, TurnState::None)
    }

    /// Whether the process has the turn and has not planned yet.
    pub(super) fn is_turn_unused(&self) -> bool {
        matches!(self.turn, TurnState::Held(_))
    }

    /// Whether other processes may still do what was submitted.
    pub(super) fn is_outstanding(&self) -> bool {
        self.outstanding
    }

    /// Submits what is request, or nothing if it cannot be submitted.
    pub(super) fn submit(
        &mut self,
        requests: &Requests,
        grants: &mut Grants,
        config: &Config,
    ) -> Submission {
        let content = Content::of(requests, grants, config);
        let body = serde_json::to_string(&content).unwrap_or_default();
        let nothing = content.requests.is_empty() && content.releases.is_empty();
        if nothing || self.rejected || body.len() > LONGEST || !body.is_ascii() {
            return self.next(String::new());
        }
        grants.on_submitted();
        self.next(body)
    }

    /// Replaces what was submitted with nothing.
    pub(super) fn withdraw(&mut self) -> Submission {
        self.next(String::new())
    }

    fn next(&mut self, body: String) -> Submission {
        self.number += 1;
        self.outstanding |= !body.is_empty();
        Submission {
            driver: self.driver.clone(),
            number: self.number,
            body,
        }
    }

    /// The process has the turn: what it has submitted is decided by itself. `claimed` is the
    /// last submission that others had claimed. Returns whether they may have done any of it.
    pub(super) fn on_held(
        &mut self,
        others: &[Submission],
        claimed: Option<i64>,
        config: &Config,
    ) -> bool {
        let was_claimed = claimed.is_none_or(|claimed| claimed > self.settled);
        self.on_settled();
        let submitted = others.iter().filter_map(|submission| {
            // One that is left out is done by its own process, at its turn.
            Submitted::parse(submission, config)
        });
        self.turn = TurnState::Held(submitted.collect());
        if others.is_empty() {
            self.alone += 1;
        } else {
            self.alone = 0;
        }
        was_claimed
    }

    fn on_settled(&mut self) {
        self.outstanding = false;
        self.settled = self.number;
    }

    /// Another process has done what was submitted.
    pub(super) fn on_served(&mut self) {
        self.on_settled();
        self.served = true;
        self.alone = 0;
    }

    /// No process claims what was submitted any more.
    pub(super) fn on_withdrawn(&mut self) {
        self.on_settled();
    }

    /// Whether the row was read at a turn that was passed on. Asked once after each read.
    pub(super) fn take_served(&mut self) -> bool {
        std::mem::take(&mut self.served)
    }

    /// The submissions of others to plan for, if the process has the turn and has not planned
    /// yet.
    pub(super) fn take_submitted(&mut self) -> Option<Vec<Submitted>> {
        match std::mem::take(&mut self.turn) {
            TurnState::Held(submitted) => {
                self.turn = TurnState::Used { served: Vec::new() };
                Some(if self.rejected { Vec::new() } else { submitted })
            }
            turn => {
                self.turn = turn;
                None
            }
        }
    }

    /// A write for others was rejected or refused.
    pub(super) fn on_rejected(&mut self) {
        self.rejected = true;
    }

    /// What these submissions want is in the row.
    pub(super) fn on_written(&mut self, done: Vec<(String, i64)>) {
        self.rejected = false;
        if let TurnState::Used { served } = &mut self.turn {
            *served = done;
        }
    }

    /// Other processes compete for the row, with submissions or without.
    pub(super) fn on_company(&mut self) {
        self.alone = 0;
    }

    /// Passes the turn on. Returns the submissions that were served.
    pub(super) fn pass(&mut self) -> Vec<(String, i64)> {
        match std::mem::take(&mut self.turn) {
            TurnState::Used { served } => served,
            TurnState::None | TurnState::Held(_) => Vec::new(),
        }
    }

    /// Whether no other process submitted anything for many turns. Then the count
    /// begins again.
    pub(super) fn take_alone(&mut self) -> bool {
        let alone = self.alone >= ALONE;
        if alone {
            self.alone = 0;
        }
        alone
    }
}

impl Content {
    fn of(requests: &Requests, grants: &Grants, config: &Config) -> Self {
        let texts = |names: &[LockName]| names.iter().map(|n| Arc::from(n.as_str())).collect();
        let ready = requests.iter().filter(|(_, pending)| {
            // One that has to move in the queue is moved by this process.
            let queued_as = pending.queued_as();
            let moves = queued_as.is_some_and(|session| session != pending.queue_session());
            pending.is_ready() && !moves
        });
        let requests = ready.map(|(nonce, pending)| {
            let request = pending.request();
            RequestContent {
                session: request.session.0.clone(),
                queue_session: pending.queue_session().0.clone(),
                nonce: nonce.0,
                task: request.task.clone(),
                names: texts(&request.names),
                shared: texts(request.names.shared()),
                path: request.path.ids().to_vec(),
                waits: pending.policy() != WaitPolicy::NoWait,
                since: request.since,
                ticket: pending.ticket(),
            }
        });
        let ready = grants.releases().filter(|(_, release)| release.is_ready());
        let releases = ready.map(|(_, release)| {
            let (session, nonce) = release.id();
            (session.0, nonce.0, texts(release.names()))
        });
        Self {
            matrix: config.matrix.fingerprint().0,
            barging: config.fairness == Fairness::Barging,
            requests: requests.collect(),
            releases: releases.collect(),
        }
    }
}

impl Submitted {
    /// `None` if it cannot be read or its process has another matrix or fairness.
    fn parse(submission: &Submission, config: &Config) -> Option<Self> {
        let content: Content = serde_json::from_str(&submission.body).ok()?;
        let ours = Fingerprint(content.matrix) == config.matrix.fingerprint()
            && content.barging == (config.fairness == Fairness::Barging);
        if !ours {
            return None;
        }
        let names = |names: Vec<Arc<str>>| names.into_iter().map(LockName::found);
        let requests = content
            .requests
            .into_iter()
            .map(|request| SubmittedRequest {
                request: Request {
                    session: SessionId(request.session),
                    nonce: Nonce(request.nonce),
                    task: request.task,
                    names: Names::new(
                        names(request.names).collect(),
                        names(request.shared).collect(),
                    ),
                    matrix: config.matrix,
                    path: request.path.into(),
                    since: request.since,
                },
                queue_session: SessionId(request.queue_session),
                waits: request.waits,
                ticket: request.ticket,
            });
        let releases = content.releases.into_iter();
        let releases = releases.map(|(session, nonce, held)| {
            ((SessionId(session), Nonce(nonce)), names(held).collect())
        });
        Some(Self {
            driver: submission.driver.clone(),
            number: submission.number,
            requests: requests.collect(),
            releases: releases.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        matrix::ConflictMatrix,
        protocol::{
            call::AcquireRequest, config::tests::config, grants::ActiveGrant,
            sessions::OwnSessions, time::tests::at,
        },
        scope::ScopePath,
        store::NewSession,
    };

    /// A request of task `a` for each name, each under session `s`.
    fn requests(names: &[&str]) -> Requests {
        let (config, mut sessions, mut requests) =
            (config(), OwnSessions::default(), Requests::default());
        let session = NewSession {
            id: SessionId("s".into()),
            namespace: "n".into(),
            task: "a".into(),
            process: config.process.clone(),
            ttl: config.ttl,
        };
        sessions.add(session, at(0));
        for (nonce, name) in (1..).zip(names) {
            let request = AcquireRequest {
                nonce: Nonce(nonce),
                task: "a".into(),
                names: [LockName::found((*name).into())].into(),
                path: ScopePath::default(),
                policy: WaitPolicy::Wait { timeout: None },
                max_hold: None,
            };
            requests.add(request, &config, &sessions, at(1));
        }
        requests.assign_sessions(&sessions, &config, at(1));
        requests
    }

    /// A release of `held`.
    fn releasing() -> Grants {
        let mut grants = Grants::default();
        grants.add(ActiveGrant {
            nonce: Nonce(9),
            session: SessionId("s".into()),
            task: "a".into(),
            names: [LockName::found("held".into())].into(),
            token: 5,
            ends: None,
            fence_row: "s".into(),
        });
        grants.start_release(Nonce(9), false, None, at(1).monotonic);
        grants
    }

    #[test]
    fn others_read_what_was_submitted() {
        let mut combining = Combining::new(255);
        let submission = combining.submit(&requests(&["x"]), &mut releasing(), &config());
        assert_eq!(
            (&*submission.driver, submission.number),
            ("00000000000000ff", 1)
        );
        let read = Submitted::parse(&submission, &config()).expect("it can be read");
        assert_eq!((&*read.driver, read.number), ("00000000000000ff", 1));
        let [found] = &read.requests[..] else {
            panic!("{read:?}");
        };
        assert_eq!(found.request.nonce, Nonce(1));
        assert_eq!(found.request.names[..], [LockName::found("x".into())]);
        assert_eq!(found.queue_session, SessionId("s".into()));
        assert!(found.waits && found.ticket.is_none());
        let id = (SessionId("s".into()), Nonce(9));
        assert_eq!(read.releases, [(id, vec![LockName::found("held".into())])]);
    }

    #[test]
    fn processes_with_other_rules_leave_it_alone() {
        let mut combining = Combining::new(1);
        let submission = combining.submit(&requests(&["x"]), &mut Grants::default(), &config());
        let matrix = Config {
            matrix: ConflictMatrix::exclusive(),
            ..config()
        };
        let fairness = Config {
            fairness: Fairness::Barging,
            ..config()
        };
        for config in [matrix, fairness] {
            assert!(Submitted::parse(&submission, &config).is_none());
        }
    }

    #[test]
    fn what_cannot_be_stored_or_was_rejected_is_not_submitted() {
        let long = "x".repeat(LONGEST);
        for name in ["é", &long] {
            let mut combining = Combining::new(1);
            let submission = combining.submit(&requests(&[name]), &mut releasing(), &config());
            assert_eq!(submission.body, "");
            assert!(!combining.is_outstanding());
        }
        let mut combining = Combining::new(1);
        let submit = |combining: &mut Combining| {
            let body = combining.submit(&requests(&["x"]), &mut releasing(), &config());
            body.body
        };
        combining.on_rejected();
        assert_eq!(submit(&mut combining), "");
        combining.on_written(Vec::new());
        assert_ne!(submit(&mut combining), "");
        assert!(combining.is_outstanding());
        assert_eq!(combining.withdraw().number, 3);
        assert!(combining.is_outstanding(), "until it is stored");
        combining.on_withdrawn();
        assert!(!combining.is_outstanding());
    }

    #[test]
    fn only_claims_since_the_last_turn_count() {
        let mut combining = Combining::new(1);
        let mut turn = |claimed| {
            combining.submit(&requests(&["x"]), &mut Grants::default(), &config());
            let may_have = combining.on_held(&[], claimed, &config());
            assert!(combining.has_turn() && !combining.is_outstanding());
            combining.pass();
            assert!(!combining.has_turn());
            may_have
        };
        assert_eq!(
            [Some(0), Some(1), Some(3), Some(3), None].map(&mut turn),
            [false, false, true, false, true]
        );
    }

    #[test]
    fn the_turn_is_used_once_and_names_what_was_served() {
        let mut combining = Combining::new(1);
        assert!(combining.take_submitted().is_none());
        combining.on_held(&[], Some(0), &config());
        assert!(combining.take_submitted().is_some());
        assert!(combining.take_submitted().is_none());
        combining.on_written(vec![("d".into(), 4)]);
        assert_eq!(combining.pass(), [("d".into(), 4)]);
        combining.on_served();
        assert!(combining.take_served() && !combining.take_served());
    }

    #[test]
    fn a_process_is_alone_after_many_turns_without_others() {
        let mut combining = Combining::new(1);
        let mut turns = 0;
        let mut turn = |combining: &mut Combining| {
            turns += 1;
            combining.on_held(&[], Some(0), &config());
            combining.pass();
            combining.take_alone()
        };
        while !turn(&mut combining) {}
        for _ in 1..ALONE {
            assert!(!turn(&mut combining));
        }
        combining.on_company();
        assert!(!turn(&mut combining));
        combining.on_served();
        for _ in 1..ALONE {
            assert!(!turn(&mut combining));
        }
        assert!(turn(&mut combining));
        assert_eq!(turns, 3 * ALONE);
    }
}
