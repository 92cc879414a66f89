//! How a process learns that the row has changed.

use std::time::Duration;

use crate::protocol::{
    DriverInput, Input,
    sim::{
        callers::Told,
        process::LaneKind::Rows,
        scene::{Scene, pending},
        schedule::{Patience, Step},
    },
};

/// The first of three processes holds `app_task_1`, the second one waits for it.
fn blocked(engine: &str) -> Scene {
    let mut s = Scene::new(3, engine);
    s.granted(0, 1);
    s.ask(1, 2, Patience::Forever);
    s.answer_for(&[0, 1, 2], Duration::from_millis(100));
    for p in 0..3 {
        s.answer_now(p);
    }
    s
}

fn version(s: &Scene) -> i64 {
    let row = s.0.db.tables.locks.values().next();
    row.expect("a row").version.version
}

fn notify(s: &mut Scene, version: i64) {
    let namespace = s.0.namespace(0);
    for p in 0..3 {
        s.0.to(p, &namespace, Input::Changed(version));
    }
    s.check();
}

#[test]
fn row_that_may_have_changed_is_looked_at_at_once_for_a_blocked_request() {
    let mut s = blocked("PostgreSQL");
    for p in 0..3 {
        s.0.input(p, DriverInput::MayHaveChanged);
        let looks = (p == 1).then_some("read of the version");
        assert_eq!(pending(&s, p), looks);
        let namespaces = &s.0.processes[p].namespaces;
        assert_eq!(namespaces.has_blocked_requests(), p == 1);
    }
    s.end();
}

#[test]
fn row_of_a_later_version_is_read_at_once_for_a_blocked_request() {
    let mut s = blocked("PostgreSQL");
    let known = version(&s);
    notify(&mut s, known);
    for p in 0..3 {
        assert_eq!(pending(&s, p), None, "it is known");
    }
    notify(&mut s, known + 1);
    assert_eq!(pending(&s, 0), None, "nothing waits");
    assert_eq!(pending(&s, 1), Some("read of the row"));
    assert_eq!(pending(&s, 2), None, "nothing waits");
    s.end();
}

#[test]
fn row_that_changes_during_a_query_is_looked_at_afterwards() {
    let mut s = blocked("PostgreSQL");
    let known = version(&s);
    notify(&mut s, known + 1);
    s.step(&Step::Apply(1, Rows));
    // The lock is released after the row was read.
    s.step(&Step::Release(1));
    while !s.0.calls.is_empty() {
        s.answer_all(&[0]);
    }
    s.answer_now(0);
    while s.0.step(&Step::Notify(1)) {}
    s.answer_now(1);
    assert_eq!(*s.told(2), Told::Granted);
    s.end();
}

#[test]
fn changed_file_is_looked_at_within_milliseconds() {
    let mut s = blocked("SQLite");
    let start = s.0.now;
    s.step(&Step::Release(1));
    s.answer_now(0);
    while *s.told(2) == Told::Waiting {
        s.answer_all(&[0, 1]);
    }
    assert_eq!(*s.told(2), Told::Granted);
    let passed = s.since(start);
    assert!(passed < Duration::from_millis(10), "{passed:?}");
    assert!(s.log().contains("read of the change counter"));
    s.end();
}

#[test]
fn row_is_created_at_once_unless_the_original_may_insert_it_again() {
    let s = Scene::new(1, "PostgreSQL");
    let passed = s.0.now;
    assert!(
        passed < Duration::from_secs(1),
        "{passed:?} on an empty database"
    );
    s.end();
    let mut s = Scene::new(3, "PostgreSQL");
    s.granted(0, 1);
    s.step(&Step::OriginalDeletes(0));
    let start = s.0.now;
    // Sessions show the third process that there was a row, which it has not read.
    s.granted(2, 2);
    let passed = s.since(start);
    assert!(passed >= Duration::from_secs(3), "{passed:?}");
    s.end();
}
