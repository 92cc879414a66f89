//! Limits: how many held names may match a pattern.
//!
//! The names of a request count together with the held names and with those of earlier
//! requests in the queue, each name once. An earlier request that waits for a lock of the
//! requester does not count, as it does not block by the order rule.

use std::collections::BTreeSet;

use super::{
    Entry, LockTable, QueuedRequest, Request,
    order::{Obstacle, Order, RequestView, Search},
};
use crate::{
    matrix::{ConflictMatrix, Limit, Pattern},
    name::LockName,
};

/// A limit that leaves no room for a request.
#[derive(Debug)]
pub(super) struct UsedUp<'t> {
    pub(super) limit: Limit,
    /// What counts besides the request.
    pub(super) by: Vec<Obstacle<'t>>,
}

impl LockTable {
    /// The limits that leave no room for a request.
    pub(super) fn used_up<'t>(
        &'t self,
        view: RequestView<'t>,
        matrix: &'t ConflictMatrix,
        order: Order,
    ) -> Vec<UsedUp<'t>> {
        let end = match order {
            Order::Behind(end) => end.min(self.queue.len()),
            Order::Barging => 0,
        };
        let mut search = None;
        let mut counts = |position: usize| {
            let search = search.get_or_insert_with(|| Search::new(self, matrix, view));
            !search.leads_to_own(position)
        };
        let limits = matrix.limits_on(view.names);
        limits
            .filter_map(|limit| self.count(view.names, limit, |_| true, end, &mut counts))
            .collect()
    }

    /// What uses up the limits of the queued request at this position: held locks.
    pub(super) fn counted_against<'t>(
        &'t self,
        position: usize,
        matrix: &'t ConflictMatrix,
    ) -> impl Iterator<Item = Obstacle<'t>> {
        let names = &self.queue[position].names;
        let limits = matrix.limits_on(names);
        limits
            .filter_map(move |limit| self.count(names, limit, |_| true, position, &mut |_| true))
            .flat_map(|used_up| used_up.by)
            .filter(|obstacle| matches!(obstacle, Obstacle::Holder(..)))
    }

    /// The limit that the locks of the request's own scopes use up, so that it would wait for
    /// itself.
    pub(super) fn used_up_by_scopes(&self, request: &Request) -> Option<UsedUp<'_>> {
        let own = |entry: &Entry| entry.is_of_scopes(&request.path);
        let mut limits = request.matrix.limits_on(&request.names);
        limits.find_map(|limit| self.count(&request.names, limit, own, 0, &mut |_| true))
    }

    /// Counts the names that match the limit: those requested, those with a holder for which
    /// `is_counted` returns true, and those of the first `end` queued requests for which `counts`
    /// returns true. `None` if there is room.
    fn count<'t>(
        &'t self,
        requested: &[LockName],
        limit: Limit,
        is_counted: impl Fn(&Entry) -> bool,
        end: usize,
        counts: &mut impl FnMut(usize) -> bool,
    ) -> Option<UsedUp<'t>> {
        let matching = |name: &&LockName| limit.counts(name.as_str());
        let mut names: BTreeSet<_> = requested.iter().filter(matching).collect();
        let mut by = Vec::new();
        for name in self.held_names(Pattern::of(limit.pattern)) {
            let mut entries = self.entries(name.as_str());
            if let Some(entry) = entries.find(|entry| is_counted(entry)) {
                names.insert(name);
                by.push(Obstacle::Holder(name, entry));
            }
        }
        for (position, queued) in self.queue[..end].iter().enumerate() {
            if queued.names.iter().any(|name| limit.counts(name.as_str())) && counts(position) {
                names.extend(queued.names.iter().filter(matching));
                by.push(Obstacle::Waiter(queued));
            }
        }
        (names.len() > limit.most as usize).then_some(UsedUp { limit, by })
    }
}

/// Whether a limit counts names of both requests.
pub(super) fn share_limit(matrix: &ConflictMatrix, a: &QueuedRequest, b: &QueuedRequest) -> bool {
    let mut limits = matrix.limits_on(&a.names);
    limits.any(|limit| b.names.iter().any(|name| limit.counts(name.as_str())))
}
