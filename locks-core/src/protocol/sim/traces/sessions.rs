//! Sessions: those of processes that have ended, and those that nothing needs.

use std::time::Duration;

use tracing::Level;

use crate::{
    options::Evidence,
    protocol::sim::{
        callers::Told,
        log::logged,
        process::LaneKind::{Rows, Side},
        scene::{Scene, TTL},
        schedule::{Patience, ProcessId, RequestNumber, Step},
        setup::Setup,
    },
};

/// The first process was started again after the others were killed. The second one ran on its
/// machine, the third one on another. Both held a lock. Returns how many sessions are left.
fn sessions_left(evidence: Evidence, after: Duration) -> usize {
    let mut s = Scene::with(3, "PostgreSQL", |setup: &mut Setup| {
        setup.evidence = evidence;
    });
    s.step(&Step::Close(0));
    while s.0.processes[0].is_alive() {
        s.answer_all(&[0]);
    }
    for (p, name) in [(1, "app_task_1"), (2, "mail_restart")] {
        let number = u32::try_from(p).expect("small");
        s.wait_for(p, number, name);
        s.until_told(&[p], number);
    }
    assert_eq!(s.0.db.tables.heartbeats.len(), 2);
    s.step(&Step::Kill(1));
    s.step(&Step::Kill(2));
    s.step(&Step::Start(0));
    s.answer_for(&[0], after);
    let left = s.0.db.tables.heartbeats.len();
    s.end();
    left
}

#[test]
fn sessions_of_ended_processes_of_this_machine_are_removed_at_the_start() {
    assert_eq!(sessions_left(Evidence::Process, TTL / 4), 1);
    assert_eq!(sessions_left(Evidence::Time, TTL / 4), 2);
}

#[test]
fn sessions_that_no_process_renews_are_removed_a_ttl_after_the_start() {
    assert_eq!(sessions_left(Evidence::Time, TTL), 2);
    assert_eq!(sessions_left(Evidence::Time, TTL * 13 / 10), 0);
}

#[test]
fn eviction_is_logged_unless_the_session_was_lost_before() {
    let count = |events: &[String], text: &str| {
        let events = events.iter().filter(|event| event.contains(text));
        events.count()
    };
    let events = logged(Level::WARN, || {
        let mut s = Scene::new(2, "PostgreSQL");
        s.granted(0, 1);
        s.step(&Step::Kill(0));
        s.granted(1, 2);
        s.end();
    });
    assert_eq!(count(&events, "evicted a session"), 1, "{events:#?}");
    let recovered = "recovered a lock of a dead session lock=app_task_1 task=p1a";
    assert_eq!(count(&events, recovered), 1, "{events:#?}");
    let events = logged(Level::WARN, || {
        let mut s = Scene::new(1, "PostgreSQL");
        s.granted(0, 1);
        s.step(&Step::Sleep(0));
        s.step(&Step::Millis(3_000));
        s.step(&Step::Resume(0));
        s.answer_for(&[0], TTL);
        assert_eq!(*s.told(1), Told::Lost);
        s.end();
    });
    assert_eq!(count(&events, "a session was lost"), 1, "{events:#?}");
    let lost = "a lock was lost lock=app_task_1 task=p1a";
    assert_eq!(count(&events, lost), 1, "{events:#?}");
    assert_eq!(count(&events, "evicted a session"), 0, "{events:#?}");
}

#[test]
fn session_that_nothing_needs_is_deleted_once() {
    let mut s = Scene::new(1, "PostgreSQL");
    s.granted(0, 1);
    s.step(&Step::Release(1));
    s.answer_now(0);
    s.step(&Step::OwnerGone(0, 'a'));
    s.answer_for(&[0], TTL);
    assert!(s.0.db.tables.heartbeats.is_empty());
    s.step(&Step::Close(0));
    while s.0.processes[0].is_alive() {
        s.answer_all(&[0]);
    }
    let deletes = s
        .log()
        .matches("is answered (delete of heartbeat rows)")
        .count();
    assert_eq!(deletes, 1, "{}", s.log());
}

#[test]
fn side_connection_is_prepared_only_if_a_heartbeat_stands_still() {
    let prepared = |kills: bool| {
        let mut s = Scene::new(2, "PostgreSQL");
        s.granted(0, 1);
        s.ask(1, 2, Patience::Forever);
        s.answer_for(&[0, 1], TTL);
        if kills {
            s.step(&Step::Kill(0));
        }
        s.answer_for(&[0, 1], TTL);
        let prepares = s.log().matches("p2 prepares a side connection").count();
        s.end();
        prepares > 0
    };
    assert!(prepared(true));
    assert!(!prepared(false));
}

#[test]
fn waiter_sees_that_a_process_of_its_machine_has_ended() {
    let granted_after = |evidence: Evidence, holder: ProcessId| {
        let mut s = Scene::with(3, "PostgreSQL", |setup| setup.evidence = evidence);
        s.granted(holder, 1);
        s.ask(1, 2, Patience::Forever);
        s.answer_for(&[0, 1, 2], TTL / 2);
        s.step(&Step::Kill(holder));
        let start = s.0.now;
        s.until_told(&[1], 2);
        let passed = s.since(start);
        s.end();
        passed
    };
    let at_once = granted_after(Evidence::Process, 0);
    assert!(at_once < Duration::from_millis(50), "{at_once:?}");
    assert!(granted_after(Evidence::Time, 0) > TTL / 2, "nothing looks");
    assert!(
        granted_after(Evidence::Process, 2) > TTL / 2,
        "another machine"
    );
}

#[test]
fn nothing_is_granted_under_a_session_of_which_a_lock_was_stolen() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    let session = |s: &Scene, number: RequestNumber| s.0.callers[&number].session().cloned();
    let first = session(&s, 1).expect("it is granted");
    s.step(&Step::OriginalReads(0));
    s.step(&Step::OriginalReleasesTask(0, 0, 'a'));
    s.wait_for(0, 2, "mail_restart");
    s.until_told(&[0], 2);
    assert_eq!(*s.told(1), Told::Lost);
    assert_ne!(session(&s, 2), Some(first.clone()));
    assert!(!s.0.db.tables.heartbeats.contains_key(&first));
    s.end();
}

#[test]
fn locks_that_were_stolen_from_several_sessions_are_forgotten_together() {
    let mut s = Scene::new(3, "PostgreSQL");
    s.granted(0, 1);
    s.wait_for(1, 2, "mail_restart");
    s.until_told(&[1], 2);
    for holder in [0, 1] {
        s.step(&Step::OriginalReads(0));
        s.step(&Step::OriginalReleasesTask(0, holder, 'a'));
    }
    s.ask(2, 3, Patience::NoWait);
    // One side connection is slower than the other one.
    for _ in 0..100 {
        let lanes = s.0.processes[2].lanes.keys().copied();
        let fast: Vec<_> = lanes.filter(|kind| !matches!(kind, Side(_))).collect();
        let side = s.0.processes[2]
            .lanes
            .keys()
            .copied()
            .find(|kind| matches!(kind, Side(_)));
        let mut moved = false;
        for kind in fast.into_iter().chain(side) {
            moved |= s.0.step(&Step::Answer(2, kind));
        }
        if !moved {
            s.step(&Step::NextTimer);
        }
    }
    assert_eq!(*s.told(3), Told::Granted);
    s.end();
}

#[test]
fn a_request_that_its_own_process_blocked_may_be_blocked_by_a_dead_one_later() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.step(&Step::Kill(0));
    s.ask(1, 2, Patience::Forever);
    // The rows of the dead session are deleted, and its lock is still there.
    let side = s.side(1, "delete of fence rows");
    s.step(&Step::Answer(1, side));
    s.step(&Step::Backup);
    s.until_told(&[1], 2);
    s.ask_for(1, 3, ('b', "app_task_1"), Patience::Forever);
    s.answer_for(&[1], 2 * TTL);
    s.step(&Step::Restore);
    s.until_told(&[1], 3);
    assert_eq!(*s.told(3), Told::Granted);
    s.end();
}

#[test]
fn eviction_that_waits_is_under_way_once() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted_with_commit_under_way(0, 1);
    s.step(&Step::Pause(0));
    s.ask(1, 2, Patience::Forever);
    let start = s.0.now;
    while s.0.now < start + 4 * TTL {
        let process = &s.0.processes[1];
        let sides = process.lanes.keys().filter(|kind| matches!(kind, Side(_)));
        assert!(sides.count() + process.side_queue.len() < 2, "{}", s.log());
        s.answer_all(&[1]);
    }
    s.step(&Step::ArriveCommit(1));
    s.until_told(&[1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    s.end();
}

#[test]
fn waiter_whose_session_was_removed_still_finds_a_dead_holder() {
    let mut s = Scene::new(3, "PostgreSQL");
    s.granted(0, 1);
    s.ask(1, 2, Patience::Forever);
    s.answer_for(&[0, 1, 2], TTL / 10);
    s.step(&Step::RemoveTask(2, 0, 1, 'a'));
    let side = s.side(2, "delete of heartbeat rows");
    s.step(&Step::Apply(2, side));
    s.step(&Step::Pause(2));
    // The write is refused, and the row is as it was.
    s.wait_for(1, 3, "mail_restart");
    s.until_told(&[1], 3);
    assert_eq!(*s.told(3), Told::Granted);
    s.step(&Step::Kill(0));
    let start = s.0.now;
    s.until_told(&[1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    let passed = s.since(start);
    assert!(passed < TTL * 3 / 2, "{passed:?}");
    s.end();
}

#[test]
fn process_does_not_look_for_its_own_sessions() {
    let mut s = Scene::new(1, "PostgreSQL");
    s.granted(0, 1);
    s.ask_for(0, 2, ('b', "app_task_1"), Patience::Forever);
    s.answer_for(&[0], TTL);
    assert!(!s.log().contains("read of sessions"), "{}", s.log());
    s.end();
}

#[test]
fn row_without_a_lock_ends_the_grant_and_its_session() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    let session = s.0.callers[&1].session().expect("it is granted").clone();
    s.step(&Step::RemoveTask(1, 0, 0, 'a'));
    while !s.0.calls.is_empty() {
        s.answer_all(&[1]);
    }
    s.ask_for(0, 2, ('b', "app_task_1"), Patience::Forever);
    // The row is read, and nothing is renewed.
    while *s.told(2) == Told::Waiting {
        if !s.0.step(&Step::Answer(0, Rows)) {
            s.step(&Step::NextTimer);
        }
    }
    assert_eq!(*s.told(1), Told::Lost);
    assert!(!s.0.processes[0].has_lease(&session, s.0.now));
    s.end();
}
