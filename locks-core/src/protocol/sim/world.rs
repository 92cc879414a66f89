//! The world: processes, a database, and messages in flight; and what each step does.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    callers::{Call, Caller},
    database::{ConnectionId, Database},
    execution::{Connection, run_query, run_task},
    messages::Late,
    original::Original,
    process::{Lane, LaneKind, Process, SIDE_LANES, State},
    properties::{Checks, Violation, Writer},
    renewals::{refuse_renewal, run_renewal},
    requests::TURN_LIMIT,
    schedule::{ProcessId, RequestNumber, Step, namespace_name, process_name, task_id},
    setup::Setup,
    statement::Reply,
    tables::{NotOnDisk, Tables},
    transactions::Transaction,
};
use crate::{
    options::Durability,
    process::Identity,
    protocol::{
        CallId, Config, DriverInput, DriverOutput, EvictReason, Input, Namespaces, Now, Output,
        Query, Task, config::Name,
    },
    store::{ChangeSource, Class, Failure, Kind},
};

/// How long a statement may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a step takes.
const INSTANT: Duration = Duration::from_micros(1);
/// How many inputs in a row a process may need at one point of time.
const MOST_TIMEOUTS: usize = 3;
/// How many steps of time may be needed at one point of time.
const MOST_EVENTS: usize = 5_000;

/// The world.
#[derive(Debug)]
pub(super) struct World {
    pub(super) setup: Setup,
    pub(super) now: Duration,
    pub(super) db: Database,
    pub(super) processes: Vec<Process>,
    pub(super) callers: BTreeMap<RequestNumber, Caller>,
    pub(super) calls: BTreeMap<(ProcessId, CallId), Call>,
    pub(super) transactions: BTreeMap<RequestNumber, Transaction>,
    pub(super) late: Vec<Late>,
    pub(super) originals: Vec<Original>,
    pub(super) backup: Option<Tables>,
    pub(super) checks: Checks,
    pub(super) violation: Option<Violation>,
    /// What happened, in words; `None`: it is not kept.
    pub(super) log: Option<Vec<String>>,
    pub(super) statements: u64,
    /// How long a step takes.
    pub(super) instant: Duration,
    pub(super) next_connection: ConnectionId,
    /// How many times the power was lost.
    pub(super) power_losses: u32,
}

impl World {
    pub(super) fn new(setup: Setup) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            db: Database::new(setup.engine),
            processes: Vec::new(),
            callers: BTreeMap::new(),
            calls: BTreeMap::new(),
            transactions: BTreeMap::new(),
            late: Vec::new(),
            originals: (0..setup.namespaces).map(|_| Original::default()).collect(),
            backup: None,
            checks: Checks::default(),
            violation: None,
            log: None,
            statements: 0,
            instant: INSTANT,
            next_connection: 0,
            power_losses: 0,
            setup,
        };
        world.db.not_on_disk = world.setup.loses_power.then(NotOnDisk::default);
        for number in 0..world.setup.processes {
            let process = world.new_process(number, 0);
            world.processes.push(process);
            world.set_up(number);
        }
        world
    }

    pub(super) fn new_process(&self, number: ProcessId, incarnation: u32) -> Process {
        let setup = &self.setup;
        let host = self.host(number);
        let identity = Identity {
            host: host.clone().into(),
            process: format!("{}:{incarnation}", number + 100).into(),
            host_name: "".into(),
        };
        let mut config = Config {
            matrix: setup.matrix_of(number),
            ttl: setup.ttl_of(number),
            fairness: setup.fairness,
            queue_limit: setup.queue_limit,
            process: identity.clone(),
            evidence: setup.evidence,
            mechanisms: setup.mechanisms,
            row_lock: setup.engine.row_lock,
            turns: setup.turns && setup.engine.turns,
            fence_rows: setup.engine.fence_rows,
            durability: setup.durability_of(number),
            boot: setup.loses_power.then(|| host.into()),
            reads_durable: false,
        };
        config.reads_durable = setup.engine.shows_durable
            && (!setup.engine.one_writer || config.durability() == Durability::Normal);
        let place = u64::from(incarnation) * 16 + number as u64;
        let mut rng = fastrand::Rng::with_seed(setup.seed.wrapping_mul(1000) + place);
        Process {
            number,
            incarnation,
            durability: config.durability(),
            identity,
            state: State::Running,
            cut_off: false,
            connections_refused: false,
            slept: Duration::ZERO,
            wall_offset: setup.wall_offset(),
            next_nonce: rng.u64(1 << 40..1 << 60),
            next_call: 1000 * u64::from(incarnation),
            namespaces: Namespaces::new(config, rng),
            lanes: BTreeMap::new(),
            side_queue: VecDeque::new(),
            next_side: 0,
            connections: BTreeMap::new(),
            broken: BTreeSet::new(),
            leases: BTreeMap::new(),
            owners: BTreeSet::new(),
            closing: false,
            notifications: VecDeque::new(),
            queries: VecDeque::new(),
        }
    }

    /// What a driver does when it starts.
    pub(super) fn set_up(&mut self, p: ProcessId) {
        let source = self.setup.engine.change_source;
        self.input(p, DriverInput::ChangeSource(source));
        for number in 0..self.setup.namespaces {
            let name = self.namespace(number);
            self.input(p, DriverInput::To(name, Input::Timeout));
        }
    }

    #[allow(clippy::unused_self, reason = "it reads well")]
    pub(super) fn namespace(&self, number: usize) -> Name {
        namespace_name(number).into()
    }

    pub(super) fn fail(&mut self, property: &'static str, detail: impl Into<String>) {
        let detail = detail.into();
        self.violation.get_or_insert(Violation { property, detail });
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>12.3?}  {}", self.now, text()));
        }
    }

    pub(super) fn clocks(&self, p: ProcessId) -> Now {
        self.processes[p].now(self.now)
    }

    // Inputs and outputs.

    /// Hands an input to a process, and does what comes out.
    pub(super) fn input(&mut self, p: ProcessId, input: DriverInput) {
        let now = self.clocks(p);
        self.processes[p].namespaces.handle(now, input);
        self.drain(p);
    }

    pub(super) fn to(&mut self, p: ProcessId, namespace: &Name, input: Input) {
        self.input(p, DriverInput::To(namespace.clone(), input));
    }

    pub(super) fn drain(&mut self, p: ProcessId) {
        let now = self.clocks(p);
        let mut timeouts = 0;
        while self.processes[p].is_running() && self.violation.is_none() {
            if let Some(output) = self.processes[p].namespaces.poll(now) {
                self.on_output(p, output);
                continue;
            }
            if self.start_task(p) {
                continue;
            }
            let next = self.processes[p].namespaces.poll_timeout();
            if next.is_none_or(|at| at > now.monotonic) {
                break;
            }
            timeouts += 1;
            if timeouts > MOST_TIMEOUTS {
                let text = format!("{} is due at {next:?} and it is {now:?}", process_name(p));
                self.fail("no-time-out-in-the-past", text);
            }
            self.processes[p]
                .namespaces
                .handle(now, DriverInput::Timeout);
        }
    }

    fn on_output(&mut self, p: ProcessId, output: DriverOutput) {
        match output {
            DriverOutput::Query(namespace, query) => {
                let now = self.now;
                self.processes[p].queries.push_back(now);
                self.check_query_rate(p);
                let forces = match &query {
                    Query::Task(task) => self.begin_task(p, task),
                    _ => false,
                };
                let (connection, id) = self.connection(p, LaneKind::Rows);
                let rows = self.setup.engine.fence_rows;
                let work = {
                    let connection = connection.clone();
                    async move {
                        let input = run_query(connection, namespace.clone(), query, rows).await;
                        DriverInput::To(namespace, input)
                    }
                };
                let lane = Lane::new(connection, id, LIMIT, forces, work);
                self.start_lane(p, LaneKind::Rows, lane);
            }
            DriverOutput::Renew(renewal) if self.processes[p].connections_refused => {
                let now = self.clocks(p);
                let refused = DriverInput::Renewed(refuse_renewal(renewal));
                self.processes[p].namespaces.handle(now, refused);
            }
            DriverOutput::RenewOverRows(renewal) => {
                let (connection, id) = self.connection(p, LaneKind::Rows);
                let work = {
                    let connection = connection.clone();
                    async move { DriverInput::Renewed(run_renewal(connection, renewal).await) }
                };
                let lane = Lane::new(connection, id, LIMIT, false, work);
                self.start_lane(p, LaneKind::Rows, lane);
            }
            DriverOutput::Renew(renewal) => {
                let (connection, id) = self.connection(p, LaneKind::Renewals);
                let ttl = self.setup.ttl.unwrap_or(Duration::from_secs(15));
                let work = {
                    let connection = connection.clone();
                    async move { DriverInput::Renewed(run_renewal(connection, renewal).await) }
                };
                let lane = Lane::new(connection, id, (ttl / 3).min(LIMIT), false, work);
                self.start_lane(p, LaneKind::Renewals, lane);
            }
            DriverOutput::From(namespace, Output::Task(task)) => {
                self.processes[p].side_queue.push_back((namespace, task));
            }
            DriverOutput::From(namespace, output) => {
                self.on_namespace_output(p, &namespace, output);
            }
            DriverOutput::Flushed => self.note(|| format!("  {} is flushed", process_name(p))),
            DriverOutput::Ended { calls, error } => {
                self.note(|| format!("  {} has ended: {error:?}", process_name(p)));
                self.on_ended(p, calls, error);
                self.end_process(p, State::Ended);
            }
        }
    }

    fn connection(&mut self, p: ProcessId, kind: LaneKind) -> (Connection, ConnectionId) {
        let next = &mut self.next_connection;
        let connections = &mut self.processes[p].connections;
        let connection = connections.entry(kind).or_insert_with(|| {
            *next += 1;
            (Connection::default(), *next)
        });
        connection.clone()
    }

    fn start_task(&mut self, p: ProcessId) -> bool {
        let process = &mut self.processes[p];
        let is_side = |kind: &&LaneKind| matches!(kind, LaneKind::Side(_));
        if process.lanes.keys().filter(is_side).count() >= SIDE_LANES {
            return false;
        }
        let Some((namespace, task)) = process.side_queue.pop_front() else {
            return false;
        };
        if process.connections_refused {
            let now = self.clocks(p);
            let input = DriverInput::To(namespace, Input::NoConnection(task));
            self.processes[p].namespaces.handle(now, input);
            return true;
        }
        let kind = LaneKind::Side(process.next_side);
        process.next_side += 1;
        let forces = self.begin_task(p, &task);
        self.next_connection += 1;
        let connection = Connection::default();
        let work = {
            let connection = connection.clone();
            async move {
                let input = run_task(connection, namespace.clone(), task).await;
                DriverInput::To(namespace, input)
            }
        };
        let lane = Lane::new(connection, self.next_connection, LIMIT, forces, work);
        self.start_lane(p, kind, lane);
        true
    }

    /// Checks a task, and says whether it ends sessions that may be alive.
    fn begin_task(&mut self, p: ProcessId, task: &Task) -> bool {
        match task {
            Task::EvictAll(_) | Task::EvictHolders { .. } => true,
            Task::Evict {
                session, reason, ..
            } => {
                self.check_eviction(p, session, *reason);
                *reason == EvictReason::Lost
            }
            Task::Prepare => {
                self.note(|| format!("  {} prepares a side connection", process_name(p)));
                false
            }
            _ => false,
        }
    }

    fn start_lane(&mut self, p: ProcessId, kind: LaneKind, lane: Lane) {
        self.processes[p].lanes.insert(kind, lane);
        self.advance_lane(p, kind);
    }

    // Time.

    /// When something happens next by itself.
    pub(super) fn next_event(&self) -> Option<Duration> {
        let timers = self.processes.iter().filter_map(Process::next_timer);
        timers.chain(self.db.next_idle_limit()).min()
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut events = 0;
        while let Some(next) = self.next_event()
            && next <= end
            && self.violation.is_none()
        {
            self.now = next.max(self.now);
            self.db.now = self.now;
            self.fire();
            events += 1;
            if events > MOST_EVENTS {
                self.fail("no-busy-loop", "time does not pass");
            }
        }
        self.now = end;
        self.db.now = end;
    }

    /// Does what is due.
    fn fire(&mut self) {
        self.db.end_idle();
        for p in 0..self.processes.len() {
            if !self.processes[p].is_running() {
                continue;
            }
            let now = self.clocks(p).monotonic;
            let cut_off = self.processes[p].cut_off;
            let kinds: Vec<_> = self.processes[p].lanes.keys().copied().collect();
            for kind in kinds {
                let Some(lane) = self.processes[p].lanes.get_mut(&kind) else {
                    continue;
                };
                if lane.wakes.is_some_and(|at| at <= now) {
                    lane.wakes = None;
                    lane.connection.answer(Ok(Reply::Nothing));
                    self.advance_lane(p, kind);
                } else if lane.awaits_turn() && lane.sent + TURN_LIMIT <= now && !cut_off {
                    self.deliver(p, kind, Ok(Reply::Number(Some(0))));
                } else if lane.statement.is_some() && lane.sent + lane.limit <= now {
                    self.lose(p, kind);
                }
            }
            let due = self.processes[p].namespaces.poll_timeout();
            if self.processes[p].is_running() && due.is_some_and(|at| at <= now) {
                self.input(p, DriverInput::Timeout);
            }
        }
    }

    // Steps.

    /// Takes a step, if it is possible.
    pub(super) fn step(&mut self, step: &Step) -> bool {
        if self.log.is_some() {
            let text = self.describe(step);
            self.note(|| text);
        }
        // Nothing happens at exactly one time with something else.
        self.pass(self.instant);
        let done = self.violation.is_none() && self.take(step);
        self.check_max_hold();
        if !done && let Some(log) = &mut self.log {
            log.pop();
        }
        done
    }

    fn take(&mut self, step: &Step) -> bool {
        match step {
            Step::Begin(p, kind) => self.begin(*p, *kind),
            Step::Apply(p, kind) => self.apply(*p, *kind, false),
            Step::ApplyStale(p, kind) => self.setup.engine.lags && self.apply(*p, *kind, true),
            Step::Answer(p, kind) => self.answer(*p, *kind),
            Step::Lose(p, kind) => self.lose(*p, *kind),
            Step::Fail(p, kind, class) => {
                let running = self.processes.get(*p).is_some_and(Process::is_running);
                let lane = self.waiting_lane(*p, *kind);
                let possible = lane.is_some_and(|lane| lane.applied.is_none()) && running;
                if possible {
                    let failure = Failure::simulated((*class).into(), Kind::Other);
                    self.deliver(*p, *kind, Err(failure));
                }
                possible
            }
            Step::ApplyLate(index) => self.apply_late(*index),
            Step::Notify(p) => {
                let running = self
                    .processes
                    .get(*p)
                    .is_some_and(|p| p.is_running() && !p.cut_off);
                let told = self.processes.get_mut(*p).filter(|_| running);
                let Some((name, version)) = told.and_then(|p| p.notifications.pop_front()) else {
                    return false;
                };
                self.to(*p, &name, Input::Changed(version));
                true
            }
            Step::LoseNotification(p) => {
                let process = self.processes.get_mut(*p);
                process.is_some_and(|process| process.notifications.pop_front().is_some())
            }
            Step::NextTimer => {
                let next = self.next_event().map(|at| at.saturating_sub(self.now));
                self.pass(next.unwrap_or(Duration::from_secs(1)));
                true
            }
            Step::Millis(millis) => {
                self.pass(Duration::from_millis((*millis).into()));
                true
            }
            Step::SetWallClock(p, secs) => {
                let Some(process) = self.processes.get_mut(*p) else {
                    return false;
                };
                process.wall_offset = i64::from(*secs) * 1_000_000;
                self.checks.clocks_changed = true;
                true
            }
            Step::Pause(p) => self.set_state(*p, State::Paused),
            Step::Sleep(p) => self.set_state(*p, State::Asleep(self.now)),
            Step::Resume(p) => *p < self.processes.len() && self.resume(*p),
            Step::Kill(p) => {
                let possible = self.processes.get(*p).is_some_and(Process::is_alive);
                if possible {
                    self.end_process(*p, State::Dead);
                }
                possible
            }
            Step::Start(p) => *p < self.processes.len() && self.start(*p),
            Step::RefuseConnections(p) => {
                let Some(process) = self.processes.get_mut(*p) else {
                    return false;
                };
                // A connection that is in use stays.
                let used = process.lanes.contains_key(&LaneKind::Renewals);
                process.connections_refused |= !used;
                !used
            }
            Step::AcceptConnections(p) => {
                let process = self.processes.get_mut(*p);
                process.is_some_and(|p| std::mem::replace(&mut p.connections_refused, false))
            }
            Step::CutOff(p) | Step::Reconnect(p) => {
                let Some(process) = self.processes.get_mut(*p) else {
                    return false;
                };
                let cut_off = matches!(step, Step::CutOff(_));
                std::mem::replace(&mut process.cut_off, cut_off) != cut_off
            }
            Step::Backup => {
                // A session whose fence rows are missing in the backup is dead to others and
                // alive to its process after a restore.
                let is_whole = self.db.tables.is_whole();
                if is_whole {
                    self.backup = Some(self.db.tables.clone());
                }
                is_whole
            }
            Step::Restore => self.restore(),
            Step::LosePower(undone) => self.lose_power((*undone).into()),
            _ => self.take_original(step) || self.take_caller(step),
        }
    }

    fn restore(&mut self) -> bool {
        let Some(tables) = self.backup.clone() else {
            return false;
        };
        self.checks.restored = true;
        self.db.restore(tables);
        self.after_write(Writer::Operator);
        for transaction in std::mem::take(&mut self.transactions).into_keys() {
            self.db.end_transaction(transaction);
        }
        // A known limit: what the original read before a restore, it may write after it, on a row
        // of that version and of another content. It knows no stamp.
        self.originals.iter_mut().for_each(Original::forget);
        // The server was restarted: every statement fails that waits for its answer.
        self.late.clear();
        for p in 0..self.processes.len() {
            let kinds: Vec<_> = self.processes[p].lanes.keys().copied().collect();
            let mut idle = BTreeSet::from([LaneKind::Rows, LaneKind::Renewals]);
            for kind in kinds {
                if let Some(lane) = self.waiting_lane(p, kind) {
                    lane.applied.get_or_insert(Err(broken()));
                    idle.remove(&kind);
                }
            }
            // Tables may also be restored under open connections. The original must not write
            // then: it would give a version twice, with different contents.
            if self.originals.iter().any(|original| original.has_written) {
                self.processes[p].broken = idle;
            }
        }
        true
    }
}

/// What a statement on a broken connection comes to.
pub(super) fn broken() -> Failure {
    Failure::simulated(Class::Indeterminate, Kind::Other)
}

/// The task ids of a process, as the library has them.
pub(super) fn task(process: ProcessId, task: char) -> Arc<str> {
    task_id(process, task).into()
}

/// Whether the source of changes needs the simulator to deliver them.
pub(super) fn notifies(source: ChangeSource) -> bool {
    source == ChangeSource::Notifications
}
