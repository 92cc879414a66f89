//! Transactions of applications that are fenced with a grant.

use super::{
    callers::{Call, Caller, Told},
    schedule::{ProcessId, RequestNumber},
    world::World,
};
use crate::protocol::{Check, Input, Inspection};

/// A transaction of an application that is fenced with a grant.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) phase: Phase,
}

/// How far a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The driver was asked whether the row still shows the grant.
    Confirming,
    Fenced,
    /// The commit is under way, and its caller is gone.
    CommitSent,
    /// The caller is gone, and the server has not seen that yet.
    Orphaned,
}

impl World {
    /// Whether the guard itself sees that its lock is lost.
    pub(super) fn is_lost(&self, caller: &Caller) -> bool {
        let process = &self.processes[caller.process];
        let leased = caller
            .session()
            .is_some_and(|id| process.has_lease(id, self.now));
        !caller.holds() || !leased || caller.is_over(self.clocks(caller.process).boot)
    }

    pub(super) fn fence(&mut self, number: RequestNumber) -> bool {
        let Some((p, namespace)) = self.running(number) else {
            return false;
        };
        let caller = &self.callers[&number];
        if self.transactions.contains_key(&number) || self.is_lost(caller) || caller.detached {
            return false;
        }
        let row = caller.grant.as_ref().expect("it holds").fence_row.clone();
        let nonce = caller.nonce;
        let Some(fenced) = self.db.fence(number, &row, &namespace, nonce) else {
            return false;
        };
        if !fenced {
            // The guard learns that it is lost.
            let caller = self.callers.get_mut(&number).expect("it was found");
            caller.told = Told::Lost;
            return true;
        }
        let caller = self.callers.get_mut(&number).expect("it was found");
        caller.open_fences += 1;
        let phase = if self.setup.engine.fence_looks_at_row {
            Phase::Fenced
        } else {
            Phase::Confirming
        };
        self.transactions.insert(number, Transaction { phase });
        if phase == Phase::Confirming {
            let call = self.new_call(p, Call::Confirm(number));
            let what = Inspection::Confirm(nonce, Check::Row);
            self.to(p, &namespace, Input::Inspect(call, what));
        }
        true
    }

    pub(super) fn phase(&self, number: RequestNumber) -> Option<Phase> {
        self.transactions
            .get(&number)
            .map(|transaction| transaction.phase)
    }

    pub(super) fn commit(&mut self, number: RequestNumber) -> bool {
        // A fence is checked when it is made. The application may commit when it likes, also
        // after the guard is gone.
        if self.running(number).is_none() || self.phase(number) != Some(Phase::Fenced) {
            return false;
        }
        self.check_commit(number);
        self.end_transaction(number);
        true
    }

    /// The caller of a transaction is gone.
    pub(super) fn orphan_transaction(&mut self, number: RequestNumber) {
        let phase = Phase::Orphaned;
        self.transactions.insert(number, Transaction { phase });
        for call in self.calls.values_mut() {
            if *call == Call::Confirm(number) {
                *call = Call::Inspect;
            }
        }
    }

    /// The process of these transactions has ended.
    pub(super) fn orphan_transactions(&mut self, p: ProcessId) {
        let open = self.transactions.iter();
        let open = open.filter(|(_, transaction)| transaction.phase != Phase::CommitSent);
        let numbers = open.map(|(number, _)| *number);
        let numbers = numbers.filter(|number| self.callers[number].process == p);
        for number in numbers.collect::<Vec<_>>() {
            self.orphan_transaction(number);
        }
    }

    pub(super) fn roll_back(&mut self, number: RequestNumber) -> bool {
        if matches!(self.phase(number), None | Some(Phase::CommitSent)) {
            return false;
        }
        self.end_transaction(number);
        true
    }

    pub(super) fn end_transaction(&mut self, number: RequestNumber) {
        self.transactions.remove(&number);
        self.db.end_transaction(number);
        if let Some(caller) = self.callers.get_mut(&number) {
            caller.open_fences = caller.open_fences.saturating_sub(1);
        }
    }

    /// The commit is sent, and its future is dropped.
    pub(super) fn abandon_commit(&mut self, number: RequestNumber) -> bool {
        if self.running(number).is_none() || self.phase(number) != Some(Phase::Fenced) {
            return false;
        }
        let phase = Phase::CommitSent;
        self.transactions.insert(number, Transaction { phase });
        true
    }

    pub(super) fn arrive_commit(&mut self, number: RequestNumber) -> bool {
        if self.phase(number) != Some(Phase::CommitSent) {
            return false;
        }
        self.check_commit(number);
        // Its caller never learns it.
        self.transactions.remove(&number);
        self.db.end_transaction(number);
        true
    }
}
