//! How a process ends.

use std::time::Duration;

use crate::protocol::sim::{
    process::LaneKind::Rows,
    scene::Scene,
    schedule::{Patience, Step},
};

/// Answers what the first process asks until it has ended.
fn until_ended(s: &mut Scene) -> Duration {
    let start = s.0.now;
    while s.0.processes[0].is_alive() {
        s.answer_all(&[0]);
        assert!(s.0.now < start + Duration::from_secs(30), "{}", s.log());
    }
    s.since(start)
}

#[test]
fn process_that_holds_nothing_ends_at_once() {
    for step in [Step::Close(0), Step::HandlesGone(0)] {
        let mut s = Scene::new(2, "PostgreSQL");
        s.granted(0, 1);
        s.step(&Step::Release(1));
        s.answer_now(0);
        s.step(&step);
        let passed = until_ended(&mut s);
        assert!(passed < Duration::from_millis(1), "{passed:?}");
        assert!(s.log().contains("p1 has ended: None"), "{}", s.log());
        s.end();
    }
}

#[test]
fn detached_lock_is_held_after_the_last_handle_until_it_is_taken_away() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.step(&Step::Detach(1));
    s.step(&Step::HandlesGone(0));
    for _ in 0..50 {
        s.answer_all(&[0]);
    }
    assert!(s.0.processes[0].is_alive());
    assert_eq!(s.holder().as_deref(), Some("p1a"));
    assert_eq!(s.log().matches("p1 is flushed").count(), 1, "{}", s.log());
    s.step(&Step::RemoveTask(1, 0, 0, 'a'));
    while !s.0.calls.is_empty() {
        s.answer_all(&[0, 1]);
    }
    until_ended(&mut s);
    s.end();
}

#[test]
fn guard_is_released_after_the_last_handle_is_gone() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.step(&Step::HandlesGone(0));
    until_ended(&mut s);
    assert_eq!(s.holder(), None);
    s.end();
}

#[test]
fn end_tells_which_locks_an_open_transaction_keeps() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted_with_commit_under_way(0, 1);
    s.step(&Step::Close(0));
    let passed = until_ended(&mut s);
    assert!(passed >= Duration::from_secs(10) && passed < Duration::from_secs(11));
    let text = "these locks could not be released within 10 s: app_task_1;";
    assert!(s.log().contains(text), "{}", s.log());
    s.end();
}

#[test]
fn end_tells_the_last_error_of_the_database() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.ask(0, 2, Patience::Forever);
    s.step(&Step::CutOff(0));
    s.step(&Step::Close(0));
    until_ended(&mut s);
    assert!(s.log().contains("the last error was"), "{}", s.log());
    s.end();
}

#[test]
fn process_does_not_end_during_a_write() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.ask(0, 1, Patience::Forever);
    s.until_sent(0, Rows, "compare-and-set");
    s.step(&Step::Cancel(1));
    s.step(&Step::HandlesGone(0));
    s.step(&Step::Lose(0, Rows));
    s.step(&Step::ApplyLate(0));
    until_ended(&mut s);
    assert_eq!(s.holder(), None);
    s.end();
}

#[test]
fn end_tells_that_sessions_are_left() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.step(&Step::Release(1));
    s.answer_now(0);
    s.step(&Step::CutOff(0));
    s.step(&Step::Close(0));
    until_ended(&mut s);
    let text = "its locks are released, but sessions of this process could not be deleted";
    assert!(s.log().contains(text), "{}", s.log());
    s.end();
}

#[test]
fn detached_lock_that_never_expires_outlives_its_process() {
    let mut s = Scene::with(2, "PostgreSQL", |setup| setup.ttl = None);
    s.granted(0, 1);
    s.step(&Step::Detach(1));
    s.step(&Step::HandlesGone(0));
    until_ended(&mut s);
    assert_eq!(s.holder().as_deref(), Some("p1a"));
    s.end();
}
