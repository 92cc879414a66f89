//! When the sessions of the process are renewed, in chunks, on a connection of their own.
//!
//! ```text
//!  tick ─▶ sessions, 512 at a time ─▶ versions of rows in which something is held ─▶ sleep
//! ```
//!
//! Each chunk has a time limit of its own, and counts when it is answered.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{
    config::{CHUNK, Config, Name},
    namespace::Namespace,
    renewal::{Renewal, Renewed, RenewedSession},
    time::{Now, Time},
};
use crate::store::Kind;

/// The first and the longest pause after a renewal that failed, as parts of the ttl; and their
/// limits. A pause is twice the one before.
const RETRY_PARTS: [u32; 2] = [30, 10];
const RETRY_LIMITS: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

type Namespaces = BTreeMap<Name, Namespace>;

/// When to renew, and what.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    /// When the step in flight was sent, and on which connection.
    in_flight: Option<(Now, Way)>,
    due: Option<Time>,
    /// What is left of this tick.
    steps: VecDeque<Renewal>,
    /// Whether the connection for renewals could not be opened. Until it can be, sessions are
    /// renewed on the connection of the rows.
    over_rows: bool,
    /// How many renewals have failed since the last one that succeeded.
    failures: u32,
    /// Whether it was logged that sessions cannot be renewed.
    logged: bool,
}

/// The connection for a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// That for renewals.
    Own,
    /// That of the rows.
    Rows,
}

impl Renewals {
    /// The step that is due on this connection, if one is. `concerned` are the namespaces that
    /// have sessions or hold something.
    pub(super) fn next(
        &mut self,
        way: Way,
        namespaces: &mut Namespaces,
        concerned: &BTreeSet<Name>,
        config: &Config,
        now: Now,
    ) -> Option<Renewal> {
        if self.in_flight.is_some() || (way == Way::Rows && !self.over_rows) {
            return None;
        }
        if self.steps.is_empty() {
            if concerned.is_empty() {
                self.due = None;
                return None;
            }
            let next = now.monotonic + config.renewal_pause();
            match self.due {
                None => {
                    self.due = Some(next);
                    self.steps.push_back(Renewal::Open);
                }
                Some(due) if due > now.monotonic => return None,
                Some(_) => {
                    self.due = Some(next);
                    self.steps = tick(namespaces, concerned, now);
                    if self.over_rows {
                        self.steps.push_back(Renewal::Open);
                    }
                }
            }
        }
        let next = match self.steps.front()? {
            Renewal::Sessions(_) | Renewal::Versions(_) if self.over_rows => Way::Rows,
            _ => Way::Own,
        };
        let step = self.steps.pop_front_if(|_| next == way)?;
        self.in_flight = Some((now, way));
        Some(step)
    }

    /// Takes in a step that is done, and returns the namespaces for which something follows.
    pub(super) fn on_renewed(
        &mut self,
        renewed: Renewed,
        namespaces: &mut Namespaces,
        config: &Config,
        now: Now,
    ) -> Vec<Name> {
        let sent = self.in_flight.take().map_or(now, |(sent, _)| sent);
        let mut concerned = Vec::new();
        match renewed {
            Renewed::Opened(Ok(())) => self.over_rows = false,
            Renewed::Opened(Err(failure)) => {
                tracing::debug!(%failure, "the connection for renewals could not be opened");
                self.over_rows = true;
            }
            Renewed::Sessions {
                sessions,
                result: Ok(missing),
            } => {
                self.failures = 0;
                if std::mem::take(&mut self.logged) {
                    tracing::info!("sessions are renewed again");
                }
                for RenewedSession { namespace, key, id } in sessions {
                    let Some(known) = namespaces.get_mut(&namespace) else {
                        continue;
                    };
                    if missing.contains(&id) {
                        known.on_not_renewed(&id, now);
                    } else {
                        known.on_renewed(&key, &id, sent, now);
                    }
                    concerned.push(namespace);
                }
            }
            Renewed::Sessions {
                sessions,
                result: Err(failure),
            } => {
                // Those that have the least time left are renewed before the others.
                self.steps.clear();
                if failure.is_replaced() {
                    for (name, namespace) in &mut *namespaces {
                        namespace.on_replaced();
                        concerned.push(name.clone());
                    }
                }
                self.over_rows = failure.kind == Kind::Unreachable;
                let ttl = config.session_ttl();
                self.due = Some(now.monotonic + retry_pause(ttl, self.failures));
                self.failures += 1;
                let left = sessions.iter().filter_map(|session| {
                    let namespace = namespaces.get(&session.namespace)?;
                    let deadline = namespace.lease_deadline(&session.id)?;
                    Some((deadline - now.boot, session))
                });
                match left.min_by_key(|(left, _)| *left) {
                    Some((left, session)) if left < ttl / 2 && !self.logged => {
                        self.logged = true;
                        tracing::warn!(
                            %failure, ?left, task = %session.key.0,
                            namespace = %session.namespace,
                            "sessions cannot be renewed; their locks will be lost"
                        );
                    }
                    _ => tracing::debug!(%failure, "a renewal failed and is run again"),
                }
            }
            Renewed::Versions {
                namespaces: names,
                result: Ok(versions),
            } => {
                for name in names {
                    if let Some(namespace) = namespaces.get_mut(&name) {
                        namespace.on_version_seen(versions.get(&*name));
                        concerned.push(name);
                    }
                }
            }
            Renewed::Versions {
                result: Err(failure),
                ..
            } => tracing::debug!(%failure, "the versions of the rows could not be read"),
        }
        concerned
    }

    /// When the next tick is due, if there is anything to renew.
    pub(super) fn next_tick(&self) -> Option<Time> {
        self.due
    }

    /// Whether a step is in flight on the connection of the rows.
    pub(super) fn use_rows(&self) -> bool {
        self.in_flight.is_some_and(|(_, way)| way == Way::Rows)
    }

    /// When the next tick is due, unless a step is in flight or waits for its connection.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let waits = self.in_flight.is_some() || !self.steps.is_empty();
        self.due.filter(|_| !waits)
    }
}

/// The pause after a renewal that failed after so many others.
fn retry_pause(ttl: Duration, failures: u32) -> Duration {
    let [first, longest] = RETRY_PARTS.map(|part| ttl / part);
    let [shortest, limit] = RETRY_LIMITS;
    let first = first.max(shortest);
    let longest = longest.min(limit).max(first);
    first.saturating_mul(1 << failures.min(8)).min(longest)
}

/// The steps of a tick: the sessions with the least time left first.
fn tick(namespaces: &mut Namespaces, concerned: &BTreeSet<Name>, now: Now) -> VecDeque<Renewal> {
    let (mut sessions, mut holding) = (Vec::new(), Vec::new());
    for name in concerned {
        let Some(namespace) = namespaces.get_mut(name) else {
            continue;
        };
        for (deadline, key, id) in namespace.sessions_to_renew(now) {
            let namespace = name.clone();
            let renewed = RenewedSession { id, namespace, key };
            sessions.push((deadline, renewed));
        }
        if namespace.holds_locks() {
            holding.push(name.clone());
        }
    }
    sessions.sort_by_key(|(deadline, _)| *deadline);
    let sessions: Vec<_> = sessions.into_iter().map(|(_, renewed)| renewed).collect();
    let sessions = sessions.chunks(CHUNK).map(<[_]>::to_vec);
    let holding = holding.chunks(CHUNK).map(<[_]>::to_vec);
    sessions
        .map(Renewal::Sessions)
        .chain(holding.map(Renewal::Versions))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        protocol::{
            config::tests::config, input::Input, query::Completion, sessions::Kind, time::tests::at,
        },
        store::{Class, Failure, Kind as Cause, NewSession},
        table::SessionId,
    };

    fn ms(millis: u64) -> Time {
        at(millis).monotonic
    }

    struct Scene {
        renewals: Renewals,
        namespaces: Namespaces,
        concerned: BTreeSet<Name>,
        config: Config,
    }

    impl Scene {
        /// Two tasks have sessions, opened at 0 and 1 ms. They are renewed every 4 s.
        fn new() -> Self {
            let (name, config) = (Name::from("n"), config());
            let shared = Arc::new(config.clone());
            let mut namespace = Namespace::new(name.clone(), shared, fastrand::Rng::with_seed(1));
            for (millis, task) in [(1, "late"), (0, "early")] {
                let new = NewSession {
                    id: SessionId(task.into()),
                    namespace: name.clone(),
                    task: task.into(),
                    process: config.process.clone(),
                    ttl: config.ttl,
                };
                let opened = Completion::SessionsOpened(vec![new], Ok(()));
                namespace.handle(at(millis), Input::Completed(opened));
            }
            Self {
                renewals: Renewals::default(),
                namespaces: BTreeMap::from([(name.clone(), namespace)]),
                concerned: BTreeSet::from([name]),
                config,
            }
        }

        fn next(&mut self, way: Way, now: u64) -> Option<Renewal> {
            let (namespaces, concerned) = (&mut self.namespaces, &self.concerned);
            let config = &self.config;
            self.renewals
                .next(way, namespaces, concerned, config, at(now))
        }

        fn done(&mut self, renewed: Renewed, now: u64) -> Vec<Name> {
            let (namespaces, config) = (&mut self.namespaces, &self.config);
            self.renewals
                .on_renewed(renewed, namespaces, config, at(now))
        }

        fn opened(&mut self, result: Result<(), Cause>, now: u64) {
            let opened = self.next(Way::Own, now);
            assert!(matches!(opened, Some(Renewal::Open)), "{opened:?}");
            let result = result.map_err(|kind| Failure::simulated(Class::ReadOnly, kind));
            self.done(Renewed::Opened(result), now);
        }

        fn deadline(&self, task: &str) -> Option<Time> {
            self.namespaces["n"].lease_deadline(&SessionId(task.into()))
        }
    }

    fn sessions() -> Vec<RenewedSession> {
        let session = |task: &str| RenewedSession {
            id: SessionId(task.into()),
            namespace: "n".into(),
            key: (task.into(), Kind::Expiring),
        };
        ["early", "late"].map(session).into()
    }

    fn renewed(missing: &[&str]) -> Renewed {
        let missing = missing.iter().map(|id| SessionId((*id).into()));
        Renewed::Sessions {
            sessions: sessions(),
            result: Ok(missing.collect()),
        }
    }

    fn failed(kind: Cause) -> Renewed {
        Renewed::Sessions {
            sessions: sessions(),
            result: Err(Failure::simulated(Class::Indeterminate, kind)),
        }
    }

    #[test]
    fn sessions_are_renewed_at_each_tick_those_first_that_end_first() {
        let mut scene = Scene::new();
        scene.opened(Ok(()), 100);
        assert_eq!(scene.renewals.poll_timeout(), Some(ms(4_100)));
        assert!(scene.next(Way::Own, 4_099).is_none());
        let Some(Renewal::Sessions(asked)) = scene.next(Way::Own, 4_100) else {
            panic!("it is due");
        };
        let asked: Vec<_> = asked.iter().map(|session| &*session.id.0).collect();
        assert_eq!(asked, ["early", "late"]);
        assert!(scene.next(Way::Own, 8_100).is_none(), "it is in flight");
        assert_eq!(scene.renewals.poll_timeout(), None);
        assert!(!scene.renewals.use_rows());
        assert_eq!(
            scene.done(renewed(&["late"]), 4_200),
            ["n".into(), "n".into()]
        );
        assert_eq!(
            scene.deadline("early"),
            Some(ms(16_100)),
            "from when it was sent"
        );
        assert_eq!(scene.deadline("late"), None, "it was not found");
        assert_eq!(scene.renewals.poll_timeout(), Some(ms(8_100)));
        assert_eq!(scene.renewals.next_tick(), Some(ms(8_100)));
        scene.concerned.clear();
        assert!(scene.next(Way::Own, 8_100).is_none());
        assert_eq!(scene.renewals.next_tick(), None);
    }

    #[test]
    fn sessions_are_renewed_over_the_row_connection_until_one_of_their_own_opens() {
        let mut scene = Scene::new();
        assert!(scene.next(Way::Rows, 0).is_none());
        scene.opened(Err(Cause::Unreachable), 0);
        assert!(scene.next(Way::Own, 4_000).is_none());
        assert_eq!(
            scene.renewals.poll_timeout(),
            None,
            "it waits for the connection"
        );
        let step = scene.next(Way::Rows, 4_001);
        assert!(matches!(step, Some(Renewal::Sessions(_))), "{step:?}");
        assert!(scene.renewals.use_rows());
        scene.done(renewed(&[]), 4_002);
        assert!(!scene.renewals.use_rows());
        assert!(scene.next(Way::Rows, 4_003).is_none());
        scene.opened(Ok(()), 4_003);
        let step = scene.next(Way::Own, 8_000);
        assert!(matches!(step, Some(Renewal::Sessions(_))), "{step:?}");
        scene.done(failed(Cause::Unreachable), 8_001);
        assert!(scene.next(Way::Own, 9_000).is_none());
        assert!(scene.next(Way::Rows, 9_000).is_some());
    }

    #[test]
    fn a_renewal_that_fails_is_run_again_after_pauses_that_grow() {
        let mut scene = Scene::new();
        scene.opened(Ok(()), 0);
        let mut now = 4_000;
        for pause in [400, 800, 1_000, 1_000] {
            let step = scene.next(Way::Own, now);
            assert!(matches!(step, Some(Renewal::Sessions(_))), "{step:?}");
            scene.done(failed(Cause::Other), now + 10);
            assert_eq!(scene.renewals.poll_timeout(), Some(ms(now + 10 + pause)));
            now += 10 + pause;
        }
        assert!(scene.next(Way::Own, now).is_some());
        scene.done(renewed(&[]), now);
        assert!(scene.next(Way::Own, now + 4_000).is_some());
        scene.done(failed(Cause::Other), now + 4_000);
        assert_eq!(
            scene.renewals.poll_timeout(),
            Some(ms(now + 4_400)),
            "from the start"
        );
    }

    #[test]
    fn pauses_are_parts_of_the_ttl_within_limits() {
        let pause = |ttl, failures| retry_pause(Duration::from_millis(ttl), failures).as_millis();
        assert_eq!([0, 1, 2, 99].map(|n| pause(3_000, n)), [100, 200, 300, 300]);
        assert_eq!([0, 1, 2, 99].map(|n| pause(200, n)), [20, 20, 20, 20]);
        assert_eq!([0, 1, 2, 99].map(|n| pause(90_000, n)), [3_000; 4]);
    }
}
