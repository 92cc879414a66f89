//! The wait-for graph: does a request close a cycle?
//!
//! ```text
//!   request ──blocked by──▶ a lock of scope s ──s waits──▶ the requests under s ──▶ …
//! ```
//!
//! Nodes are scopes, never processes, which run many jobs at once. A scope waits when
//! a request of its own or of a scope below it does. What is held outside any scope
//! takes no part: rather no verdict than a false one.
//!
//! That a request stands behind an earlier one is no edge. A cycle with such an edge has
//! a lock in it as well, or it would lead from later requests to earlier ones for ever;
//! and whoever holds that lock does not have to wait behind those who wait for it
//! (`order.rs`), so the cycle is none.

use super::{
    Entry, LockTable, QueuedRequest, Request,
    order::{Obstacle, RequestView},
};
use crate::{matrix::ConflictMatrix, report::Blocker};

impl LockTable {
    /// The way from `request`, were it to wait, back to a scope that would wait for it;
    /// nothing when there is none.
    pub(crate) fn cycle(&self, request: &Request) -> Option<Vec<Blocker>> {
        let own = |entry: &Entry| {
            let scope = entry.grant.as_ref().and_then(|grant| grant.scope);
            scope.is_some_and(|scope| request.path.contains(scope))
        };
        if request.path.is_empty() || !self.held.values().any(own) {
            return None;
        }
        let mut search = Search {
            table: self,
            matrix: &request.matrix,
            request,
            seen: vec![false; self.queue.len()],
            path: Vec::new(),
        };
        search.from(request.into()).then(|| {
            let matrix = request.matrix.fingerprint();
            search.path.iter().map(|o| self.tell(o, matrix)).collect()
        })
    }
}

struct Search<'t> {
    table: &'t LockTable,
    matrix: &'t ConflictMatrix,
    request: &'t Request,
    /// The waiters looked at, by place.
    seen: Vec<bool>,
    path: Vec<Obstacle<'t>>,
}

impl<'t> Search<'t> {
    /// Whether what blocks `asked` leads back to the request; the way there is kept.
    fn from(&mut self, asked: RequestView<'t>) -> bool {
        for obstacle in self.table.holders_against(asked, self.matrix) {
            let Obstacle::Holder(_, entry) = &obstacle else {
                continue;
            };
            let Some(scope) = entry.grant.as_ref().and_then(|grant| grant.scope) else {
                continue;
            };
            self.path.push(obstacle.clone());
            if self.request.path.contains(scope) {
                return true;
            }
            let table = self.table;
            for (place, waiting) in table.queue.iter().enumerate() {
                if waiting.path.contains(scope) && self.through(waiting, place) {
                    return true;
                }
            }
            self.path.pop();
        }
        false
    }

    fn through(&mut self, waiting: &'t QueuedRequest, place: usize) -> bool {
        if std::mem::replace(&mut self.seen[place], true) {
            return false;
        }
        self.path.push(Obstacle::Waiter(waiting));
        let found = self.from(waiting.into());
        if !found {
            self.path.pop();
        }
        found
    }
}
