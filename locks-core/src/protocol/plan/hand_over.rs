//! What a write that frees locks grants to requests of other processes in the queue.
//!
//! Otherwise each of them would have to see the write, and to write itself. Its process finds the
//! grant when it reads the row, as after a write of its own without answer.

use super::{Plan, PlanInput};
use crate::table::{LockTable, Order, QueuedRequest, Request};

impl Plan {
    /// Whether the write grants requests of other processes that are in the queue.
    pub(in crate::protocol) fn hands_over(&self) -> bool {
        !self.handed_over.is_empty()
    }

    /// Grants requests of other processes that are in the queue, in its order.
    pub(super) fn hand_over(&mut self, table: &mut LockTable, input: &PlanInput<'_>) {
        if !input.config.mechanisms.hand_over || !self.stolen.is_empty() {
            return;
        }
        let mut position = 0;
        while let Some(queued) = table.queue().get(position) {
            let request = may_grant(queued, input).then(|| requested(queued, input));
            // They are in the queue, whether or not this process uses it.
            let order = Order::Behind(position);
            match request {
                Some(request) if table.is_free(&request, order) => {
                    if !self.has_room(&request.session) {
                        return;
                    }
                    self.again |= table.is_nested(&request);
                    table.dequeue(&(request.session.clone(), request.nonce));
                    table.grant(&request, input.next_version);
                    self.sessions.insert(request.session.clone());
                    self.handed_over.insert(request.session);
                }
                _ => position += 1,
            }
        }
    }
}

/// Whether another process waits for the request, has the matrix of this one and takes the grant.
fn may_grant(queued: &QueuedRequest, input: &PlanInput<'_>) -> bool {
    let session = &queued.session;
    session.accepts_grants()
        && queued.matrix == input.config.matrix.fingerprint()
        && !input.sessions.contains(session)
        && !input.dead.contains(session)
        && !input.suspects.contains(session)
}

fn requested(queued: &QueuedRequest, input: &PlanInput<'_>) -> Request {
    Request {
        session: queued.session.clone(),
        nonce: queued.nonce,
        task: queued.task.clone(),
        names: queued.names.clone(),
        matrix: input.config.matrix,
        path: queued.path.clone(),
        since: input.wall,
    }
}
