//! Failures of the database, and what callers and the log say about them.

use std::time::Duration;

use tracing::Level;

use crate::{
    protocol::sim::{
        callers::Told,
        generate::UNSTORABLE_TASK,
        log::logged,
        process::LaneKind::{Renewals, Rows},
        scene::{Scene, TTL, pending},
        schedule::{ClassName, Patience, Step},
        statement::Statement,
    },
    store::{Class, Failure, Kind},
};

fn count(events: &[String], text: &str) -> usize {
    events.iter().filter(|event| event.contains(text)).count()
}

#[test]
fn failure_that_lasts_is_logged_once_a_minute() {
    let events = logged(Level::INFO, || {
        let mut s = Scene::new(2, "MySQL");
        s.step(&Step::Kill(1));
        s.ask(0, 1, Patience::Forever);
        let start = s.0.now;
        while s.0.now < start + Duration::from_secs(150) {
            s.0.step(&Step::Answer(0, Renewals));
            if !s.0.step(&Step::Fail(0, Rows, ClassName::NotApplied)) {
                s.step(&Step::NextTimer);
            }
        }
        s.until_told(&[0], 1);
        assert_eq!(*s.told(1), Told::Granted);
        s.end();
    });
    assert_eq!(count(&events, "queries fail"), 3, "{events:#?}");
    assert_eq!(count(&events, "serves requests again"), 1, "{events:#?}");
}

#[test]
fn task_whose_id_the_database_rejects_is_refused_alone() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.ask_for(1, 1, (UNSTORABLE_TASK, "app_task_1"), Patience::Forever);
    s.ask_for(1, 2, ('b', "mail_restart"), Patience::Forever);
    while *s.told(1) == Told::Waiting {
        s.until_sent(1, Rows, "insert of heartbeat rows");
        let Some(Statement::InsertHeartbeats(sessions)) = s.pending(1, Rows) else {
            panic!("it was sent");
        };
        if sessions
            .iter()
            .any(|new| new.task.ends_with(UNSTORABLE_TASK))
        {
            let rejected = Failure::simulated(Class::NotApplied, Kind::Content);
            s.0.deliver(1, Rows, Err(rejected));
            s.check();
        } else {
            s.step(&Step::Answer(1, Rows));
        }
    }
    assert_eq!(*s.told(1), Told::Failed);
    let text = "the database rejects task id \"p2u\"";
    assert!(s.log().contains(text), "{}", s.log());
    s.until_told(&[1], 2);
    assert_eq!(*s.told(2), Told::Granted);
    s.end();
}

#[test]
fn final_failure_answers_every_caller() {
    let mut s = Scene::new(2, "PostgreSQL");
    s.wait_for(1, 1, "mail_restart");
    s.until_told(&[1], 1);
    s.step(&Step::Release(1));
    assert_eq!(pending(&s, 1), Some("compare-and-set"));
    s.wait_for(1, 2, "app_task_1");
    s.step(&Step::Waiting(1, 0));
    s.0.deliver(
        1,
        Rows,
        Err(Failure::inconsistent(Class::Permanent, "wrong")),
    );
    s.check();
    assert_eq!(*s.told(2), Told::Failed);
    assert!(s.0.calls.is_empty(), "{:?}", s.0.calls);
    s.end();
}

/// The second process asks for the row's lock, because two of its writes came too late.
fn asks_for_the_row_lock() -> Scene {
    let mut s = Scene::new(2, "MySQL");
    s.wait_for(1, 1, "mail_restart");
    for number in [2, 3] {
        s.until_sent(1, Rows, "compare-and-set");
        s.granted(0, number);
        s.step(&Step::Release(number));
        s.answer_now(0);
        s.step(&Step::Answer(1, Rows));
    }
    s.until_sent(1, Rows, "read of the row under its lock");
    s
}

#[test]
fn row_lock_that_is_refused_for_good_is_not_asked_for_again() {
    let events = logged(Level::WARN, || {
        let mut s = asks_for_the_row_lock();
        let refused = Failure::simulated(Class::Permanent, Kind::Denied);
        s.0.deliver(1, Rows, Err(refused));
        s.check();
        while *s.told(1) == Told::Waiting {
            assert_ne!(pending(&s, 1), Some("read of the row under its lock"));
            s.answer_all(&[1]);
        }
        assert_eq!(*s.told(1), Told::Granted);
        s.end();
    });
    assert_eq!(count(&events, "queries fail"), 0, "{events:#?}");
}

#[test]
fn row_lock_that_fails_is_asked_for_again() {
    let events = logged(Level::WARN, || {
        let mut s = asks_for_the_row_lock();
        s.step(&Step::Fail(1, Rows, ClassName::NotApplied));
        s.until_sent(1, Rows, "read of the row under its lock");
        s.until_told(&[1], 1);
        assert_eq!(*s.told(1), Told::Granted);
        s.end();
    });
    assert_eq!(count(&events, "queries fail"), 1, "{events:#?}");
}

#[test]
fn row_lock_of_a_useless_row_answers_every_caller() {
    let mut s = asks_for_the_row_lock();
    let failure = Failure::inconsistent(Class::Permanent, "wrong");
    s.0.deliver(1, Rows, Err(failure));
    s.check();
    assert_eq!(*s.told(1), Told::Failed);
    s.end();
}

#[test]
fn calls_are_answered_with_a_failure_that_lasts_ten_seconds() {
    let mut s = Scene::new(2, "MySQL");
    s.step(&Step::Kill(1));
    s.granted(0, 1);
    s.answer_now(0);
    s.step(&Step::Release(1));
    s.step(&Step::RemoveTask(0, 0, 1, 'a'));
    let start = s.0.now;
    while !s.0.calls.is_empty() {
        for kind in s.0.processes[0].lanes.keys().copied().collect::<Vec<_>>() {
            match kind {
                Renewals => drop(s.0.step(&Step::Answer(0, kind))),
                _ => drop(s.0.step(&Step::Fail(0, kind, ClassName::NotApplied))),
            }
        }
        s.step(&Step::NextTimer);
    }
    let passed = (s.since(start)).as_millis();
    assert!((10_000..11_000).contains(&passed), "{passed}");
    for call in ["Release(1)", "Remove"] {
        let text = format!("{call} is answered: Failed(Database");
        assert!(s.log().contains(&text), "{}", s.log());
    }
    s.end();
}

#[test]
fn writes_that_fail_are_tried_less_and_less_often_although_reads_succeed() {
    let mut s = Scene::new(2, "MySQL");
    s.ask(0, 1, Patience::NoWait);
    let mut writes = 0;
    while *s.told(1) == Told::Waiting {
        if pending(&s, 0) == Some("compare-and-set") {
            s.step(&Step::Fail(0, Rows, ClassName::NotApplied));
            writes += 1;
        }
        s.answer_all(&[0]);
    }
    assert!((10..25).contains(&writes), "{writes} in ten seconds");
    assert_eq!(*s.told(1), Told::Failed);
    assert!(
        s.log()
            .contains("request 1 is refused: the lock database failed")
    );
    s.end();
}

#[test]
fn file_that_was_replaced_loses_every_grant_and_fails_every_call() {
    for kind in [Rows, Renewals] {
        let mut s = Scene::new(2, "SQLite");
        s.granted(0, 1);
        s.ask(0, 2, Patience::Forever);
        s.until_sent(
            0,
            kind,
            if kind == Rows {
                "compare-and-set"
            } else {
                "renewal"
            },
        );
        // It is in no row of the file that other processes see.
        let nonce = s.0.callers[&1].nonce;
        s.0.checks.taken.insert(nonce);
        s.0.deliver(0, kind, Err(Failure::replaced()));
        s.check();
        assert_eq!(*s.told(1), Told::Lost);
        if kind == Rows {
            assert_eq!(*s.told(2), Told::Failed);
        }
    }
}

#[test]
fn row_that_goes_back_in_time_is_logged_once() {
    let run = |restores: bool| {
        let events = logged(Level::WARN, || {
            let mut s = Scene::new(2, "MySQL");
            // A row that is read twice has not gone back.
            s.wait_for(1, 2, "mail_restart");
            s.until_sent(1, Rows, "compare-and-set");
            s.step(&Step::Fail(1, Rows, ClassName::NotApplied));
            s.until_told(&[1], 2);
            s.step(&Step::Backup);
            s.granted(0, 1);
            if restores {
                s.step(&Step::Restore);
            }
            s.answer_for(&[0, 1], 2 * TTL);
            s.end();
        });
        count(&events, "went back in time")
    };
    assert_eq!(run(false), 0);
    assert_eq!(
        run(true),
        1,
        "only the first process had seen the later version"
    );
}

/// What is logged while renewals fail for this part of the ttl, and after that.
fn renewals_fail_for(time: Duration) -> Vec<String> {
    logged(Level::INFO, || {
        let mut s = Scene::new(1, "MySQL");
        s.granted(0, 1);
        s.answer_now(0);
        let start = s.0.now;
        while s.0.now < start + time {
            s.0.step(&Step::Fail(0, Renewals, ClassName::NotApplied));
            s.0.step(&Step::Answer(0, Rows));
            s.step(&Step::NextTimer);
        }
        while s.0.now < start + 2 * TTL {
            s.answer_all(&[0]);
        }
        assert_eq!(*s.told(1), Told::Granted);
        s.end();
    })
}

#[test]
fn renewals_that_fail_are_logged_once_when_half_of_the_ttl_is_over() {
    for (time, number) in [(TTL * 4 / 10, 0), (TTL * 7 / 10, 1)] {
        let events = renewals_fail_for(time);
        assert_eq!(
            count(&events, "sessions cannot be renewed"),
            number,
            "{events:#?}"
        );
        assert_eq!(count(&events, "renewed again"), number, "{events:#?}");
    }
}
