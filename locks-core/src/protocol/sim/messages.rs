//! What happens to a statement between its process and the database.

use super::{
    database::ConnectionId,
    process::{Lane, LaneKind, Process},
    properties::Writer,
    schedule::{ProcessId, Step, process_name},
    statement::{Reply, Statement},
    world::{World, broken},
};
use crate::{
    options::Durability,
    store::{Class, Failure, Kind},
};

/// A statement of a broken connection that may yet be applied.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) process: ProcessId,
    pub(super) incarnation: u32,
    pub(super) connection: ConnectionId,
    pub(super) statement: Statement,
    pub(super) forces: bool,
}

impl World {
    /// Lets the work on a connection go on, after an answer or at its beginning.
    pub(super) fn advance_lane(&mut self, p: ProcessId, kind: LaneKind) {
        let now = self.clocks(p);
        let process = &mut self.processes[p];
        let Some(lane) = process.lanes.get_mut(&kind) else {
            return;
        };
        let Some(input) = lane.advance(now.monotonic) else {
            self.on_sent(p, kind);
            return;
        };
        process.lanes.remove(&kind);
        process.namespaces.handle(now, input);
        self.drain(p);
    }

    pub(super) fn on_sent(&mut self, p: ProcessId, kind: LaneKind) {
        let process = &mut self.processes[p];
        let lane = process.lanes.get_mut(&kind).expect("it is there");
        if lane.statement.is_some() && process.broken.remove(&kind) {
            lane.applied = Some(Err(broken()));
            return;
        }
        if let Some(Statement::InsertHeartbeats(sessions)) = &lane.statement {
            let owner = (p, process.incarnation);
            for session in sessions {
                self.checks.session_owners.insert(session.id.clone(), owner);
            }
        }
    }

    // Messages.

    /// The lane, if it waits for an answer that may arrive.
    pub(super) fn waiting_lane(&mut self, p: ProcessId, kind: LaneKind) -> Option<&mut Lane> {
        let lane = self.processes.get_mut(p)?.lanes.get_mut(&kind)?;
        lane.statement.is_some().then_some(lane)
    }

    pub(super) fn can_apply(&self, p: ProcessId, kind: LaneKind) -> bool {
        let Some(process) = self.processes.get(p).filter(|process| !process.cut_off) else {
            return false;
        };
        let lane = process.lanes.get(&kind);
        lane.is_some_and(|lane| {
            let statement = lane.statement.as_ref();
            lane.applied.is_none() && statement.is_some_and(|s| !self.db.blocks(lane.id, s))
        })
    }

    pub(super) fn can_answer(&self, p: ProcessId, kind: LaneKind) -> bool {
        let Some(process) = self.processes.get(p) else {
            return false;
        };
        let lane = process.lanes.get(&kind);
        process.is_running()
            && !process.cut_off
            && lane.is_some_and(|lane| lane.applied.is_some() || self.can_apply(p, kind))
    }

    pub(super) fn apply(&mut self, p: ProcessId, kind: LaneKind, is_stale: bool) -> bool {
        if !self.can_apply(p, kind) {
            return false;
        }
        let Some(lane) = self.waiting_lane(p, kind) else {
            return false;
        };
        let (id, early, forces) = (lane.id, lane.early, lane.forces);
        let statement = lane.statement.clone().expect("it waits");
        let reply = if is_stale && statement.may_be_stale() {
            self.db.apply_stale(id, &statement)
        } else {
            let writer = (p, self.processes[p].incarnation);
            self.run_statement(writer, id, &statement, early, forces)
        };
        if let Some(lane) = self.waiting_lane(p, kind) {
            lane.applied = Some(reply);
        }
        true
    }

    pub(super) fn run_statement(
        &mut self,
        (p, incarnation): (ProcessId, u32),
        connection: ConnectionId,
        statement: &Statement,
        early: Option<bool>,
        forces: bool,
    ) -> Result<Reply, Failure> {
        self.statements += 1;
        if forces {
            self.note_forced(p, statement);
        }
        let reply = self.db.apply(connection, statement, early);
        if statement.is_durable() || self.processes[p].durability == Durability::Full {
            self.db.flush();
        }
        self.after_write(Writer::Process(p, incarnation));
        reply
    }

    /// Checks what a write did, and passes notifications on.
    pub(super) fn after_write(&mut self, writer: Writer) {
        for change in self.db.take_changes() {
            self.check_row_change(&change, writer);
        }
        for told in self.db.take_notifications() {
            for process in self.processes.iter_mut().filter(|p| p.is_alive()) {
                process.notifications.push_back(told.clone());
            }
        }
    }

    pub(super) fn answer(&mut self, p: ProcessId, kind: LaneKind) -> bool {
        if !self.can_answer(p, kind) {
            return false;
        }
        self.apply(p, kind, false);
        let applied = self
            .waiting_lane(p, kind)
            .and_then(|lane| lane.applied.take());
        let Some(reply) = applied else {
            return false;
        };
        self.deliver(p, kind, reply);
        true
    }

    /// Hands in the answer of a statement.
    pub(super) fn deliver(&mut self, p: ProcessId, kind: LaneKind, reply: Result<Reply, Failure>) {
        let Some(lane) = self.waiting_lane(p, kind) else {
            return;
        };
        let statement = lane.statement.take();
        if let Err(failure) = &reply {
            // A connection that may still have the turn is closed.
            let breaks = matches!(failure.class, Class::Indeterminate | Class::ReadOnly)
                || matches!(
                    statement,
                    Some(
                        Statement::PassIfServed(_) | Statement::Claim(..) | Statement::PassTurn(_)
                    )
                );
            if breaks || lane.connection.is_locked() {
                lane.connection.unlock();
                let id = lane.id;
                if !breaks {
                    // The driver closes it, and the server sees that.
                    self.db.disconnect(id);
                } else if !self.db.requests.is_broken(id) {
                    self.db.requests.free(id);
                }
                self.replace_connection(p, kind);
            }
        }
        let lane = self.processes[p].lanes.get_mut(&kind).expect("it is there");
        lane.connection.answer(reply);
        self.advance_lane(p, kind);
    }

    pub(super) fn replace_connection(&mut self, p: ProcessId, kind: LaneKind) {
        self.next_connection += 1;
        let (next, process) = (self.next_connection, &mut self.processes[p]);
        if let Some(lane) = process.lanes.get_mut(&kind) {
            lane.id = next;
        }
        if let Some((_, id)) = process.connections.get_mut(&kind) {
            *id = next;
        }
    }

    /// The connection breaks: its statement has no answer.
    pub(super) fn lose(&mut self, p: ProcessId, kind: LaneKind) -> bool {
        if !self.processes.get(p).is_some_and(Process::is_running) {
            return false;
        }
        let Some(lane) = self.waiting_lane(p, kind) else {
            return false;
        };
        let (statement, forces) = (lane.statement.clone(), lane.forces);
        let (connection, is_applied) = (lane.id, lane.applied.is_some());
        let in_transaction = lane.connection.is_locked();
        let now = self.now;
        self.db.requests.on_broken(connection, now);
        if let Some(statement) = statement.filter(|_| !is_applied)
            && (!in_transaction || matches!(statement, Statement::Commit))
        {
            self.late.push(Late {
                process: p,
                incarnation: self.processes[p].incarnation,
                connection,
                statement,
                forces,
            });
        }
        let failure = Failure::simulated(Class::Indeterminate, Kind::Other);
        self.deliver(p, kind, Err(failure));
        true
    }

    pub(super) fn apply_late(&mut self, index: usize) -> bool {
        let Some(late) = self.late.get(index) else {
            return false;
        };
        if self.db.blocks(late.connection, &late.statement) {
            return false;
        }
        let late = self.late.remove(index);
        let (writer, connection) = ((late.process, late.incarnation), late.connection);
        drop(self.run_statement(writer, connection, &late.statement, None, late.forces));
        // The server sees that the driver is gone.
        self.db.requests.free(connection);
        true
    }

    pub(super) fn begin(&mut self, p: ProcessId, kind: LaneKind) -> bool {
        if !self.setup.engine.early_preconditions {
            return false;
        }
        let lane = self
            .waiting_lane(p, kind)
            .filter(|lane| lane.early.is_none());
        let statement = lane.and_then(|lane| lane.statement.clone());
        let Some(Statement::CompareAndSet { preconditions, .. }) = statement else {
            return false;
        };
        let holds = self.db.preconditions_hold(&preconditions);
        if let Some(lane) = self.waiting_lane(p, kind) {
            lane.early = Some(holds);
        }
        true
    }

    /// What a step means now.
    pub(super) fn describe(&self, step: &Step) -> String {
        let statement = |p: &ProcessId, kind: &LaneKind| {
            let lane = self.processes.get(*p)?.lanes.get(kind)?;
            lane.statement.as_ref().map(Statement::name)
        };
        match step {
            Step::Begin(p, kind)
            | Step::Apply(p, kind)
            | Step::ApplyStale(p, kind)
            | Step::Answer(p, kind)
            | Step::Lose(p, kind)
            | Step::Fail(p, kind, _) => match statement(p, kind) {
                Some(statement) => format!("{step} ({statement})"),
                None => step.to_string(),
            },
            Step::ApplyLate(index) => match self.late.get(*index) {
                Some(late) => {
                    format!(
                        "the {} of {} is applied late",
                        late.statement.name(),
                        process_name(late.process)
                    )
                }
                None => step.to_string(),
            },
            _ => step.to_string(),
        }
    }
}
