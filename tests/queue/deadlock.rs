//! Deadlocks between jobs of different processes are broken, and nothing else is reported as one.

// A test takes its database by value, and drops it at its end.
#![allow(clippy::needless_pass_by_value)]

use std::time::{Duration, Instant};

use locks_core::LockManager;
use locks_tests::{
    engine::Database,
    on_every_engine,
    row::{wait_until_empty, wait_until_queued},
    waiter,
    waiter::Waiter,
};

const SOON: Duration = Duration::from_secs(20);

on_every_engine!(
    async one_of_two_deadlocked_jobs_is_refused,
    async one_of_two_jobs_that_deadlock_concurrently_is_refused,
    async deadlock_of_five_is_refused_at_the_last_request,
    async call_that_waits_for_its_caller_is_refused_at_once,
    async siblings_and_guards_without_a_scope_wait,
    async task_passes_an_update_that_waits_for_it,
);

fn processes(db: &Database, number: usize) -> Vec<Waiter> {
    let start = |n: usize| waiter!(db.url(), format!("t{n}"));
    (0..number).map(start).collect()
}

async fn one_of_two_deadlocked_jobs_is_refused(db: Database) {
    let mut two = processes(&db, 2);
    let [a, b] = &mut two[..] else { unreachable!() };
    a.tell("enter job x");
    b.tell("enter job y");
    a.granted("job", SOON);
    b.granted("job", SOON);
    a.tell("enter job y");
    wait_until_queued(&db, "platform", 1).await;
    b.tell("enter job x");
    let refused = b.refused("job", SOON);
    assert_eq!(refused.kind, "deadlock", "{}", refused.text);
    for part in [
        "lock x",
        "x is held by task t0",
        "task t0 waits for y",
        "y is held by task t1",
    ] {
        assert!(refused.text.contains(part), "{part} in {}", refused.text);
    }
    // The refused job is still in its outer call. The other one waits until that call has ended.
    assert!(a.is_silent_about("granted"));
    b.tell("leave job");
    b.hear("left job", SOON);
    a.granted("job", SOON);
    a.tell("leave job");
    a.hear("left job", SOON);
    a.tell("leave job");
    a.hear("left job", SOON);
    wait_until_empty(&db, "platform", SOON).await;
}

async fn one_of_two_jobs_that_deadlock_concurrently_is_refused(db: Database) {
    let mut two = processes(&db, 2);
    for round in 0..5 {
        let job = format!("job{round}");
        for (n, process) in two.iter_mut().enumerate() {
            process.tell(&format!("enter {job} {}", ["x", "y"][n]));
            process.granted(&job, SOON);
        }
        for (n, process) in two.iter_mut().enumerate() {
            process.tell(&format!("enter {job} {}", ["y", "x"][n]));
        }
        // One of the jobs is refused. The other continues when the refused one leaves.
        let start = Instant::now();
        let refused = loop {
            assert!(start.elapsed() < SOON, "no deadlock is reported");
            let reported =
                |process: &mut Waiter| !process.is_silent_about(&format!("refused {job}"));
            if let Some(refused) = two.iter_mut().position(reported) {
                break refused;
            }
        };
        let error = two[refused].refused(&job, SOON);
        assert_eq!(error.kind, "deadlock", "{}", error.text);
        two[refused].tell(&format!("leave {job}"));
        two[refused].hear(&format!("left {job}"), SOON);
        let other = &mut two[1 - refused];
        other.granted(&job, SOON);
        assert!(other.is_silent_about("refused"));
        for _ in 0..2 {
            other.tell(&format!("leave {job}"));
            other.hear(&format!("left {job}"), SOON);
        }
    }
}

async fn deadlock_of_five_is_refused_at_the_last_request(db: Database) {
    let mut five = processes(&db, 5);
    for (n, process) in five.iter_mut().enumerate() {
        process.tell(&format!("enter job l{n}"));
        process.granted("job", SOON);
    }
    for (n, process) in five[..4].iter_mut().enumerate() {
        process.tell(&format!("enter job l{}", n + 1));
        wait_until_queued(&db, "platform", n + 1).await;
    }
    five[4].tell("enter job l0");
    let refused = five[4].refused("job", SOON);
    assert_eq!(refused.kind, "deadlock", "{}", refused.text);
    five[4].tell("leave job");
    // The others continue, one after the other.
    for process in five[..4].iter_mut().rev() {
        process.granted("job", SOON);
        for _ in 0..2 {
            process.tell("leave job");
            process.hear("left job", SOON);
        }
        assert!(process.is_silent_about("refused"));
    }
    wait_until_empty(&db, "platform", SOON).await;
}

async fn call_that_waits_for_its_caller_is_refused_at_once(db: Database) {
    let mut process = waiter!(db.url(), "t");
    process.tell("enter job app_task_1");
    process.granted("job", SOON);
    for names in ["app_task_1", "box_update", "other app_task_1"] {
        process.tell(&format!("enter job {names}"));
        assert_eq!(process.refused("job", SOON).kind, "deadlock", "{names}");
    }
    // A guard without a scope is refused as well.
    process.tell("wait job app_task_1");
    assert_eq!(process.refused("job", SOON).kind, "deadlock");
}

async fn siblings_and_guards_without_a_scope_wait(db: Database) {
    let mut two = processes(&db, 2);
    let [a, b] = &mut two[..] else { unreachable!() };
    // Two jobs of one process: one waits for what the other will release.
    a.tell("enter first x");
    a.granted("first", SOON);
    a.tell("enter second y");
    a.granted("second", SOON);
    a.tell("enter second x");
    b.tell("wait job y");
    wait_until_queued(&db, "platform", 2).await;
    a.tell("leave first");
    a.granted("second", SOON);
    for _ in 0..2 {
        a.tell("leave second");
        a.hear("left second", SOON);
    }
    b.granted("job", SOON);
    // The job of a guard outside any scope is unknown, so there is no verdict.
    a.tell("wait guards x");
    a.granted("guards", SOON);
    a.tell("within guards 1500 y");
    b.tell("within job 1000 x");
    let (first, second) = (b.refused("job", SOON), a.refused("guards", SOON));
    assert_eq!((&*first.kind, &*second.kind), ("timeout", "timeout"));
}

async fn task_passes_an_update_that_waits_for_it(db: Database) {
    let update = LockManager::builder().task_id("update");
    let update = update.connect(db.url()).await.expect("it is there");
    let mut task = waiter!(db.url(), "task");
    // By calls, by guards, and by calls of a job that holds a guard.
    for [first, then] in [
        ["enter", "enter"],
        ["wait", "wait"],
        ["wait", "enter"],
        ["enter", "wait"],
    ] {
        let job = format!("{first}-{then}");
        task.tell(&format!("{first} {job} app_task_1"));
        task.granted(&job, SOON);
        let waiting = tokio::spawn(update.wait("box_update"));
        wait_until_queued(&db, "platform", 1).await;
        task.tell(&format!("{then} {job} app_task_2"));
        task.granted(&job, SOON);
        assert!(!waiting.is_finished());
        for verb in [then, first] {
            let (end, ended) = if verb == "enter" {
                ("leave", "left")
            } else {
                ("release", "released")
            };
            task.tell(&format!("{end} {job}"));
            task.hear(&format!("{ended} {job}"), SOON);
        }
        let guard = tokio::time::timeout(SOON, waiting).await.expect("in time");
        let guard = guard.expect("no panic").expect("it is granted");
        guard.release().await.expect("it is held");
    }
}
