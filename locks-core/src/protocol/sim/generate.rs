//! A setup and a schedule for each seed.

use super::{
    callers::Told,
    process::{LaneKind, Process, State},
    schedule::{Ask, ClassName, Patience, ProcessId, Scope, Step},
    statement::Statement,
    transactions::Phase,
    world::{World, notifies},
};
use crate::options::Fairness;

/// The locks that callers request.
pub(super) const NAMES: [&str; 5] = [
    "app_task_1",
    "box_update",
    "app_task_2",
    "app_backup_1",
    "mail_restart",
];
/// A name that some databases cannot store.
pub(super) const UNSTORABLE: &str = "unstorable";
/// A task whose id some databases cannot store.
pub(super) const UNSTORABLE_TASK: char = 'u';
/// How many requests of a process may be open.
const MOST_OPEN: usize = 5;

/// Which faults a schedule has.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a kind of fault")]
struct Faults {
    losses: bool,
    failures: bool,
    stops: bool,
    kills: bool,
    cuts: bool,
    refusals: bool,
    clocks: bool,
    original: bool,
    deletions: bool,
    supervisor: bool,
    restores: bool,
    closes: bool,
}

/// Draws steps.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Generator {
    rng: fastrand::Rng,
    faults: Faults,
    scopes: bool,
    fences: bool,
    /// Whether callers share locks.
    shares: bool,
    /// Whether callers limit how long they hold.
    caps: bool,
    /// The locks that callers request.
    names: usize,
    next_number: u32,
    pub(super) length: usize,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
        let mut often = |of: u32| rng.u32(..10) < of;
        let mut faults = Faults {
            losses: often(6),
            failures: often(3),
            stops: often(4),
            kills: often(4),
            cuts: often(3),
            refusals: often(2),
            clocks: often(2),
            original: often(3),
            deletions: often(5),
            supervisor: often(2),
            restores: often(1),
            closes: often(3),
        };
        faults.deletions &= faults.original;
        // A token depends on the clock only where the row starts anew.
        faults.clocks &= !faults.restores && !faults.deletions;
        Self {
            faults,
            scopes: often(3),
            fences: often(5),
            shares: seed % 3 == 1,
            caps: seed % 5 == 2,
            names: rng.usize(1..=NAMES.len()),
            next_number: 0,
            length: rng.usize(20..160),
            rng,
        }
    }

    /// The next step.
    pub(super) fn next(&mut self, world: &World) -> Step {
        if world.setup.loses_power && self.rng.u32(..60) == 0 {
            return Step::LosePower(self.rng.u8(..20));
        }
        let mut choices = Vec::new();
        self.messages(world, &mut choices);
        self.callers(world, &mut choices);
        self.faults(world, &mut choices);
        let busy = choices
            .iter()
            .any(|(_, step)| matches!(step, Step::Answer(..)));
        choices.push((if busy { 6 } else { 30 }, Step::NextTimer));
        let millis = [1, 20, 300, 2_500][self.rng.usize(..4)];
        choices.push((2, Step::Millis(millis)));
        self.draw(choices)
    }

    fn draw(&mut self, choices: Vec<(u32, Step)>) -> Step {
        let total: u32 = choices.iter().map(|(weight, _)| weight).sum();
        let mut at = self.rng.u32(..total);
        for (weight, step) in choices {
            if at < weight {
                return step;
            }
            at -= weight;
        }
        Step::NextTimer
    }

    fn messages(&mut self, world: &World, choices: &mut Vec<(u32, Step)>) {
        for process in &world.processes {
            let p = process.number;
            for (kind, lane) in &process.lanes {
                let Some(statement) = &lane.statement else {
                    continue;
                };
                let kind = *kind;
                if world.can_answer(p, kind) {
                    choices.push((14, Step::Answer(p, kind)));
                }
                if world.can_apply(p, kind) {
                    choices.push((5, Step::Apply(p, kind)));
                    engine_messages(world, p, kind, statement, choices);
                }
                if process.is_running() {
                    if self.faults.losses {
                        choices.push((1, Step::Lose(p, kind)));
                    }
                    let certifies = world.setup.engine.lags && statement.writes();
                    if certifies && lane.applied.is_none() {
                        choices.push((3, Step::Fail(p, kind, ClassName::NotApplied)));
                    }
                    if self.faults.failures && lane.applied.is_none() {
                        let classes = [
                            ClassName::NotApplied,
                            ClassName::ReadOnly,
                            ClassName::Indeterminate,
                            ClassName::Permanent,
                        ];
                        let class = classes[self.rng.usize(..4)];
                        choices.push((1, Step::Fail(p, kind, class)));
                    }
                }
            }
            if notifies(world.setup.engine.change_source) && !process.notifications.is_empty() {
                choices.push((8, Step::Notify(p)));
                choices.push((2, Step::LoseNotification(p)));
            }
        }
        for index in 0..world.late.len() {
            choices.push((2, Step::ApplyLate(index)));
        }
    }

    fn callers(&mut self, world: &World, choices: &mut Vec<(u32, Step)>) {
        for process in &world.processes {
            let p = process.number;
            if !process.is_running() || process.closing {
                continue;
            }
            let own = || world.callers.values().filter(|caller| caller.process == p);
            let is_open = |told: &Told| matches!(told, Told::Waiting | Told::Granted);
            if own().filter(|caller| is_open(&caller.told)).count() < MOST_OPEN {
                let ask = self.ask(world, process);
                choices.push((6, Step::Ask(ask)));
            }
            let space = self.rng.usize(..world.setup.namespaces);
            choices.push((1, Step::Held(p, space)));
            if self.rng.bool() {
                choices.push((1, Step::Waiting(p, space)));
                choices.push((1, Step::OwnerGone(p, self.task())));
            }
            for caller in own() {
                self.caller(world, caller.number, &caller.told, caller.detached, choices);
            }
        }
        for (number, transaction) in &world.transactions {
            let number = *number;
            match transaction.phase {
                Phase::Confirming => {}
                Phase::Fenced => {
                    choices.push((3, Step::Commit(number)));
                    choices.push((1, Step::RollBack(number)));
                    choices.push((1, Step::AbandonCommit(number)));
                }
                Phase::Orphaned => choices.push((1, Step::RollBack(number))),
                Phase::CommitSent => choices.push((2, Step::ArriveCommit(number))),
            }
        }
    }

    fn caller(
        &mut self,
        world: &World,
        number: u32,
        told: &Told,
        detached: bool,
        choices: &mut Vec<(u32, Step)>,
    ) {
        match told {
            Told::Waiting => choices.push((1, Step::Cancel(number))),
            Told::Granted | Told::Lost if detached => {
                choices.push((2, Step::ReleaseByName(number)));
            }
            Told::Granted => {
                choices.push((2, Step::Release(number)));
                choices.push((3, Step::Drop(number)));
                if self.rng.u32(..4) == 0 {
                    choices.push((1, Step::Detach(number)));
                }
                if self.fences && !world.transactions.contains_key(&number) {
                    choices.push((8, Step::Fence(number)));
                }
            }
            Told::Lost => choices.push((2, Step::Drop(number))),
            Told::Failed | Told::Gone => {}
        }
    }

    fn task(&mut self) -> char {
        if self.rng.bool() { 'a' } else { 'b' }
    }

    fn ask(&mut self, world: &World, process: &Process) -> Ask {
        self.next_number += 1;
        let rng = &mut self.rng;
        let mut names: Vec<_> = vec![NAMES[rng.usize(..self.names)]];
        let second = NAMES[rng.usize(..self.names)];
        if rng.u32(..5) == 0 && second != names[0] {
            names.push(second);
        }
        let mut shared = Vec::new();
        if self.shares {
            shared.clone_from(&names);
            shared.retain(|_| rng.u32(..3) > 0);
        }
        let max_hold = (self.caps && rng.u32(..3) == 0).then(|| rng.u32(1..3_000));
        if world.setup.rejects_names && rng.u32(..8) == 0 {
            names.push(UNSTORABLE);
        }
        let patience = match rng.u32(..6) {
            0 | 1 => Patience::NoWait,
            2 => Patience::Millis(rng.u32(1..3_000)),
            _ => Patience::Forever,
        };
        let mut scope = Scope::None;
        if self.scopes && rng.u32(..3) > 0 {
            let holding = world.callers.values();
            let holding =
                holding.filter(|c| c.process == process.number && c.holds() && !c.detached);
            let holding: Vec<_> = holding.map(|caller| caller.number).collect();
            scope = match rng.choice(&holding) {
                Some(outer) if rng.bool() => Scope::Inside(*outer),
                _ => Scope::Outermost,
            };
        }
        let mut namespace = rng.usize(..world.setup.namespaces);
        let mut patience = patience;
        if let Scope::Inside(outer) = scope {
            // A deadlock is seen only in one namespace, and only where requests are queued; and
            // not through a limit.
            let outer = &world.callers[&outer].namespace;
            let mut spaces = 0..world.setup.namespaces;
            namespace = spaces.find(|n| world.namespace(*n) == *outer).unwrap_or(0);
            let unseen = world.setup.fairness == Fairness::Barging || world.setup.limited;
            if unseen && patience == Patience::Forever {
                patience = Patience::Millis(rng.u32(1..3_000));
            }
        }
        Ask {
            process: process.number,
            number: self.next_number,
            namespace,
            task: self.task(),
            shared,
            max_hold,
            names,
            patience,
            scope,
        }
    }

    fn faults(&mut self, world: &World, choices: &mut Vec<(u32, Step)>) {
        let faults = self.faults;
        let count = world.processes.len();
        let p = self.rng.usize(..count);
        let space = self.rng.usize(..world.setup.namespaces);
        for process in &world.processes {
            match process.state {
                State::Paused | State::Asleep(_) => {
                    choices.push((3, Step::Resume(process.number)));
                }
                State::Dead | State::Ended => choices.push((2, Step::Start(process.number))),
                State::Running => {}
            }
            if process.cut_off {
                choices.push((3, Step::Reconnect(process.number)));
            }
            if process.connections_refused {
                choices.push((1, Step::AcceptConnections(process.number)));
            }
        }
        let mut add = |is_on: bool, step: Step| {
            if is_on {
                choices.push((1, step));
            }
        };
        add(faults.stops, Step::Pause(p));
        add(faults.stops, Step::Sleep(p));
        add(faults.kills, Step::Kill(p));
        add(faults.cuts, Step::CutOff(p));
        add(faults.refusals, Step::RefuseConnections(p));
        add(faults.closes, Step::Close(p));
        add(faults.closes, Step::HandlesGone(p));
        let ahead = self.rng.i32(-4_000..4_000);
        add(faults.clocks, Step::SetWallClock(p, ahead));
        let task = self.task();
        let other = self.rng.usize(..count);
        add(faults.supervisor, Step::RemoveTask(p, space, other, task));
        let name = NAMES[self.rng.usize(..self.names)];
        add(faults.supervisor, Step::RemoveGrant(p, space, name));
        add(
            faults.supervisor && self.rng.u32(..4) == 0,
            Step::RemoveAll(p, space),
        );
        add(faults.restores, Step::Backup);
        add(faults.restores && self.rng.bool(), Step::Restore);
        if faults.original {
            let name = NAMES[self.rng.usize(..self.names)];
            let restarting = world.originals[space].restarting;
            choices.push((2, Step::OriginalReads(space)));
            choices.push((2, Step::OriginalTakes(space, name)));
            choices.push((2, Step::OriginalReleases(space, name)));
            if faults.supervisor || self.rng.bool() {
                choices.push((1, Step::OriginalReleasesTask(space, p, task)));
            }
            if restarting {
                choices.push((3, Step::OriginalInserts(space)));
            } else if faults.deletions && self.rng.bool() {
                choices.push((1, Step::OriginalDeletes(space)));
            }
        }
    }
}

/// What only some engines do to a statement.
fn engine_messages(
    world: &World,
    p: ProcessId,
    kind: LaneKind,
    statement: &Statement,
    choices: &mut Vec<(u32, Step)>,
) {
    let engine = world.setup.engine;
    if engine.early_preconditions && matches!(statement, Statement::CompareAndSet { .. }) {
        choices.push((2, Step::Begin(p, kind)));
    }
    if engine.lags && statement.may_be_stale() {
        choices.push((2, Step::ApplyStale(p, kind)));
    }
}
