//! Random schedules.
//!
//! A million: `LOCKS_SIM_SCHEDULES=1000000 cargo test --release -p locks-core --lib
//! sim::tests -- --nocapture`.

use std::{
    env,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use super::{
    setup::setup,
    shrink::{report, run_seed, run_steps, shrink},
};

fn variable(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

/// The seeds of schedules beyond the first 10,000 that have shown a fault.
const FAILED_ONCE: [u64; 3] = [15_433, 37_352, 172_762];

#[test]
fn schedules_that_have_shown_a_fault_show_none() {
    for seed in FAILED_ONCE {
        let outcome = run_seed(seed);
        if let Some(violation) = &outcome.violation {
            let steps = shrink(&setup(seed), outcome.steps, violation.property);
            panic!("{}", report(&setup(seed), &steps, violation));
        }
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "it reports how fast it is")]
fn every_property_holds_in_random_schedules() {
    let schedules = variable("LOCKS_SIM_SCHEDULES");
    let seed = variable("LOCKS_SIM_SEED");
    if let (Some(seed), None) = (seed, schedules) {
        let outcome = run_seed(seed);
        let setup = setup(seed);
        let text = match &outcome.violation {
            Some(violation) => {
                let steps = shrink(&setup, outcome.steps, violation.property);
                report(&setup, &steps, violation)
            }
            None => run_steps(&setup, &outcome.steps, true).log.join("\n"),
        };
        println!("{text}");
        assert!(outcome.violation.is_none());
        return;
    }
    let shrinks = variable("LOCKS_SIM_SHRINK") != Some(0);
    let (first, schedules) = (seed.unwrap_or(0), schedules.unwrap_or(10_000));
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let [steps, statements, grants, commits, losses] = [const { AtomicU64::new(0) }; 5];
    let start = Instant::now();
    let run = || {
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + schedules {
                break;
            }
            let outcome = run_seed(seed);
            steps.fetch_add(outcome.steps.len() as u64, Ordering::Relaxed);
            statements.fetch_add(outcome.statements, Ordering::Relaxed);
            grants.fetch_add(outcome.grants, Ordering::Relaxed);
            commits.fetch_add(outcome.commits, Ordering::Relaxed);
            losses.fetch_add(outcome.losses, Ordering::Relaxed);
            if let Some(violation) = &outcome.violation {
                failed.store(true, Ordering::Relaxed);
                let mut steps = outcome.steps;
                if shrinks {
                    steps = shrink(&setup(seed), steps, violation.property);
                }
                panic!("{}", report(&setup(seed), &steps, violation));
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(run);
        }
    });
    let millis = start.elapsed().as_millis().max(1);
    let rate = u128::from(schedules) * 1000 / millis;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{schedules} schedules, {rate} a second: {} steps, {} statements, {} grants, \
         {} losses, {} fenced commits",
        count(&steps),
        count(&statements),
        count(&grants),
        count(&losses),
        count(&commits),
    );
}
