//! What a process that has its turn decides for others, and what a process whose wishes another
//! one has served reads from the row.

use super::{Plan, PlanInput, has_lost_grant, order};
use crate::{
    error::LockError,
    protocol::{call::WaitPolicy, combining::SubmittedRequest},
    report::Blocker,
    table::{LockTable, Order, Request, SessionId},
};

impl Plan {
    /// Whether the write adds what other processes have submitted.
    pub(in crate::protocol) fn serves_others(&self) -> bool {
        !self.served_sessions.is_empty()
    }

    pub(super) fn release_submitted(&mut self, table: &mut LockTable, input: &PlanInput<'_>) {
        for (id, names) in input
            .submitted
            .iter()
            .flat_map(|submitted| &submitted.releases)
        {
            self.changed |= table.release(id, names);
        }
    }

    /// Grants or queues the requests of others. Submissions whose requests are all decided are
    /// served.
    pub(super) fn serve_submitted(&mut self, table: &mut LockTable, input: &PlanInput<'_>) {
        for submitted in input.submitted {
            let mut decided = true;
            for request in &submitted.requests {
                decided &= self.serve(table, input, request);
            }
            if decided {
                let served = (submitted.driver.clone(), submitted.number);
                self.served.push(served);
            }
        }
    }

    /// Returns whether its process has nothing left to write for it.
    fn serve(
        &mut self,
        table: &mut LockTable,
        input: &PlanInput<'_>,
        submitted: &SubmittedRequest,
    ) -> bool {
        let (request, queue_session) = (&submitted.request, &submitted.queue_session);
        let id = (request.session.clone(), request.nonce);
        if table.granted(&id, &request.names).is_some() {
            return true;
        }
        let stolen = !self.stolen.is_empty();
        if stolen || !self.has_room(&request.session) || !self.has_room(queue_session) {
            return false;
        }
        let queue_id = (queue_session.clone(), request.nonce);
        let position = table.position(&queue_id);
        let order = order(input, position.unwrap_or(table.queue().len()));
        if table.is_free(request, order) {
            table.dequeue(&queue_id);
            self.again |= table.is_nested(request);
            let granted = Request {
                since: input.wall,
                ..request.clone()
            };
            table.grant(&granted, input.next_version);
            self.on_served_session(&request.session);
            self.frees = true;
            return true;
        }
        // Its process refuses one that does not wait.
        if !submitted.waits || position.is_some() || order == Order::Barging {
            return true;
        }
        if table.cycle(request).is_some() || table.queue().len() >= input.config.queue_limit {
            return false;
        }
        let ticket = submitted.ticket.unwrap_or(input.next_version);
        table.enqueue(request, queue_session, ticket);
        self.on_served_session(queue_session);
        let nested = table.is_nested(request);
        self.frees |= nested;
        self.again |= nested || submitted.ticket.is_some();
        true
    }

    fn on_served_session(&mut self, session: &SessionId) {
        self.sessions.insert(session.clone());
        self.served_sessions.insert(session.clone());
        self.changed = true;
    }

    /// What the table says without a write, after another process has served this one.
    pub(in crate::protocol) fn look(table: &LockTable, input: &PlanInput<'_>) -> Self {
        let mut plan = Self {
            proven: input.proven,
            ..Self::default()
        };
        (plan.inspected, _) = input.admin.answerable(input.proven);
        for (id, release) in input.grants.releases() {
            let gone = table.granted(&release.id(), release.names()).is_none();
            if release.is_ready() && gone {
                plan.released.insert(*id, false);
            }
        }
        for (nonce, pending) in input.requests.iter() {
            if !pending.is_ready() {
                plan.cut |= pending.is_cancelled();
                continue;
            }
            let request = pending.request();
            if let Some(token) = table.granted(&pending.id(), &request.names) {
                plan.granted.insert(*nonce, token);
                continue;
            }
            let session = pending.queue_session();
            let position = table.position(&(session.clone(), *nonce));
            let order = order(input, position.unwrap_or(table.queue().len()));
            let is_free = table.is_free(request, order);
            let fresh = input.proven >= pending.since();
            let has_lost = has_lost_grant(table, request) || table.stolen().next().is_some();
            match (pending.policy(), position) {
                (WaitPolicy::Wait { .. }, Some(_)) if !is_free => {
                    if pending.queued_as() != Some(session) {
                        plan.enqueued.insert(*nonce, session.clone());
                    }
                    if !pending.is_blocked() {
                        let blockers: Vec<Blocker> = table.blockers(request, order);
                        plan.blocked.push((*nonce, blockers));
                    }
                }
                (WaitPolicy::NoWait, _) if fresh && !is_free && !has_lost => {
                    let error = LockError::Busy {
                        names: request.names.to_vec(),
                        blocked_by: table.blockers(request, order),
                    };
                    plan.refused.push((*nonce, error));
                }
                _ => plan.cut = true,
            }
        }
        plan
    }
}
