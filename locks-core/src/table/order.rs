//! Which requests may be granted: the conflict rule, the order rule and limits (`limit.rs`).
//!
//! A request is granted if it conflicts with no held lock and with no earlier request in the
//! queue, and if no limit is used up. Two requests for one name conflict unless both share it. For
//! a held lock, the matrix is read as written. For a queued request, a conflict
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

use super::{
    Entry, LockTable, Nonce, QueuedRequest, Request, SessionId, holder,
    holders::Holders,
    limit::{UsedUp, share_limit},
};
use crate::{
    matrix::{ConflictMatrix, Fingerprint, Pattern},
    name::{LockName, Mode, Names},
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
    pub(super) nonce: Nonce,
    pub(super) names: &'t Names,
    pub(super) matrix: Fingerprint,
    pub(super) path: &'t ScopePath,
}

impl<'t> From<&'t Request> for RequestView<'t> {
    fn from(request: &'t Request) -> Self {
        Self {
            session: &request.session,
            nonce: request.nonce,
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
            nonce: queued.nonce,
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
            let mut names = request.names.with_modes();
            names.any(|(name, mode)| {
                let held = self.held.get(name);
                held.is_some_and(|h| !h.admit(mode, request.nonce))
            })
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
            && self.used_up(view, &request.matrix, order).is_empty()
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
        let blocker = |obstacle| self.blocker(obstacle, view.matrix, matrix);
        let limits = self.used_up(view, matrix, order);
        let limits = limits
            .iter()
            .map(|used_up| self.used_up_blocker(used_up, view.matrix, matrix));
        obstacles.iter().map(blocker).chain(limits).collect()
    }

    /// The limit as it is reported to a requester whose matrix has this fingerprint.
    pub(super) fn used_up_blocker(
        &self,
        used_up: &UsedUp<'_>,
        of: Fingerprint,
        matrix: &ConflictMatrix,
    ) -> Blocker {
        let used_by = used_up.by.iter().take(REPORTED);
        Blocker::Limit {
            pattern: used_up.limit.pattern,
            limit: used_up.limit.most,
            used_by: used_by.map(|o| self.blocker(o, of, matrix)).collect(),
        }
    }

    /// Whether a lock already belongs to the requester. Then the exception of the order rule
    /// can apply.
    pub(crate) fn is_nested(&self, request: &Request) -> bool {
        self.holds(request.into())
    }

    fn holds(&self, view: RequestView<'_>) -> bool {
        let mut entries = self.held.values().flat_map(Holders::iter);
        entries.any(|entry| is_own(entry, view))
    }

    /// The obstacle as it is reported to the requester, whose matrix has this fingerprint.
    pub(super) fn blocker(
        &self,
        obstacle: &Obstacle<'_>,
        of: Fingerprint,
        matrix: &ConflictMatrix,
    ) -> Blocker {
        match obstacle {
            Obstacle::Holder(name, entry) if self.is_of_matrix(entry, of, matrix) => {
                Blocker::Holder(holder(name, entry))
            }
            Obstacle::Waiter(queued) if queued.matrix == of => Blocker::Waiter(queued.report()),
            Obstacle::Holder(_, Entry { task, .. })
            | Obstacle::Waiter(QueuedRequest { task, .. }) => Blocker::Matrix {
                task_id: task.clone(),
            },
        }
    }

    /// Whether an entry's session has the matrix of this fingerprint. A lock of the original has
    /// the rules of the platform, and obeys no limit: it is of every matrix with these rules.
    fn is_of_matrix(&self, entry: &Entry, of: Fingerprint, matrix: &ConflictMatrix) -> bool {
        let session = entry.grant.as_ref().map(|grant| &grant.session);
        let used = session.and_then(|id| self.sessions.get(id));
        let platform = ConflictMatrix::platform();
        match used {
            Some(used) => used.matrix == of,
            None if of == matrix.fingerprint() => matrix.has_rules_of(&platform),
            None => of == platform.fingerprint(),
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
        if self.has_other_matrix(matrix) || view.matrix != matrix.fingerprint() {
            let conflicts = |(name, entry): &(&LockName, &Entry)| {
                !self.is_of_matrix(entry, view.matrix, matrix)
                    || view.matrix != matrix.fingerprint()
                    || refuses_entry(matrix, view, name, entry)
            };
            let held = self.held.iter();
            return held
                .flat_map(|(name, holders)| holders.iter().map(move |entry| (name, entry)))
                .filter(conflicts)
                .map(|(name, entry)| Obstacle::Holder(name, entry))
                .collect();
        }
        // There is only one matrix: look up the names that can conflict.
        let mut found = BTreeSet::new();
        for (name, mode) in view.names.with_modes() {
            let same = self.held.get_key_value(name);
            let same = same.filter(|(_, holders)| !holders.admit(mode, view.nonce));
            found.extend(same.map(|(held, _)| held));
            for pattern in matrix.refusing(name.as_str()) {
                found.extend(self.held_names(pattern).filter(|held| *held != name));
            }
        }
        let holders = |name| self.entries(LockName::as_str(name)).map(move |e| (name, e));
        let holders = found.into_iter().flat_map(holders);
        holders
            .filter(|(name, entry)| refuses_entry(matrix, view, name, entry))
            .map(|(name, entry)| Obstacle::Holder(name, entry))
            .collect()
    }

    /// The held names that match a pattern.
    pub(super) fn held_names(&self, pattern: Pattern) -> impl Iterator<Item = &LockName> {
        let (text, is_prefix) = match pattern {
            Pattern::Exact(exact) => (exact, false),
            Pattern::Prefix(prefix) => (prefix, true),
        };
        self.held
            .range::<str, _>((Included(text), Unbounded))
            .map(|(held, _)| held)
            .take_while(move |held| *held == text || (is_prefix && held.as_str().starts_with(text)))
    }

    /// Whether a lock is held under a matrix other than this one.
    fn has_other_matrix(&self, matrix: &ConflictMatrix) -> bool {
        let own = matrix.fingerprint();
        (self.foreign > 0 && !matrix.has_rules_of(&ConflictMatrix::platform()))
            || self.sessions.values().any(|used| used.matrix != own)
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
pub(super) struct Search<'t> {
    table: &'t LockTable,
    matrix: &'t ConflictMatrix,
    view: RequestView<'t>,
    /// The results so far, by position in the queue; empty if no lock belongs to the
    /// requester.
    known: Vec<Option<bool>>,
}

impl<'t> Search<'t> {
    pub(super) fn new(
        table: &'t LockTable,
        matrix: &'t ConflictMatrix,
        view: RequestView<'t>,
    ) -> Self {
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

    pub(super) fn leads_to_own(&mut self, start: usize) -> bool {
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
            let mut holders = self.table.holders_against(queued.into(), self.matrix);
            holders.extend(self.table.counted_against(position, self.matrix));
            let own =
                |o: &Obstacle<'_>| matches!(o, Obstacle::Holder(_, e) if is_own(e, self.view));
            if self.known[position] == Some(true) || holders.iter().any(own) {
                self.known[start] = Some(true);
                return true;
            }
            // The requests for which this one waits: earlier ones that conflict, and those
            // of the holders.
            let waits_for = |(other, request): (usize, &QueuedRequest)| {
                let earlier = other < position
                    && (conflicts(self.matrix, queued.into(), request.into())
                        || share_limit(self.matrix, queued, request));
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
        || a.names.with_modes().any(|a| {
            let mut others = b.names.with_modes();
            others.any(|b| refuses(matrix, a, b) || refuses(matrix, b, a))
        })
}

/// Whether a request is refused while a lock is held. If it was granted before under a session
/// that was lost, it waits for the end of that session.
fn refuses_entry(
    matrix: &ConflictMatrix,
    view: RequestView<'_>,
    name: &LockName,
    entry: &Entry,
) -> bool {
    let held = (name, entry.mode());
    let is_its_own = entry
        .grant
        .as_ref()
        .is_some_and(|grant| grant.nonce == view.nonce);
    let mut names = view.names.with_modes();
    names.any(|asked| refuses(matrix, asked, held) || (is_its_own && asked.0 == name))
}

/// Whether a request for a name is refused while a name is held, each in its mode.
fn refuses(matrix: &ConflictMatrix, asked: (&LockName, Mode), held: (&LockName, Mode)) -> bool {
    if asked.0 == held.0 {
        (asked.1, held.1) != (Mode::Shared, Mode::Shared)
    } else {
        matrix.refuses(asked.0.as_str(), held.0.as_str())
    }
}
