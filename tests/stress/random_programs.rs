//! Random programs of several processes that finish without a queue must finish with one.

// A test takes its database by value, and drops it at its end.
#![allow(clippy::needless_pass_by_value)]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use locks_tests::{
    engine::{Database, Engine, note, run_sync},
    oracle::Oracle,
    peer,
    process::Peer,
    program::Program,
    row::LocksRow,
    wait::block_on,
};

const SOON: Duration = Duration::from_secs(30);
const PROGRAMS: usize = 200;
/// How many run at one time, each in a namespace of its own.
const NAMESPACES: usize = 10;
const PROCESSES: usize = 4;

/// On one engine: what orders the requests knows no engine.
#[test]
fn random_programs_all_finish() {
    run_sync(Engine::Sqlite, random_programs);
}

/// A namespace and the programs that run in it.
struct Stage {
    namespace: String,
    directory: tempfile::TempDir,
    /// The processes that are not done, and their programs.
    running: Vec<(usize, Program)>,
    since: Instant,
}

impl Stage {
    fn new(number: usize) -> Self {
        Self {
            namespace: format!("stage-{number}"),
            directory: tempfile::tempdir().expect("a directory"),
            running: Vec::new(),
            since: Instant::now(),
        }
    }

    /// Starts two to four processes with a program each. Half of the programs use calls, the others
    /// use guards outside any scope.
    fn begin(&mut self, peers: &mut [Peer]) {
        self.since = Instant::now();
        let how = if fastrand::bool() { "scoped" } else { "guards" };
        let mut processes: Vec<usize> = (0..PROCESSES).collect();
        fastrand::shuffle(&mut processes);
        processes.truncate(fastrand::usize(2..=PROCESSES));
        for process in processes {
            let program = Program::random();
            let directory = self.directory.path().to_str().expect("text");
            let namespace = &self.namespace;
            peers[process].send(&format!("{namespace} {directory} {how} {program}"));
            self.running.push((process, program));
        }
    }

    fn show(&self) -> String {
        let running = self.running.iter();
        let programs: Vec<_> = running
            .map(|(n, program)| format!("t{n}: {program}"))
            .collect();
        format!("{}: {}", self.namespace, programs.join("; "))
    }
}

fn random_programs(db: Database) {
    let start = |n: usize| peer!("programs", db.url(), format!("t{n}"));
    let mut peers: Vec<Peer> = (0..PROCESSES).map(start).collect();
    for peer in &mut peers {
        peer.expect_line("ready", SOON);
    }
    let started = Instant::now();
    let mut stages: Vec<_> = (0..NAMESPACES).map(Stage::new).collect();
    let mut begun = 0;
    let mut longest = Duration::ZERO;
    loop {
        for stage in &mut stages {
            if stage.running.is_empty() && begun < PROGRAMS {
                stage.begin(&mut peers);
                begun += 1;
            }
        }
        if stages.iter().all(|stage| stage.running.is_empty()) {
            break;
        }
        for (process, peer) in peers.iter_mut().enumerate() {
            while let Some(line) = peer.try_line(Duration::from_millis(1)) {
                let (said, namespace) = line.split_once(' ').expect("two words");
                assert_eq!(said, "done", "{line}");
                let stage = stages.iter_mut().find(|stage| stage.namespace == namespace);
                let stage = stage.expect("one that there is");
                stage.running.retain(|(running, _)| *running != process);
                longest = longest.max(stage.since.elapsed());
            }
        }
        for stage in &stages {
            let hangs = !stage.running.is_empty() && stage.since.elapsed() > SOON;
            let row = || block_on(LocksRow::read(&db, &stage.namespace));
            assert!(!hangs, "not finished: {}\n{:#?}", stage.show(), row());
        }
    }
    for stage in &stages {
        Oracle::open(AsRef::<Path>::as_ref(stage.directory.path())).assert_clean();
        let row = block_on(LocksRow::read(&db, &stage.namespace)).expect("it is there");
        assert!(row.is_empty(), "{row:?}");
    }
    note(&format!(
        "{PROGRAMS} random programs on {} in {:?}, none longer than {longest:?}",
        db.engine(),
        started.elapsed()
    ));
}
