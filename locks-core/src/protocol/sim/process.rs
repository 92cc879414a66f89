//! A simulated process: its clocks, its namespaces, and its connections.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{
    database::{ConnectionId, EPOCH},
    execution::Connection,
    requests::TURN_LIMIT,
    statement::{Reply, Statement},
};
use crate::{
    options::Durability,
    process::Identity,
    protocol::{DriverInput, Namespaces, Now, Task, Time, config::Name},
    store::Failure,
    table::SessionId,
};

/// How many tasks of a process run at a time.
pub(super) const SIDE_LANES: usize = 2;
/// What the monotonic and the boot clock of the first process show at the start. They differ,
/// so that a mistake between them is seen.
const MONOTONIC_START: Duration = Duration::from_secs(10);
const BOOT_START: Duration = Duration::from_secs(1000);

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    /// It is stopped. Its clocks go on.
    Paused,
    /// Its machine sleeps since then. The monotonic clock stands still.
    Asleep(Duration),
    /// It was killed.
    Dead,
    /// Its driver has ended.
    Ended,
}

/// Which connection of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum LaneKind {
    Rows,
    Renewals,
    Side(u32),
}

impl fmt::Display for LaneKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows => f.write_str("row"),
            Self::Renewals => f.write_str("renewal"),
            Self::Side(number) => write!(f, "side({number})"),
        }
    }
}

/// Something that a driver does on a connection.
pub(super) struct Lane {
    pub(super) connection: Connection,
    pub(super) id: ConnectionId,
    work: Pin<Box<dyn Future<Output = DriverInput>>>,
    /// The statement that has no answer yet.
    pub(super) statement: Option<Statement>,
    /// When it was sent, on the monotonic clock.
    pub(super) sent: Time,
    /// How long a statement may take.
    pub(super) limit: Duration,
    /// What the database answered.
    pub(super) applied: Option<Result<Reply, Failure>>,
    /// What the preconditions were when the statement began.
    pub(super) early: Option<bool>,
    /// When a pause between two attempts ends, on the monotonic clock.
    pub(super) wakes: Option<Time>,
    /// Whether it ends sessions that may be alive.
    pub(super) forces: bool,
}

impl Lane {
    pub(super) fn new(
        connection: Connection,
        id: ConnectionId,
        limit: Duration,
        forces: bool,
        work: impl Future<Output = DriverInput> + 'static,
    ) -> Self {
        Self {
            connection,
            id,
            work: Box::pin(work),
            statement: None,
            sent: Time::default(),
            limit,
            applied: None,
            early: None,
            wakes: None,
            forces,
        }
    }

    /// Runs the work up to its next statement, its next pause, or its end.
    pub(super) fn advance(&mut self, now: Time) -> Option<DriverInput> {
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(input) = self.work.as_mut().poll(&mut context) {
            return Some(input);
        }
        self.applied = None;
        self.early = None;
        self.sent = now;
        self.statement = self.connection.take_statement();
        let pause = self.connection.take_pause();
        self.wakes = pause.map(|pause| now + pause);
        None
    }
}

impl Lane {
    /// Whether the turn has not come.
    pub(super) fn awaits_turn(&self) -> bool {
        matches!(self.statement, Some(Statement::AwaitTurn(_))) && self.applied.is_none()
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("statement", &self.statement)
            .field("applied", &self.applied)
            .field("early", &self.early)
            .finish_non_exhaustive()
    }
}

/// A process, or what is left of one.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) number: usize,
    /// How often it was started before.
    pub(super) incarnation: u32,
    /// What the writes of its connections survive.
    pub(super) durability: Durability,
    pub(super) identity: Identity,
    pub(super) state: State,
    /// Whether no message to or from the database gets through.
    pub(super) cut_off: bool,
    /// Whether the server refuses further connections of it.
    pub(super) connections_refused: bool,
    /// How long its machine slept.
    pub(super) slept: Duration,
    /// How far its wall clock is ahead, in microseconds.
    pub(super) wall_offset: i64,
    pub(super) namespaces: Namespaces,
    pub(super) lanes: BTreeMap<LaneKind, Lane>,
    pub(super) side_queue: VecDeque<(Name, Task)>,
    pub(super) next_side: u32,
    /// The connections that outlive a query.
    pub(super) connections: BTreeMap<LaneKind, (Connection, ConnectionId)>,
    /// The connections that broke while nothing was asked on them.
    pub(super) broken: BTreeSet<LaneKind>,
    /// When the leases end that guards look at, on the boot clock.
    pub(super) leases: BTreeMap<SessionId, Time>,
    pub(super) next_nonce: u64,
    pub(super) next_call: u64,
    /// The tasks for which a handle acts.
    pub(super) owners: BTreeSet<Name>,
    /// Whether `close` was called, or the last handle is gone.
    pub(super) closing: bool,
    /// The notifications that have not arrived.
    pub(super) notifications: VecDeque<(Name, i64)>,
    /// When row queries were sent.
    pub(super) queries: VecDeque<Duration>,
}

impl Process {
    /// What its clocks show when so much time has passed since the simulation started.
    pub(super) fn now(&self, world: Duration) -> Now {
        let asleep = match self.state {
            State::Asleep(since) => world.saturating_sub(since),
            _ => Duration::ZERO,
        };
        let number = u32::try_from(self.number).unwrap_or_default();
        Now {
            monotonic: Time::new((MONOTONIC_START + world).saturating_sub(self.slept + asleep)),
            boot: Time::new(BOOT_START * (number + 1) + world),
            wall: EPOCH + i64::try_from(world.as_micros()).unwrap_or(i64::MAX) + self.wall_offset,
        }
    }

    /// When its monotonic clock shows this time.
    pub(super) fn world_time(&self, monotonic: Time) -> Duration {
        (monotonic.since_start() + self.slept).saturating_sub(MONOTONIC_START)
    }

    pub(super) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    pub(super) fn is_alive(&self) -> bool {
        !matches!(self.state, State::Dead | State::Ended)
    }

    /// When it has to do something next by itself.
    pub(super) fn next_timer(&self) -> Option<Duration> {
        if !self.is_running() {
            return None;
        }
        let lanes = self.lanes.values().filter_map(|lane| match lane.wakes {
            Some(at) => Some(at),
            None => lane.statement.as_ref().map(|_| lane.sent + lane.limit),
        });
        let turns = self.lanes.values().filter(|lane| lane.awaits_turn());
        let turns = turns.map(|lane| lane.sent + TURN_LIMIT);
        let turns = turns.filter(|_| !self.cut_off);
        let next = self
            .namespaces
            .poll_timeout()
            .into_iter()
            .chain(lanes)
            .chain(turns)
            .min();
        next.map(|at| self.world_time(at))
    }

    /// Whether the lease of a session has not ended.
    pub(super) fn has_lease(&self, session: &SessionId, world: Duration) -> bool {
        let lease = self.leases.get(session);
        lease.is_some_and(|deadline| self.now(world).boot < *deadline)
    }
}
