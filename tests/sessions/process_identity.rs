//! A live process is not taken for dead: in other namespaces, and without its main thread.

// The macro passes each test its database by value.
#![allow(clippy::needless_pass_by_value)]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use locks_tests::{
    engine::{Database, all_engines_wanted, note},
    on_every_engine,
    process::Peer,
    wait, worker,
    worker::Worker,
};
use rustix::process::geteuid;

const SOON: Duration = Duration::from_secs(20);
/// Process evidence evicts within milliseconds, and the sessions live much longer.
const HELD: Duration = Duration::from_secs(2);
const TTL_MS: &str = "120000";
const PEER: &str = env!("CARGO_BIN_EXE_peer");
const MAIN_THREAD_ENDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/support/main_thread_ends.c");
/// Another time namespace, with an earlier boot time.
const TIME: [&str; 5] = ["unshare", "--time", "--boottime", "100000", "--fork"];

on_every_engine!(
    sync a_holder_in_another_time_namespace_keeps_its_lock,
    sync an_observer_in_another_time_namespace_evicts_no_live_holder,
    sync a_holder_in_another_pid_namespace_keeps_its_lock,
    sync an_observer_in_another_pid_namespace_evicts_no_live_holder,
    sync two_processes_with_a_foreign_proc_do_not_evict_each_other,
    sync a_holder_whose_main_thread_has_ended_keeps_its_lock,
    sync an_observer_whose_main_thread_has_ended_evicts_no_live_holder,
    sync a_killed_holder_whose_main_thread_had_ended_is_evicted,
);

/// A worker that is started by these words.
fn worker_by(words: &[&str], db: &Database, task: &str) -> Worker {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(PEER);
    command.args(["worker", db.url(), task, "--ttl", TTL_MS]);
    Worker::of(Peer::start(command))
}

fn ordinary(db: &Database, task: &str) -> Worker {
    worker!(db.url(), task, "--ttl", TTL_MS)
}

/// Whether the command can be run here; prints a note if it cannot.
fn is_permitted(words: &[&str]) -> bool {
    let tried = Command::new(words[0])
        .args(&words[1..])
        .arg("true")
        .output();
    if geteuid().is_root() && tried.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let what = words.join(" ");
    note(&format!("left out: {what}, which is not permitted here"));
    false
}

/// The holder keeps its lock while the observer waits for it; then the lock passes on.
fn assert_kept(holder: &mut Worker, observer: &mut Worker) {
    holder.acquire("x");
    observer.send("wait x");
    observer.expect_silence(HELD);
    assert_eq!(holder.ask("lost"), "false");
    assert_eq!(holder.ask("release"), "released");
    observer.granted();
    assert_eq!(observer.ask("release"), "released");
}

fn a_holder_in_another_time_namespace_keeps_its_lock(db: Database) {
    if is_permitted(&TIME) {
        let mut holder = worker_by(&[&TIME[..], &["--kill-child"]].concat(), &db, "holder");
        assert_kept(&mut holder, &mut ordinary(&db, "observer"));
    }
}

fn an_observer_in_another_time_namespace_evicts_no_live_holder(db: Database) {
    if is_permitted(&TIME) {
        let mut observer = worker_by(&[&TIME[..], &["--kill-child"]].concat(), &db, "observer");
        assert_kept(&mut ordinary(&db, "holder"), &mut observer);
    }
}

/// Another process namespace, which sees the `/proc` of this one.
const PID: [&str; 4] = ["unshare", "--pid", "--fork", "--kill-child"];

fn a_holder_in_another_pid_namespace_keeps_its_lock(db: Database) {
    if is_permitted(&PID) {
        let mut holder = worker_by(&PID, &db, "holder");
        assert_kept(&mut holder, &mut ordinary(&db, "observer"));
    }
}

fn an_observer_in_another_pid_namespace_evicts_no_live_holder(db: Database) {
    if is_permitted(&PID) {
        let mut observer = worker_by(&PID, &db, "observer");
        assert_kept(&mut ordinary(&db, "holder"), &mut observer);
    }
}

/// A process with the id of another process, in another namespace.
struct Namesake(Child);

impl Namesake {
    fn start() -> Self {
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::null());
        Self(command.spawn().expect("there is a sleep"))
    }

    /// Kills the process, and leaves it a zombie.
    fn end(&mut self) {
        let stat = format!("/proc/{}/stat", self.0.id());
        self.0.kill().expect("it is our child");
        wait::until_blocking(SOON, "it is a zombie", || {
            let stat = fs::read_to_string(&stat).expect("it is not reaped");
            stat.rsplit_once(") ").expect("its name").1.starts_with('Z')
        });
    }
}

impl Drop for Namesake {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The id of the only child of a process.
fn only_child(id: &str) -> String {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    children.expect("it runs").trim().to_owned()
}

/// Two processes of one process namespace see the `/proc` of another one: what it says about the
/// holder's id is about another process, which ends.
fn two_processes_with_a_foreign_proc_do_not_evict_each_other(db: Database) {
    // The id of the next process of the namespace is set through this file.
    let choose_id = "/proc/sys/kernel/ns_last_pid";
    if !is_permitted(&PID) || !Path::new(choose_id).exists() {
        return;
    }
    let mut namesake = Namesake::start();
    let last = namesake.0.id() - 1;
    let script = format!("echo {last} > {choose_id}; \"$@\"; exit");
    let words = [&PID[..], &["sh", "-c", &script, "sh"]].concat();
    let mut holder = worker_by(&words, &db, "holder");
    let first = only_child(&holder.pid().to_string());
    let status = format!("/proc/{}/status", only_child(&first));
    let status = fs::read_to_string(status).expect("the holder runs");
    let id = format!("\t{}\n", namesake.0.id());
    assert!(status.contains(&id), "the holder has another id: {status}");
    let mut observer = worker_by(&["nsenter", "--target", &first, "--pid"], &db, "observer");
    holder.acquire("x");
    namesake.end();
    assert_eq!(holder.ask("release"), "released");
    assert_kept(&mut holder, &mut observer);
}

/// Compiles the library that ends the main thread. `None`, with a note, where that is not possible.
fn main_thread_ends() -> Option<(tempfile::TempDir, String)> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let library = directory.path().join("main_thread_ends.so");
    let flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o"];
    let mut command = Command::new("cc");
    command.args(flags).arg(&library);
    command.args([MAIN_THREAD_ENDS, "-ldl", "-lpthread"]);
    if !command.output().is_ok_and(|output| output.status.success()) {
        assert!(!all_engines_wanted(), "cc cannot compile a library here");
        note("left out: a process whose main thread has ended, which needs glibc and cc");
        return None;
    }
    let preload = format!("LD_PRELOAD={}", library.display());
    Some((directory, preload))
}

/// A worker whose main thread has ended.
fn without_main_thread(preload: &str, db: &Database, task: &str) -> Worker {
    let worker = worker_by(&["env", preload], db, task);
    let stat = format!("/proc/{}/stat", worker.pid());
    let stat = fs::read_to_string(stat).expect("it runs");
    assert!(stat.contains(") Z "), "its main thread goes on: {stat}");
    worker
}

fn a_holder_whose_main_thread_has_ended_keeps_its_lock(db: Database) {
    if let Some((_directory, preload)) = main_thread_ends() {
        let mut holder = without_main_thread(&preload, &db, "holder");
        assert_kept(&mut holder, &mut ordinary(&db, "observer"));
    }
}

fn an_observer_whose_main_thread_has_ended_evicts_no_live_holder(db: Database) {
    if let Some((_directory, preload)) = main_thread_ends() {
        let mut observer = without_main_thread(&preload, &db, "observer");
        assert_kept(&mut ordinary(&db, "holder"), &mut observer);
    }
}

/// All threads have ended. The process is a zombie until its parent reaps it.
fn a_killed_holder_whose_main_thread_had_ended_is_evicted(db: Database) {
    if let Some((_directory, preload)) = main_thread_ends() {
        let mut holder = without_main_thread(&preload, &db, "holder");
        let mut observer = ordinary(&db, "observer");
        holder.acquire("x");
        holder.kill_unreaped();
        observer.send("wait x");
        observer.granted();
    }
}
