//! How soon a process learns of a release by another one, after it has waited for some time.

// A test takes its database by value, and drops it at its end.
#![allow(clippy::needless_pass_by_value)]

use std::{
    thread,
    time::{Duration, Instant},
};

use locks_core::{LockGuard, LockManager};
use locks_tests::{
    clock::micros,
    engine::{Database, Engine, note},
    on_every_engine,
    row::wait_until_queued,
    wait::block_on,
    waiter,
    waiter::Waiter,
};

const SOON: Duration = Duration::from_secs(20);

on_every_engine!(sync_alone release_wakes_a_waiter_of_another_process, sync_alone release_in_one_process_is_known_at_once);

fn release_wakes_a_waiter_of_another_process(db: Database) {
    let measured = thread::scope(|scope| {
        let lengths = [
            (Duration::from_millis(50), 1, 30),
            (Duration::from_secs(1), 3, 5),
            (Duration::from_secs(8), 5, 1),
        ];
        let db = &db;
        let started = lengths.map(|(length, waiters, rounds)| {
            scope.spawn(move || (length, measure(db, length, waiters, rounds)))
        });
        started.map(|thread| thread.join().expect("it is measured"))
    });
    for (length, measured) in measured {
        let [delay, write] = [0, 1].map(|column: usize| {
            let mut column: Vec<_> = measured.iter().map(|pair| pair[column]).collect();
            column.sort();
            (column[column.len() / 2], column[column.len() - 1])
        });
        note(&format!(
            "wake-up after {length:?} on {}: median {:?}, maximum {:?} of {}; the release itself \
             {:?} of it, at most {:?}",
            db.engine(),
            delay.0,
            delay.1,
            measured.len(),
            write.0,
            write.1,
        ));
        let limit = match db.engine() {
            Engine::Sqlite | Engine::Postgres => Duration::from_millis(5),
            Engine::MySql => (length / 20).max(Duration::from_millis(5)),
        };
        // The release and the grant are writes, with reads before them.
        let (median, most) = (limit + 4 * write.0, limit + 4 * write.1);
        assert!(
            delay.0 < median + Duration::from_millis(5),
            "{length:?}: {measured:?}"
        );
        assert!(
            delay.1 < most + Duration::from_millis(200),
            "{length:?}: {measured:?}"
        );
    }
}

fn release_in_one_process_is_known_at_once(db: Database) {
    let builder = LockManager::builder().task_id("one");
    let one = builder.connect(db.url()).blocking().expect("it is there");
    let other = one.with_task_id("other").expect("a task id");
    let mut delays = Vec::new();
    for _ in 0..3 {
        let guard = one.acquire("x").blocking().expect("it is free");
        let waiting = other.wait("x");
        let waiting = thread::spawn(move || (waiting.blocking(), Instant::now()));
        block_on(wait_until_queued(&db, "platform", 1));
        thread::sleep(Duration::from_secs(1));
        let released = Instant::now();
        drop(guard);
        let (granted, at) = waiting.join().expect("no panic");
        granted
            .expect("it is granted")
            .release()
            .blocking()
            .expect("it is held");
        delays.push(at - released);
    }
    delays.sort();
    note(&format!("within a process on {}: {delays:?}", db.engine()));
    // One write, for any waiting time: no delay of a twentieth of the time.
    assert!(delays[1] < Duration::from_millis(50), "{delays:?}");
}

/// The delays from release to grant, and the part of each that the release took, in a namespace of
/// their own, in which nothing else happens.
fn measure(db: &Database, length: Duration, waiters: usize, rounds: usize) -> Vec<[Duration; 2]> {
    let namespace = format!("wake-{}", length.as_millis());
    let builder = LockManager::builder()
        .task_id("holder")
        .namespace(&namespace);
    let holder = builder.connect(db.url()).blocking().expect("it is there");
    let start = |n: usize| waiter!(db.url(), format!("w{n}"), "--namespace", namespace);
    let mut processes: Vec<Waiter> = (0..waiters).map(start).collect();
    let mut delays = Vec::new();
    for _ in 0..rounds {
        let name = |n: usize| format!("x{n}");
        let acquire = |n| holder.acquire(name(n)).blocking().expect("it is free");
        let guards: Vec<LockGuard> = (0..waiters).map(acquire).collect();
        for (n, process) in processes.iter_mut().enumerate() {
            process.tell(&format!("wait job {}", name(n)));
        }
        let asked = Instant::now();
        block_on(wait_until_queued(db, &namespace, waiters));
        thread::sleep(length.saturating_sub(asked.elapsed()));
        for (process, guard) in processes.iter_mut().zip(guards) {
            let released = micros();
            guard.release().blocking().expect("it is held");
            let done = micros();
            let granted = process.granted("job", SOON);
            delays.push([granted.at, done].map(|at| Duration::from_micros(at - released)));
        }
        for process in &mut processes {
            process.release("job");
        }
    }
    delays
}
