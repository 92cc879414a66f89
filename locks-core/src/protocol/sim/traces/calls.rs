//! What callers are promised: when they are answered, and what the answers say.

use std::time::Duration;

use crate::protocol::{
    Time,
    sim::{
        callers::Told,
        execution::parse,
        process::LaneKind::{Renewals, Rows, Side},
        scene::{Scene, TTL, pending},
        schedule::{Patience, Step},
    },
};

#[test]
fn dropped_guard_is_released_a_millisecond_later() {
    let mut s = Scene::new(2, "MySQL");
    s.granted(0, 1);
    s.answer_now(0);
    let start = s.0.now;
    s.step(&Step::Drop(1));
    assert_eq!(pending(&s, 0), None);
    s.until_sent(0, Rows, "compare-and-set");
    let passed = s.since(start);
    assert!(passed < Duration::from_millis(2), "{passed:?}");
    s.end();
}

#[test]
fn dropped_guard_for_which_another_process_waits_is_released_at_once() {
    let mut s = Scene::new(2, "MySQL");
    s.granted(0, 1);
    s.ask(1, 2, Patience::Forever);
    // The holder sees the queue when it renews its session.
    s.answer_for(&[0, 1], TTL);
    s.answer_now(0);
    s.step(&Step::Drop(1));
    assert_eq!(pending(&s, 0), Some("compare-and-set"));
    s.end();
}

#[test]
fn closing_answers_every_caller_at_once_and_releases_every_lock() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.ask_for(0, 2, ('b', "app_task_1"), Patience::Forever);
    s.answer_for(&[0], Duration::from_millis(100));
    s.step(&Step::CutOff(0));
    s.step(&Step::Held(0, 0));
    s.step(&Step::Close(0));
    assert_eq!(*s.told(1), Told::Lost, "its guard is told");
    assert_eq!(*s.told(2), Told::Failed);
    assert_eq!(s.0.calls.len(), 1, "the close itself waits");
    let start = s.0.now;
    s.step(&Step::Reconnect(0));
    while s.0.processes[0].is_alive() {
        s.answer_all(&[0]);
    }
    assert_eq!(s.holder(), None);
    let passed = s.since(start);
    assert!(passed < Duration::from_millis(200), "{passed:?}");
    s.end();
}

#[test]
fn inspection_is_answered_while_a_write_takes_long() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(1, 1);
    s.ask(0, 2, Patience::Forever);
    s.until_sent(0, Rows, "compare-and-set");
    s.step(&Step::Held(0, 0));
    let start = s.0.now;
    let reads_aside = |s: &Scene| {
        let kinds = s.0.processes[0].lanes.keys();
        let mut sides = kinds.filter(|kind| matches!(kind, Side(_)));
        sides.next().copied()
    };
    while reads_aside(&s).is_none() {
        s.step(&Step::NextTimer);
    }
    let passed = s.since(start);
    assert!(passed >= Duration::from_secs(1), "{passed:?}");
    assert!(passed < Duration::from_millis(1_010), "{passed:?}");
    assert_eq!(pending(&s, 0), Some("compare-and-set"));
    let side = reads_aside(&s).expect("it was found");
    // The row, and the sessions.
    s.step(&Step::Answer(0, side));
    s.step(&Step::Answer(0, side));
    assert!(s.0.calls.is_empty(), "{:?}", s.0.calls);
    assert!(s.log().contains("is answered: Holders"), "{}", s.log());
    s.end();
}

#[test]
fn time_out_says_what_blocked_the_request() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.ask(1, 2, Patience::Forever);
    s.answer_for(&[1], Duration::from_millis(100));
    s.ask_for(1, 3, ('b', "app_task_1"), Patience::Millis(500));
    s.until_told(&[1], 3);
    let log = s.log();
    let text = "timed out after 500ms of waiting for lock app_task_1: ";
    let (_, blockers) = log.split_once(text).unwrap_or_else(|| panic!("{log}"));
    for blocker in [
        "app_task_1 is held by task p1a",
        "task p2a waits for app_task_1",
    ] {
        assert!(blockers.contains(blocker), "{blockers}");
    }
    s.end();
}

#[test]
fn guard_that_finds_its_lease_ended_is_lost() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    let session = s.0.callers[&1].session().expect("it is granted").clone();
    s.until_sent(0, Renewals, "renewal");
    s.0.processes[0].leases.insert(session, Time::default());
    s.step(&Step::Answer(0, Renewals));
    assert_eq!(*s.told(1), Told::Lost);
    s.end();
}

#[test]
fn driver_learns_whether_the_last_write_answered_a_caller() {
    let mut s = Scene::new(2, "MySQL");
    let answered = |s: &Scene| s.0.processes[0].namespaces.last_write_answered();
    for (number, calls) in [(1, true), (2, false)] {
        s.granted(0, number);
        assert!(answered(&s), "a grant");
        s.step(&if calls {
            Step::Release(number)
        } else {
            Step::Drop(number)
        });
        s.until_sent(0, Rows, "compare-and-set");
        s.step(&Step::Answer(0, Rows));
        assert_eq!(answered(&s), calls);
    }
    s.end();
}

#[test]
fn release_that_the_original_came_before_is_answered_with_the_loss() {
    let mut s = Scene::new(2, "MySQL");
    s.granted(0, 1);
    s.step(&Step::OriginalReads(0));
    s.step(&Step::OriginalReleasesTask(0, 0, 'a'));
    s.step(&Step::Release(1));
    while !s.0.calls.is_empty() {
        s.answer_all(&[0]);
    }
    assert!(
        s.log().contains("Release(1) is answered: Lost"),
        "{}",
        s.log()
    );
    s.end();
}

#[test]
fn release_whose_write_was_applied_without_answer_is_done() {
    let mut s = Scene::new(2, "MySQL");
    s.granted(0, 1);
    s.step(&Step::Release(1));
    s.until_sent(0, Rows, "compare-and-set");
    s.step(&Step::Apply(0, Rows));
    s.step(&Step::Lose(0, Rows));
    while !s.0.calls.is_empty() {
        s.answer_all(&[0]);
    }
    assert!(
        s.log().contains("Release(1) is answered: Done"),
        "{}",
        s.log()
    );
    s.end();
}

#[test]
fn waiting_requests_are_listed_with_what_blocks_them() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.ask(1, 2, Patience::Forever);
    s.answer_for(&[0, 1], Duration::from_millis(100));
    s.step(&Step::Waiting(0, 0));
    while !s.0.calls.is_empty() {
        s.answer_all(&[0]);
    }
    let log = s.log();
    let text =
        "is answered: Waiters([Waiter { names: [\"app_task_1\"], shared: [], task_id: \"p2a\"";
    let (_, answer) = log.split_once(text).unwrap_or_else(|| panic!("{log}"));
    let blocker = "blocked_by: [Holder(Holder { name: \"app_task_1\", task_id: \"p1a\"";
    assert!(answer.contains(blocker), "{answer}");
    s.end();
}

#[test]
fn request_whose_caller_is_gone_leaves_the_queue_at_once() {
    let mut s = Scene::new(2, "MySQL");
    let queued = |s: &Scene| {
        let row = s.0.db.tables.locks.values().next();
        let table = row.and_then(parse).expect("a row");
        table.queue().len()
    };
    s.granted(0, 1);
    s.ask(1, 2, Patience::Forever);
    s.answer_for(&[0, 1], Duration::from_millis(100));
    s.answer_now(1);
    assert_eq!(queued(&s), 1);
    s.step(&Step::Cancel(2));
    s.answer_now(1);
    assert_eq!(queued(&s), 0);
    s.end();
}

#[test]
fn inspection_while_the_row_is_missing_finds_nothing() {
    let mut s = Scene::new(2, "MySQL");
    s.step(&Step::OriginalDeletes(0));
    s.step(&Step::Held(1, 0));
    // Longer than an inspection waits for the connection of the rows.
    s.answer_for(&[1], Duration::from_secs(2));
    let log = s.log();
    assert!(log.contains("Inspect is answered: Holders([])"), "{log}");
    s.end();
}

#[test]
fn removal_of_a_grant_leaves_the_next_grant_of_its_task_alone() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.step(&Step::RemoveGrant(1, 0, "app_task_1"));
    s.step(&Step::Release(1));
    while s.holder().is_some() {
        s.answer_all(&[0]);
    }
    s.granted(0, 2);
    s.answer_for(&[0, 1], TTL);
    assert!(s.0.calls.is_empty());
    let log = s.log();
    assert!(log.contains("Remove is answered: Holders([])"), "{log}");
    assert_eq!(*s.told(2), Told::Granted);
    assert!(s.holder().is_some());
    s.end();
}

#[test]
fn holder_whose_renewals_are_late_is_warned_once_before_its_loss() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.answer_for(&[0], TTL);
    assert!(!s.log().contains("is endangered"), "{}", s.log());
    s.step(&Step::CutOff(0));
    let start = s.0.now;
    while *s.told(1) != Told::Lost {
        assert!(s.since(start) < 2 * TTL, "{}", s.log());
        s.step(&Step::NextTimer);
    }
    let log = s.log();
    assert_eq!(log.matches("is endangered").count(), 1, "{log}");
    let (_, left) = log.split_once("is endangered, ").expect("it was found");
    assert!(left.starts_with("1s left"), "half of the ttl: {log}");
    s.end();
}
