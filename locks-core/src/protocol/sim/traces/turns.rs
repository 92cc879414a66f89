//! Processes that write for each other.

use std::time::Duration;

use crate::protocol::sim::{
    callers::Told,
    process::LaneKind::Rows,
    scene::{Scene, pending},
    schedule::{Patience, ProcessId, RequestNumber, Step},
};

const CLAIM: &str = "claim of submissions";
const WAIT: &str = "wait for the turn";
const WRITE: &str = "compare-and-set";
const PASS: &str = "pass of the turn";

/// Processes 1 and 2 have lost two races in a row and take turns. Process 0 writes without turns.
fn taking_turns(engine: &str) -> Scene {
    let mut s = Scene::with(3, engine, |setup| setup.turns = true);
    for (p, number, name) in [(1, 101, "app_task_2"), (2, 102, "app_backup_1")] {
        s.ask_for(p, number, ('b', name), Patience::Forever);
        for lost in [0, 1] {
            s.until_sent(p, Rows, WRITE);
            let first = 110 + 10 * number + lost;
            s.ask_for(0, first, ('b', "app_task_1"), Patience::Forever);
            s.until_told(&[0], first);
            s.step(&Step::Release(first));
            s.answer_now(0);
            s.step(&Step::Answer(p, Rows));
        }
        s.until_sent(p, Rows, WAIT);
        s.until_told(&[p], number);
        s.step(&Step::Release(number));
        s.answer_now(p);
    }
    s
}

/// Process 1 has the turn and is about to claim what the others have submitted. Process 2 has
/// submitted request 2 for `app_task_2`.
fn with_turn(s: &mut Scene) {
    s.ask_for(1, 1, ('a', "app_task_1"), Patience::Forever);
    s.until_sent(1, Rows, CLAIM);
    s.ask_for(2, 2, ('a', "app_task_2"), Patience::Forever);
    s.until_sent(2, Rows, WAIT);
}

fn is_granted(s: &Scene, number: RequestNumber) -> bool {
    *s.told(number) == Told::Granted
}

/// Answers what a process asks until it is told, and counts its writes.
#[track_caller]
fn writes_until_told(s: &mut Scene, p: ProcessId, number: RequestNumber) -> usize {
    let mut writes = 0;
    while *s.told(number) == Told::Waiting {
        writes += usize::from(pending(s, p) == Some(WRITE));
        s.answer_all(&[p]);
    }
    writes
}

#[test]
fn one_process_writes_what_another_has_submitted() {
    for engine in ["PostgreSQL", "MySQL"] {
        let mut s = taking_turns(engine);
        with_turn(&mut s);
        assert_eq!(writes_until_told(&mut s, 1, 1), 1);
        s.until_sent(1, Rows, PASS);
        s.step(&Step::Answer(1, Rows));
        assert_eq!(writes_until_told(&mut s, 2, 2), 0);
        assert!(is_granted(&s, 2));
        s.end();
    }
}

#[test]
fn a_submitted_release_is_written_by_another_process() {
    let mut s = taking_turns("PostgreSQL");
    s.ask_for(2, 2, ('a', "app_task_2"), Patience::Forever);
    s.until_told(&[2], 2);
    s.answer_now(2);
    s.ask_for(1, 1, ('a', "app_task_1"), Patience::Forever);
    s.until_sent(1, Rows, CLAIM);
    s.step(&Step::Release(2));
    s.until_sent(2, Rows, WAIT);
    s.until_told(&[1], 1);
    s.answer_now(1);
    // The one that is told does not write.
    while !s.0.calls.is_empty() {
        assert_ne!(pending(&s, 2), Some(WRITE), "{}", s.log());
        s.answer_all(&[2]);
    }
    assert_eq!(*s.told(2), Told::Gone);
    s.end();
}

#[test]
fn what_a_process_that_was_killed_has_claimed_is_written_by_its_own_process() {
    let mut s = taking_turns("PostgreSQL");
    with_turn(&mut s);
    s.until_sent(1, Rows, WRITE);
    s.step(&Step::Kill(1));
    assert_eq!(writes_until_told(&mut s, 2, 2), 1);
    assert!(is_granted(&s, 2));
    s.end();
}

#[test]
fn a_stopped_process_that_has_the_turn_does_not_stop_others() {
    for statement in [CLAIM, WRITE, PASS] {
        let mut s = taking_turns("PostgreSQL");
        with_turn(&mut s);
        s.until_sent(1, Rows, statement);
        s.step(&Step::Pause(1));
        let start = s.0.now;
        s.until_told(&[2], 2);
        assert!(is_granted(&s, 2), "{}", s.log());
        assert!(s.since(start) < Duration::from_secs(1), "{}", s.log());
        s.step(&Step::Release(2));
        s.answer_for(&[2], Duration::from_millis(100));
        s.step(&Step::Resume(1));
        s.until_told(&[1], 1);
        s.end();
    }
}

#[test]
fn a_stopped_process_writes_nothing_that_was_withdrawn() {
    let mut s = taking_turns("PostgreSQL");
    with_turn(&mut s);
    // It has claimed request 2, and is about to write its grant.
    s.until_sent(1, Rows, WRITE);
    s.step(&Step::Pause(1));
    s.until_told(&[2], 2);
    s.step(&Step::Release(2));
    s.answer_for(&[2], Duration::from_millis(50));
    s.step(&Step::Resume(1));
    s.until_told(&[1], 1);
    s.ask_for(0, 3, ('a', "app_task_2"), Patience::NoWait);
    s.until_told(&[0], 3);
    assert!(is_granted(&s, 3), "{}", s.log());
    s.end();
}

#[test]
fn what_was_served_once_is_not_served_again() {
    let mut s = taking_turns("PostgreSQL");
    with_turn(&mut s);
    s.until_told(&[1], 1);
    s.until_sent(1, Rows, PASS);
    s.step(&Step::Answer(1, Rows));
    s.until_told(&[2], 2);
    s.answer_now(2);
    // A supervisor takes the lock, and its process does not know it yet.
    s.step(&Step::RemoveGrant(0, 0, "app_task_2"));
    s.answer_for(&[0], Duration::from_millis(50));
    s.ask_for(1, 3, ('b', "app_backup_1"), Patience::Forever);
    s.until_told(&[1], 3);
    s.ask_for(0, 4, ('a', "app_task_2"), Patience::NoWait);
    s.until_told(&[0], 4);
    assert!(is_granted(&s, 4), "{}", s.log());
    s.end();
}

#[test]
fn a_process_writes_for_itself_after_a_submission_of_a_dead_one_was_refused() {
    let mut s = taking_turns("PostgreSQL");
    with_turn(&mut s);
    s.step(&Step::Kill(2));
    s.step(&Step::RemoveTask(0, 0, 2, 'a'));
    s.answer_for(&[0], Duration::from_millis(50));
    assert_eq!(writes_until_told(&mut s, 1, 1), 2, "{}", s.log());
    assert!(is_granted(&s, 1));
    s.end();
}

#[test]
fn a_process_that_is_alone_takes_no_turns_any_more() {
    let mut s = taking_turns("PostgreSQL");
    let mut turns = 0;
    for number in 1..20 {
        s.ask_for(1, number, ('a', "app_task_1"), Patience::Forever);
        while *s.told(number) == Told::Waiting {
            turns += usize::from(pending(&s, 1) == Some(WAIT));
            s.answer_all(&[1]);
        }
        s.step(&Step::Release(number));
        s.answer_now(1);
    }
    // A turn for each acquire, and one for each release.
    assert!((3..=5).contains(&turns), "{turns}");
    s.end();
}
