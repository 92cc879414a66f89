//! The recipes: examples of one purpose each.

use std::process::Command;

use locks_tests::{
    engine::{Database, Engine},
    on_every_engine,
    process::Peer,
    wait,
};
use rustix::process::{Pid, Signal, kill_process};

use super::{EXAMPLES, LIMIT, output, start};

on_every_engine!(
    sync a_worker_finishes_its_job_after_a_signal,
    sync the_next_candidate_leads_when_the_leader_is_killed,
);

fn send(process: u32, signal: Signal) {
    let id = i32::try_from(process).expect("a process id");
    let id = Pid::from_raw(id).expect("a process id");
    kill_process(id, signal).expect("it runs");
}

/// Reads to the line that contains this.
fn read_to(peer: &mut Peer, text: &str) {
    while let Some(line) = peer.next_line(LIMIT) {
        if line.contains(text) {
            return;
        }
    }
    panic!("it does not say {text:?}: {}", peer.errors());
}

fn rest(peer: &mut Peer) -> Vec<String> {
    std::iter::from_fn(|| peer.next_line(LIMIT)).collect()
}

fn sessions(db: &Database) -> usize {
    let rows = wait::block_on_thread(async {
        let mut connection = db.connect().await;
        connection.rows("SELECT * FROM lock_sessions").await
    });
    rows.expect("the table is there").len()
}

#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn a_worker_finishes_its_job_after_a_signal(db: Database) {
    for signal in [Signal::TERM, Signal::INT] {
        let mut worker = start("graceful_shutdown", [db.url()]);
        read_to(&mut worker, "job 1 begins");
        send(worker.pid(), signal);
        let said = ["a signal: job 1 may finish", "job 1 ends"];
        assert_eq!(
            rest(&mut worker),
            [&said[..], &["everything is released"]].concat()
        );
        worker.finish_well(LIMIT);
        assert_eq!(sessions(&db), 0, "nothing has to expire");
    }
}

#[test]
fn a_worker_drops_its_job_at_the_second_signal() {
    let db = Database::create(Engine::Sqlite);
    let mut worker = start("graceful_shutdown", [db.url()]);
    read_to(&mut worker, "job 1 begins");
    send(worker.pid(), Signal::TERM);
    read_to(&mut worker, "a signal: job 1 may finish");
    send(worker.pid(), Signal::TERM);
    let said = ["another signal: job 1 is dropped", "everything is released"];
    assert_eq!(rest(&mut worker), said);
    worker.finish_well(LIMIT);
    assert_eq!(sessions(&db), 0, "nothing has to expire");
}

/// As in a container: the kernel does nothing for a signal that process 1 has no handler for.
#[test]
fn the_first_process_of_a_namespace_ends_in_order() {
    let db = Database::create(Engine::Sqlite);
    let mut command = Command::new("unshare");
    // The user namespace is for tests that do not run as root.
    command.args([
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--kill-child",
    ]);
    let program = EXAMPLES.join("graceful_shutdown");
    let mut unshare = Peer::start({
        command.arg(program).arg(db.url());
        command
    });
    read_to(&mut unshare, "job 1 begins");
    let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
    let children = std::fs::read_to_string(children).expect("it runs");
    let first = children.trim().parse().expect("one child");
    send(first, Signal::TERM);
    let said = ["a signal: job 1 may finish", "job 1 ends"];
    assert_eq!(
        rest(&mut unshare),
        [&said[..], &["everything is released"]].concat()
    );
    unshare.finish_well(LIMIT);
}

#[test]
fn each_candidate_leads_alone_and_as_often_as_the_others() {
    let mut terms = Vec::new();
    let mut leader: Option<(String, Option<i64>)> = None;
    let mut last_token = 0;
    for line in output("leader", []) {
        let (name, what) = line.split_once(' ').expect("a name");
        match what {
            "leads" => {
                let before = leader.replace((name.to_owned(), None));
                assert_eq!(before, None, "{line}");
                terms.push(name.to_owned());
            }
            "resigns" => assert_eq!(leader.take().expect("it leads").0, name),
            _ => {
                let (_, token) = what.rsplit_once(' ').expect("a token");
                let token = token.parse().expect("a number");
                let (leader, known) = leader.as_mut().expect("a leader");
                assert_eq!(leader, name, "only the leader works");
                assert!(*known.get_or_insert(token) == token && token >= last_token);
                last_token = token;
            }
        }
    }
    // A candidate that starts late on a busy machine leads later than the others.
    terms.sort_unstable();
    assert_eq!(terms, ["anna", "anna", "ben", "ben", "cleo", "cleo"]);
}

#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn the_next_candidate_leads_when_the_leader_is_killed(db: Database) {
    let mut leader = start("leader", [db.url()]);
    read_to(&mut leader, "leads");
    let mut next = start("leader", [db.url()]);
    // It cannot lead before; whether it waits by then does not matter.
    leader.kill();
    read_to(&mut next, "does step 2");
    send(next.pid(), Signal::INT);
    while next.next_line(LIMIT).is_some() {}
    next.finish_well(LIMIT);
}

#[test]
fn one_node_does_the_job_and_the_others_skip_it() {
    let lines = output("scheduled_job", []);
    for hour in ["13:00", "14:00"] {
        let runs: Vec<_> = lines
            .iter()
            .filter(|line| line.contains(&format!("at {hour}: ")))
            .collect();
        let done = runs.iter().filter(|line| line.ends_with("it does the job"));
        assert_eq!(done.count(), 1, "{lines:#?}");
        let skipped = runs
            .iter()
            .filter(|line| line.ends_with("another node does it") || line.ends_with("it is done"));
        assert_eq!(skipped.count(), runs.len() - 1, "{lines:#?}");
    }
    assert_eq!(lines.len(), 7, "{lines:#?}");
    let late = "node-1 at 14:00: it is done";
    assert_eq!(lines.last().map(String::as_str), Some(late), "{lines:#?}");
}

#[test]
fn a_program_without_a_runtime_works_as_documented() {
    let lines = output("synchronous", []);
    let begin = "installing wiki";
    let end = "wiki is installed";
    assert_eq!(lines[..4], [begin, end, begin, end]);
    let busy = "not now: box_update is held by task ";
    assert!(lines[4].starts_with(busy), "{lines:#?}");
    assert_eq!(lines.len(), 5);
}

#[test]
fn the_testing_example_runs_and_its_tests_pass() {
    let lines = output("testing", []);
    assert_eq!(lines[0], "installed: true");
}
