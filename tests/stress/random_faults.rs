//! Eight processes that are killed, stopped and disconnected at random.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use locks_core::LockManager;
use locks_tests::{
    conflict_table::NAMES,
    engine::{Database, Engine, note},
    fenced_writes::{EventCounts, FencedWrites},
    on_every_engine,
    oracle::Oracle,
    process::Peer,
    relay::Relay,
    row::wait_until_empty,
    sessions::wait_until_only,
};

const PROCESSES: usize = 8;
const RUN: Duration = Duration::from_secs(12);
/// The number of grants below which a run shows nothing.
const ENOUGH: usize = 50;
const TTL: Duration = Duration::from_secs(1);
const MARGIN: Duration = Duration::from_millis(100);
/// What a busy machine may add.
const LATE: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(30);

on_every_engine!(async killed_stopped_and_disconnected_processes_never_overlap);

/// Runs one process after the other, under one task id.
struct Slot {
    number: usize,
    generation: usize,
    relay: Option<Relay>,
    peer: Peer,
    /// Until when the process is stopped.
    stopped: Option<Instant>,
}

/// The faults that were injected.
#[derive(Debug, Default)]
struct Faults {
    kills: usize,
    stops: usize,
    cuts: usize,
}

impl Slot {
    fn fill(db: &Database, directory: &Path, number: usize) -> Self {
        let relay = (db.engine() != Engine::Sqlite).then(|| Relay::start(db.server_address()));
        let peer = start(db, relay.as_ref(), directory, number, 0);
        Self {
            number,
            generation: 0,
            relay,
            peer,
            stopped: None,
        }
    }

    fn task(&self) -> String {
        format!("task_{}_{}", self.number, self.generation)
    }

    /// Kills the process and starts another one.
    fn kill(&mut self, db: &Database, directory: &Path) {
        self.peer.kill();
        let (mut oracle, task) = (Oracle::open(directory), self.task());
        // A stopped process may hold the ledger's lock, so the kill must not wait for the ledger.
        std::thread::spawn(move || oracle.gone(&task));
        self.generation += 1;
        let (number, generation) = (self.number, self.generation);
        self.peer = start(db, self.relay.as_ref(), directory, number, generation);
        self.stopped = None;
    }
}

fn start(
    db: &Database,
    relay: Option<&Relay>,
    directory: &Path,
    number: usize,
    generation: usize,
) -> Peer {
    let url = relay.map_or_else(|| db.url().to_owned(), |relay| db.url_via(relay.address()));
    let directory = directory.to_str().expect("text");
    let task = format!("task_{number}_{generation}");
    let ttl = TTL.as_millis().to_string();
    let mut args = vec!["fenced-writer", &*url, directory, &*task, &*ttl];
    // Half of the processes use time evidence only.
    if number.is_multiple_of(2) {
        args.push("--by-time");
    }
    Peer::spawn(env!("CARGO_BIN_EXE_peer"), args)
}

async fn killed_stopped_and_disconnected_processes_never_overlap(db: Database) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    FencedWrites::create(&db).await;
    // The tables are created before a process can be killed while it creates them.
    let first = LockManager::connect(db.url()).await.expect("it connects");
    first.close().await.expect("it closes");
    let mut slots: Vec<_> = (0..PROCESSES)
        .map(|number| Slot::fill(&db, path, number))
        .collect();
    let faults = inject_faults(&db, path, &mut slots).await;

    // Killed at any point of their work, so they cannot clean up.
    for slot in &mut slots {
        slot.peer.kill();
    }
    let killed = Instant::now();
    let successor = LockManager::builder().task_id("successor");
    let successor = successor.connect(db.url()).await.expect("it connects");
    let all = successor
        .wait(NAMES)
        .timeout(SOON)
        .await
        .expect("nothing stays held");
    let freed = killed.elapsed();
    all.release().await.expect("it is ours");
    wait_until_empty(&db, "platform", TTL + MARGIN + LATE).await;
    wait_until_only(&db, &["successor"], TTL + MARGIN + LATE).await;

    let writes = FencedWrites::judge(&db).await;
    let counts = EventCounts::read(path);
    let grants = Oracle::open(path).grants();
    let count = |what: &str| counts.get(what).copied().unwrap_or_default();
    note(&format!(
        "{}: {grants} grants, {writes} fenced writes under {faults:?}; {counts:?}; \
         everything was free {freed:?} after the last kill",
        db.engine(),
    ));
    assert!(freed < TTL + MARGIN + LATE, "{freed:?}");
    assert!(grants > ENOUGH as u64, "too little happened");
    assert!(writes >= count("committed"), "a commit is not there");
    assert!(writes <= count("committed") + count("unknown") + faults.kills + PROCESSES);
    let too_late = count("refused") + count("found lost at the release");
    assert!(too_late > 0, "the fence was not needed");
}

/// Kills, stops and disconnects processes at random until the time is up. Lets all of them continue
/// at the end.
async fn inject_faults(db: &Database, path: &Path, slots: &mut [Slot]) -> Faults {
    let mut faults = Faults::default();
    let start = Instant::now();
    // Chance decides whether a process is stopped for long between its work and its fence, and a
    // busy machine needs more time for enough grants, each of which is followed by three writes at
    // most. The oracle is not asked: a stopped process may hold its lock.
    let is_enough = || {
        let counts = EventCounts::read(path);
        let committed = counts.get("committed").copied().unwrap_or_default();
        counts.contains_key("refused") && committed > 3 * ENOUGH
    };
    while start.elapsed() < RUN || (start.elapsed() < 8 * RUN && !is_enough()) {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..80))).await;
        for slot in slots.iter_mut() {
            if slot.stopped.is_some_and(|until| until <= Instant::now()) {
                slot.peer.cont();
                slot.stopped = None;
            }
            assert!(
                slot.peer.is_running(),
                "{} ended: {}",
                slot.task(),
                slot.peer.errors()
            );
        }
        let still = slots.iter().filter(|slot| slot.stopped.is_some()).count();
        let slot = &mut slots[fastrand::usize(..PROCESSES)];
        match (fastrand::u32(..10), &slot.relay) {
            (0, _) => {
                slot.kill(db, path);
                faults.kills += 1;
            }
            (1..5, _) if slot.stopped.is_none() && still < 2 => {
                // Often shorter than the ttl, sometimes longer.
                let longest = if fastrand::u32(..3) == 0 { 2_200 } else { 300 };
                let time = Duration::from_millis(fastrand::u64(50..longest));
                slot.peer.stop();
                slot.stopped = Some(Instant::now() + time);
                faults.stops += 1;
            }
            (8.., Some(relay)) => {
                relay.cut_all();
                faults.cuts += 1;
            }
            _ => {}
        }
    }
    for slot in slots.iter_mut().filter(|slot| slot.stopped.is_some()) {
        slot.peer.cont();
    }
    faults
}
