//! Fenced transactions that are open, and the locks that are being released meanwhile.

use std::time::Duration;

use crate::protocol::sim::{
    callers::Told,
    process::LaneKind::{self, Side},
    scene::{Scene, TTL},
    schedule::{Patience, ProcessId, Step},
};

/// How often a process sends this statement on a side connection within this time.
fn sent(s: &mut Scene, p: ProcessId, statement: &str, time: Duration) -> usize {
    let (start, mut sent) = (s.0.now, 0);
    while s.0.now < start + time {
        let sides = s.0.processes[p].lanes.keys().copied();
        let sides: Vec<LaneKind> = sides.filter(|kind| matches!(kind, Side(_))).collect();
        let is_it = |kind: &&LaneKind| {
            let pending = s.pending(p, **kind);
            pending.is_some_and(|pending| pending.name() == statement)
        };
        sent += sides.iter().filter(is_it).count();
        s.answer_all(&[p]);
    }
    sent
}

#[test]
fn open_transaction_is_looked_for_twenty_times_a_second_until_it_ends() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted_with_commit_under_way(0, 1);
    s.step(&Step::Release(1));
    let sent = sent(&mut s, 0, "lock of a fence row", Duration::from_secs(1));
    assert!((15..=25).contains(&sent), "{sent}");
    assert_eq!(s.holder().as_deref(), Some("p1a"));
    s.step(&Step::ArriveCommit(1));
    s.ask(1, 2, Patience::Forever);
    s.until_told(&[0, 1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    s.end();
}

#[test]
fn new_row_is_tried_four_times_a_second_while_a_transaction_is_open() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted_with_commit_under_way(0, 1);
    s.step(&Step::OriginalDeletes(0));
    s.step(&Step::Pause(0));
    s.ask(1, 2, Patience::Forever);
    // The original may insert the row again.
    sent(&mut s, 1, "", Duration::from_secs(4));
    let tries = sent(&mut s, 1, "list of fence rows", Duration::from_secs(10));
    assert!((30..=40).contains(&tries), "{tries}");
    s.step(&Step::ArriveCommit(1));
    s.until_told(&[1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    s.end();
}

/// The original has taken a lock away whose fenced transaction is open.
fn stolen() -> Scene {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted_with_commit_under_way(0, 1);
    s.step(&Step::OriginalReads(0));
    s.step(&Step::OriginalReleasesTask(0, 0, 'a'));
    s
}

#[test]
fn request_that_does_not_wait_is_decided_when_the_session_of_a_stolen_lock_is_dead() {
    let mut s = stolen();
    s.ask(1, 2, Patience::NoWait);
    for _ in 0..50 {
        s.answer_all(&[0, 1]);
    }
    assert_eq!(*s.told(2), Told::Waiting);
    s.step(&Step::ArriveCommit(1));
    s.until_told(&[0, 1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    s.end();
}

#[test]
fn lock_that_a_supervisor_takes_from_its_holder_waits_for_the_fenced_transaction() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted_with_commit_under_way(0, 1);
    s.step(&Step::RemoveGrant(1, 0, "app_task_1"));
    s.ask(1, 2, Patience::Forever);
    s.answer_for(&[0, 1], Duration::from_millis(800));
    assert_eq!(*s.told(2), Told::Waiting);
    assert_eq!(s.0.calls.len(), 1, "the removal waits");
    s.step(&Step::ArriveCommit(1));
    s.until_told(&[0, 1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    s.answer_for(&[0, 1], TTL);
    assert!(s.0.calls.is_empty());
    assert_eq!(*s.told(1), Told::Lost);
    s.end();
}

#[test]
fn fence_that_comes_after_a_supervisor_took_the_lock_is_refused() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.step(&Step::RemoveGrant(1, 0, "app_task_1"));
    s.answer_for(&[1], Duration::from_millis(800));
    assert!(s.0.calls.is_empty() && s.holder().is_none());
    // Its driver does not know yet, but the row of its session is gone.
    assert_eq!(*s.told(1), Told::Granted);
    s.step(&Step::Fence(1));
    s.until_told(&[0], 1);
    assert_eq!(*s.told(1), Told::Lost);
    assert!(!s.0.step(&Step::Commit(1)), "it is not fenced");
    s.end();
}

#[test]
fn removal_that_waits_for_a_transaction_spares_sessions_that_are_opened_later() {
    let mut s = Scene::new(3, "PostgreSQL");
    s.granted_with_commit_under_way(0, 1);
    s.step(&Step::RemoveAll(1, 0));
    let deletions = sent(
        &mut s,
        1,
        "delete of heartbeat rows",
        Duration::from_secs(1),
    );
    assert!(deletions > 5, "it is tried again: {deletions}");
    s.wait_for(2, 2, "mail_restart");
    for _ in 0..200 {
        s.answer_all(&[0, 1, 2]);
    }
    assert_eq!(*s.told(2), Told::Granted);
    s.step(&Step::ArriveCommit(1));
    while !s.0.calls.is_empty() {
        s.answer_all(&[0, 1, 2]);
    }
    assert_eq!(*s.told(1), Told::Lost);
    assert_eq!(*s.told(2), Told::Granted);
    s.end();
}
