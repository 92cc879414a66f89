//! Requests in sorted order never deadlock.

// A test takes its database by value, and drops it at its end.
#![allow(clippy::needless_pass_by_value)]

use std::{path::Path, time::Duration};

use locks_tests::{
    engine::{Database, Engine, note, run_sync},
    oracle::Oracle,
    process::Peer,
};

const SOON: Duration = Duration::from_secs(20);

/// On one engine: what decides about deadlocks knows no engine.
#[test]
fn sorted_requests_never_deadlock() {
    run_sync(Engine::MySql, requests_in_sorted_order);
}

fn requests_in_sorted_order(db: Database) {
    let directory = tempfile::tempdir().expect("a directory");
    let path: &Path = directory.path();
    let start = |n: usize| {
        let (task, path) = (format!("t{n}"), path.to_str().expect("text"));
        let args = ["traffic", db.url(), &task, path, "4", "10000"];
        Peer::spawn(env!("CARGO_BIN_EXE_peer"), args)
    };
    let mut peers: Vec<_> = (0..3).map(start).collect();
    let mut finished = 0;
    for peer in &mut peers {
        while let Some(line) = peer.next_line(Duration::from_secs(90)) {
            match line.split_once(' ') {
                Some(("finished", number)) => {
                    finished += number.parse::<u32>().expect("a number");
                }
                _ => panic!("{line}"),
            }
        }
        peer.finish_well(SOON);
    }
    note(&format!(
        "{finished} programs in 10 s on {} without a deadlock",
        db.engine()
    ));
    assert!(finished > 60, "{finished}");
    Oracle::open(path).assert_clean();
}
