//! Who may be granted what: the conflict rule and the order rule.
//!
//! A request is granted when it conflicts with no holder and with no waiter that
//! came earlier. Against a holder the matrix counts as it is written; against a
//! waiter a conflict in either direction does, or a directional rule would let a
//! stream of backups overtake a waiting update for ever.
//!
//! One exception keeps correct programs from waiting for themselves: an earlier
//! waiter that waits, directly or through others, for something that the requester's
//! own scope or an ancestor of it holds does not stand in its way. Nor does one that
//! waits for what the requester's session holds outside any scope.

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

/// How many earlier waiters are told of as blockers: the first ones. In a long queue all
/// of them, for everybody, would be more than the memory holds.
const REPORTED: usize = 20;

/// Whether a request minds those who came earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// It goes behind the first `n` waiters of the queue.
    Behind(usize),
    /// It barges past everybody who waits.
    Barging,
}

/// What stands in the way of a request, as places in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle<'t> {
    Holder(&'t LockName, &'t Entry),
    Waiter(&'t QueuedRequest),
}

/// A request seen from the rules: one that is new, or one of the queue.
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
    fn from(waiting: &'t QueuedRequest) -> Self {
        Self {
            session: &waiting.session,
            names: &waiting.names,
            matrix: waiting.matrix,
            path: &waiting.path,
        }
    }
}

impl LockTable {
    /// Whether `request` may be granted.
    pub(crate) fn is_free(&self, request: &Request, order: Order) -> bool {
        let asked = RequestView::from(request);
        // What refuses nearly everybody who is refused.
        let held = || {
            request
                .names
                .iter()
                .any(|name| self.held.contains_key(name))
        };
        !held()
            && self.holders_against(asked, &request.matrix).is_empty()
            && match order {
                Order::Barging => true,
                Order::Behind(place) => {
                    let mut waiters =
                        self.waiters_against(asked, &request.matrix, place, usize::MAX);
                    waiters.next().is_none()
                }
            }
    }

    /// What refuses `request`; nothing when it may be granted.
    pub(crate) fn blockers(&self, request: &Request, order: Order) -> Vec<Blocker> {
        self.reported(request.into(), &request.matrix, order)
    }

    /// What refuses the waiter at this place.
    pub(crate) fn blockers_of(&self, place: usize, matrix: &ConflictMatrix) -> Vec<Blocker> {
        self.reported((&self.queue[place]).into(), matrix, Order::Behind(place))
    }

    fn reported(
        &self,
        asked: RequestView<'_>,
        matrix: &ConflictMatrix,
        order: Order,
    ) -> Vec<Blocker> {
        let mut obstacles = self.holders_against(asked, matrix);
        if let Order::Behind(place) = order {
            let looked_at = if obstacles.is_empty() {
                usize::MAX
            } else {
                REPORTED
            };
            let waiters = self.waiters_against(asked, matrix, place, looked_at);
            obstacles.extend(waiters.take(REPORTED).map(Obstacle::Waiter));
        }
        let tell = |obstacle| self.tell(obstacle, asked.matrix);
        obstacles.iter().map(tell).collect()
    }

    /// Whether the job that asks holds anything already. Then others, who wait in its
    /// way, may be passed by those who wait for it.
    pub(crate) fn is_nested(&self, request: &Request) -> bool {
        self.holds(request.into())
    }

    fn holds(&self, asked: RequestView<'_>) -> bool {
        self.held.values().any(|entry| is_own(entry, asked))
    }

    /// The obstacle as users are told of it.
    pub(super) fn tell(&self, obstacle: &Obstacle<'_>, matrix: Fingerprint) -> Blocker {
        match obstacle {
            Obstacle::Holder(name, entry) if self.matrix_of(entry) == matrix => {
                Blocker::Holder(holder(name, entry))
            }
            Obstacle::Waiter(waiting) if waiting.matrix == matrix => {
                Blocker::Waiter(waiting.report())
            }
            Obstacle::Holder(_, Entry { task, .. })
            | Obstacle::Waiter(QueuedRequest { task, .. }) => Blocker::Matrix {
                task_id: task.clone(),
            },
        }
    }

    /// The matrix that an entry was granted under; the original's for its own.
    fn matrix_of(&self, entry: &Entry) -> Fingerprint {
        let session = entry.grant.as_ref().map(|grant| &grant.session);
        match session.and_then(|id| self.sessions.get(id)) {
            Some(used) => used.matrix,
            None => ConflictMatrix::platform().fingerprint(),
        }
    }

    /// The holders that refuse `asked`: by name, by rule, or by another matrix.
    pub(super) fn holders_against(
        &self,
        asked: RequestView<'_>,
        matrix: &ConflictMatrix,
    ) -> Vec<Obstacle<'_>> {
        let alien = self.alien_to(asked.matrix);
        // A waiter of another matrix cannot be judged by ours: for it everything
        // conflicts. Such a queue is short-lived: nothing is granted across it.
        if alien || asked.matrix != matrix.fingerprint() {
            let conflicts = |(name, entry): &(&LockName, &Entry)| {
                self.matrix_of(entry) != matrix.fingerprint()
                    || asked.matrix != matrix.fingerprint()
                    || asked
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
        // All of one matrix: look only where a conflict can be.
        let mut found = BTreeSet::new();
        for name in asked.names {
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

    /// Whether anything is held under another matrix than this one.
    fn alien_to(&self, matrix: Fingerprint) -> bool {
        (self.foreign > 0 && matrix != ConflictMatrix::platform().fingerprint())
            || self.sessions.values().any(|used| used.matrix != matrix)
    }

    /// The waiters among the first `place` that `asked` has to let go first. No more than
    /// `looked_at` of those that conflict with it are looked at.
    fn waiters_against<'t>(
        &'t self,
        asked: RequestView<'t>,
        matrix: &'t ConflictMatrix,
        place: usize,
        looked_at: usize,
    ) -> impl Iterator<Item = &'t QueuedRequest> + 't {
        let earlier = self.queue[..place.min(self.queue.len())].iter().enumerate();
        let mut search = None;
        earlier
            .filter(move |(_, waiting)| meets(matrix, asked, (*waiting).into()))
            .take(looked_at)
            .filter(move |(place, _)| {
                let search = search.get_or_insert_with(|| Reach::new(self, matrix, asked));
                !search.leads_to_own(*place)
            })
            .map(|(_, waiting)| waiting)
    }
}

/// Which waiters wait, directly or through others, for what the requester holds.
///
/// Here a session's unscoped guards and requests count as one job: at worst that lets
/// somebody overtake, while the opposite would let a correct program wait for ever.
struct Reach<'t> {
    table: &'t LockTable,
    matrix: &'t ConflictMatrix,
    asked: RequestView<'t>,
    /// Whether the requester holds anything at all.
    holds: bool,
    /// What is known of the waiter at each place.
    known: Vec<Option<bool>>,
}

impl<'t> Reach<'t> {
    fn new(table: &'t LockTable, matrix: &'t ConflictMatrix, asked: RequestView<'t>) -> Self {
        let holds = table.holds(asked);
        let places = if holds { table.queue.len() } else { 0 };
        Self {
            table,
            matrix,
            asked,
            holds,
            known: vec![None; places],
        }
    }

    fn leads_to_own(&mut self, place: usize) -> bool {
        if !self.holds {
            return false;
        }
        let mut visited = vec![place];
        let mut next = 0;
        while let Some(&at) = visited.get(next) {
            next += 1;
            if self.known[at] == Some(false) {
                continue;
            }
            let waiting = &self.table.queue[at];
            let holders = self.table.holders_against(waiting.into(), self.matrix);
            let own =
                |o: &Obstacle<'_>| matches!(o, Obstacle::Holder(_, e) if is_own(e, self.asked));
            if self.known[at] == Some(true) || holders.iter().any(own) {
                self.known[place] = Some(true);
                return true;
            }
            let after = |(other, w): (usize, &QueuedRequest)| {
                let ahead = other < at && meets(self.matrix, waiting.into(), w.into());
                let nested = || {
                    holders
                        .iter()
                        .any(|o| matches!(o, Obstacle::Holder(_, e) if may_be_waiters(e, w)))
                };
                ((ahead || nested()) && !visited.contains(&other)).then_some(other)
            };
            let found: Vec<_> = self
                .table
                .queue
                .iter()
                .enumerate()
                .filter_map(after)
                .collect();
            visited.extend(found);
        }
        // Nothing that was visited leads there.
        for at in visited {
            self.known[at] = Some(false);
        }
        false
    }
}

/// Whether the entry is held by the requester's own scope, an ancestor of it, or outside
/// any scope by its session: a guard that was made before the first scope was opened.
fn is_own(entry: &Entry, asked: RequestView<'_>) -> bool {
    entry.grant.as_ref().is_some_and(|grant| match grant.scope {
        Some(scope) => asked.path.contains(scope),
        None => grant.session == *asked.session,
    })
}

/// Whether the entry may be held by the job that waits: as above, and outside any scope by
/// the same task, since what never expires is held under another session than its task
/// waits under.
fn may_be_waiters(entry: &Entry, waiting: &QueuedRequest) -> bool {
    let grant = entry.grant.as_ref();
    is_own(entry, waiting.into())
        || (grant.is_some_and(|grant| grant.scope.is_none()) && entry.task == waiting.task)
}

/// Whether two requests conflict in either direction.
fn meets(matrix: &ConflictMatrix, a: RequestView<'_>, b: RequestView<'_>) -> bool {
    a.matrix != b.matrix
        || a.matrix != matrix.fingerprint()
        || a.names.iter().any(|a| {
            b.names.iter().any(|b| {
                let (a, b) = (a.as_str(), b.as_str());
                matrix.refuses(a, b) || matrix.refuses(b, a)
            })
        })
}
