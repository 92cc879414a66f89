//! The lives of the processes: how they stop, go on, end and start again.

use super::{
    messages::Late,
    process::{Process, State},
    schedule::ProcessId,
    world::World,
};
use crate::{
    process::Identity,
    protocol::{DriverInput, Input, config::Name},
    table::SessionId,
};

impl World {
    pub(super) fn end_process(&mut self, p: ProcessId, state: State) {
        let process = &mut self.processes[p];
        let incarnation = process.incarnation;
        process.state = state;
        process.side_queue.clear();
        process.notifications.clear();
        let connections = std::mem::take(&mut process.connections);
        for (_, lane) in std::mem::take(&mut process.lanes) {
            let in_transaction = lane.connection.is_locked();
            let is_under_way = lane.statement.is_some() && lane.applied.is_none();
            if is_under_way && !in_transaction {
                self.db.requests.on_broken(lane.id, self.now);
            }
            self.db.disconnect(lane.id);
            if let (Some(statement), None, false) = (lane.statement, lane.applied, in_transaction) {
                self.late.push(Late {
                    process: p,
                    incarnation,
                    connection: lane.id,
                    statement,
                    forces: lane.forces,
                });
            }
        }
        for (_, id) in connections.into_values() {
            self.db.disconnect(id);
        }
        self.calls.retain(|(of, _), _| *of != p);
        self.orphan_transactions(p);
        for caller in self
            .callers
            .values_mut()
            .filter(|caller| caller.process == p)
        {
            caller.on_process_ended();
        }
    }

    pub(super) fn resume(&mut self, p: ProcessId) -> bool {
        let process = &mut self.processes[p];
        match process.state {
            State::Paused => {}
            State::Asleep(since) => process.slept += self.now.saturating_sub(since),
            _ => return false,
        }
        process.state = State::Running;
        self.input(p, DriverInput::Timeout);
        true
    }

    pub(super) fn start(&mut self, p: ProcessId) -> bool {
        let process = &self.processes[p];
        if process.is_alive() {
            return false;
        }
        let (incarnation, wall) = (process.incarnation + 1, process.wall_offset);
        let mut process = self.new_process(p, incarnation);
        process.wall_offset = wall;
        self.processes[p] = process;
        self.set_up(p);
        true
    }

    /// Answers which processes have ended.
    pub(super) fn check_processes(
        &mut self,
        p: ProcessId,
        namespace: &Name,
        asked: &[(SessionId, Identity)],
    ) {
        let lives = |identity: &Identity| {
            let mut processes = self.processes.iter();
            processes.any(|process| process.is_alive() && process.identity == *identity)
        };
        let gone = asked.iter().filter(|(_, identity)| !lives(identity));
        let gone: Vec<_> = gone.map(|(id, _)| id.clone()).collect();
        if !gone.is_empty() {
            let now = self.clocks(p);
            let exited = DriverInput::To(namespace.clone(), Input::ProcessesExited(gone));
            self.processes[p].namespaces.handle(now, exited);
        }
    }

    pub(super) fn set_state(&mut self, p: ProcessId, state: State) -> bool {
        let is_running = self.processes.get(p).is_some_and(Process::is_running);
        if is_running {
            self.processes[p].state = state;
        }
        is_running
    }
}
