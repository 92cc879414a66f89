//! The wait-for graph: does a request close a circle?
//!
//! ```text
//!   request ──blocked by──▶ a lock of scope s ──s waits──▶ the requests under s ──▶ …
//! ```
//!
//! Nodes are scopes, never processes, which run many jobs at once. A scope waits when
//! a request of its own or of a scope below it does. What is held outside any scope
//! takes no part: rather no verdict than a false one.
//!
//! That a request stands behind an earlier one is no edge. A circle with such an edge has
//! a lock in it as well, or it would lead from later requests to earlier ones for ever;
//! and whoever holds that lock does not have to wait behind those who wait for it
//! (`order.rs`), so the circle is none.

use super::{
    Claim, Entry, LockTable, Waiting,
    order::{Asked, Obstacle},
};
use crate::{matrix::ConflictMatrix, report::Blocker};

impl LockTable {
    /// The way from `claim`, were it to wait, back to a scope that would wait for it;
    /// nothing when there is none.
    pub(crate) fn circle(&self, claim: &Claim) -> Option<Vec<Blocker>> {
        let own = |entry: &Entry| {
            let scope = entry.grant.as_ref().and_then(|grant| grant.scope);
            scope.is_some_and(|scope| claim.path.contains(scope))
        };
        if claim.path.is_empty() || !self.held.values().any(own) {
            return None;
        }
        let mut search = Search {
            table: self,
            matrix: &claim.matrix,
            claim,
            seen: vec![false; self.queue.len()],
            way: Vec::new(),
        };
        search.from(claim.into()).then(|| {
            let matrix = claim.matrix.fingerprint();
            search.way.iter().map(|o| self.tell(o, matrix)).collect()
        })
    }
}

struct Search<'t> {
    table: &'t LockTable,
    matrix: &'t ConflictMatrix,
    claim: &'t Claim,
    /// The waiters looked at, by place.
    seen: Vec<bool>,
    way: Vec<Obstacle<'t>>,
}

impl<'t> Search<'t> {
    /// Whether what blocks `asked` leads back to the claim; the way there is kept.
    fn from(&mut self, asked: Asked<'t>) -> bool {
        for obstacle in self.table.holders_against(asked, self.matrix) {
            let Obstacle::Holder(_, entry) = &obstacle else {
                continue;
            };
            let Some(scope) = entry.grant.as_ref().and_then(|grant| grant.scope) else {
                continue;
            };
            self.way.push(obstacle.clone());
            if self.claim.path.contains(scope) {
                return true;
            }
            let table = self.table;
            for (place, waiting) in table.queue.iter().enumerate() {
                if waiting.path.contains(scope) && self.through(waiting, place) {
                    return true;
                }
            }
            self.way.pop();
        }
        false
    }

    fn through(&mut self, waiting: &'t Waiting, place: usize) -> bool {
        if std::mem::replace(&mut self.seen[place], true) {
            return false;
        }
        self.way.push(Obstacle::Waiter(waiting));
        let found = self.from(waiting.into());
        if !found {
            self.way.pop();
        }
        found
    }
}
