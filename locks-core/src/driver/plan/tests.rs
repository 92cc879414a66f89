//! Plans of processes that write one row by turns, without a row: what is written is handed
//! from one to the next.

mod queue;
mod random;
mod writes;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU32},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::*;
use crate::{
    driver::{
        lease::{Lease, Moment},
        request::Seat,
        session::{Held, Keeper, ReleaseKey, Tenure},
    },
    store::{Fence, FenceStatement},
    table::Request as TableRequest,
};

/// The row: a table and its version.
#[derive(Debug, Default)]
struct Desk {
    table: LockTable,
    version: i64,
}

/// A process, with the state that its driver has for the namespace.
struct Process {
    hold: SessionId,
    queue: SessionId,
    asking: BTreeMap<Nonce, Asking>,
    held: BTreeMap<Nonce, Held>,
    releasing: BTreeMap<ReleaseKey, Releasing>,
    dead: BTreeSet<SessionId>,
    fairness: Fairness,
    queue_limit: usize,
    /// By how much later it plans than it was asked.
    patience: Duration,
    next: Cell<u64>,
}

impl Process {
    fn new(name: &str) -> Self {
        let session = SessionId(format!("ns/{name}").into());
        Self {
            hold: session.clone(),
            queue: session,
            asking: BTreeMap::new(),
            held: BTreeMap::new(),
            releasing: BTreeMap::new(),
            dead: BTreeSet::new(),
            fairness: Fairness::InTurn,
            queue_limit: 100,
            patience: LINGER,
            next: Cell::new(0),
        }
    }

    /// One that never expires: it waits under another session than it holds under.
    fn never_expiring(name: &str) -> Self {
        Self {
            queue: SessionId(format!("ns/{name}-waits").into()),
            ..Self::new(name)
        }
    }

    fn ask(&mut self, names: &[&str], path: &[u64], mode: Mode) -> Nonce {
        self.next.set(self.next.get() + 1);
        let nonce = Nonce(self.next.get());
        let task: Arc<str> = (*self.hold.0).into();
        let claim = TableRequest {
            session: self.hold.clone(),
            nonce,
            task: task.clone(),
            names: names
                .iter()
                .map(|name| LockName::found((*name).into()))
                .collect(),
            matrix: crate::matrix::ConflictMatrix::platform(),
            path: path.to_vec().into(),
            since: 0,
        };
        let seat = Seat {
            namespace: "ns".into(),
            task,
        };
        let asking = Asking {
            claim,
            queue_session: self.queue.clone(),
            ready: true,
            queued_as: None,
            ticket: None,
            mode,
            since: Instant::now(),
            blocked_by: Vec::new(),
            reply: None,
            abandoned: false,
            seat: Arc::new(seat),
        };
        self.asking.insert(nonce, asking);
        nonce
    }

    fn wait(&mut self, names: &[&str], path: &[u64]) -> Nonce {
        self.ask(names, path, Mode::InTurn { limit: None })
    }

    fn try_now(&mut self, names: &[&str]) -> Nonce {
        self.ask(names, &[], Mode::AtOnce)
    }

    fn release(&mut self, nonce: Nonce) {
        let held = self.held.remove(&nonce).expect("it is held");
        let releasing = Releasing::new(nonce, held, Instant::now());
        self.releasing.insert((nonce, 1), releasing);
    }

    /// What it would write on a row that was as it is now at that moment.
    fn plan(&self, desk: &mut Desk, proven: Instant) -> Plan {
        static NO_CHORES: BTreeMap<ChoreId, Pending> = BTreeMap::new();
        let due = Due {
            now: Instant::now() + self.patience,
            proven,
            next_version: desk.version + 1,
            asking: &self.asking,
            releasing: &self.releasing,
            held: &|_| true,
            strays_of: BTreeSet::new(),
            dead: &self.dead,
            chores: &NO_CHORES,
            fairness: self.fairness,
            queue_limit: self.queue_limit,
        };
        Plan::make(&mut desk.table, &due)
    }

    /// Plans on the row as it is now, and writes.
    fn write(&mut self, desk: &mut Desk) -> Plan {
        let plan = self.plan(desk, Instant::now());
        desk.version += i64::from(plan.changed);
        for (nonce, token) in &plan.granted {
            let asking = self.asking.remove(nonce).expect("it was asked");
            self.held.insert(*nonce, held(asking.claim, *token));
        }
        for (nonce, session) in &plan.enqueued {
            let asking = self.asking.get_mut(nonce).expect("it was asked");
            asking.queued_as = Some(session.clone());
            asking.ticket.get_or_insert(desk.version);
        }
        for (nonce, blockers) in &plan.blocked {
            // It may have been granted in the same plan after all.
            if let Some(asking) = self.asking.get_mut(nonce) {
                asking.blocked_by.clone_from(blockers);
            }
        }
        for (nonce, _) in &plan.refused {
            self.asking.remove(nonce);
        }
        for nonce in &plan.abandoned {
            self.asking.remove(nonce);
        }
        for key in plan.released.keys() {
            self.releasing.remove(key);
        }
        plan
    }

    fn holds(&self, nonce: Nonce) -> bool {
        self.held.contains_key(&nonce)
    }
}

fn held(claim: TableRequest, token: i64) -> Held {
    let tenure = Tenure {
        session: claim.session,
        lease: Arc::new(Lease::until(Moment::NEVER)),
        open_fences: AtomicU32::new(0),
        fence: Fence {
            statement: FenceStatement::for_tests(),
            row: "".into(),
            namespace: "ns".into(),
            mark: "".into(),
        },
        lost: watch::Sender::new(None),
        names: claim.names,
        token,
    };
    Held {
        task: claim.task,
        keeper: Keeper::Guard,
        tenure: Arc::new(tenure),
    }
}
