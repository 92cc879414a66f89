//! The command that runs while the locks are held.
//!
//! On Linux the child is first this program again, which asks for SIGKILL at the death of its parent
//! and then becomes the command. A program can only ask that for itself, and keeps it when it becomes
//! another one.

use std::{
    ffi::{OsStr, OsString},
    io,
    process::ExitStatus,
};

use locks_core::{LockGuard, LockName};
use tokio::process::{self, Command};

use super::signals::Received;
use crate::exit::{CANNOT_RUN, NOT_FOUND};

/// The first argument of this program when it becomes the command. The id of the parent and the
/// command follow.
#[cfg(target_os = "linux")]
const BECOME: &str = "__locks-become-command";

/// The running command.
#[derive(Debug)]
pub(super) struct Child(process::Child);

impl Child {
    /// Starts the command.
    pub(super) fn start(command: &[OsString], guard: &LockGuard) -> io::Result<Self> {
        let names: Vec<_> = guard.names().iter().map(LockName::as_str).collect();
        let child = prepare(command)
            .env("LOCKS_TOKEN", guard.token().to_string())
            .env("LOCKS_NAMES", names.join("\n"))
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self(child))
    }

    /// Waits for its end, and returns its exit code. Cancel safe.
    pub(super) async fn wait(&mut self) -> io::Result<u8> {
        self.0.wait().await.map(code)
    }

    /// Ends it by SIGKILL.
    pub(super) fn kill(&mut self) {
        // It fails only if the command has ended.
        drop(self.0.start_kill());
    }

    /// Asks it to end, by SIGTERM.
    #[cfg(unix)]
    pub(super) fn terminate(&mut self) {
        self.send(rustix::process::Signal::TERM);
    }

    #[cfg(not(unix))]
    pub(super) fn terminate(&mut self) {
        self.kill();
    }

    /// Passes a signal on.
    #[cfg(unix)]
    pub(super) fn pass_on(&mut self, received: Received) {
        if !received.comes_from_the_terminal() {
            self.send(received.signal);
        }
    }

    /// The console has sent the interrupt to the command, too.
    #[cfg(not(unix))]
    #[allow(clippy::unused_self, reason = "as on Unix")]
    pub(super) fn pass_on(&mut self, _: Received) {}

    /// Sends a signal, unless it has ended.
    #[cfg(unix)]
    fn send(&self, signal: rustix::process::Signal) {
        use rustix::process::{Pid, kill_process};
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw)
            && let Err(error) = kill_process(pid, signal)
        {
            eprintln!("locks: the command did not get {signal:?}: {error}");
        }
    }
}

#[cfg(target_os = "linux")]
fn prepare(command: &[OsString]) -> Command {
    // Its path may lead to a newer file by now, or to none.
    let mut this = Command::new("/proc/self/exe");
    this.arg(BECOME)
        .arg(std::process::id().to_string())
        .args(command);
    this
}

#[cfg(not(target_os = "linux"))]
fn prepare(command: &[OsString]) -> Command {
    let mut prepared = Command::new(&command[0]);
    prepared.args(&command[1..]);
    prepared
}

#[cfg(unix)]
fn code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;

    use crate::exit::SIGNALLED;

    let signal = status.signal().map(|signal| i32::from(SIGNALLED) + signal);
    let code = status.code().or(signal).unwrap_or_default();
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(not(unix))]
fn code(status: ExitStatus) -> u8 {
    u8::try_from(status.code().unwrap_or_default()).unwrap_or(u8::MAX)
}

/// Tells why a command was not started, and returns the exit code.
pub(super) fn report_failure(command: &OsStr, error: &io::Error) -> u8 {
    eprintln!("locks: {} cannot be run: {error}", command.display());
    match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => CANNOT_RUN,
    }
}

/// Becomes the command, if that is what the arguments say. Returns the exit code if it cannot.
#[cfg(target_os = "linux")]
pub(crate) fn become_command() -> Option<u8> {
    use std::os::unix::process::CommandExt;

    use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

    let mut args = std::env::args_os().skip(1);
    if args.next()? != BECOME {
        return None;
    }
    let parent: i32 = args.next()?.to_str()?.parse().ok()?;
    let command = args.next()?;
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return Some(report_failure(&command, &error.into()));
    }
    // The parent may have died before.
    if getppid() != Pid::from_raw(parent) {
        return Some(CANNOT_RUN);
    }
    let error = std::process::Command::new(&command).args(args).exec();
    Some(report_failure(&command, &error))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn become_command() -> Option<u8> {
    None
}
