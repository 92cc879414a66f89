//! Power losses: all processes of the machine end, and the last commits may be undone.

use super::{
    process::{Process, State},
    properties::{Writer, table_of},
    schedule::{ProcessId, RequestNumber},
    tables::Tables,
    world::World,
};

impl World {
    /// The machine on which a process runs, and its boot.
    pub(super) fn host(&self, p: ProcessId) -> String {
        // The first two processes share a machine; all of them share that of a file.
        let name = if p < 2 || self.setup.loses_power {
            "host"
        } else {
            "far"
        };
        match self.power_losses {
            0 => name.into(),
            number => format!("{name}, boot {number}"),
        }
    }

    /// What never expires is as the callers were told, whatever a power loss undoes.
    fn check_permanent_locks(&mut self, tables: &Tables) {
        if self.setup.ttl.is_some() {
            return;
        }
        let in_row = |tables: &Tables, number: &RequestNumber| {
            let caller = &self.callers[number];
            let table = table_of(tables.locks.get(&caller.namespace));
            let grant = caller.grant.as_ref().expect("it was granted");
            let id = (grant.session.clone(), grant.nonce);
            table.granted(&id, &caller.names).is_some()
        };
        let before = &self.db.tables;
        let held = self.callers.values().filter(|caller| caller.holds());
        let mut held = held.map(|caller| caller.number);
        let lost = held.find(|number| in_row(before, number) && !in_row(tables, number));
        let back = self
            .checks
            .released
            .iter()
            // A restore may have undone it before.
            .find(|number| !in_row(before, number) && in_row(tables, number));
        let fault = match (lost, back) {
            (Some(lost), _) => format!("grant {lost} was undone"),
            (_, Some(back)) => format!("the release of grant {back} was undone"),
            (None, None) => return,
        };
        self.fail("permanent-locks-survive-a-power-loss", fault);
    }

    pub(super) fn lose_power(&mut self, undone: usize) -> bool {
        let Some(tables) = self.db.not_on_disk.as_mut().map(|log| log.undo(undone)) else {
            return false;
        };
        let lived: Vec<_> = self
            .processes
            .iter()
            .filter(|process| Process::is_alive(process))
            .map(|process| process.number)
            .collect();
        self.check_permanent_locks(tables.as_ref().unwrap_or(&self.db.tables.clone()));
        for p in &lived {
            self.end_process(*p, State::Dead);
        }
        self.late.clear();
        for transaction in std::mem::take(&mut self.transactions).into_keys() {
            self.db.end_transaction(transaction);
        }
        for original in &mut self.originals {
            original.on_power_loss();
        }
        if let Some(tables) = tables {
            self.db.restore(tables);
            self.after_write(Writer::PowerLoss);
        }
        self.power_losses += 1;
        for p in lived {
            self.start(p);
        }
        true
    }
}
