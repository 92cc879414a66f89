//! Starting the command, and looking at processes.

use std::{
    ffi::OsStr,
    fs,
    process::{Command, Output, Stdio},
    time::Duration,
};

use locks_core::LockManager;
use locks_tests::{engine::Database, process::Peer, wait};

/// How long anything may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The command with the database in its environment.
pub(crate) fn locks<S: AsRef<OsStr>>(db: &Database, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_locks-command"));
    command.args(args).env("DATABASE_URL", db.url());
    command
}

/// Runs the command to its end.
pub(crate) fn output(db: &Database, args: &[&str]) -> Output {
    let mut command = locks(db, args);
    command.stdin(Stdio::null()).output().expect("it starts")
}

/// What the command has printed. It must have succeeded.
pub(crate) fn printed(db: &Database, args: &[&str]) -> String {
    let output = output(db, args);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{args:?}: {}",
        errors(&output)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Starts `locks run` with these arguments and a shell script.
pub(crate) fn start(db: &Database, args: &[&str], script: &str) -> Peer {
    let end = ["--", "sh", "-c", script];
    let all = ["run"].iter().chain(args).chain(&end);
    Peer::start(locks(db, all))
}

/// A manager of the test's own process.
pub(crate) async fn connect(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it connects")
}

/// Whether a process has ended. A zombie has: its parent may not look.
pub(crate) fn has_ended(pid: &str) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
    matches!(state, Some("Z" | "X"))
}

pub(crate) fn until_ended(pid: &str) {
    let what = format!("process {pid} ends");
    wait::until_blocking(SOON, &what, || has_ended(pid));
}
