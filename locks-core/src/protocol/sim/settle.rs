//! The end of a schedule: the faults stop, and everything has to come to its end.

use std::time::Duration;

use super::{
    callers::Told,
    execution::parse,
    generate::NAMES,
    schedule::{Ask, Patience, ProcessId, Scope, Step, process_name},
    transactions::Phase,
    world::World,
};
use crate::table::SessionId;

/// How long a statement takes when nothing is in its way.
const LATENCY: Duration = Duration::from_micros(300);
/// How long a warm-up takes.
const WARM: Duration = Duration::from_millis(20);
/// The numbers of the requests before and after a schedule.
const WARM_UP: u32 = 900_000;
const LAST: u32 = 1_000_000;
/// How long after the last fault a renewal shows that its session is in use.
const FRESH: Duration = Duration::from_secs(1);
/// Within which time every request is answered.
const ANSWERED: Duration = Duration::from_secs(100);
/// Within which time what dead processes left is gone.
const CLEAN: Duration = Duration::from_secs(400);
/// The ttl of sessions that wait, where those that hold never expire.
const WAITERS_TTL: Duration = Duration::from_secs(15);
/// Within which time a process ends.
const ENDED: Duration = Duration::from_secs(20);
/// The time in which many callers may call at once.
const BUSY: Duration = Duration::from_secs(4);

impl World {
    /// Brings the world to where most programs are: the rows exist, and the processes have
    /// listed the sessions.
    pub(super) fn warm_up(&mut self) {
        for namespace in 0..self.setup.namespaces {
            self.step(&Step::Ask(Ask {
                process: 0,
                number: WARM_UP + u32::try_from(namespace).unwrap_or_default(),
                namespace,
                task: 'a',
                names: vec![NAMES[0]],
                shared: Vec::new(),
                max_hold: None,
                patience: Patience::Forever,
                scope: Scope::None,
            }));
        }
        self.calm(BUSY, |world| world.is_answered() && world.now > WARM);
        self.checks.is_calm = false;
    }

    /// Lets everything come to its end, and checks what is left.
    pub(super) fn settle(&mut self) {
        self.note(|| "the faults stop".into());
        for p in 0..self.processes.len() {
            self.processes[p].cut_off = false;
            self.processes[p].connections_refused = false;
            self.step(&Step::Resume(p));
        }
        if self.setup.seed.is_multiple_of(2) {
            while !self.late.is_empty() && self.apply_late(0) {}
        }
        self.late.clear();
        if self.setup.seed.is_multiple_of(3) {
            // The original stopped between its delete and its insert.
            self.originals.iter_mut().for_each(|o| o.restarting = false);
        }
        self.checks.calm_since = self.now;
        let supervisor = self.living_process();
        if self.setup.seed % 8 == 1 && !self.setup.engine.one_writer {
            self.check_holders_know();
        }
        self.remove_permanent(supervisor);
        if !self.calm(ANSWERED, Self::is_answered) {
            let text = self.unanswered();
            self.fail("every-request-is-answered", text);
        }
        let last = self.living_process();
        self.remove_permanent(last);
        for space in 0..self.setup.namespaces {
            self.ask_for_everything(last, space);
        }
        self.remove_permanent(last);
        if !self.calm(CLEAN, Self::is_clean) {
            let text = format!(
                "{:?} {:?}",
                self.db.tables.heartbeats.keys(),
                self.db.tables.fences
            );
            self.fail("dead-sessions-are-removed", text);
        }
        self.checks.must_end_well = true;
        for p in 0..self.processes.len() {
            self.step(&Step::Close(p));
        }
        let ended = |world: &Self| world.processes.iter().all(|process| !process.is_alive());
        if !self.calm(ENDED, ended) {
            self.fail("a-process-ends-well", "a process does not end");
        }
        self.check_tables();
    }

    /// Only a supervisor removes sessions that never expire.
    fn remove_permanent(&mut self, supervisor: ProcessId) {
        if self.setup.ttl.is_none() {
            for space in 0..self.setup.namespaces {
                self.step(&Step::RemoveAll(supervisor, space));
            }
        }
    }

    /// A process that can be asked, started if there is none.
    fn living_process(&mut self) -> ProcessId {
        let mut processes = self.processes.iter();
        let found = processes.position(|process| process.is_running() && !process.closing);
        found.unwrap_or_else(|| {
            self.step(&Step::Kill(0));
            self.step(&Step::Start(0));
            0
        })
    }

    /// A process renews within a third of the ttl, and looks for what it holds.
    fn check_holders_know(&mut self) {
        let time = self.setup.ttl.unwrap_or(WAITERS_TTL) + Duration::from_secs(1);
        self.calm_with(time, |_| {}, |_| false);
        self.check_grants_stand();
    }

    /// Time passes without faults until `done`, or for too long.
    fn calm(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        self.calm_with(limit, Self::let_callers_finish, done)
    }

    fn calm_with(
        &mut self,
        limit: Duration,
        act: impl Fn(&mut Self),
        done: impl Fn(&Self) -> bool,
    ) -> bool {
        let start = self.now;
        let mut everything = NAMES.to_vec();
        // As much as the limits allow.
        everything.retain(|name| !self.setup.limited || *name != "app_task_2");
        while self.violation.is_none() {
            self.checks.is_calm = self.now > start + BUSY;
            act(self);
            if done(self) {
                break;
            }
            if self.now > start + limit {
                return false;
            }
            let moved = self.deliver_all();
            let next = self.next_event();
            let wait = match next {
                _ if moved => LATENCY,
                Some(next) => next.saturating_sub(self.now),
                None => Duration::from_secs(1),
            };
            self.pass(wait.min(Duration::from_secs(1)));
        }
        true
    }

    fn deliver_all(&mut self) -> bool {
        let mut moved = false;
        for p in 0..self.processes.len() {
            let kinds: Vec<_> = self.processes[p].lanes.keys().copied().collect();
            for kind in kinds {
                if self.can_answer(p, kind) {
                    moved |= self.step(&Step::Answer(p, kind));
                }
            }
            while !self.processes[p].notifications.is_empty() && self.step(&Step::Notify(p)) {
                moved = true;
            }
        }
        moved
    }

    fn let_callers_finish(&mut self) {
        for number in 0..self.originals.len() {
            self.original_ends(number);
        }
        let open: Vec<_> = self.transactions.keys().copied().collect();
        for number in open {
            match self.phase(number) {
                Some(Phase::CommitSent) => self.step(&Step::ArriveCommit(number)),
                Some(Phase::Fenced) => self.step(&Step::Commit(number)),
                Some(Phase::Orphaned) => self.step(&Step::RollBack(number)),
                Some(Phase::Confirming) | None => false,
            };
        }
        let callers: Vec<_> = self.callers.values().rev().collect();
        let open = callers.iter().filter(|caller| {
            let done = matches!(caller.told, Told::Granted | Told::Lost);
            done && !self.transactions.contains_key(&caller.number)
        });
        let open: Vec<_> = open.map(|c| (c.number, c.process, c.detached)).collect();
        for (number, p, detached) in open {
            if !detached {
                self.step(&Step::Release(number));
            } else if self.processes[p].closing {
                // It is held as long as its process lives.
                if self.processes[p].is_alive() {
                    self.step(&Step::Kill(p));
                }
            } else {
                self.step(&Step::ReleaseByName(number));
            }
        }
    }

    fn is_answered(&self) -> bool {
        let done = |told: &Told| matches!(told, Told::Failed | Told::Gone);
        self.calls.is_empty()
            && self.transactions.is_empty()
            && self.callers.values().all(|caller| done(&caller.told))
            && self.processes.iter().all(|p| !p.is_alive() || !p.closing)
    }

    fn unanswered(&self) -> String {
        let open = self
            .callers
            .values()
            .filter(|caller| !matches!(caller.told, Told::Failed | Told::Gone));
        let open: Vec<_> = open.map(|caller| (caller.number, &caller.told)).collect();
        let ending = self.processes.iter().filter(|p| p.is_alive() && p.closing);
        let ending: Vec<_> = ending.map(|process| process_name(process.number)).collect();
        format!(
            "requests {open:?}, calls {:?}, ending {ending:?}",
            self.calls
        )
    }

    /// A process is granted every lock of a namespace in the end.
    fn ask_for_everything(&mut self, p: ProcessId, namespace: usize) {
        let start = self.now;
        let mut everything = NAMES.to_vec();
        // As much as the limits allow.
        everything.retain(|name| !self.setup.limited || *name != "app_task_2");
        while self.violation.is_none() {
            let number = LAST + u32::try_from(self.callers.len()).unwrap_or_default();
            self.step(&Step::Ask(Ask {
                process: p,
                number,
                namespace,
                task: 'z',
                names: everything.clone(),
                shared: Vec::new(),
                max_hold: None,
                patience: Patience::Forever,
                scope: Scope::None,
            }));
            if !self.calm(ANSWERED, Self::is_answered) || self.now > start + ANSWERED {
                let name = process_name(p);
                let text = format!("{name} cannot have every lock: {}", self.unanswered());
                self.fail("every-request-is-answered", text);
            }
            // Dead waiters may fill the queue for some time.
            if self
                .callers
                .get(&number)
                .is_some_and(|caller| caller.grant.is_some())
            {
                break;
            }
            self.calm(Duration::from_secs(1), |_| false);
        }
    }

    /// Whether only sessions are left that a living process renews, in the rows as well. A
    /// process may have queued a request for one that was dead by then.
    fn is_clean(&self) -> bool {
        let ttl = self.setup.ttl.unwrap_or(WAITERS_TTL);
        let tables = &self.db.tables;
        let is_renewed = |id: &SessionId| {
            let at = tables.heartbeats.get(id).and_then(|row| row.renewed);
            let owner = self.checks.session_owners.get(id);
            let lives = owner.is_some_and(|(p, incarnation)| {
                let process = &self.processes[*p];
                process.incarnation == *incarnation && process.is_alive()
            });
            lives && at.is_some_and(|at| self.now < at + ttl && at > self.checks.calm_since + FRESH)
        };
        let mut fences = tables.fences.iter();
        let mut in_rows = tables.locks.values().filter_map(parse);
        in_rows.all(|table| table.session_ids().iter().all(is_renewed))
            && tables.heartbeats.keys().all(is_renewed)
            && fences.all(|row| is_renewed(&SessionId::of_fence_row(row)))
    }

    fn check_tables(&mut self) {
        if self.violation.is_some() {
            return;
        }
        let tables = &self.db.tables;
        let mut left = Vec::new();
        for (name, row) in &tables.locks {
            let table = parse(row).unwrap_or_default();
            left.extend(
                table
                    .holders()
                    .iter()
                    .map(|h| format!("{} in {name}", h.name)),
            );
            left.extend(
                table
                    .queue()
                    .iter()
                    .map(|q| format!("{:?} in {name}", q.names)),
            );
        }
        left.extend(
            tables
                .heartbeats
                .keys()
                .map(|id| format!("heartbeat {id:?}")),
        );
        left.extend(tables.fences.iter().map(|row| format!("fence {row}")));
        if !left.is_empty() {
            self.fail("nothing-is-left", left.join(", "));
        }
    }
}
