//! Readers and writers of one name, and backups with a limit of three, in eight processes of
//! which some are killed all the time.

use std::time::{Duration, Instant};

use locks_tests::{
    engine::{Database, note},
    on_every_engine, peer,
    process::Peer,
    row::wait_until_empty,
    sharing_oracle::SharingOracle,
    wait,
};

const PROCESSES: usize = 8;
const RUN: Duration = Duration::from_secs(10);
const ENOUGH: u64 = 1_000;
const BETWEEN_KILLS: Duration = Duration::from_millis(250);
const SOON: Duration = Duration::from_mins(1);
/// The limit for a run on a busy machine, which may take longer to reach enough grants.
const LATE: Duration = Duration::from_secs(100);

on_every_engine!(async readers_writers_and_three_backups);

async fn readers_writers_and_three_backups(db: Database) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("text").to_owned();
    let mut started = 0;
    let mut start = || {
        started += 1;
        peer!("share", db.url(), &path, format!("task-{started}"))
    };
    let mut peers: Vec<Peer> = (0..PROCESSES).map(|_| start()).collect();
    for peer in &mut peers {
        peer.expect_line("ready", SOON);
    }
    let mut oracle = SharingOracle::open(directory.path());
    let (begin, mut kills) = (Instant::now(), 0);
    while begin.elapsed() < RUN || (oracle.grants() < ENOUGH && begin.elapsed() < LATE) {
        std::thread::sleep(BETWEEN_KILLS);
        let victim = fastrand::usize(..PROCESSES);
        peers[victim].kill();
        kills += 1;
        peers[victim] = start();
    }
    let mut done = [0; 3];
    for peer in &mut peers {
        peer.close_stdin();
    }
    for peer in &mut peers {
        wait::until_blocking(SOON, "the last line", || match peer.next_line(SOON) {
            None => true,
            Some(line) => {
                let numbers = line.strip_prefix("did ").unwrap_or_default();
                for (sum, number) in done.iter_mut().zip(numbers.split(' ')) {
                    *sum += number.parse().unwrap_or(0);
                }
                false
            }
        });
        peer.finish_well(SOON);
    }
    let grants = oracle.grants();
    note(&format!(
        "{grants} grants beside {kills} kills on {}; of the living: {done:?}",
        db.engine()
    ));
    oracle.assert_clean();
    assert!(grants >= ENOUGH, "{grants} grants");
    assert!(done.iter().all(|kind: &u32| *kind > 0), "{done:?}");
    wait_until_empty(&db, "platform", SOON).await;
}
