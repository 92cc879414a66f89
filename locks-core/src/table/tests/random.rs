//! Random tables, compared with a direct implementation of the rules.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::request;
use crate::{
    matrix::ConflictMatrix,
    name::LockName,
    table::{Entry, LockTable, Order, QueuedRequest, Request},
};

const NAMES: [&str; 9] = [
    "app_backup_1",
    "app_task_1",
    "app_task_2",
    "box_update",
    "box_update_task",
    "full_backup_task_1",
    "x",
    "y",
    "z",
];
/// Requesters outside any scope, and in scopes with ancestors and siblings.
const REQUESTERS: [&str; 9] = [
    "a", "b", "c", "a:1", "a:1.2", "a:1.3", "b:4", "b:4.5", "c:6",
];

#[derive(Clone, Debug)]
struct Scenario {
    held: Vec<(usize, usize)>,
    foreign: Vec<usize>,
    queue: Vec<(usize, Vec<usize>)>,
    asks: (usize, Vec<usize>),
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let request = || {
        (
            0..REQUESTERS.len(),
            prop::collection::vec(0..NAMES.len(), 1..4),
        )
    };
    let held = prop::collection::vec((0..REQUESTERS.len(), 0..NAMES.len()), 0..6);
    let foreign = prop::collection::vec(0..NAMES.len(), 0..2);
    let queue = prop::collection::vec(request(), 0..7);
    (held, foreign, queue, request()).prop_map(|(held, foreign, queue, asks)| Scenario {
        held,
        foreign,
        queue,
        asks,
    })
}

fn random_request((requester, names): &(usize, Vec<usize>)) -> Request {
    let names: BTreeSet<_> = names.iter().map(|name| NAMES[*name]).collect();
    let names: Vec<_> = names.into_iter().collect();
    request(&format!(
        "{} asks {}",
        REQUESTERS[*requester],
        names.join(" ")
    ))
}

impl Scenario {
    fn table(&self) -> (LockTable, Request) {
        let mut table = LockTable::default();
        for name in &self.foreign {
            let task = "original".into();
            let name = LockName::found(NAMES[*name].into());
            let platform = ConflictMatrix::platform().fingerprint();
            table.insert(name, Entry { task, grant: None }, platform);
        }
        for (requester, name) in &self.held {
            table.grant(&random_request(&(*requester, vec![*name])), 1);
        }
        for waits in &self.queue {
            let request = random_request(waits);
            table.enqueue(&request, &request.session, 2);
        }
        (table, random_request(&self.asks))
    }
}

fn platform(asked: &str, held: &str) -> bool {
    ConflictMatrix::platform().refuses(asked, held)
}

/// The held names that block a request for `asked`.
fn blocking<'t>(table: &'t LockTable, asked: &'t [LockName]) -> Vec<&'t LockName> {
    let held = table.held.keys();
    held.filter(|held| {
        asked
            .iter()
            .any(|name| platform(name.as_str(), held.as_str()))
    })
    .collect()
}

fn conflict(one: &[LockName], other: &[LockName]) -> bool {
    one.iter().any(|a| {
        let (a, mut other) = (a.as_str(), other.iter().map(LockName::as_str));
        other.any(|b| platform(a, b) || platform(b, a))
    })
}

/// Whether a request of this session and path would wait for itself if it waited for the lock.
fn is_own(table: &LockTable, name: &LockName, session: &str, path: &[u64]) -> bool {
    let grant = table.held[name].first().grant.as_ref();
    grant.is_some_and(|grant| match grant.scope {
        Some(scope) => path.contains(&scope),
        None => *grant.session.0 == *session,
    })
}

fn waits_for(table: &LockTable, name: &LockName, queued: &QueuedRequest) -> bool {
    is_own(table, name, &queued.session.0, queued.path.ids())
}

/// The positions of the queued requests that wait for the requester's own lock: directly, or
/// behind or for a request that does.
fn waiting_for(table: &LockTable, request: &Request) -> BTreeSet<usize> {
    let queue = table.queue();
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for (position, queued) in queue.iter().enumerate() {
            let holders = blocking(table, &queued.names);
            let own =
                |name: &&LockName| is_own(table, name, &request.session.0, request.path.ids());
            let through = |other: &usize| {
                let w = &queue[*other];
                let behind = *other < position && conflict(&queued.names, &w.names);
                behind || holders.iter().any(|name| waits_for(table, name, w))
            };
            if holders.iter().any(own) || found.iter().any(through) {
                found.insert(position);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Whether the request, if it were queued, would wait for its own scope through held locks.
fn closes_a_cycle(table: &LockTable, request: &Request) -> bool {
    let scope = |name: &LockName| {
        table.held[name]
            .first()
            .grant
            .as_ref()
            .and_then(|grant| grant.scope)
    };
    let mut open: Vec<&[LockName]> = vec![&request.names];
    let mut seen = BTreeSet::new();
    while let Some(names) = open.pop() {
        for scope in blocking(table, names).into_iter().filter_map(scope) {
            if request.path.contains(scope) {
                return true;
            }
            for (position, queued) in table.queue().iter().enumerate() {
                if queued.path.contains(scope) && seen.insert(position) {
                    open.push(&queued.names);
                }
            }
        }
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn blockers_and_cycles_follow_the_rules(scenario in scenario()) {
        let (table, request) = scenario.table();
        let end = table.queue().len();
        let holders = blocking(&table, &request.names);
        prop_assert_eq!(table.is_free(&request, Order::Barging), holders.is_empty());

        let excused = waiting_for(&table, &request);
        let waiters = table.queue().iter().enumerate();
        let waiters: Vec<_> = waiters
            .filter(|(position, w)| conflict(&request.names, &w.names) && !excused.contains(position))
            .collect();
        let free = holders.is_empty() && waiters.is_empty();
        prop_assert_eq!(table.is_free(&request, Order::Behind(end)), free);
        let blockers = table.blockers(&request, Order::Behind(end));
        prop_assert_eq!(blockers.len(), holders.len() + waiters.len());

        prop_assert_eq!(table.cycle(&request).is_some(), closes_a_cycle(&table, &request));
    }

    #[test]
    fn released_or_dequeued_request_leaves_the_table_unchanged(scenario in scenario()) {
        let (table, request) = scenario.table();
        let mut changed = table.clone();
        let id = (request.session.clone(), request.nonce);
        changed.enqueue(&request, &request.session, 9);
        prop_assert_eq!(changed.position(&id), Some(table.queue().len()));
        prop_assert!(changed.dequeue(&id) && !changed.dequeue(&id));
        prop_assert_eq!(&changed, &table);
        if blocking(&table, &request.names).is_empty() {
            changed.grant(&request, 9);
            prop_assert_eq!(changed.granted(&id, &request.names), Some(9));
            prop_assert!(changed.release(&id, &request.names));
            prop_assert!(!changed.release(&id, &request.names));
            prop_assert_eq!(&changed, &table);
        }
    }

    #[test]
    fn only_entries_of_a_dead_session_are_removed(scenario in scenario()) {
        let (mut table, _) = scenario.table();
        let other = |entry: &Entry| entry.grant.as_ref().is_none_or(|g| &*g.session.0 != "ns/a");
        let kept: Vec<_> = table.held.iter().filter(|(_, h)| other(h.first())).map(|(n, _)| n.clone()).collect();
        table.release_where(|_, entry| !other(entry));
        table.dequeue_where(|queued| &*queued.session.0 == "ns/a");
        prop_assert!(table.session_ids().iter().all(|id| &*id.0 != "ns/a"));
        prop_assert_eq!(table.held.keys().cloned().collect::<Vec<_>>(), kept);
    }
}
