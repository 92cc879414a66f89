//! Exhaustive search over small worlds, with `stateright`.
//!
//! A state is the list of steps that led to it. Two states are one if everything in the
//! world but the age of statements in flight is equal. A world has no clone, so a step is
//! taken by a world that repeats all steps before it.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `LOCKS_SIM_MODEL` | how many faults each world has at most | 0 |
//!
//! With two faults: `LOCKS_SIM_MODEL=2 cargo test --release -p locks-core --lib sim::model`.

use std::{
    env,
    fmt::{self, Write as _},
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use stateright::{Checker as _, Model, Property};

use super::{
    callers::Told,
    engine::ENGINES,
    process::{LaneKind, Process},
    schedule::{Ask, Patience, Scope, Step},
    setup::Setup,
    statement::Statement,
    world::World,
};
use crate::{
    options::{Evidence, Fairness},
    protocol::Mechanisms,
};

/// What happens in a small world.
#[derive(Clone, Debug)]
struct Small {
    setup: Setup,
    /// What has happened, and was answered, before.
    before: Vec<Step>,
    /// The calls, each of which may be made once, at any time.
    calls: Vec<Step>,
    /// The faults, each of which may happen once, at any time.
    faults: Vec<Step>,
    /// How many faults happen at most, broken connections included.
    most_faults: usize,
    /// How often time passes until the next timer, after a fault.
    most_timers: usize,
    /// Whether connections break.
    breaks: bool,
}

/// The steps that led to a state. Its fingerprint is that of the world.
#[derive(Clone, Debug)]
struct Path {
    steps: Vec<Step>,
    fingerprint: u64,
    violation: Option<&'static str>,
    /// Whether every caller is answered.
    answered: bool,
    /// What may happen next.
    next: Vec<Step>,
}

impl Hash for Path {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// Hashes text as it is written.
struct Text(DefaultHasher);

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl Small {
    fn start(&self) -> World {
        let mut world = World::new(self.setup.clone());
        world.instant = Duration::ZERO;
        // The row is there, and the sessions were listed.
        let name = world.namespace(0);
        world.db.create_empty(&name);
        for p in 0..world.processes.len() {
            while world.step(&Step::Answer(p, LaneKind::Rows)) {}
        }
        for step in &self.before {
            world.step(step);
            for p in 0..world.processes.len() {
                while world.step(&Step::Answer(p, LaneKind::Rows)) {}
            }
        }
        world
    }

    fn replay(&self, steps: &[Step]) -> World {
        let mut world = self.start();
        for step in steps {
            world.step(step);
        }
        world
    }

    fn path(&self, world: &World, steps: Vec<Step>) -> Path {
        let mut text = Text(DefaultHasher::new());
        let World {
            db,
            processes,
            callers,
            calls,
            transactions,
            late,
            originals,
            ..
        } = world;
        write!(
            text,
            "{db:?}{callers:?}{calls:?}{transactions:?}{late:?}{originals:?}"
        )
        .expect("it is hashed");
        for process in processes {
            let Process {
                state,
                namespaces,
                lanes,
                side_queue,
                leases,
                notifications,
                ..
            } = process;
            write!(
                text,
                "{state:?}{namespaces:?}{lanes:?}{side_queue:?}{leases:?}{notifications:?}"
            )
            .expect("it is hashed");
        }
        // What may still happen is part of the state.
        for step in self.calls.iter().chain(&self.faults) {
            steps.contains(step).hash(&mut text.0);
        }
        (self.faults_of(&steps), timers_of(&steps)).hash(&mut text.0);
        let mut answered = world
            .callers
            .values()
            .map(|caller| caller.told != Told::Waiting);
        Path {
            fingerprint: text.0.finish(),
            violation: world.violation.as_ref().map(|violation| violation.property),
            answered: !world.callers.is_empty() && answered.all(|answered| answered),
            next: self.next_steps(world, &steps),
            steps,
        }
    }

    fn next_steps(&self, world: &World, steps: &[Step]) -> Vec<Step> {
        let mut next = Vec::new();
        if world.violation.is_some() {
            return next;
        }
        let may_fail = self.faults_of(steps) < self.most_faults;
        for process in &world.processes {
            let p = process.number;
            for (kind, lane) in &process.lanes {
                let Some(statement) = &lane.statement else {
                    continue;
                };
                if world.can_apply(p, *kind) {
                    let is_write = matches!(statement, Statement::CompareAndSet { .. });
                    let begins = world.setup.engine.early_preconditions && is_write;
                    if begins && lane.early.is_none() {
                        next.push(Step::Begin(p, *kind));
                    }
                    next.push(Step::Apply(p, *kind));
                }
                if lane.applied.is_some() && world.can_answer(p, *kind) {
                    next.push(Step::Answer(p, *kind));
                }
                if self.breaks && may_fail && process.is_running() && statement.writes() {
                    next.push(Step::Lose(p, *kind));
                }
            }
        }
        next.extend((0..world.late.len()).map(Step::ApplyLate));
        let new = |step: &&Step| !steps.contains(step);
        next.extend(self.calls.iter().filter(new).cloned());
        if may_fail {
            next.extend(self.faults.iter().filter(new).cloned());
        }
        // Without a fault the polls alone would be endless.
        if timers_of(steps) < self.most_timers && self.faults_of(steps) > 0 {
            next.push(Step::NextTimer);
        }
        next
    }

    fn faults_of(&self, steps: &[Step]) -> usize {
        let is_fault = |step: &&Step| matches!(step, Step::Lose(..)) || self.faults.contains(step);
        steps.iter().filter(is_fault).count()
    }
}

fn timers_of(steps: &[Step]) -> usize {
    steps
        .iter()
        .filter(|step| **step == Step::NextTimer)
        .count()
}

impl Model for Small {
    type State = Path;
    type Action = Step;

    fn init_states(&self) -> Vec<Path> {
        vec![self.path(&self.start(), Vec::new())]
    }

    fn actions(&self, state: &Path, actions: &mut Vec<Step>) {
        actions.extend(state.next.iter().cloned());
    }

    fn next_state(&self, last: &Path, step: Step) -> Option<Path> {
        let mut world = self.replay(&last.steps);
        if !world.step(&step) {
            return None;
        }
        let steps = last.steps.iter().cloned().chain([step]).collect();
        Some(self.path(&world, steps))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("every property holds", |_, path| path.violation.is_none()),
            Property::<Self>::sometimes("every caller is answered", |_, path| path.answered),
        ]
    }
}

fn setup(engine: &str) -> Setup {
    let mut engines = ENGINES.into_iter();
    Setup {
        seed: 1,
        engine: engines.find(|e| e.name == engine).expect("there is one"),
        processes: 2,
        namespaces: 1,
        ttl: Some(Duration::from_secs(2)),
        fairness: Fairness::InTurn,
        evidence: Evidence::Process,
        queue_limit: 10,
        mechanisms: Mechanisms {
            group_commit: false,
            deferral: false,
            ..Mechanisms::default()
        },
        warm: false,
        clocks_behind: true,
        mixed_matrices: false,
        rejects_names: false,
        first_is_permanent: false,
        turns: false,
        loses_power: false,
        limited: false,
    }
}

fn ask(process: usize, name: &'static str, patience: Patience) -> Step {
    Step::Ask(Ask {
        process,
        number: u32::try_from(process).expect("few") + 1,
        namespace: 0,
        task: 'a',
        names: vec![name],
        shared: Vec::new(),
        max_hold: None,
        patience,
        scope: Scope::None,
    })
}

/// Visits every state, and says how many there are.
fn search(name: &str, mut small: Small) {
    if let Ok(most) = env::var("LOCKS_SIM_MODEL") {
        small.most_faults = most.parse().expect("LOCKS_SIM_MODEL is a number");
    }
    let faults = small.most_faults;
    let checker = small.checker().threads(2).spawn_bfs().join();
    if let Some(path) = checker.discovery("every property holds") {
        let (model, last) = (checker.model(), path.last_state().clone());
        let mut world = model.start();
        world.log = Some(Vec::new());
        for step in &last.steps {
            world.step(step);
        }
        let log = world.log.take().unwrap_or_default().join("\n");
        let violation = world.violation.expect("it is violated");
        panic!(
            "trace: {} is violated: {}\n{log}",
            violation.property, violation.detail
        );
    }
    checker.assert_any_discovery("every caller is answered");
    println!(
        "{name}, at most {faults} faults: {} states, depth {}",
        checker.unique_state_count(),
        checker.max_depth()
    );
}

#[test]
fn two_processes_and_broken_connections() {
    search(
        "two processes, one lock, broken connections",
        Small {
            setup: setup("PostgreSQL"),
            before: Vec::new(),
            calls: vec![
                ask(0, "app_task_1", Patience::Forever),
                ask(1, "app_task_1", Patience::NoWait),
                Step::Release(1),
                Step::Release(2),
            ],
            faults: vec![Step::Cancel(1)],
            most_faults: 0,
            most_timers: 0,
            breaks: true,
        },
    );
}

#[test]
fn a_process_and_the_original() {
    search(
        "two processes and the original, two locks",
        Small {
            setup: setup("MySQL"),
            before: Vec::new(),
            calls: vec![
                ask(0, "app_task_1", Patience::Forever),
                Step::Release(1),
                Step::OriginalReads(0),
                Step::OriginalTakes(0, "box_update"),
            ],
            faults: vec![Step::OriginalDeletes(0), Step::OriginalInserts(0)],
            most_faults: 0,
            most_timers: 1,
            breaks: false,
        },
    );
}
