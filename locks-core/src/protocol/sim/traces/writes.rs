//! What a write leads to.

use std::time::Duration;

use crate::{
    protocol::sim::{
        callers::Told,
        process::LaneKind::Rows,
        scene::{Scene, pending},
        schedule::{Patience, ProcessId, RequestNumber, Step},
    },
    store::{Class, Failure, Kind},
};

const LOCKED: &str = "read of the row under its lock";

/// What follows on the row connection once a lock is released for which task `b` of these processes
/// waits, with these requests.
fn after_release(waiters: &[(ProcessId, RequestNumber)]) -> Option<&'static str> {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    for (p, number) in waiters {
        s.ask_for(*p, *number, ('b', "app_task_1"), Patience::Forever);
    }
    s.answer_for(&[0, 1], Duration::from_millis(100));
    s.step(&Step::Release(1));
    while *s.told(1) != Told::Gone || !s.0.calls.is_empty() {
        s.until_sent(0, Rows, "compare-and-set");
        s.step(&Step::Answer(0, Rows));
    }
    let next = pending(&s, 0);
    s.end();
    next
}

#[test]
fn release_is_announced_only_if_another_process_waits() {
    assert_eq!(after_release(&[]), None);
    assert_eq!(after_release(&[(1, 2)]), Some("notification"));
    assert_eq!(after_release(&[(0, 2), (0, 3)]), None);
}

#[test]
fn write_without_answer_becomes_impossible_before_its_request_is_forgotten() {
    let mut s = Scene::new(2, "MySQL");
    s.ask(0, 1, Patience::Forever);
    s.until_sent(0, Rows, "compare-and-set");
    s.step(&Step::Lose(0, Rows));
    s.step(&Step::Cancel(1));
    for _ in 0..20 {
        s.answer_all(&[0]);
    }
    s.step(&Step::ApplyLate(0));
    assert_eq!(s.holder(), None);
    s.end();
}

/// Whether a process begins its next write at once, after a write that took long and followed one
/// of another process, which still holds this many locks.
fn writes_at_once(locks_of_other: usize) -> bool {
    let mut s = Scene::new(2, "MySQL");
    s.wait_for(0, 1, "own");
    s.until_told(&[0], 1);
    for (number, name) in [(2, "other"), (3, "another")] {
        s.wait_for(1, number, name);
        s.until_told(&[1], number);
    }
    for number in [2, 3].into_iter().skip(locks_of_other) {
        s.step(&Step::Release(number));
        s.answer_now(1);
    }
    s.wait_for(0, 4, "second");
    while *s.told(4) == Told::Waiting {
        s.until_sent(0, Rows, "compare-and-set");
        s.step(&Step::Apply(0, Rows));
        s.step(&Step::Millis(2));
        s.step(&Step::Answer(0, Rows));
    }
    s.wait_for(0, 5, "third");
    let at_once = pending(&s, 0) == Some("compare-and-set");
    s.end();
    at_once
}

#[test]
fn process_lets_others_write_first_if_they_hold_locks() {
    assert!(writes_at_once(0));
    assert!(!writes_at_once(2));
}

/// Two callers were just granted locks, by a write that took 2 ms.
fn two_granted_by_one_write(group_commit: bool) -> Scene {
    let mut s = Scene::with(2, "MySQL", |setup| {
        setup.mechanisms.group_commit = group_commit;
    });
    s.granted(0, 1);
    // Its caller has come back, and the next write answers none.
    s.step(&Step::Held(0, 0));
    s.answer_now(0);
    s.step(&Step::Drop(1));
    s.until_sent(0, Rows, "compare-and-set");
    for (number, name) in [(2, "one"), (3, "two")] {
        s.wait_for(0, number, name);
    }
    s.step(&Step::Answer(0, Rows));
    s.until_sent(0, Rows, "compare-and-set");
    s.step(&Step::Apply(0, Rows));
    s.step(&Step::Millis(2));
    s.step(&Step::Answer(0, Rows));
    for number in [2, 3] {
        assert_eq!(*s.told(number), Told::Granted);
    }
    s
}

#[test]
fn write_waits_for_the_callers_that_the_last_one_has_answered() {
    let mut s = two_granted_by_one_write(true);
    s.step(&Step::Release(2));
    assert_eq!(pending(&s, 0), None, "the other caller may come");
    s.wait_for(0, 4, "three");
    assert_eq!(pending(&s, 0), Some("compare-and-set"), "both have come");
    s.end();
}

#[test]
fn write_waits_for_a_quarter_of_a_millisecond_at_most() {
    let mut s = two_granted_by_one_write(true);
    let start = s.0.now;
    s.wait_for(0, 4, "three");
    assert_eq!(pending(&s, 0), None, "the other caller may come");
    s.until_sent(0, Rows, "compare-and-set");
    let passed = s.since(start);
    assert!(passed < Duration::from_micros(300), "{passed:?}");
    s.end();
}

#[test]
fn write_waits_for_no_caller_if_the_mechanism_is_turned_off() {
    let mut s = two_granted_by_one_write(false);
    s.wait_for(0, 4, "three");
    assert_eq!(pending(&s, 0), Some("compare-and-set"));
    s.end();
}

#[test]
fn guards_of_a_cluster_use_fence_rows_of_their_own() {
    let mut s = Scene::new(2, "Galera");
    for (number, name) in [(1, "one"), (2, "two"), (3, "three")] {
        s.wait_for(0, number, name);
        s.until_told(&[0], number);
    }
    s.step(&Step::Release(2));
    s.answer_now(0);
    s.wait_for(0, 4, "four");
    s.until_told(&[0], 4);
    let row = |number: u32| {
        let grant = s.0.callers[&number].grant.as_ref();
        grant.expect("it is granted").fence_row.clone()
    };
    assert_eq!(row(4), row(2), "those of the others are in use");
    s.end();
}

/// Both processes have just written, the first one last.
fn both_write(engine: &str) -> Scene {
    let mut s = Scene::with(2, engine, |setup| setup.mechanisms.yielding = false);
    for (p, number, name) in [(0, 1, "one"), (1, 2, "two"), (0, 3, "three")] {
        s.wait_for(p, number, name);
        s.until_told(&[p], number);
    }
    s
}

#[test]
fn row_is_read_again_before_a_write_if_other_processes_write_too() {
    for (age, statement) in [(0, "compare-and-set"), (2, "read of the row")] {
        let mut s = both_write("MySQL");
        s.step(&Step::Millis(age));
        s.wait_for(0, 4, "four");
        assert_eq!(pending(&s, 0), Some(statement));
        s.end();
    }
}

/// The second process asks for the row's lock, because two of its writes came too late.
fn asks_for_the_row_lock() -> Scene {
    let mut s = both_write("MySQL");
    s.wait_for(1, 4, "four");
    for number in [5, 6] {
        s.until_sent(1, Rows, "compare-and-set");
        s.wait_for(0, number, "own");
        s.until_told(&[0], number);
        s.step(&Step::Release(number));
        s.answer_now(0);
        s.step(&Step::Answer(1, Rows));
    }
    assert_eq!(pending(&s, 1), Some(LOCKED));
    s
}

#[test]
fn row_lock_is_given_back_to_look_for_a_session_without_which_a_write_was_refused() {
    let mut s = asks_for_the_row_lock();
    s.step(&Step::RemoveTask(0, 0, 1, 'a'));
    let side = s.side(0, "delete of heartbeat rows");
    s.step(&Step::Apply(0, side));
    s.step(&Step::Pause(0));
    let mut writes = 0;
    while *s.told(4) == Told::Waiting {
        writes += usize::from(pending(&s, 1) == Some("compare-and-set"));
        s.answer_all(&[1]);
    }
    assert_eq!(*s.told(4), Told::Granted);
    assert_eq!(writes, 2, "one is refused");
    s.end();
}

#[test]
fn row_is_read_under_its_lock_for_each_write_until_the_process_is_alone() {
    let mut s = asks_for_the_row_lock();
    s.until_told(&[1], 4);
    s.wait_for(0, 7, "seven");
    s.until_told(&[0], 7);
    s.wait_for(1, 8, "eight");
    assert_eq!(pending(&s, 1), Some(LOCKED), "another process wrote");
    s.until_told(&[1], 8);
    s.wait_for(1, 9, "nine");
    assert_eq!(pending(&s, 1), Some(LOCKED));
    s.until_told(&[1], 9);
    s.wait_for(1, 10, "ten");
    assert_eq!(pending(&s, 1), Some("compare-and-set"), "it is alone");
    s.end();
}

#[test]
fn requests_that_a_write_leaves_out_are_in_the_next_one() {
    let mut s = Scene::new(2, "MySQL");
    s.granted(0, 1);
    s.step(&Step::Drop(1));
    s.until_sent(0, Rows, "compare-and-set");
    s.wait_for(0, 2, "one");
    s.wait_for(0, 3, "two");
    s.step(&Step::Answer(0, Rows));
    s.until_sent(0, Rows, "compare-and-set");
    // The database cannot store both in one write.
    let rejected = Failure::simulated(Class::NotApplied, Kind::Content);
    s.0.deliver(0, Rows, Err(rejected));
    let start = s.0.now;
    s.until_told(&[0], 2);
    assert_eq!(*s.told(3), Told::Waiting);
    s.until_told(&[0], 3);
    assert_eq!(*s.told(3), Told::Granted);
    let passed = s.since(start);
    assert!(passed < Duration::from_micros(100), "{passed:?}");
    s.end();
}
