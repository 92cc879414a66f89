//! Runs schedules, and makes those that fail short.

use super::{
    generate::Generator,
    properties::Violation,
    schedule::Step,
    setup::{Setup, setup},
    world::World,
};

/// How many lines of a log are shown after the last fault, and at its end.
const SHOWN: usize = 45;

/// What became of a schedule.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) steps: Vec<Step>,
    pub(super) violation: Option<Violation>,
    pub(super) log: Vec<String>,
    pub(super) statements: u64,
    pub(super) grants: u64,
    pub(super) commits: u64,
    pub(super) losses: u64,
}

fn world_of(setup: &Setup) -> World {
    let mut world = World::new(setup.clone());
    if setup.warm {
        world.warm_up();
    }
    world
}

fn finish(mut world: World, steps: Vec<Step>) -> Outcome {
    if world.violation.is_none() {
        world.settle();
    }
    Outcome {
        steps,
        violation: world.violation.take(),
        log: world.log.take().unwrap_or_default(),
        statements: world.statements,
        grants: world.checks.grants,
        commits: world.checks.commits,
        losses: world.checks.losses,
    }
}

/// Runs the schedule of a seed.
pub(super) fn run_seed(seed: u64) -> Outcome {
    let mut world = world_of(&setup(seed));
    let mut generator = Generator::new(seed);
    let mut steps = Vec::new();
    while world.violation.is_none() && steps.len() < generator.length {
        let step = generator.next(&world);
        world.step(&step);
        steps.push(step);
    }
    finish(world, steps)
}

/// Runs these steps. Those that are not possible are left out.
pub(super) fn run_steps(setup: &Setup, steps: &[Step], logs: bool) -> Outcome {
    let mut world = world_of(setup);
    if logs {
        world.log = Some(Vec::new());
    }
    let mut taken = Vec::new();
    for step in steps {
        if world.violation.is_some() {
            break;
        }
        if world.step(step) {
            taken.push(step.clone());
        }
    }
    finish(world, taken)
}

/// The shortest schedule found that violates this property: chunks of steps are left out as
/// long as the property is still violated.
pub(super) fn shrink(setup: &Setup, steps: Vec<Step>, property: &str) -> Vec<Step> {
    let fails = |steps: &[Step]| {
        let outcome = run_steps(setup, steps, false);
        let violated = outcome.violation.is_some_and(|v| v.property == property);
        violated.then_some(outcome.steps)
    };
    let mut steps = fails(&steps).unwrap_or(steps);
    let mut chunk = steps.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        let before = steps.len();
        while at < steps.len() {
            let end = (at + chunk).min(steps.len());
            let shorter: Vec<_> = steps[..at].iter().chain(&steps[end..]).cloned().collect();
            match fails(&shorter) {
                Some(shorter) => steps = shorter,
                None => at = end,
            }
        }
        if steps.len() == before || chunk > 1 {
            chunk /= 2;
        }
    }
    steps
}

/// A violation with its schedule, in words.
pub(super) fn report(setup: &Setup, steps: &[Step], violation: &Violation) -> String {
    let outcome = run_steps(setup, steps, true);
    let violation = outcome.violation.unwrap_or_else(|| violation.clone());
    let Setup {
        seed,
        engine,
        processes,
        ..
    } = setup;
    format!(
        "seed {seed}: {} is violated: {}\n{processes} processes on {}, ttl {:?}, {:?}, {:?}\n{}\n",
        violation.property,
        violation.detail,
        engine.name,
        setup.ttl,
        setup.fairness,
        setup.evidence,
        shortened(outcome.log).join("\n"),
    )
}

/// A log without most of what follows the last fault.
fn shortened(mut log: Vec<String>) -> Vec<String> {
    let end = log
        .iter()
        .position(|line| line.ends_with("the faults stop"));
    if let Some(end) = end
        && log.len() > end + 2 * SHOWN
    {
        let left_out = end + SHOWN..log.len() - SHOWN;
        let text = format!("              … {} lines are left out", left_out.len());
        log.splice(left_out, [text]);
    }
    log
}
