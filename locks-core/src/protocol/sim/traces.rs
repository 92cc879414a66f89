//! Orders of steps that broke earlier designs, as scripts.
//!
//! Each ends as a random schedule does: the faults stop, everything has to come to its end,
//! and every property is checked after every step.

mod calls;
mod changes;
mod ends;
mod failures;
mod fences;
mod hand_over;
mod power;
mod sessions;
mod sharing;
mod turns;
mod writes;

use std::time::Duration;

use super::{
    callers::Told,
    generate::UNSTORABLE,
    process::LaneKind::{Renewals, Rows},
    scene::{EVICTED, Scene, TTL},
    schedule::{Patience, Step},
    setup::Setup,
    statement::Statement,
};

#[test]
fn late_insert_of_a_session_leaves_nothing() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.ask(1, 1, Patience::Forever);
    s.until_sent(1, Rows, "insert of heartbeat rows");
    s.step(&Step::Lose(1, Rows));
    s.until_told(&[1], 1);
    s.step(&Step::ApplyLate(0));
    s.step(&Step::Release(1));
    s.end();
}

#[test]
fn grant_without_answer_is_released_when_its_caller_is_gone() {
    let mut s = Scene::new(2, "MySQL");
    s.ask(0, 1, Patience::Forever);
    s.until_sent(0, Rows, "compare-and-set");
    s.step(&Step::Apply(0, Rows));
    s.step(&Step::Lose(0, Rows));
    s.step(&Step::Cancel(1));
    assert_eq!(s.holder().as_deref(), Some("p1a"));
    s.ask(1, 2, Patience::Forever);
    s.until_told(&[0, 1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    s.end();
}

#[test]
fn write_that_is_rejected_settles_no_earlier_one() {
    let mut s = Scene::with(2, "PostgreSQL", |setup| setup.rejects_names = true);
    s.ask(0, 1, Patience::Forever);
    s.until_sent(0, Rows, "compare-and-set");
    s.step(&Step::Lose(0, Rows));
    s.step(&Step::Cancel(1));
    s.ask_for(0, 2, ('a', UNSTORABLE), Patience::Forever);
    s.until_told(&[0], 2);
    assert_eq!(*s.told(2), Told::Failed);
    s.answer_now(0);
    s.step(&Step::ApplyLate(0));
    s.ask(1, 3, Patience::Forever);
    s.until_told(&[0, 1], 3);
    assert_eq!(*s.told(3), Told::Granted);
    s.end();
}

#[test]
fn late_grant_of_a_caller_that_is_gone_is_released() {
    let mut s = Scene::new(2, "MySQL");
    s.ask(0, 1, Patience::Millis(500));
    s.until_sent(0, Rows, "compare-and-set");
    s.step(&Step::Lose(0, Rows));
    s.step(&Step::Cancel(1));
    s.step(&Step::ApplyLate(0));
    assert_eq!(s.holder().as_deref(), Some("p1a"));
    s.ask(1, 2, Patience::Forever);
    s.until_told(&[0, 1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    s.end();
}

#[test]
fn restart_by_the_original_waits_for_a_fenced_transaction() {
    for engine in ["PostgreSQL", "MySQL", "Galera"] {
        let mut s = Scene::new(2, engine);
        s.granted_with_commit_under_way(0, 1);
        s.step(&Step::OriginalDeletes(0));
        s.step(&Step::OriginalInserts(0));
        s.ask(1, 2, Patience::Forever);
        for _ in 0..200 {
            s.answer_all(&[0, 1]);
        }
        assert_eq!(*s.told(2), Told::Waiting, "{engine}");
        s.step(&Step::ArriveCommit(1));
        s.until_told(&[0, 1], 2);
        assert_eq!(*s.told(2), Told::Granted, "{engine}");
        s.end();
    }
}

#[test]
fn row_that_stays_missing_is_created_after_the_fenced_transaction() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted_with_commit_under_way(0, 1);
    s.step(&Step::OriginalDeletes(0));
    s.step(&Step::Pause(0));
    s.ask(1, 2, Patience::Forever);
    // Longer than the original takes for its restart.
    s.answer_for(&[1], Duration::from_secs(6));
    assert_eq!(*s.told(2), Told::Waiting);
    s.step(&Step::ArriveCommit(1));
    s.until_told(&[1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    s.end();
}

#[test]
fn lock_that_the_original_took_is_not_granted_before_the_fenced_transaction_ends() {
    let mut s = Scene::new(2, "MySQL");
    s.granted_with_commit_under_way(0, 1);
    s.step(&Step::OriginalReads(0));
    s.step(&Step::OriginalReleasesTask(0, 0, 'a'));
    assert_eq!(s.holder(), None);
    s.ask(1, 2, Patience::Forever);
    for _ in 0..200 {
        s.answer_all(&[0, 1]);
    }
    assert_eq!(*s.told(2), Told::Waiting);
    s.step(&Step::ArriveCommit(1));
    s.until_told(&[0, 1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    s.end();
}

#[test]
fn eviction_that_races_a_renewal_fails() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.ask(1, 2, Patience::Forever);
    // The renewals of the holder do not arrive.
    let evict = s.side(1, "delete of heartbeat rows");
    assert_eq!(s.holder().as_deref(), Some("p1a"));
    while !s
        .0
        .late
        .iter()
        .any(|late| matches!(late.statement, Statement::Renew(_)))
    {
        if !s.0.step(&Step::Lose(0, Renewals)) {
            s.step(&Step::NextTimer);
        }
    }
    let late =
        s.0.late
            .iter()
            .position(|late| matches!(late.statement, Statement::Renew(_)));
    s.step(&Step::ApplyLate(late.expect("it was lost")));
    s.step(&Step::Answer(1, evict));
    for _ in 0..10 {
        s.answer_all(&[1]);
    }
    assert_eq!(*s.told(2), Told::Waiting, "the heartbeat had changed");
    s.end();
}

#[test]
fn session_that_was_opened_after_the_list_survives_an_adoption() {
    let mut s = Scene::new(3, "MySQL");
    s.step(&Step::OriginalDeletes(0));
    s.step(&Step::OriginalInserts(0));
    s.ask(1, 2, Patience::Forever);
    // The sessions are listed, and the row is still without a stamp.
    let clear = s.side(1, "read of the version");
    s.ask(2, 3, Patience::Forever);
    s.until_told(&[2], 3);
    assert_eq!(*s.told(3), Told::Granted);
    s.step(&Step::Answer(1, clear));
    for _ in 0..50 {
        s.answer_all(&[1, 2]);
    }
    assert_eq!(*s.told(3), Told::Granted, "its session was deleted");
    s.0.check_grants_stand();
    s.check();
    s.end();
}

#[test]
fn adoption_that_is_late_does_not_end_the_sessions_of_the_next_row() {
    let mut s = Scene::new(3, "MySQL");
    s.granted(0, 1);
    s.step(&Step::OriginalDeletes(0));
    s.step(&Step::OriginalInserts(0));
    s.ask(1, 2, Patience::Forever);
    let clear = s.side(1, "delete of heartbeat rows");
    s.step(&Step::Lose(1, clear));
    // The third process adopts the row and is granted the lock.
    s.ask(2, 3, Patience::Forever);
    s.until_told(&[2], 3);
    assert_eq!(*s.told(3), Told::Granted);
    while !s.0.late.is_empty() {
        s.step(&Step::ApplyLate(0));
    }
    for _ in 0..50 {
        s.answer_all(&[1, 2]);
    }
    assert_eq!(*s.told(3), Told::Granted, "its session was deleted");
    assert_eq!(s.holder().as_deref(), Some("p3a"));
    s.end();
}

#[test]
fn two_supervisors_remove_one_task() {
    let mut s = Scene::new(3, "PostgreSQL");
    s.granted(0, 1);
    s.step(&Step::RemoveTask(1, 0, 0, 'a'));
    s.step(&Step::RemoveTask(2, 0, 0, 'a'));
    let first = s.side(1, "delete of heartbeat rows");
    let second = s.side(2, "delete of heartbeat rows");
    s.step(&Step::Answer(2, second));
    s.step(&Step::Answer(1, first));
    for _ in 0..50 {
        s.answer_all(&[1, 2]);
    }
    assert!(s.0.calls.is_empty(), "both are answered");
    s.ask(1, 2, Patience::NoWait);
    s.until_told(&[1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    s.end();
}

#[test]
fn session_that_is_removed_while_its_grant_is_written_holds_nothing() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.ask(0, 1, Patience::NoWait);
    s.until_sent(0, Rows, "compare-and-set");
    s.step(&Step::RemoveTask(1, 0, 0, 'a'));
    for _ in 0..50 {
        s.answer_all(&[1]);
    }
    s.step(&Step::Apply(0, Rows));
    assert_eq!(s.holder(), None, "its session is dead");
    s.end();
}

#[test]
fn eviction_waits_for_a_fenced_transaction_of_a_stopped_holder() {
    for engine in ["PostgreSQL", "MySQL", "SQLite"] {
        let mut s = Scene::new(2, engine);
        s.granted_with_commit_under_way(0, 1);
        s.step(&Step::Pause(0));
        s.ask(1, 2, Patience::Forever);
        for _ in 0..300 {
            s.answer_all(&[1]);
        }
        assert_eq!(*s.told(2), Told::Waiting, "{engine}");
        s.step(&Step::ArriveCommit(1));
        s.until_told(&[1], 2);
        assert_eq!(*s.told(2), Told::Granted, "{engine}");
        s.end();
    }
}

#[test]
fn holder_on_a_machine_that_slept_is_told() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.step(&Step::Sleep(0));
    s.ask(1, 2, Patience::Forever);
    s.until_told(&[1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    s.step(&Step::Resume(0));
    while *s.told(1) == Told::Granted {
        s.answer_all(&[0]);
    }
    assert_eq!(*s.told(1), Told::Lost);
    s.end();
}

#[test]
fn dead_waiter_lets_others_pass() {
    let mut s = Scene::new(3, "PostgreSQL");
    s.granted(0, 1);
    s.ask(1, 2, Patience::Forever);
    for _ in 0..20 {
        s.answer_all(&[1]);
    }
    s.step(&Step::Kill(1));
    s.ask(2, 3, Patience::Forever);
    for _ in 0..20 {
        s.answer_all(&[2]);
    }
    s.step(&Step::Release(1));
    s.until_told(&[0, 2], 3);
    assert_eq!(*s.told(3), Told::Granted);
    s.end();
}

#[test]
fn waiter_whose_queue_entry_was_written_without_answer_finds_the_dead_holder() {
    let mut s = Scene::new(2, "MySQL");
    s.granted(0, 1);
    s.ask(1, 2, Patience::Forever);
    // Its entry does not wait for another write to join.
    s.until_sent(1, Rows, "insert of fence rows");
    s.step(&Step::Millis(5));
    s.until_sent(1, Rows, "compare-and-set");
    s.step(&Step::Apply(1, Rows));
    s.step(&Step::Lose(1, Rows));
    s.step(&Step::Kill(0));
    s.answer_for(&[1], Duration::from_millis(EVICTED.into()));
    assert_eq!(*s.told(2), Told::Granted, "{}", s.log());
    s.end();
}

#[test]
fn lock_of_a_killed_process_is_granted_after_its_ttl() {
    let mut s = Scene::new(2, "SQLite");
    s.granted(0, 1);
    s.step(&Step::Kill(0));
    s.step(&Step::Millis(EVICTED));
    s.granted(1, 2);
    s.end();
}

#[test]
fn write_on_a_row_that_was_restored_and_written_again_is_refused() {
    let behind = |setup: &mut Setup| {
        setup.clocks_behind = true;
        setup.mechanisms.reread = false;
    };
    let mut s = Scene::with(2, "PostgreSQL", behind);
    // Both have sessions, and the second process wrote last.
    for (p, number) in [(0, 1), (1, 2)] {
        s.granted(p, number);
        s.step(&Step::Release(number));
        s.answer_now(p);
    }
    s.step(&Step::Backup);
    s.ask(0, 3, Patience::Forever);
    s.answer_now(0);
    while *s.told(3) == Told::Waiting {
        s.step(&Step::NextTimer);
        s.answer_now(0);
    }
    let version = |s: &Scene| {
        let row = s.0.db.tables.locks.values().next();
        row.expect("a row").version.clone()
    };
    let before = version(&s);
    s.step(&Step::Restore);
    s.ask(1, 4, Patience::Forever);
    s.answer_now(1);
    let after = version(&s);
    assert_eq!(before.version, after.version, "the version came back");
    assert_ne!(before.stamp, after.stamp);
    assert_eq!(s.holder().as_deref(), Some("p2a"));
    s.step(&Step::Release(3));
    s.answer_now(0);
    assert_eq!(
        s.holder().as_deref(),
        Some("p2a"),
        "a late write replaced it"
    );
    s.end();
}

#[test]
fn renewal_that_is_answered_late_extends_the_lease_from_when_it_was_sent() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.ask(1, 2, Patience::Forever);
    for _ in 0..20 {
        s.answer_all(&[0, 1]);
    }
    s.until_sent(0, Renewals, "renewal");
    s.step(&Step::Apply(0, Renewals));
    let sent = s.0.now;
    while s.0.now < sent + TTL / 4 {
        s.answer_all(&[1]);
    }
    s.step(&Step::Answer(0, Renewals));
    s.step(&Step::Pause(0));
    s.until_told(&[1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    s.end();
}

#[test]
fn insert_that_is_answered_late_starts_the_lease_when_it_was_sent() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.step(&Step::Kill(1));
    s.ask_for(0, 1, ('b', "app_task_1"), Patience::Forever);
    s.until_sent(0, Rows, "insert of heartbeat rows");
    s.step(&Step::Apply(0, Rows));
    let inserted = s.0.now;
    // A process that starts lists the sessions, and once more after their ttl.
    s.step(&Step::Start(1));
    while s.0.now < inserted + TTL * 6 / 10 {
        s.answer_all(&[1]);
    }
    while *s.told(1) == Told::Waiting {
        s.step(&Step::Answer(0, Rows));
    }
    s.step(&Step::Pause(0));
    s.ask(1, 2, Patience::Forever);
    s.until_told(&[1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    s.end();
}

#[test]
fn session_whose_insert_took_most_of_its_ttl_is_renewed_before_a_grant() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.ask(1, 1, Patience::Forever);
    s.until_sent(1, Rows, "insert of heartbeat rows");
    s.step(&Step::Apply(1, Rows));
    s.step(&Step::Millis(1_700));
    s.until_told(&[1], 1);
    assert_eq!(*s.told(1), Told::Granted);
    let process = &s.0.processes[1];
    let session = s.0.callers[&1].session().expect("it is granted");
    let left = process.leases[session] - process.now(s.0.now).boot;
    assert!(left > TTL / 4, "{left:?} are left");
    s.step(&Step::Release(1));
    s.end();
}

#[test]
fn server_that_is_full_costs_no_lock() {
    let mut s = Scene::new(2, "MySQL");
    s.step(&Step::RefuseConnections(1));
    s.granted(1, 1);
    s.answer_for(&[1], 3 * TTL);
    assert_eq!(*s.told(1), Told::Granted);
    s.step(&Step::Release(1));
    s.end();
}

#[test]
fn request_that_the_database_cannot_store_is_refused_alone() {
    let rejects = |setup: &mut Setup| setup.rejects_names = true;
    for engine in ["PostgreSQL", "SQLite"] {
        let mut s = Scene::with(2, engine, rejects);
        s.granted(0, 1);
        let names = ["mail_restart", UNSTORABLE, "box_update"];
        for (number, name) in (2..).zip(names) {
            s.ask_for(0, number, ('b', name), Patience::Forever);
        }
        s.step(&Step::Release(1));
        for (number, told) in [(2, Told::Granted), (3, Told::Failed), (4, Told::Granted)] {
            s.until_told(&[0], number);
            assert_eq!(*s.told(number), told, "request {number}");
            if told == Told::Granted {
                s.step(&Step::Release(number));
            }
        }
        let text = format!("the database rejects lock {UNSTORABLE}");
        assert!(s.log().contains(&text), "{}", s.log());
        s.end();
    }
}

#[test]
fn session_that_a_restore_brings_back_keeps_its_entries() {
    let mut s = Scene::new(2, "PostgreSQL");
    // The second process has a session that the backup contains.
    s.granted(1, 3);
    s.step(&Step::Release(3));
    s.answer_now(1);
    s.granted(0, 1);
    s.step(&Step::Backup);
    s.step(&Step::Pause(0));
    s.ask(1, 2, Patience::Forever);
    let side = s.side(1, "delete of fence rows");
    s.step(&Step::Apply(1, side));
    s.step(&Step::Restore);
    // The second process takes the session for dead, and its rows are there again.
    s.step(&Step::Answer(1, side));
    for _ in 0..10 {
        s.answer_all(&[1]);
    }
    assert_eq!(s.holder().as_deref(), Some("p1a"));
    // It finds the session dead once more.
    let start = s.0.now;
    s.until_told(&[1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    assert!(s.since(start) < 2 * TTL, "it has looked at once");
    s.end();
}

#[test]
fn missing_row_is_looked_for_twenty_times_a_second() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.step(&Step::OriginalDeletes(0));
    s.ask(0, 1, Patience::Forever);
    let (start, mut reads) = (s.0.now, 0);
    while s.0.now < start + Duration::from_millis(2_900) {
        if matches!(s.pending(0, Rows), Some(Statement::Read(_))) {
            reads += 1;
        }
        s.answer_all(&[0]);
    }
    assert!((40..=65).contains(&reads), "{reads} reads");
    s.step(&Step::OriginalInserts(0));
    s.until_told(&[0], 1);
    assert_eq!(*s.told(1), Told::Granted);
    s.end();
}

#[test]
fn deletion_of_idle_sessions_does_not_end_the_shutdown() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.step(&Step::Release(1));
    for _ in 0..10 {
        s.answer_all(&[0]);
    }
    s.step(&Step::OwnerGone(0, 'a'));
    // Another task has a session that is not idle for long.
    s.ask_for(0, 2, ('b', "mail_restart"), Patience::NoWait);
    s.until_told(&[0], 2);
    let idle = s.side(0, "delete of heartbeat rows");
    s.step(&Step::Close(0));
    // The release is written, and the driver deletes its other session.
    for _ in 0..10 {
        s.0.step(&Step::Answer(0, Rows));
    }
    for _ in 0..3 {
        s.0.step(&Step::Answer(0, idle));
    }
    s.check();
    assert!(
        s.0.processes[0].is_alive(),
        "the session of the other task is left"
    );
    s.end();
}

#[test]
fn end_deletes_sessions_whose_deletion_is_under_way() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.granted(0, 1);
    s.step(&Step::Release(1));
    for _ in 0..10 {
        s.answer_all(&[0]);
    }
    s.step(&Step::OwnerGone(0, 'a'));
    let idle = s.side(0, "delete of heartbeat rows");
    s.step(&Step::Close(0));
    // The deletion has no answer until the process has ended.
    while s.0.processes[0].is_alive() {
        let kinds: Vec<_> = s.0.processes[0].lanes.keys().copied().collect();
        let others = kinds.into_iter().filter(|kind| *kind != idle);
        let moved = others.filter(|kind| s.0.step(&Step::Answer(0, *kind)));
        if moved.count() == 0 {
            s.step(&Step::NextTimer);
        }
        s.check();
    }
    let left: Vec<_> = s.0.db.tables.heartbeats.keys().collect();
    assert!(left.is_empty(), "{left:?}");
    s.end();
}

#[test]
fn tokens_grow_when_a_process_that_has_seen_no_row_creates_it() {
    let behind = |setup: &mut Setup| setup.clocks_behind = true;
    let mut s = Scene::with(3, "PostgreSQL", behind);
    s.granted(0, 1);
    s.step(&Step::Release(1));
    s.answer_now(0);
    s.step(&Step::OriginalDeletes(0));
    s.granted(2, 2);
    s.end();
}
