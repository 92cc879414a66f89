//! The wait-for graph, in which a deadlock is a cycle.
//!
//! ```text
//!   request ──blocked by──▶ a lock of scope s ──s waits──▶ the requests under s ──▶ …
//! ```
//!
//! The nodes are scopes. They are not processes, because a process runs many tasks at once.
//! A scope waits if a request of the scope or of a descendant is queued. A lock that is held
//! outside any scope is not part of the graph: a missed deadlock is better than a false one.
//!
//! A request that has to wait behind an earlier request adds no edge. A cycle cannot consist
//! of such edges alone, since each leads to an earlier request. So the cycle contains a
//! lock. The holder of that lock does not wait behind requests that wait for the lock
//! (`order.rs`), and the cycle does not exist.
//!
//! A request that waits for a limit adds no edge either: any of the locks that use the limit up
//! may be released. It is refused only if the locks of its own scopes alone use the limit up.

use super::{
    Entry, LockTable, QueuedRequest, Request,
    holders::Holders,
    order::{Obstacle, RequestView},
};
use crate::{matrix::ConflictMatrix, report::Blocker};

impl LockTable {
    /// The path of the wait-for graph from `request` back to one of its own scopes, as if it
    /// were queued; `None` if there is no cycle.
    pub(crate) fn cycle(&self, request: &Request) -> Option<Vec<Blocker>> {
        let own = |entry: &Entry| entry.is_of_scopes(&request.path);
        // Without a lock of its own scopes, nothing leads back to the request.
        let mut held = self.held.values().flat_map(Holders::iter);
        if request.path.is_empty() || !held.any(own) {
            return None;
        }
        let matrix = request.matrix.fingerprint();
        if let Some(used_up) = self.used_up_by_scopes(request) {
            return Some(vec![self.used_up_blocker(
                &used_up,
                matrix,
                &request.matrix,
            )]);
        }
        let mut search = Search {
            table: self,
            matrix: &request.matrix,
            request,
            visited: vec![false; self.queue.len()],
            path: Vec::new(),
        };
        search.from(request.into()).then(|| {
            let matrix = request.matrix.fingerprint();
            search
                .path
                .iter()
                .map(|o| self.blocker(o, matrix, &request.matrix))
                .collect()
        })
    }
}

struct Search<'t> {
    table: &'t LockTable,
    matrix: &'t ConflictMatrix,
    request: &'t Request,
    /// Whether a queued request was visited, by position.
    visited: Vec<bool>,
    path: Vec<Obstacle<'t>>,
}

impl<'t> Search<'t> {
    /// Whether the holders that block `view` lead back to the request. The path to it is
    /// kept.
    fn from(&mut self, view: RequestView<'t>) -> bool {
        for obstacle in self.table.holders_against(view, self.matrix) {
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
            for (position, queued) in table.queue.iter().enumerate() {
                if queued.path.contains(scope) && self.through(queued, position) {
                    return true;
                }
            }
            self.path.pop();
        }
        false
    }

    fn through(&mut self, queued: &'t QueuedRequest, position: usize) -> bool {
        if std::mem::replace(&mut self.visited[position], true) {
            return false;
        }
        self.path.push(Obstacle::Waiter(queued));
        let found = self.from(queued.into());
        if !found {
            self.path.pop();
        }
        found
    }
}
