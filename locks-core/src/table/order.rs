//! Which requests may be granted: the conflict rule and the order rule.
//!
//! A request is granted if it conflicts with no held lock and with no earlier request in the
//! queue. For a held lock, the matrix is read as written. For a queued request, a conflict
//! in either direction counts. Otherwise a rule with one direction would allow a stream of
//! backups to overtake a queued update for ever.
//!
//! One exception prevents a correct program from waiting for itself. An earlier request does
//! not block if it waits, directly or through others, for a lock that belongs to the
//! requester: a lock that is held by the requester's scope, by an ancestor of it, or by
//! the requester's session outside any scope.

use std::{
    collections::BTreeSet,
    ops::Bound::{Included, Unbounded},
};

use super::{Entry, LockTable, QueuedRequest, Request, SessionId, holder};
use crate::{
    matrix::{ConflictMatrix, Fingerprint, Pattern},
    name::LockName,
    report::Blocker,
    scope::ScopePath,
};

/// The highest number of queued requests that are reported as blockers of one request. In a
/// long queue, the blockers of all requests would not fit into memory.
const REPORTED: usize = 20;

/// Which queued requests can block a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The first `n` of the queue.
    Behind(usize),
    /// None: the request overtakes the queue.
    Barging,
}

/// A held lock or queued request that blocks a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle<'t> {
    Holder(&'t LockName, &'t Entry),
    Waiter(&'t QueuedRequest),
}

/// The part of a new or queued request that the rules use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestView<'t> {
    pub(super) session: &'t SessionId,
    pub(super) names: &'t [LockName],
    pub(super) matrix: Fingerprint,
    pub(super) path: &'t ScopePath,
}

impl<'t> From<&'t Request> for RequestView<'t> {
    fn from(request: &'t Request) -> Self {
        Self {
            session: &request.session,
            names: &request.names,
            matrix: request.matrix.fingerprint(),
            path: &request.path,
        }
    }
}

impl<'t> From<&'t QueuedRequest> for RequestView<'t> {
    fn from(queued: &'t QueuedRequest) -> Self {
        Self {
            session: &queued.session,
            names: &queued.names,
            matrix: queued.matrix,
            path: &queued.path,
        }
    }
}

impl LockTable {
    /// Whether `request` may be granted.
    pub(crate) fn is_free(&self, request: &Request, order: Order) -> bool {
        let view = RequestView::from(request);
        // Most conflicts are between equal names, and this test is cheap.
        let held = || {
            request
                .names
                .iter()
                .any(|name| self.held.contains_key(name))
        };
        !held()
            && self.holders_against(view, &request.matrix).is_empty()
            && match order {
                Order::Barging => true,
                Order::Behind(position) => {
                    let mut queued =
                        self.queued_against(view, &request.matrix, position, usize::MAX);
                    queued.next().is_none()
                }
            }
    }

    /// The blockers of `request`; empty if it may be granted. At most twenty queued requests
    /// are reported.
    pub(crate) fn blockers(&self, request: &Request, order: Order) -> Vec<Blocker> {
        self.reported(request.into(), &request.matrix, order)
    }

    /// The blockers of the queued request at this position, as [`blockers`](Self::blockers)
    /// reports them.
    pub(crate) fn blockers_of(&self, position: usize, matrix: &ConflictMatrix) -> Vec<Blocker> {
        let view = (&self.queue[position]).into();
        self.reported(view, matrix, Order::Behind(position))
    }

    fn reported(
        &self,
        view: RequestView<'_>,
        matrix: &ConflictMatrix,
        order: Order,
    ) -> Vec<Blocker> {
        let mut obstacles = self.holders_against(view, matrix);
        if let Order::Behind(position) = order {
            // A request without any blocker is free, so that must not depend on a limit.
            let examined = if obstacles.is_empty() {
                usize::MAX
            } else {
                REPORTED
            };
            let queued = self.queued_against(view, matrix, position, examined);
            obstacles.extend(queued.take(REPORTED).map(Obstacle::Waiter));
        }
        let blocker = |obstacle| self.blocker(obstacle, view.matrix);
        obstacles.iter().map(blocker).collect()
    }

    /// Whether a lock already belongs to the requester. Then the exception of the order rule
    /// can apply.
    pub(crate) fn is_nested(&self, request: &Request) -> bool {
        self.holds(request.into())
    }

    fn holds(&self, view: RequestView<'_>) -> bool {
        self.held.values().any(|entry| is_own(entry, view))
    }

    /// The obstacle as it is reported to the requester, whose matrix is `matrix`.
    pub(super) fn blocker(&self, obstacle: &Obstacle<'_>, matrix: Fingerprint) -> Blocker {
        match obstacle {
            Obstacle::Holder(name, entry) if self.matrix_of(entry) == matrix => {
                Blocker::Holder(holder(name, entry))
            }
            Obstacle::Waiter(queued) if queued.matrix == matrix => Blocker::Waiter(queued.report()),
            Obstacle::Holder(_, Entry { task, .. })
            | Obstacle::Waiter(QueuedRequest { task, .. }) => Blocker::Matrix {
                task_id: task.clone(),
            },
        }
    }

    /// The matrix of an entry's session. A lock of the original has the platform's.
    fn matrix_of(&self, entry: &Entry) -> Fingerprint {
        let session = entry.grant.as_ref().map(|grant| &grant.session);
        match session.and_then(|id| self.sessions.get(id)) {
            Some(used) => used.matrix,
            None => ConflictMatrix::platform().fingerprint(),
        }
    }

    /// The held locks that block a request: by their name, by a rule, or by another matrix.
    pub(super) fn holders_against(
        &self,
        view: RequestView<'_>,
        matrix: &ConflictMatrix,
    ) -> Vec<Obstacle<'_>> {
        // The rules of another matrix are unknown, so it conflicts with everything. This is
        // the rare case.
        if self.has_other_matrix(view.matrix) || view.matrix != matrix.fingerprint() {
            let conflicts = |(name, entry): &(&LockName, &Entry)| {
                self.matrix_of(entry) != matrix.fingerprint()
                    || view.matrix != matrix.fingerprint()
                    || view
                        .names
                        .iter()
                        .any(|n| matrix.refuses(n.as_str(), name.as_str()))
            };
            return self
                .held
                .iter()
                .filter(conflicts)
                .map(|(name, entry)| Obstacle::Holder(name, entry))
                .collect();
        }
        // There is only one matrix: look up the names that can conflict.
        let mut found = BTreeSet::new();
        for name in view.names {
            if let Some((held, _)) = self.held.get_key_value(name) {
                found.insert(held);
            }
            for pattern in matrix.refusing(name.as_str()) {
                match pattern {
                    Pattern::Exact(exact) => {
                        found.extend(self.held.get_key_value(exact).map(|(held, _)| held));
                    }
                    Pattern::Prefix(prefix) => found.extend(
                        self.held
                            .range::<str, _>((Included(prefix), Unbounded))
                            .map(|(held, _)| held)
                            .take_while(|held| held.as_str().starts_with(prefix)),
                    ),
                }
            }
        }
        found
            .into_iter()
            .filter_map(|name| Some(Obstacle::Holder(name, self.held.get(name)?)))
            .collect()
    }

    /// Whether a lock is held under a matrix other than this one.
    fn has_other_matrix(&self, matrix: Fingerprint) -> bool {
        (self.foreign > 0 && matrix != ConflictMatrix::platform().fingerprint())
            || self.sessions.values().any(|used| used.matrix != matrix)
    }

    /// The requests among the first `end` of the queue that block a request. At most
    /// `examined` requests that conflict with it are examined.
    fn queued_against<'t>(
        &'t self,
        view: RequestView<'t>,
        matrix: &'t ConflictMatrix,
        end: usize,
        examined: usize,
    ) -> impl Iterator<Item = &'t QueuedRequest> + 't {
        let earlier = self.queue[..end.min(self.queue.len())].iter().enumerate();
        let mut search = None;
        earlier
            .filter(move |(_, queued)| conflicts(matrix, view, (*queued).into()))
            .take(examined)
            .filter(move |(position, _)| {
                let search = search.get_or_insert_with(|| Search::new(self, matrix, view));
                !search.leads_to_own(*position)
            })
            .map(|(_, queued)| queued)
    }
}

/// The search for queued requests that wait, directly or through others, for a lock that
/// belongs to the requester.
///
/// All requests and guards of a session outside any scope count as one requester. That can
/// allow a request to overtake. The opposite could make a correct program wait for ever.
struct Search<'t> {
    table: &'t LockTable,
    matrix: &'t ConflictMatrix,
    view: RequestView<'t>,
    /// The results so far, by position in the queue; empty if no lock belongs to the
    /// requester.
    known: Vec<Option<bool>>,
}

impl<'t> Search<'t> {
    fn new(table: &'t LockTable, matrix: &'t ConflictMatrix, view: RequestView<'t>) -> Self {
        let len = if table.holds(view) {
            table.queue.len()
        } else {
            0
        };
        Self {
            table,
            matrix,
            view,
            known: vec![None; len],
        }
    }

    fn leads_to_own(&mut self, start: usize) -> bool {
        if self.known.is_empty() {
            return false;
        }
        let mut visited = vec![start];
        let mut next = 0;
        while let Some(&position) = visited.get(next) {
            next += 1;
            if self.known[position] == Some(false) {
                continue;
            }
            let queued = &self.table.queue[position];
            let holders = self.table.holders_against(queued.into(), self.matrix);
            let own =
                |o: &Obstacle<'_>| matches!(o, Obstacle::Holder(_, e) if is_own(e, self.view));
            if self.known[position] == Some(true) || holders.iter().any(own) {
                self.known[start] = Some(true);
                return true;
            }
            // The requests for which this one waits: earlier ones that conflict, and those
            // of the holders.
            let waits_for = |(other, request): (usize, &QueuedRequest)| {
                let earlier =
                    other < position && conflicts(self.matrix, queued.into(), request.into());
                let of_holder = || {
                    holders
                        .iter()
                        .any(|o| matches!(o, Obstacle::Holder(_, e) if may_belong_to(e, request)))
                };
                ((earlier || of_holder()) && !visited.contains(&other)).then_some(other)
            };
            let queue = self.table.queue.iter().enumerate();
            let found: Vec<_> = queue.filter_map(waits_for).collect();
            visited.extend(found);
        }
        for position in visited {
            self.known[position] = Some(false);
        }
        false
    }
}

/// Whether a lock belongs to the requester: it is held by the requester's scope, by an
/// ancestor of it, or by the requester's session outside any scope. The last is a guard that
/// was made before the first scope was opened.
fn is_own(entry: &Entry, view: RequestView<'_>) -> bool {
    entry.grant.as_ref().is_some_and(|grant| match grant.scope {
        Some(scope) => view.path.contains(scope),
        None => grant.session == *view.session,
    })
}

/// Whether a lock may belong to the program that made the queued request. In addition to
/// [`is_own`], this is a lock of the request's task outside any scope: a lock that never
/// expires is held under another session than the one that waits.
fn may_belong_to(entry: &Entry, queued: &QueuedRequest) -> bool {
    let grant = entry.grant.as_ref();
    is_own(entry, queued.into())
        || (grant.is_some_and(|grant| grant.scope.is_none()) && entry.task == queued.task)
}

/// Whether two requests conflict in either direction.
fn conflicts(matrix: &ConflictMatrix, a: RequestView<'_>, b: RequestView<'_>) -> bool {
    a.matrix != b.matrix
        || a.matrix != matrix.fingerprint()
        || a.names.iter().any(|a| {
            b.names.iter().any(|b| {
                let (a, b) = (a.as_str(), b.as_str());
                matrix.refuses(a, b) || matrix.refuses(b, a)
            })
        })
}
