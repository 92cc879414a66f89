//! Random programs in processes that write by turns: nobody overtakes, nobody starves.

use proptest::prelude::*;

use super::*;
use crate::matrix::ConflictMatrix;

/// In the order in which programs take them. What conflicts with a whole kind comes right
/// before that kind: it is a lock on all of them.
const NAMES: [&str; 12] = [
    "box_update",
    "app_task_1",
    "app_task_2",
    "app_task_3",
    "box_update_task",
    "full_backup_task_1",
    "full_backup_task_2",
    "app_backup_1",
    "app_backup_2",
    "mail_restart",
    "x",
    "y",
];

/// Takes its requests one after the other, in the order of `NAMES`, then lets all go.
#[derive(Clone, Debug)]
struct Program {
    process: usize,
    placed: Placed,
    requests: Vec<Vec<&'static str>>,
}

#[derive(Clone, Copy, Debug)]
enum Placed {
    OutsideAnyScope,
    InAScope,
    InScopesOfTheirOwn,
}

/// How often a program asks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asks {
    /// Then nobody ever passes an earlier waiter.
    Once,
    Often,
}

struct Running {
    program: Program,
    asked: Vec<Nonce>,
    finished: bool,
}

struct World {
    desk: Desk,
    processes: Vec<Process>,
    running: Vec<Running>,
    asks: Asks,
}

fn refuses(asked: &str, held: &str) -> bool {
    ConflictMatrix::platform().refuses(asked, held)
}

/// Programs that cannot deadlock but by the queue's fault: sorted, and never asking for what
/// they themselves stand in the way of.
fn program(asks: Asks) -> impl Strategy<Value = Program> {
    let picks = prop::collection::btree_set(0..NAMES.len(), 1..=4);
    let cuts = prop::collection::vec(any::<bool>(), 4);
    let placed = match asks {
        // What a process holds outside any scope is one job's, so the next may pass for it.
        Asks::Once => vec![Placed::InAScope],
        Asks::Often => vec![
            Placed::OutsideAnyScope,
            Placed::InAScope,
            Placed::InScopesOfTheirOwn,
        ],
    };
    let placed = prop::sample::select(placed);
    (0..3usize, placed, picks, cuts).prop_map(move |(process, placed, picks, cuts)| {
        let mut requests: Vec<Vec<&'static str>> = vec![Vec::new()];
        for (name, cut) in picks.into_iter().map(|n| NAMES[n]).zip(cuts) {
            let refused = |held: &[Vec<&str>]| held.iter().flatten().any(|h| refuses(name, h));
            let earlier = requests.len() - 1;
            if requests[earlier].is_empty() || !refused(&requests[..earlier]) {
                let apart = asks == Asks::Often && cut && !refused(&requests);
                if apart && !requests[earlier].is_empty() {
                    requests.push(Vec::new());
                }
                requests.last_mut().expect("one").push(name);
            }
        }
        Program {
            process,
            placed,
            requests,
        }
    })
}

impl World {
    fn new(programs: Vec<Program>, asks: Asks) -> Self {
        let running = |program| Running {
            program,
            asked: Vec::new(),
            finished: false,
        };
        Self {
            desk: Desk::default(),
            processes: vec![
                Process::new("p0"),
                Process::never_expiring("p1"),
                Process::new("p2"),
            ],
            running: programs.into_iter().map(running).collect(),
            asks,
        }
    }

    /// Lets a program go on if it can; whether it did.
    fn step(&mut self, index: usize) -> bool {
        let Running {
            program,
            asked,
            finished,
        } = &mut self.running[index];
        let process = &mut self.processes[program.process];
        if *finished || asked.last().is_some_and(|last| !process.holds(*last)) {
            return false;
        }
        let Some(names) = program.requests.get(asked.len()) else {
            for nonce in asked.drain(..) {
                process.release(nonce);
            }
            *finished = true;
            return true;
        };
        // Two programs are never one job.
        let scope = 100 * (index as u64 + 1);
        let path: Vec<u64> = match program.placed {
            Placed::OutsideAnyScope => Vec::new(),
            Placed::InAScope => vec![scope],
            Placed::InScopesOfTheirOwn => (scope..=scope + asked.len() as u64).collect(),
        };
        asked.push(process.wait(names, &path));
        true
    }

    /// Lets a process write, and looks whether it might; whether it did.
    fn write(&mut self, index: usize) -> bool {
        let before = self.desk.table.clone();
        let process = &mut self.processes[index];
        let plan = process.write(&mut self.desk);
        assert!(plan.refused.is_empty(), "{:?}", plan.refused);
        for nonce in plan.granted.keys() {
            self.check_grant(*nonce, &self.processes[index], &before);
        }
        plan.changed
    }

    fn check_grant(&self, nonce: Nonce, process: &Process, before: &LockTable) {
        let names = &process.held[&nonce].tenure.names;
        for holder in self.desk.table.holders() {
            let entry = self.desk.table.entry(holder.name.as_str());
            let grant = entry.and_then(|entry| entry.grant.as_ref()).expect("ours");
            // Those of the same write were granted one after the other, in which order does
            // not show.
            let before = grant.token < self.desk.version;
            for name in names.iter().filter(|_| before) {
                let forbidden = refuses(name.as_str(), holder.name.as_str());
                assert!(!forbidden, "{name} while {}", holder.name);
            }
        }
        if self.asks == Asks::Once {
            let itself =
                |w: &crate::table::QueuedRequest| w.session == process.queue && w.nonce == nonce;
            let ahead = before.queue().iter().take_while(|w| !itself(w));
            for waiting in ahead.filter(|w| self.desk.table.queue().contains(w)) {
                let meet = |a: &LockName, b: &LockName| {
                    refuses(a.as_str(), b.as_str()) || refuses(b.as_str(), a.as_str())
                };
                let conflict = names
                    .iter()
                    .any(|a| waiting.names.iter().any(|b| meet(a, b)));
                assert!(!conflict, "{names:?} overtook {:?}", waiting.names);
            }
        }
    }

    /// Everybody goes on as far as it goes, from where the schedule left them. A process
    /// writes only when it hears of something: that the row changed, or one of its programs.
    fn finish(&mut self) {
        let mut seen = vec![-1; self.processes.len()];
        loop {
            let mut moved = false;
            for index in 0..self.running.len() {
                if self.step(index) {
                    moved = true;
                    seen[self.running[index].program.process] = -1;
                }
            }
            for (index, seen) in seen.iter_mut().enumerate() {
                if *seen != self.desk.version {
                    moved |= self.write(index);
                    *seen = self.desk.version;
                }
            }
            if !moved {
                break;
            }
        }
        let stuck: Vec<_> = self
            .running
            .iter()
            .filter(|running| !running.finished)
            .map(|running| (running.asked.len(), &running.program))
            .collect();
        let columns = self.desk.table.clone().columns();
        assert!(stuck.is_empty(), "stuck: {stuck:?}\n{columns:?}");
        assert_eq!(self.desk.table, LockTable::default());
    }
}

fn play(programs: Vec<Program>, schedule: &[(u8, bool)], asks: Asks) {
    let mut world = World::new(programs, asks);
    for (who, writes) in schedule {
        let who = usize::from(*who);
        if *writes {
            world.write(who % world.processes.len());
        } else {
            world.step(who % world.running.len());
        }
    }
    world.finish();
}

fn schedule() -> impl Strategy<Value = Vec<(u8, bool)>> {
    prop::collection::vec((any::<u8>(), any::<bool>()), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whoever_asks_holding_nothing_is_served_in_turn(
        programs in prop::collection::vec(program(Asks::Once), 1..9),
        schedule in schedule(),
    ) {
        play(programs, &schedule, Asks::Once);
    }

    #[test]
    fn programs_that_take_names_in_sorted_order_all_finish(
        programs in prop::collection::vec(program(Asks::Often), 1..7),
        schedule in schedule(),
    ) {
        play(programs, &schedule, Asks::Often);
    }
}
