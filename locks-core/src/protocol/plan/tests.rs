mod hand_over;

use super::*;
use crate::{
    name::{LockName, Mode},
    protocol::{
        admin::AfterEviction,
        call::{AcquireRequest, Removal},
        combining::SubmittedRequest,
        config::tests::config,
        sessions::OwnSessions,
        task::{Evicted, Listed},
        time::{Now, tests::at},
    },
    scope::ScopePath,
    store::NewSession,
};

const FOREVER: WaitPolicy = WaitPolicy::Wait { timeout: None };
const NOWAIT: WaitPolicy = WaitPolicy::NoWait;

/// The requests of a process, each by a task of its own with the number as its nonce.
struct Scene {
    table: LockTable,
    requests: Requests,
    sessions: OwnSessions,
    config: Config,
    proven: Time,
    batch: usize,
    dead: BTreeSet<SessionId>,
    admin: Admin,
    unchecked: BTreeSet<SessionId>,
    submitted: Vec<Submitted>,
    suspects: BTreeSet<SessionId>,
}

impl Scene {
    fn new() -> Self {
        Self {
            table: LockTable::default(),
            requests: Requests::default(),
            sessions: OwnSessions::default(),
            config: config(),
            proven: at(1_000).monotonic,
            batch: 1_000,
            dead: BTreeSet::new(),
            admin: Admin::default(),
            unchecked: BTreeSet::new(),
            submitted: Vec::new(),
            suspects: BTreeSet::new(),
        }
    }

    /// Request 1 holds `x`.
    fn with_x_granted() -> Self {
        let mut scene = Self::new();
        scene.ask(1, "x", FOREVER, 0);
        let plan = scene.plan(1_000);
        scene.wrote(&plan);
        scene
    }

    fn ask(&mut self, number: u64, name: &str, policy: WaitPolicy, since: u64) {
        let task: std::sync::Arc<str> = number.to_string().into();
        let new = AcquireRequest {
            nonce: Nonce(number),
            task,
            names: [LockName::found(name.into())].into(),
            path: ScopePath::default(),
            policy,
            max_hold: None,
        };
        let (config, sessions) = (&self.config, &self.sessions);
        self.requests.add(new, config, sessions, at(since));
        self.open(&format!("s{number}"), number);
    }

    /// The task of this request has a new session.
    fn open(&mut self, id: &str, number: u64) {
        let session = NewSession {
            id: SessionId(id.into()),
            namespace: "n".into(),
            task: number.to_string().into(),
            process: self.config.process.clone(),
            ttl: self.config.ttl,
        };
        self.sessions.add(session, at(0));
        let (config, sessions) = (&self.config, &self.sessions);
        self.requests.assign_sessions(sessions, config, at(0));
    }

    /// Plans a write at this time, whose version is 70.
    fn plan(&mut self, now: u64) -> Plan {
        let input = PlanInput {
            now: at(now).monotonic,
            wall: 5,
            proven: self.proven,
            next_version: 70,
            requests: &self.requests,
            grants: &Grants::default(),
            admin: &self.admin,
            unchecked: self.unchecked.clone(),
            dead: &self.dead,
            deferral: Duration::from_millis(1),
            batch: self.batch,
            submitted: &self.submitted,
            durable: true,
            sessions: &self.sessions,
            suspects: &self.suspects,
            config: &self.config,
        };
        Plan::make(&mut self.table, &input)
    }

    /// As if this was written.
    fn wrote(&mut self, plan: &Plan) {
        for (nonce, session) in &plan.enqueued {
            self.requests.on_enqueued(*nonce, session.clone(), 70);
        }
        for nonce in plan.granted.keys() {
            self.requests.remove(*nonce);
        }
    }
}

fn nonces<T>(of: &BTreeMap<Nonce, T>) -> Vec<u64> {
    of.keys().map(|nonce| nonce.0).collect()
}

#[test]
fn free_locks_are_granted_with_the_version_of_the_write() {
    let mut scene = Scene::new();
    scene.ask(1, "x", NOWAIT, 1_001);
    scene.ask(2, "y", FOREVER, 1_001);
    let plan = scene.plan(1_001);
    assert_eq!(plan.granted, [(Nonce(1), 70), (Nonce(2), 70)].into());
    assert!(plan.changed && plan.frees && !plan.needs_read && !plan.cut);
    assert_eq!(plan.proven, scene.proven);
    let x = scene.table.entry("x").expect("it is granted");
    let since = x.grant.as_ref().map(|grant| grant.since);
    assert_eq!(since, Some(5), "the time of the grant");
    let sessions = plan.must_live(&scene.requests);
    assert_eq!(sessions, ["s1", "s2"].map(|id| SessionId(id.into())));
    // The write has no answer, and was applied.
    let plan = scene.plan(1_002);
    assert_eq!(nonces(&plan.granted), [1, 2]);
    assert!(!plan.changed);
}

#[test]
fn a_write_grants_to_512_sessions_and_says_that_requests_are_left() {
    for (number, cut) in [(512, false), (513, true)] {
        let mut scene = Scene::new();
        for request in 1..=number {
            scene.ask(request, &request.to_string(), NOWAIT, 0);
        }
        let plan = scene.plan(1_000);
        assert_eq!((plan.granted.len(), plan.cut), (512, cut));
    }
}

#[test]
fn a_write_adds_as_many_requests_as_it_may() {
    let mut scene = Scene::new();
    scene.batch = 2;
    for (request, name) in [(1, "x"), (2, "x"), (3, "y")] {
        scene.ask(request, name, FOREVER, 0);
    }
    let plan = scene.plan(1_000);
    assert_eq!(
        (nonces(&plan.granted), nonces(&plan.enqueued)),
        (vec![1], vec![2])
    );
    assert!(plan.cut);
    assert_eq!(plan.added, [Nonce(1), Nonce(2)].into());
    scene.wrote(&plan);
    let plan = scene.plan(1_000);
    assert_eq!(nonces(&plan.granted), [3]);
    assert!(!plan.cut);
}

#[test]
fn a_refusal_needs_a_row_that_was_read_after_the_request() {
    let mut scene = Scene::with_x_granted();
    scene.ask(2, "x", NOWAIT, 1_001);
    let plan = scene.plan(1_001);
    assert!(plan.needs_read && plan.refused.is_empty());
    scene.proven = at(1_001).monotonic;
    let plan = scene.plan(1_001);
    assert!(!plan.needs_read);
    let [(Nonce(2), LockError::Busy { blocked_by, .. })] = &plan.refused[..] else {
        panic!("{:?}", plan.refused);
    };
    assert_eq!(blocked_by.len(), 1);
}

#[test]
fn a_queue_entry_waits_for_another_write_unless_it_is_due() {
    let mut scene = Scene::with_x_granted();
    scene.ask(2, "x", FOREVER, 1_001);
    let plan = scene.plan(1_001);
    assert_eq!(plan.deferred_until, Some(at(1_002).monotonic));
    assert!(!plan.changed && plan.enqueued.is_empty() && plan.added.is_empty());
    assert!(scene.table.queue().is_empty());
    assert!(plan.blocked.is_empty(), "the row was read before it came");
    scene.ask(3, "y", NOWAIT, 1_001);
    let plan = scene.plan(1_001);
    assert_eq!(
        (nonces(&plan.granted), nonces(&plan.enqueued)),
        (vec![3], vec![2])
    );
    assert!(plan.changed && plan.deferred_until.is_none());
}

#[test]
fn a_queue_entry_that_is_due_is_written_and_lets_no_other_request_pass() {
    let mut scene = Scene::with_x_granted();
    scene.ask(2, "x", FOREVER, 1_001);
    let plan = scene.plan(1_002);
    assert!(plan.changed && !plan.frees);
    assert_eq!(nonces(&plan.enqueued), [2]);
    assert_eq!(plan.blocked.len(), 1);
    scene.wrote(&plan);
    let plan = scene.plan(1_003);
    assert!(!plan.changed && plan.enqueued.is_empty(), "it is there");
}

#[test]
fn a_full_queue_takes_no_request() {
    let mut scene = Scene::new();
    scene.config.queue_limit = 1;
    for request in 1..=3 {
        scene.ask(request, "x", FOREVER, 0);
    }
    let plan = scene.plan(1_000);
    assert_eq!(
        (nonces(&plan.granted), nonces(&plan.enqueued)),
        (vec![1], vec![2])
    );
    let refused = &plan.refused[..];
    assert!(
        matches!(refused, [(Nonce(3), LockError::QueueFull { limit: 1 })]),
        "{refused:?}"
    );
}

#[test]
fn a_request_that_barges_is_not_queued() {
    let mut scene = Scene::new();
    scene.config.fairness = Fairness::Barging;
    scene.ask(1, "x", FOREVER, 0);
    scene.ask(2, "x", FOREVER, 1_001);
    let plan = scene.plan(1_001);
    assert_eq!(nonces(&plan.granted), [1]);
    assert!(plan.enqueued.is_empty() && plan.needs_read);
    assert!(plan.blocked.is_empty(), "the row was read before it came");
    scene.wrote(&plan);
    scene.proven = at(1_001).monotonic;
    let plan = scene.plan(1_001);
    assert!(!plan.needs_read && !plan.changed);
    assert_eq!(plan.blocked.len(), 1);
}

#[test]
fn what_dead_sessions_left_is_removed_by_a_write() {
    let mut scene = Scene::new();
    scene.ask(1, "x", FOREVER, 0);
    scene.ask(2, "x", FOREVER, 0);
    let plan = scene.plan(1_000);
    scene.wrote(&plan);
    scene.requests = Requests::default();
    scene.dead = [SessionId("s1".into())].into();
    let plan = scene.plan(1_001);
    assert!(plan.changed && plan.frees);
    assert_eq!(plan.recovered.len(), 1);
    let plan = scene.plan(1_002);
    assert!(
        !plan.changed && plan.recovered.is_empty(),
        "nothing is left"
    );
    scene.dead = [SessionId("s2".into())].into();
    let plan = scene.plan(1_003);
    assert!(plan.changed && plan.recovered.is_empty());
    assert_eq!(scene.table, LockTable::default());
}

#[test]
fn a_removal_that_finds_nothing_needs_a_row_that_was_read_after_its_eviction() {
    let mut scene = Scene::new();
    let (call, session) = (CallId(5), SessionId("s1".into()));
    scene
        .admin
        .remove(call, Removal::Task("1".into()), at(0).monotonic);
    // Another process takes this lock away in the meantime.
    let held = Holder {
        name: LockName::found("y".into()),
        task_id: "1".into(),
        token: Some(3),
        since: None,
        session: Some(session.0.clone()),
        mode: Mode::Exclusive,
        host: None,
        process: None,
    };
    let listed = Listed {
        sessions: vec![session.clone()],
        held: vec![held.clone()],
    };
    scene.admin.on_listed(call, listed);
    let evicted = Evicted {
        dead: vec![session],
        stuck: None,
    };
    let after = scene.admin.on_evicted(call, evicted, at(1_005).monotonic);
    assert!(matches!(after, AfterEviction::Ready), "{after:?}");
    let plan = scene.plan(1_005);
    assert!(plan.needs_read && plan.removed.is_empty());
    scene.proven = at(1_005).monotonic;
    let plan = scene.plan(1_005);
    assert_eq!(plan.removed, [(call, vec![held])]);
    assert!(!plan.changed && !plan.needs_read);
    // What is found is proved by the write.
    scene.proven = at(1_000).monotonic;
    scene.ask(1, "x", FOREVER, 0);
    scene.plan(1_000);
    scene.requests = Requests::default();
    let plan = scene.plan(1_006);
    assert!(plan.changed && !plan.needs_read);
    let removed = plan.removed[0].1.iter();
    let removed: Vec<_> = removed.map(|holder| holder.name.as_str()).collect();
    assert_eq!(removed, ["x", "y"]);
}

#[test]
fn a_queued_request_is_granted_when_its_session_does_not_end_soon() {
    let mut scene = Scene::new();
    scene.ask(1, "x", FOREVER, 0);
    scene.ask(2, "x", FOREVER, 0);
    let plan = scene.plan(1_000);
    scene.wrote(&plan);
    scene.dead = [SessionId("s1".into())].into();
    let assign = |scene: &mut Scene, now| {
        let (sessions, config) = (&scene.sessions, &scene.config);
        scene.requests.assign_sessions(sessions, config, now);
    };
    let soon = Now {
        boot: at(11_000).monotonic,
        ..at(11_000)
    };
    assign(&mut scene, soon);
    assert!(scene.plan(1_001).granted.is_empty());
    assign(&mut scene, at(0));
    assert_eq!(nonces(&scene.plan(1_001).granted), [2]);
}

#[test]
fn a_stolen_lock_blocks_every_request_until_its_session_is_dead() {
    let mut scene = Scene::new();
    scene.ask(1, "x", FOREVER, 0);
    scene.plan(1_000);
    let columns = scene.table.columns();
    let stolen = LockTable::parse(Some("{}"), Some(&columns.meta_json));
    scene.table = stolen.expect("it parses");
    scene.requests = Requests::default();
    scene.ask(2, "y", NOWAIT, 0);
    let plan = scene.plan(1_001);
    assert!(plan.granted.is_empty() && plan.refused.is_empty());
    assert_eq!(plan.stolen, [SessionId("s1".into())]);
    let [(Nonce(2), blockers)] = &plan.blocked[..] else {
        panic!("{:?}", plan.blocked);
    };
    let [Blocker::Holder(holder)] = &blockers[..] else {
        panic!("{blockers:?}");
    };
    assert_eq!((holder.name.as_str(), &*holder.task_id), ("x", "1"));
    scene.dead = [SessionId("s1".into())].into();
    assert_eq!(nonces(&scene.plan(1_002).granted), [2]);
}

#[test]
fn a_cancelled_request_is_forgotten_and_written_about_only_if_the_row_has_it() {
    let mut scene = Scene::new();
    scene.ask(1, "x", FOREVER, 0);
    scene.ask(2, "x", FOREVER, 0);
    scene.requests.cancel(Nonce(1));
    let plan = scene.plan(1_000);
    assert_eq!(plan.cancelled, [Nonce(1)]);
    assert_eq!(nonces(&plan.granted), [2]);
    scene.wrote(&plan);
    let plan = scene.plan(1_001);
    assert_eq!(plan.cancelled, [Nonce(1)]);
    assert!(!plan.changed);
    scene.requests.remove(Nonce(1));
    scene.ask(3, "x", FOREVER, 0);
    let plan = scene.plan(1_002);
    scene.wrote(&plan);
    scene.requests.cancel(Nonce(3));
    let plan = scene.plan(1_003);
    assert!(plan.changed && scene.table.queue().is_empty());
}

#[test]
fn what_this_process_does_not_know_of_is_released() {
    for queued in [false, true] {
        let mut scene = Scene::new();
        scene.ask(1, "x", FOREVER, 0);
        scene.ask(2, "x", FOREVER, 0);
        let plan = scene.plan(1_000);
        scene.wrote(&plan);
        scene.requests = Requests::default();
        let session = if queued { "s2" } else { "s1" };
        scene.unchecked = [SessionId(session.into())].into();
        let plan = scene.plan(1_001);
        assert!(plan.changed);
        assert_eq!(scene.table.queue().is_empty(), queued);
        assert_eq!(scene.table.entry("x").is_none(), !queued);
        assert!(!scene.plan(1_002).changed, "nothing is left");
    }
}

#[test]
fn a_request_that_returns_to_its_position_is_judged_from_there() {
    let mut scene = Scene::new();
    scene.ask(1, "x", FOREVER, 0);
    scene
        .requests
        .on_enqueued(Nonce(1), SessionId("s1".into()), 70);
    // Another process has queued a request since then.
    let mut other = Scene::new();
    other.ask(9, "x", FOREVER, 0);
    let request = other.requests.get(Nonce(9)).expect("it is there").request();
    scene.table.enqueue(request, &SessionId("s9".into()), 80);
    let plan = scene.plan(1_000);
    assert_eq!(nonces(&plan.granted), [1]);
}

#[test]
fn a_write_grants_as_many_queued_requests_as_it_may() {
    let mut scene = Scene::new();
    for (request, name) in [(1, "x"), (2, "y"), (3, "x"), (4, "y")] {
        scene.ask(request, name, FOREVER, 0);
    }
    let plan = scene.plan(1_000);
    scene.wrote(&plan);
    scene.dead = ["s1", "s2"].map(|id| SessionId(id.into())).into();
    scene.batch = 1;
    let plan = scene.plan(1_001);
    assert_eq!((nonces(&plan.granted), plan.cut), (vec![3], true));
    scene.wrote(&plan);
    let plan = scene.plan(1_002);
    assert_eq!((nonces(&plan.granted), plan.cut), (vec![4], false));
}

#[test]
fn a_queued_request_moves_to_the_new_session_of_its_task() {
    for cancelled in [false, true] {
        let mut scene = Scene::new();
        scene.ask(1, "x", FOREVER, 0);
        scene.ask(2, "x", FOREVER, 0);
        let plan = scene.plan(1_000);
        scene.wrote(&plan);
        if cancelled {
            scene.requests.cancel(Nonce(2));
        }
        scene.open("new", 2);
        let plan = scene.plan(1_001);
        assert!(plan.changed);
        let queue = scene.table.queue().iter();
        let queue: Vec<_> = queue
            .map(|queued| (&*queued.session.0, queued.ticket))
            .collect();
        assert_eq!(queue, [("new", 70)][usize::from(cancelled)..]);
    }
}

#[test]
fn a_request_is_not_refused_because_of_its_own_grant_under_a_lost_session() {
    let mut scene = Scene::new();
    scene.ask(1, "x", NOWAIT, 0);
    // It is written, and the session is lost before the answer.
    scene.plan(1_000);
    scene.open("new", 1);
    let plan = scene.plan(1_001);
    assert!(plan.refused.is_empty() && plan.granted.is_empty());
    scene.dead = [SessionId("s1".into())].into();
    assert_eq!(nonces(&scene.plan(1_002).granted), [1]);
}

#[test]
fn a_queue_entry_of_a_request_that_is_granted_is_left_over() {
    let mut scene = Scene::new();
    scene.ask(1, "x", FOREVER, 0);
    scene.plan(1_000);
    let request = scene.requests.get(Nonce(1)).expect("it is there").request();
    scene.table.enqueue(request, &SessionId("s1".into()), 60);
    let plan = scene.plan(1_001);
    assert_eq!(nonces(&plan.granted), [1]);
    assert!(plan.changed && scene.table.queue().is_empty());
}

/// What another process has submitted: a request for each name, and releases.
fn submitted(names: &[&str], waits: bool, releases: Vec<(RequestId, Vec<LockName>)>) -> Submitted {
    let requests = (100..).zip(names).map(|(nonce, name)| {
        let session = SessionId("other".into());
        SubmittedRequest {
            request: Request {
                session: session.clone(),
                nonce: Nonce(nonce),
                task: "other".into(),
                names: [LockName::found((*name).into())].into(),
                matrix: config().matrix,
                path: ScopePath::default(),
                since: 1,
            },
            queue_session: session,
            waits,
            ticket: None,
        }
    });
    Submitted {
        driver: "d".into(),
        number: 3,
        requests: requests.collect(),
        releases,
    }
}

#[test]
fn submitted_requests_are_granted_or_queued_behind_those_of_this_process() {
    let mut scene = Scene::new();
    scene.ask(1, "x", FOREVER, 0);
    scene.submitted = vec![submitted(&["x", "y"], true, Vec::new())];
    let plan = scene.plan(1_000);
    assert_eq!(nonces(&plan.granted), [1]);
    assert_eq!(plan.served, [("d".to_owned(), 3)]);
    assert!(plan.changed && plan.frees && plan.serves_others());
    let task = |name: &str| scene.table.entry(name).map(|entry| &*entry.task);
    assert_eq!([task("x"), task("y")], [Some("1"), Some("other")]);
    let queued = &scene.table.queue()[0];
    assert_eq!((queued.nonce, queued.ticket), (Nonce(100), 70));
    let alive = plan.must_live(&scene.requests);
    assert_eq!(alive, ["other", "s1"].map(|id| SessionId(id.into())));
    // They are served again without a change.
    let again = scene.plan(1_001);
    assert_eq!(again.served, plan.served);
    assert!(!again.serves_others());
}

#[test]
fn submitted_requests_that_do_not_wait_are_refused_by_their_own_process() {
    let mut scene = Scene::with_x_granted();
    scene.submitted = vec![submitted(&["x"], false, Vec::new())];
    let plan = scene.plan(1_000);
    assert_eq!(plan.served, [("d".to_owned(), 3)]);
    assert!(!plan.changed && scene.table.queue().is_empty());
}

#[test]
fn submitted_requests_that_have_no_room_are_left_to_their_process() {
    let mut scene = Scene::with_x_granted();
    scene.config.queue_limit = 0;
    scene.submitted = vec![submitted(&["x"], true, Vec::new())];
    let plan = scene.plan(1_000);
    assert!(plan.served.is_empty() && !plan.changed);
}

#[test]
fn submitted_releases_come_before_requests() {
    let mut scene = Scene::with_x_granted();
    let id = (SessionId("s1".into()), Nonce(1));
    let release = (id, vec![LockName::found("x".into())]);
    scene.submitted = vec![submitted(&[], true, vec![release])];
    scene.ask(2, "x", NOWAIT, 0);
    let plan = scene.plan(1_000);
    assert_eq!(nonces(&plan.granted), [2]);
    assert!(plan.changed && plan.frees && !plan.serves_others());
}
