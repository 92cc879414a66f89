//! Flat combining: under contention one process writes for all that wait for their turn.
//!
//! A process submits what it wants to a row of its own, the request row, and takes its turn: a
//! session-level lock of the server, which is granted in order of arrival. Whoever has the turn
//! reads the locks row, then claims what was submitted, plans for all, writes the locks row by
//! compare-and-set, and passes the turn. The turn sets the order and proves nothing.
//!
//! - A submission is claimed once, and the locks row is read before. So it takes effect at most
//!   once, and only if nothing was written since the claim.
//! - A process that had its turn knows that no other process writes for it any more. Before it
//!   writes without a turn, it withdraws what it has submitted.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{call::WaitPolicy, config::Config, grants::Grants, requests::Requests};
use crate::{
    matrix::Fingerprint,
    name::LockName,
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
pub(super) struct Wishes {
    matrix: u64,
    barging: bool,
    requests: Vec<Wanted>,
    /// Entries to remove: session, nonce, names.
    releases: Vec<(Arc<str>, u64, Vec<Arc<str>>)>,
}

/// A request in a submission.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wanted {
    session: Arc<str>,
    queue_session: Arc<str>,
    nonce: u64,
    task: Arc<str>,
    names: Vec<Arc<str>>,
    path: Vec<u64>,
    waits: bool,
    since: i64,
    /// Its earlier position in the queue.
    ticket: Option<i64>,
}

/// A request of another process.
#[derive(Debug)]
pub(super) struct ForeignRequest {
    pub(super) request: Request,
    pub(super) queue_session: SessionId,
    pub(super) waits: bool,
    pub(super) ticket: Option<i64>,
}

/// The wishes of another process that has the same matrix and fairness as this one.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) driver: String,
    pub(super) number: i64,
    pub(super) requests: Vec<ForeignRequest>,
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
    Held(Vec<Foreign>),
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

    /// Whether other processes may still do what was submitted.
    pub(super) fn is_outstanding(&self) -> bool {
        self.outstanding
    }

    /// Submits what is wanted, or nothing if it cannot be submitted.
    pub(super) fn submit(
        &mut self,
        requests: &Requests,
        grants: &mut Grants,
        config: &Config,
    ) -> Submission {
        let wishes = Wishes::of(requests, grants, config);
        let body = serde_json::to_string(&wishes).unwrap_or_default();
        let nothing = wishes.requests.is_empty() && wishes.releases.is_empty();
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
        let foreign = others.iter().filter_map(|submission| {
            // One that is left out is done by its own process, at its turn.
            Foreign::parse(submission, config)
        });
        self.turn = TurnState::Held(foreign.collect());
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
    pub(super) fn take_foreign(&mut self) -> Option<Vec<Foreign>> {
        match std::mem::take(&mut self.turn) {
            TurnState::Held(foreign) => {
                self.turn = TurnState::Used { served: Vec::new() };
                Some(if self.rejected { Vec::new() } else { foreign })
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

impl Wishes {
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
            Wanted {
                session: request.session.0.clone(),
                queue_session: pending.queue_session().0.clone(),
                nonce: nonce.0,
                task: request.task.clone(),
                names: texts(&request.names),
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

impl Foreign {
    /// `None` if it cannot be read or its process has another matrix or fairness.
    fn parse(submission: &Submission, config: &Config) -> Option<Self> {
        let wishes: Wishes = serde_json::from_str(&submission.body).ok()?;
        let ours = Fingerprint(wishes.matrix) == config.matrix.fingerprint()
            && wishes.barging == (config.fairness == Fairness::Barging);
        if !ours {
            return None;
        }
        let names = |names: Vec<Arc<str>>| names.into_iter().map(LockName::found);
        let requests = wishes.requests.into_iter().map(|wanted| ForeignRequest {
            request: Request {
                session: SessionId(wanted.session),
                nonce: Nonce(wanted.nonce),
                task: wanted.task,
                names: names(wanted.names).collect(),
                matrix: config.matrix,
                path: wanted.path.into(),
                since: wanted.since,
            },
            queue_session: SessionId(wanted.queue_session),
            waits: wanted.waits,
            ticket: wanted.ticket,
        });
        let releases = wishes.releases.into_iter();
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
