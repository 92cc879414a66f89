//! Requests of other processes that a write grants.

use super::*;

/// A session of another process that accepts grants.
fn accepting(number: u64) -> SessionId {
    SessionId::new("n", number, true)
}

impl Scene {
    /// Request 1 holds `x`, and `others` wait for it under these sessions.
    fn with_x_wanted(others: &[SessionId], mode: Mode) -> Self {
        let mut scene = Self::with_x_granted();
        for (nonce, session) in (100..).zip(others) {
            let request = scene.of_other(session, nonce, &["x"], mode);
            scene.table.enqueue(&request, session, 50);
        }
        scene
    }

    /// A request of another process.
    fn of_other(&self, session: &SessionId, nonce: u64, names: &[&str], mode: Mode) -> Request {
        let names = names
            .iter()
            .map(|name| (LockName::found((*name).into()), mode));
        Request {
            session: session.clone(),
            nonce: Nonce(nonce),
            task: "other".into(),
            names: names.collect(),
            matrix: self.config.matrix,
            path: ScopePath::default(),
            since: 1,
        }
    }

    /// Request 1 is released.
    fn release_x(&mut self) -> Plan {
        let id = (SessionId("s1".into()), Nonce(1));
        let release = (id, vec![LockName::found("x".into())]);
        self.submitted = vec![submitted(&[], true, vec![release])];
        self.plan(1_000)
    }

    fn holders_of_x(&self) -> Vec<SessionId> {
        let grants = self.table.entries("x").filter_map(|e| e.grant.as_ref());
        grants.map(|grant| grant.session.clone()).collect()
    }
}

#[test]
fn what_a_write_frees_is_granted_to_the_first_in_the_queue() {
    let others = [accepting(1), accepting(2)];
    let mut scene = Scene::with_x_wanted(&others, Mode::Exclusive);
    let plan = scene.release_x();
    assert!(plan.changed && plan.frees && plan.hands_over());
    assert!(!plan.serves_others(), "nothing was submitted");
    assert_eq!(scene.holders_of_x(), others[..1]);
    let grant = scene.table.entry("x").and_then(|entry| entry.grant.clone());
    let grant = grant.expect("it is granted");
    assert_eq!((grant.nonce, grant.token, grant.since), (Nonce(100), 70, 5));
    assert_eq!(plan.must_live(&scene.requests), others[..1]);
    let left = scene.table.queue().iter().map(|queued| &queued.session);
    assert!(left.eq(&others[1..]));
}

#[test]
fn a_process_that_overtakes_keeps_the_order_of_the_others() {
    let mut scene = Scene::with_x_wanted(&[], Mode::Exclusive);
    scene.config.fairness = Fairness::Barging;
    // Another task of this process holds `y`, for which the first one in the queue waits too.
    scene.ask(2, "y", FOREVER, 0);
    let plan = scene.plan(1_000);
    scene.wrote(&plan);
    for (number, names) in [(1, &["x", "y"][..]), (2, &["x"])] {
        let request = scene.of_other(&accepting(number), 100 + number, names, Mode::Exclusive);
        scene.table.enqueue(&request, &accepting(number), 50);
    }
    let plan = scene.release_x();
    assert!(plan.changed && !plan.hands_over());
    assert_eq!(scene.table.queue().len(), 2);
}

#[test]
fn all_that_share_a_name_are_granted_by_one_write() {
    let others = [accepting(1), accepting(2)];
    let mut scene = Scene::with_x_wanted(&others, Mode::Shared);
    let plan = scene.release_x();
    assert_eq!(scene.holders_of_x(), others);
    assert_eq!(plan.must_live(&scene.requests), others);
}

#[test]
fn a_request_of_this_process_is_not_overtaken_by_a_later_one() {
    let mut scene = Scene::with_x_granted();
    scene.ask(2, "x", FOREVER, 0);
    let plan = scene.plan(1_001);
    scene.wrote(&plan);
    let later = scene.of_other(&accepting(1), 100, &["x"], Mode::Exclusive);
    scene.table.enqueue(&later, &accepting(1), 71);
    let plan = scene.release_x();
    assert_eq!(nonces(&plan.granted), [2]);
    assert!(!plan.hands_over());
}

#[test]
fn a_request_of_this_process_that_returns_to_its_position_is_not_overtaken() {
    let mut scene = Scene::with_x_granted();
    scene.ask(2, "x", FOREVER, 0);
    let plan = scene.plan(1_001);
    scene.wrote(&plan);
    let later = scene.of_other(&accepting(1), 100, &["x"], Mode::Exclusive);
    scene.table.enqueue(&later, &accepting(1), 71);
    // Its session was removed, and its entry with it.
    scene.table.dequeue(&(SessionId("s2".into()), Nonce(2)));
    scene.open("s2b", 2);
    let plan = scene.release_x();
    assert_eq!(nonces(&plan.granted), [2]);
    assert!(!plan.hands_over());
}

#[test]
fn nothing_is_handed_over_to_a_process_that_may_not_take_it() {
    type Change = fn(&mut Scene);
    let nothing: Change = |_| {};
    let cases: [(&str, SessionId, Change); 6] = [
        (
            "its session does not accept it",
            SessionId::new("n", 1, false),
            nothing,
        ),
        ("it has another matrix", accepting(1), |scene| {
            scene.config.matrix = crate::matrix::ConflictMatrix::exclusive();
        }),
        ("it is dead", accepting(1), |scene| {
            // It is removed, and would be granted otherwise.
            scene.dead.insert(accepting(1));
        }),
        ("it is a suspect", accepting(1), |scene| {
            scene.suspects.insert(accepting(1));
        }),
        ("it is of this process", accepting(1), |scene| {
            scene.open(&accepting(1).0, 2);
        }),
        ("the mechanism is off", accepting(1), |scene| {
            scene.config.mechanisms.hand_over = false;
        }),
    ];
    for (why, session, change) in cases {
        let mut scene = Scene::with_x_wanted(&[session], Mode::Exclusive);
        change(&mut scene);
        let plan = scene.release_x();
        assert!(plan.changed && !plan.hands_over(), "{why}");
        assert_eq!(scene.holders_of_x(), [], "{why}");
    }
}

#[test]
fn nothing_is_handed_over_by_a_write_that_frees_nothing() {
    let mut scene = Scene::with_x_wanted(&[accepting(1)], Mode::Exclusive);
    let id = (SessionId("s1".into()), Nonce(1));
    scene.table.release(&id, &[LockName::found("x".into())]);
    scene.ask(2, "y", NOWAIT, 0);
    let plan = scene.plan(1_000);
    assert_eq!(nonces(&plan.granted), [2]);
    assert!(!plan.hands_over());
}
