//! Shared locks, limits, and grants whose time is over.

use std::time::Duration;

use crate::protocol::sim::{
    callers::Told,
    scene::Scene,
    schedule::{Ask, Patience, ProcessId, RequestNumber, Scope, Step},
};

/// A request for a name, which waits.
fn wait(process: ProcessId, number: RequestNumber, name: &'static str) -> Ask {
    Ask {
        process,
        number,
        namespace: 0,
        task: 'a',
        names: vec![name],
        shared: Vec::new(),
        max_hold: None,
        patience: Patience::Forever,
        scope: Scope::None,
    }
}

impl Scene {
    /// A request of a task of its own to share `mail_restart`.
    pub(super) fn share(&mut self, process: ProcessId, number: RequestNumber) {
        let name = "mail_restart";
        self.step(&Step::Ask(Ask {
            shared: vec![name],
            // Each reader is a task of its own.
            task: char::from(b'a' + u8::try_from(number % 26).expect("a letter")),
            ..wait(process, number, name)
        }));
    }

    #[track_caller]
    fn until_granted(&mut self, processes: &[ProcessId], number: RequestNumber) {
        self.until_told(processes, number);
        assert_eq!(*self.told(number), Told::Granted, "{}", self.log());
    }
}

/// Readers come all the time, and each one before the last one leaves.
#[test]
fn a_writer_is_granted_under_a_stream_of_readers() {
    let mut s = Scene::new(3, "PostgreSQL");
    s.share(0, 1);
    s.until_granted(&[0], 1);
    s.step(&Step::Ask(wait(1, 2, "mail_restart")));
    s.answer_for(&[0, 1, 2], Duration::from_millis(200));
    let mut reading = vec![1];
    for number in 3..20 {
        s.share(if number % 2 == 0 { 0 } else { 2 }, number);
        s.answer_for(&[0, 1, 2], Duration::from_millis(50));
        if *s.told(2) != Told::Waiting {
            break;
        }
        for reader in std::mem::take(&mut reading) {
            s.step(&Step::Drop(reader));
        }
        reading.extend((3..=number).filter(|n| *s.told(*n) == Told::Granted));
        assert!(reading.is_empty(), "a reader overtook: {}", s.log());
    }
    assert_eq!(*s.told(2), Told::Granted, "{}", s.log());
    s.step(&Step::Drop(2));
    s.until_granted(&[0, 1, 2], 3);
    s.end();
}

/// Writers come all the time, and each one before the last one leaves.
#[test]
fn readers_are_granted_together_under_a_stream_of_writers() {
    let mut s = Scene::new(3, "PostgreSQL");
    s.step(&Step::Ask(wait(0, 1, "mail_restart")));
    s.until_granted(&[0], 1);
    // Both readers are of one process, between writers of the others.
    s.share(1, 2);
    s.share(1, 3);
    s.answer_for(&[0, 1, 2], Duration::from_millis(200));
    s.step(&Step::Ask(wait(2, 4, "mail_restart")));
    s.answer_for(&[0, 1, 2], Duration::from_millis(200));
    s.step(&Step::Drop(1));
    s.until_granted(&[0, 1, 2], 2);
    s.until_granted(&[0, 1, 2], 3);
    let token = |s: &Scene, number| s.0.callers[&number].grant.as_ref().map(|g| g.token);
    assert_eq!(token(&s, 2), token(&s, 3), "one write grants both");
    assert_eq!(*s.told(4), Told::Waiting);
    s.step(&Step::Drop(2));
    s.answer_for(&[0, 1, 2], Duration::from_millis(200));
    assert_eq!(*s.told(4), Told::Waiting);
    s.step(&Step::Drop(3));
    s.until_granted(&[0, 1, 2], 4);
    s.end();
}

/// The setup's limit is two names that begin with `app_`.
#[test]
fn a_request_for_two_is_granted_under_a_stream_of_requests_for_one() {
    let mut s = Scene::with(3, "PostgreSQL", |setup| setup.limited = true);
    s.step(&Step::Ask(wait(0, 1, "app_backup_1")));
    s.until_granted(&[0], 1);
    s.step(&Step::Ask(Ask {
        names: vec!["app_backup_1", "app_task_1"],
        ..wait(1, 2, "")
    }));
    s.answer_for(&[0, 1, 2], Duration::from_millis(200));
    // There is room for one, and the request for two came first.
    s.step(&Step::Ask(wait(2, 3, "app_task_2")));
    s.answer_for(&[0, 1, 2], Duration::from_millis(200));
    assert_eq!(*s.told(3), Told::Waiting, "{}", s.log());
    s.step(&Step::Drop(1));
    s.until_granted(&[0, 1, 2], 2);
    assert_eq!(*s.told(3), Told::Waiting, "{}", s.log());
    s.step(&Step::Drop(2));
    s.until_granted(&[0, 1, 2], 3);
    s.end();
}

/// A request that waits for a lock of a scope does not use up a limit for that scope.
#[test]
fn a_scope_passes_the_request_that_waits_for_it_although_the_limit_counts_both() {
    let mut s = Scene::with(2, "PostgreSQL", |setup| setup.limited = true);
    s.step(&Step::Ask(Ask {
        names: vec!["mail_restart", "app_backup_1"],
        scope: Scope::Outermost,
        ..wait(0, 1, "")
    }));
    s.until_granted(&[0], 1);
    s.step(&Step::Ask(Ask {
        names: vec!["mail_restart", "app_task_2"],
        ..wait(1, 2, "")
    }));
    s.answer_for(&[0, 1], Duration::from_millis(200));
    s.step(&Step::Ask(Ask {
        scope: Scope::Inside(1),
        ..wait(0, 3, "app_task_1")
    }));
    s.until_granted(&[0, 1], 3);
    s.end();
}

/// A grant for half a second.
fn granted_for_a_while(s: &mut Scene, number: RequestNumber) {
    s.step(&Step::Ask(Ask {
        max_hold: Some(500),
        ..wait(0, number, "app_task_1")
    }));
    s.until_granted(&[0], number);
}

#[test]
fn a_commit_under_way_is_waited_for_when_the_time_of_its_grant_is_over() {
    let mut s = Scene::new(2, "PostgreSQL");
    granted_for_a_while(&mut s, 1);
    s.step(&Step::Fence(1));
    while !s.0.step(&Step::AbandonCommit(1)) {
        s.answer_all(&[0]);
    }
    s.ask(1, 2, Patience::Forever);
    s.answer_for(&[0, 1], Duration::from_secs(1));
    assert_eq!(*s.told(1), Told::Lost);
    assert_eq!(
        s.holder().as_deref(),
        Some("p1a"),
        "the commit is under way"
    );
    s.step(&Step::ArriveCommit(1));
    s.until_granted(&[0, 1], 2);
    s.end();
}

#[test]
fn a_fence_that_asks_for_a_grant_whose_time_is_over_is_refused_though_the_row_is_gone() {
    let mut s = Scene::new(2, "PostgreSQL");
    granted_for_a_while(&mut s, 1);
    // The fence asks in its transaction, which a new row would have to wait for.
    s.step(&Step::Fence(1));
    s.step(&Step::OriginalDeletes(0));
    while *s.told(1) != Told::Lost {
        s.step(&Step::NextTimer);
    }
    s.ask(1, 2, Patience::Forever);
    s.until_granted(&[0, 1], 2);
    s.end();
}

#[test]
fn a_grant_whose_time_is_over_refuses_a_fence() {
    let mut s = Scene::new(1, "PostgreSQL");
    granted_for_a_while(&mut s, 1);
    s.answer_for(&[0], Duration::from_millis(600));
    assert_eq!(*s.told(1), Told::Lost);
    assert!(!s.0.step(&Step::Fence(1)));
    s.end();
}

/// No timer goes on while the machine sleeps.
#[test]
fn a_grant_whose_time_ends_while_the_machine_sleeps_is_released_soon_after() {
    let mut s = Scene::with(2, "PostgreSQL", |setup| setup.ttl = None);
    granted_for_a_while(&mut s, 1);
    s.step(&Step::Sleep(0));
    s.step(&Step::Millis(5_000));
    s.step(&Step::Resume(0));
    s.ask(1, 2, Patience::Forever);
    s.until_granted(&[0, 1], 2);
    assert_eq!(*s.told(1), Told::Lost);
    s.end();
}

#[test]
fn a_detached_lock_is_released_when_its_time_is_over() {
    let mut s = Scene::new(2, "SQLite");
    granted_for_a_while(&mut s, 1);
    s.step(&Step::Detach(1));
    s.ask(1, 2, Patience::Forever);
    s.until_granted(&[0, 1], 2);
    s.end();
}
