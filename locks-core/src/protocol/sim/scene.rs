//! A world that a script drives step by step.

use std::time::Duration;

use super::{
    callers::Told,
    engine::{ENGINES, Engine},
    execution::parse,
    process::LaneKind,
    schedule::{Ask, Patience, ProcessId, RequestNumber, Scope, Step},
    setup::Setup,
    statement::Statement,
    world::World,
};
use crate::{
    options::{Evidence, Fairness},
    protocol::Mechanisms,
};

pub(super) const TTL: Duration = Duration::from_secs(2);
/// Longer than it takes to evict a session that is not renewed.
pub(super) const EVICTED: u32 = 3_000;
/// How many steps a script waits for something.
const PATIENCE: usize = 2_000;

fn engine(name: &str) -> Engine {
    let mut engines = ENGINES.into_iter();
    engines
        .find(|engine| engine.name == name)
        .expect("there is one")
}

/// The statement on the row connection.
pub(super) fn pending(s: &Scene, p: ProcessId) -> Option<&'static str> {
    s.pending(p, LaneKind::Rows).map(Statement::name)
}

pub(super) struct Scene(pub(super) World);

impl Scene {
    pub(super) fn new(processes: usize, engine: &str) -> Self {
        Self::with(processes, engine, |_| {})
    }

    pub(super) fn with(processes: usize, name: &str, change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup {
            seed: 2,
            engine: engine(name),
            processes,
            namespaces: 1,
            ttl: Some(TTL),
            fairness: Fairness::InTurn,
            evidence: Evidence::Time,
            queue_limit: 100,
            mechanisms: Mechanisms::default(),
            warm: true,
            clocks_behind: false,
            mixed_matrices: false,
            rejects_names: false,
            first_is_permanent: false,
            turns: false,
            loses_power: false,
            limited: false,
        };
        change(&mut setup);
        let mut world = World::new(setup);
        world.log = Some(Vec::new());
        world.warm_up();
        Self(world)
    }

    #[track_caller]
    pub(super) fn step(&mut self, step: &Step) {
        assert!(self.0.step(step), "not possible: {step}\n{}", self.log());
        self.check();
    }

    /// The time since then.
    pub(super) fn since(&self, start: Duration) -> Duration {
        self.0.now.saturating_sub(start)
    }

    pub(super) fn log(&self) -> String {
        self.0.log.as_deref().unwrap_or_default().join("\n")
    }

    #[track_caller]
    pub(super) fn check(&self) {
        if let Some(violation) = &self.0.violation {
            let (property, detail) = (violation.property, &violation.detail);
            panic!("trace: {property} is violated: {detail}\n{}", self.log());
        }
    }

    /// A request of task `a` for `app_task_1`.
    #[track_caller]
    pub(super) fn ask(&mut self, p: ProcessId, number: RequestNumber, patience: Patience) {
        self.ask_for(p, number, ('a', "app_task_1"), patience);
    }

    /// A request of a task for a name.
    #[track_caller]
    pub(super) fn ask_for(
        &mut self,
        process: ProcessId,
        number: RequestNumber,
        (task, name): (char, &'static str),
        patience: Patience,
    ) {
        self.step(&Step::Ask(Ask {
            process,
            number,
            namespace: 0,
            task,
            names: vec![name],
            shared: Vec::new(),
            max_hold: None,
            patience,
            scope: Scope::None,
        }));
    }

    /// A request of task `a` for a name, which waits.
    #[track_caller]
    pub(super) fn wait_for(&mut self, p: ProcessId, number: RequestNumber, name: &'static str) {
        self.ask_for(p, number, ('a', name), Patience::Forever);
    }

    pub(super) fn told(&self, number: RequestNumber) -> &Told {
        &self.0.callers[&number].told
    }

    pub(super) fn pending(&self, p: ProcessId, kind: LaneKind) -> Option<&Statement> {
        self.0.processes[p].lanes.get(&kind)?.statement.as_ref()
    }

    /// Answers the statements on one connection until this one is sent.
    #[track_caller]
    pub(super) fn until_sent(&mut self, p: ProcessId, kind: LaneKind, statement: &str) {
        for _ in 0..PATIENCE {
            match self.pending(p, kind) {
                Some(pending) if pending.name() == statement => return,
                Some(_) => self.step(&Step::Answer(p, kind)),
                None => self.step(&Step::NextTimer),
            }
        }
        panic!("{statement} is not sent\n{}", self.log());
    }

    /// The side connection on which this statement is sent.
    #[track_caller]
    pub(super) fn side(&mut self, p: ProcessId, statement: &str) -> LaneKind {
        for _ in 0..PATIENCE {
            let kinds: Vec<_> = self.0.processes[p].lanes.keys().copied().collect();
            let side = kinds
                .iter()
                .filter(|kind| matches!(kind, LaneKind::Side(_)));
            let is_it = |kind: &&LaneKind| {
                self.pending(p, **kind)
                    .is_some_and(|pending| pending.name() == statement)
            };
            if let Some(kind) = side.copied().find(|kind| is_it(&kind)) {
                return kind;
            }
            let mut moved = false;
            for kind in kinds {
                moved |= self.0.step(&Step::Answer(p, kind));
            }
            if !moved {
                self.step(&Step::NextTimer);
            }
            self.check();
        }
        panic!("{statement} is not sent\n{}", self.log());
    }

    /// Answers everything that these processes ask, until the request is answered.
    #[track_caller]
    pub(super) fn until_told(&mut self, processes: &[ProcessId], number: RequestNumber) {
        for _ in 0..PATIENCE {
            if *self.told(number) != Told::Waiting {
                return;
            }
            self.answer_all(processes);
        }
        panic!("request {number} is not answered\n{}", self.log());
    }

    /// Answers what these processes ask; if they ask nothing, time passes.
    #[track_caller]
    pub(super) fn answer_all(&mut self, processes: &[ProcessId]) {
        let mut moved = false;
        for p in processes {
            let kinds: Vec<_> = self.0.processes[*p].lanes.keys().copied().collect();
            for kind in kinds {
                moved |= self.0.step(&Step::Answer(*p, kind));
            }
        }
        if !moved {
            self.step(&Step::NextTimer);
        }
        self.check();
    }

    /// Answers what these processes ask for so long.
    #[track_caller]
    pub(super) fn answer_for(&mut self, processes: &[ProcessId], time: Duration) {
        let start = self.0.now;
        while self.0.now < start + time {
            self.answer_all(processes);
        }
    }

    /// Answers what a process asks now. No time passes.
    #[track_caller]
    pub(super) fn answer_now(&mut self, p: ProcessId) {
        let kinds = |s: &Self| s.0.processes[p].lanes.keys().copied().collect::<Vec<_>>();
        while kinds(self)
            .into_iter()
            .any(|kind| self.0.step(&Step::Answer(p, kind)))
        {
            self.check();
        }
    }

    #[track_caller]
    pub(super) fn granted(&mut self, p: ProcessId, number: RequestNumber) {
        self.ask(p, number, Patience::Forever);
        self.until_told(&[p], number);
        assert_eq!(*self.told(number), Told::Granted, "{}", self.log());
    }

    /// A process is granted `app_task_1`. The commit of a transaction that is fenced with the grant
    /// is under way, and its caller is gone.
    #[track_caller]
    pub(super) fn granted_with_commit_under_way(&mut self, p: ProcessId, number: RequestNumber) {
        self.granted(p, number);
        self.step(&Step::Fence(number));
        while !self.0.step(&Step::AbandonCommit(number)) {
            self.answer_all(&[p]);
        }
    }

    /// The task that holds `app_task_1`.
    pub(super) fn holder(&self) -> Option<String> {
        let row = self.0.db.tables.locks.values().next()?;
        let table = parse(row)?;
        table
            .entry("app_task_1")
            .map(|entry| entry.task.to_string())
    }

    #[track_caller]
    pub(super) fn end(mut self) {
        self.0.settle();
        self.check();
    }
}
