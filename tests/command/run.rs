//! `locks run`.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use locks_tests::{
    engine::{Database, Engine},
    on_every_engine,
    process::Peer,
    wait,
};
use rustix::process::Signal;

use crate::support::{SOON, connect, errors, has_ended, locks, output, start, until_ended};

/// A script that goes on until a signal ends it. A shell runs its traps between two commands.
const GO_ON: &str = "echo $$; while :; do sleep 0.02; done";

on_every_engine!(
    async two_shells_are_never_inside_together,
    async refusals_and_time_outs_have_their_exit_codes,
    async command_gets_the_token_and_its_exit_code_is_returned,
    async shared_locks_are_held_together,
    async command_is_asked_to_end_when_the_locks_are_lost,
    async command_that_ignores_sigterm_is_killed_after_the_grace,
    async killed_program_leaves_no_command_behind,
    async interrupted_wait_leaves_the_queue,
);

async fn two_shells_are_never_inside_together(db: Database) {
    let directory = tempfile::tempdir().expect("a directory");
    let (inside, log) = (
        directory.path().join("inside"),
        directory.path().join("log"),
    );
    let (inside, log) = (inside.display(), log.display());
    let script = format!(
        "mkdir {inside} || echo both >> {log}; sleep 0.02; rmdir {inside}; echo $LOCKS_TOKEN >> {log}"
    );
    let rounds = 4;
    let shell = |number: usize| {
        let (db, script) = (&db, &script);
        move || {
            for _ in 0..rounds {
                let task = format!("shell-{number}");
                let args = ["--task-id", &task, "--wait", "20s", "app_task_1"];
                let status = start(db, &args, script).finish(SOON);
                assert!(status.success(), "{status}");
            }
        }
    };
    std::thread::scope(|scope| {
        for number in 0..2 {
            scope.spawn(shell(number));
        }
    });
    let log = fs::read_to_string(directory.path().join("log")).expect("they wrote it");
    let tokens: Vec<i64> = log.lines().map(|line| line.parse().expect(&log)).collect();
    assert_eq!(tokens.len(), 2 * rounds);
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

async fn refusals_and_time_outs_have_their_exit_codes(db: Database) {
    let holder = connect(&db, "holder").await;
    let guard = holder.acquire("x").await.expect("it is free");
    let busy = output(&db, &["run", "--try", "x", "--", "true"]);
    assert_eq!(busy.status.code(), Some(75));
    let text = errors(&busy);
    assert!(text.contains("x is held by task holder"), "{text}");
    let start = Instant::now();
    let late = output(&db, &["run", "--wait", "300ms", "x", "--", "true"]);
    assert_eq!(late.status.code(), Some(124), "{}", errors(&late));
    assert!(start.elapsed() >= Duration::from_millis(300));
    let long = output(&db, &["run", "--wait", "4s", "x", "--", "true"]);
    let text = errors(&long);
    assert!(
        text.contains("waiting for x: x is held by task holder"),
        "{text}"
    );
    guard.release().await.expect("it is held");
    let free = output(&db, &["run", "--try", "x", "--", "true"]);
    assert_eq!(free.status.code(), Some(0), "{}", errors(&free));
}

async fn command_gets_the_token_and_its_exit_code_is_returned(db: Database) {
    let locks = connect(&db, "observer").await;
    let script = "echo \"$LOCKS_TOKEN\"; echo \"$LOCKS_NAMES\"; read -r line; exit 7";
    let mut run = start(&db, &["--task-id", "shell", "y", "x"], script);
    let token = run.next_line(SOON).expect("it prints");
    assert_eq!(run.next_line(SOON).as_deref(), Some("x"));
    assert_eq!(run.next_line(SOON).as_deref(), Some("y"));
    let held = locks.held().await.expect("it answers");
    let held: Vec<_> = held
        .iter()
        .map(|h| (h.name.as_str(), &*h.task_id, h.token))
        .collect();
    let token = Some(token.parse().expect("a number"));
    assert_eq!(held, [("x", "shell", token), ("y", "shell", token)]);
    assert_eq!(run.finish(SOON).code(), Some(7));
    // It was released, not recovered: nothing is left at once.
    assert_eq!(locks.held().await.expect("it answers"), []);
}

async fn shared_locks_are_held_together(db: Database) {
    let script = "echo in; read -r line; exit 0";
    let mut first = start(&db, &["--shared", "x", "y"], script);
    let mut second = start(&db, &["--try", "--shared", "x"], script);
    for run in [&mut first, &mut second] {
        assert_eq!(run.next_line(SOON).as_deref(), Some("in"));
    }
    for names in [&["x"][..], &["--shared", "y"]] {
        let args: Vec<_> = ["run", "--try"]
            .iter()
            .chain(names)
            .chain(&["--", "true"])
            .copied()
            .collect();
        assert_eq!(output(&db, &args).status.code(), Some(75), "{names:?}");
    }
    first.finish_well(SOON);
    second.finish_well(SOON);
}

async fn command_is_asked_to_end_when_the_locks_are_lost(db: Database) {
    let supervisor = connect(&db, "supervisor").await;
    let script = format!("trap 'echo asked; exit 3' TERM; {GO_ON}");
    let mut run = start(&db, &["--task-id", "shell", "--expiry", "1s", "x"], &script);
    let command = run.next_line(SOON).expect("its id");
    let taken = supervisor.release_task("shell").await.expect("it can");
    assert_eq!(taken.len(), 1);
    assert_eq!(run.next_line(SOON).as_deref(), Some("asked"));
    assert_eq!(run.finish(SOON).code(), Some(76));
    assert!(run.errors().contains("lost x"), "{}", run.errors());
    until_ended(&command);
}

async fn command_that_ignores_sigterm_is_killed_after_the_grace(db: Database) {
    let supervisor = connect(&db, "supervisor").await;
    let script = format!("trap 'echo ignored' TERM; {GO_ON}");
    let args = [
        "--task-id",
        "shell",
        "--expiry",
        "1s",
        "--grace",
        "500ms",
        "x",
    ];
    let mut run = start(&db, &args, &script);
    let command = run.next_line(SOON).expect("its id");
    supervisor.release_task("shell").await.expect("it can");
    assert_eq!(run.next_line(SOON).as_deref(), Some("ignored"));
    assert!(!has_ended(&command));
    let asked = Instant::now();
    assert_eq!(run.finish(SOON).code(), Some(76));
    assert!(
        asked.elapsed() >= Duration::from_millis(300),
        "{:?}",
        asked.elapsed()
    );
    until_ended(&command);
}

async fn killed_program_leaves_no_command_behind(db: Database) {
    let locks = connect(&db, "successor").await;
    let script = format!("trap '' TERM HUP INT; {GO_ON}");
    let mut run = start(&db, &["--task-id", "shell", "x"], &script);
    let command = run.next_line(SOON).expect("its id");
    assert!(!has_ended(&command));
    run.signal(Signal::KILL);
    until_ended(&command);
    run.kill();
    // Its locks do not wait for their expiry.
    let next = locks
        .wait("x")
        .timeout(SOON)
        .await
        .expect("it is recovered");
    next.release().await.expect("it is held");
}

async fn interrupted_wait_leaves_the_queue(db: Database) {
    let holder = connect(&db, "holder").await;
    let _guard = holder.acquire("x").await.expect("it is free");
    let mut run = start(&db, &["x"], "true");
    let waiting = async || holder.waiting().await.expect("it answers").len();
    wait::until(SOON, "it waits", async || waiting().await == 1).await;
    run.signal(Signal::TERM);
    assert_eq!(run.finish(SOON).code(), Some(128 + 15));
    wait::until(SOON, "the queue is empty", async || waiting().await == 0).await;
}

fn on_a_file() -> Database {
    Database::create(Engine::Sqlite)
}

#[test]
fn signals_are_passed_on_to_the_command() {
    let db = on_a_file();
    for (signal, name) in [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::TERM, "TERM"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        let script = format!("trap 'echo {name}; exit 9' {name}; {GO_ON}");
        let mut run = start(&db, &["x"], &script);
        run.next_line(SOON).expect("its id");
        run.signal(signal);
        assert_eq!(run.next_line(SOON).as_deref(), Some(name));
        assert_eq!(run.finish(SOON).code(), Some(9));
    }
}

#[test]
fn end_of_the_command_by_a_signal_is_an_exit_code() {
    let db = on_a_file();
    let mut run = start(&db, &["x"], "echo $$; exec sleep 60");
    run.next_line(SOON).expect("its id");
    run.signal(Signal::TERM);
    let status = run.finish(SOON);
    assert_eq!((status.code(), status.signal()), (Some(128 + 15), None));
}

#[test]
fn signal_that_the_caller_ignores_is_ignored() {
    let db = on_a_file();
    // The shell's disposition is that of the programs that it becomes.
    let script = "trap '' HUP; exec \"$0\" run x -- sh -c 'echo $$; read -r line; echo read'";
    let mut command = std::process::Command::new("sh");
    let program = env!("CARGO_BIN_EXE_locks-command");
    command
        .args(["-c", script, program])
        .env("DATABASE_URL", db.url());
    let mut run = Peer::start(command);
    run.next_line(SOON).expect("its id");
    run.signal(Signal::HUP);
    run.send("go on");
    assert_eq!(run.next_line(SOON).as_deref(), Some("read"));
    run.finish_well(SOON);
}

/// Also before the child has asked for the signal, and before it has become the command.
#[test]
fn program_that_is_killed_at_any_moment_leaves_no_command_behind() {
    let db = on_a_file();
    let mark = format!("{}.", std::process::id() % 1_000 + 5_000);
    let running = || {
        let processes = fs::read_dir("/proc").expect("Linux").flatten();
        let mut lines = processes.filter_map(|one| fs::read(one.path().join("cmdline")).ok());
        lines.any(|line| String::from_utf8_lossy(&line).contains(&mark))
    };
    // How long the command takes to start, about.
    let start = Instant::now();
    assert!(output(&db, &["run", "x", "--", "true"]).status.success());
    let usual = start.elapsed();
    for number in 0..40 {
        let name = format!("lock-{number}");
        let mut command = locks(&db, ["run", &name, "--", "sleep"]);
        command.arg(format!("{mark}{number}"));
        let mut run = Peer::start(command);
        // The moments lie around the start. No moment makes the test fail by itself.
        std::thread::sleep(usual * (20 + 2 * number) / 100);
        run.kill();
        wait::until_blocking(SOON, "no command is left", || !running());
    }
}

/// The parent has died before the child has asked for the signal: the child has another parent.
#[test]
fn child_of_a_dead_parent_does_not_become_the_command() {
    let db = on_a_file();
    let directory = tempfile::tempdir().expect("a directory");
    let made = directory.path().join("made");
    let parent = std::process::id();
    for (parent, code, becomes) in [(parent + 1, 126, false), (parent, 0, true)] {
        let mut child = locks(
            &db,
            ["__locks-become-command", &parent.to_string(), "touch"],
        );
        let status = child.arg(&made).status().expect("it starts");
        assert_eq!((status.code(), made.exists()), (Some(code), becomes));
    }
}

#[test]
fn commands_that_cannot_be_run_have_their_exit_codes() {
    let db = on_a_file();
    let directory = tempfile::tempdir().expect("a directory");
    let text = directory.path().join("text");
    fs::write(&text, "no program").expect("it can be written");
    let text = text.to_str().expect("UTF-8");
    for (command, code) in [("no-such-command-anywhere", 127), (text, 126)] {
        let output = output(&db, &["run", "x", "--", command]);
        assert_eq!(output.status.code(), Some(code), "{}", errors(&output));
        assert!(errors(&output).contains(command), "{}", errors(&output));
    }
}

#[test]
fn wrong_arguments_are_an_exit_code_of_their_own() {
    let db = on_a_file();
    for args in [
        &["run", "x"][..],
        &["run", "--", "true"],
        &["run", "--try", "--wait", "1s", "x", "--", "true"],
        &["run", "--wait", "soon", "x", "--", "true"],
        &["run", "*", "--", "true"],
        &["run", "--expiry", "1ms", "x", "--", "true"],
        &["--namespace", "A B", "list"],
        &["--table-prefix", "a-", "list"],
        &["dance"],
    ] {
        let output = output(&db, args);
        assert_eq!(
            output.status.code(),
            Some(125),
            "{args:?}: {}",
            errors(&output)
        );
    }
}

#[test]
fn help_documents_exit_codes_and_environment() {
    let db = on_a_file();
    let help = crate::support::printed(&db, &["run", "--help"]);
    for part in [
        "75 ",
        "76 ",
        "124 ",
        "125 ",
        "126 ",
        "127 ",
        "LOCKS_TOKEN",
        "LOCKS_NAMES",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
}
