//! Eight processes that acquire random locks of the conflict table, checked by the oracle.

use std::{thread, time::Duration};

use locks_tests::{
    engine::{Database, Engine},
    on_every_engine,
    oracle::Oracle,
    peer,
    process::Peer,
    row::LocksRow,
    server::Server,
    wait,
};
use tempfile::TempDir;

const PROCESSES: u32 = 8;
const RUN: Duration = Duration::from_secs(5);
const ENOUGH: u64 = 500;
/// The limit for the end of an idle process, also on a busy machine.
const SOON: Duration = Duration::from_secs(30);
/// The limit for a run on a busy machine, which may take longer to reach enough grants.
const LATE: Duration = Duration::from_secs(100);

on_every_engine!(async no_forbidden_pair_overlaps);

struct Contest {
    directory: TempDir,
    peers: Vec<Peer>,
}

impl Contest {
    fn start(mut peer: impl FnMut(&str, &str) -> Peer) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_str().expect("text").to_owned();
        let mut peers: Vec<_> = (0..PROCESSES)
            .map(|number| peer(&path, &format!("task-{number}")))
            .collect();
        for peer in &mut peers {
            peer.expect_line("ready", SOON);
        }
        Self { directory, peers }
    }

    fn oracle(&self) -> Oracle {
        Oracle::open(self.directory.path())
    }

    /// Ends the run. Asserts that there was no violation, and that every process was granted locks.
    fn finish(mut self) {
        for peer in &mut self.peers {
            peer.close_stdin();
        }
        let mut sum = 0;
        for peer in &mut self.peers {
            let grants = peer.expect_line("grants", SOON);
            let grants: u64 = grants.parse().expect("a number");
            assert!(grants > 0, "process {} got nothing at all", peer.pid());
            sum += grants;
            peer.finish_well(SOON);
        }
        let mut oracle = self.oracle();
        oracle.assert_clean();
        assert_eq!(oracle.grants(), sum);
        assert_eq!(oracle.inside().len(), 0);
    }
}

/// All processes have ended, so an entry that is left now would stay.
async fn assert_empty(db: &Database) {
    let row = LocksRow::read(db, "platform").await.expect("it is there");
    assert!(row.is_empty(), "{row:#?}");
}

async fn no_forbidden_pair_overlaps(db: Database) {
    let contest = Contest::start(|directory, task| peer!("contend", db.url(), directory, task));
    thread::sleep(RUN);
    let mut oracle = contest.oracle();
    wait::until_blocking(LATE, "enough grants", || oracle.grants() >= ENOUGH);
    contest.finish();
    assert_empty(&db).await;
}

/// The server is stopped and started during the run: first in order, then by a crash.
fn a_server_comes_back(engine: Engine) {
    let Some(server) = Server::start(engine) else {
        return;
    };
    let db = Database::create_on(server.url());
    let contest =
        Contest::start(|directory, task| peer!("contend", db.url(), directory, task, "--patient"));
    let mut oracle = contest.oracle();
    wait::until_blocking(SOON, "work", || oracle.grants() > 100);
    for end in [Server::stop, Server::kill] {
        end(&server);
        let before = oracle.grants();
        server.start_again();
        wait::until_blocking(SOON, "work again", || oracle.grants() > before + 100);
    }
    contest.finish();
    wait::block_on_thread(assert_empty(&db));
}

#[test]
fn mariadb_comes_back() {
    a_server_comes_back(Engine::MySql);
}

#[test]
fn postgres_comes_back() {
    a_server_comes_back(Engine::Postgres);
}
