//! The process table of Linux: `/proc`.

#![allow(
    clippy::disallowed_methods,
    reason = "it reads the process table for the driver"
)]

use std::{collections::BTreeSet, fs};

use rustix::process::{Pid, test_kill_process};

use crate::matrix::hash;

/// The start time of this process; empty if it is unknown.
pub(super) fn own_start() -> String {
    match status("self") {
        Status::Runs { start } => start,
        Status::Zombie | Status::Unreadable => String::new(),
    }
}

/// Whether the process with this id and start time is known to have ended. The start time is
/// empty if it is unknown.
pub(super) fn has_ended(id: u32, started: &str) -> bool {
    let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) else {
        return false;
    };
    if test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
        return true;
    }
    if !proc_shows_our_namespace() {
        return false;
    }
    match status(&id.to_string()) {
        Status::Zombie => true,
        // The id may belong to a later process.
        Status::Runs { start } => !started.is_empty() && start != started,
        Status::Unreadable => false,
    }
}

enum Status {
    Runs { start: String },
    Zombie,
    Unreadable,
}

/// Whether `/proc` shows the process namespace of this process. A process in a namespace of
/// its own can see the `/proc` of the outer namespace, where its ids mean other processes.
fn proc_shows_our_namespace() -> bool {
    let id = fs::read_link("/proc/self").ok();
    let id = id.and_then(|id| id.to_str()?.parse::<u32>().ok());
    id == Some(std::process::id())
}

/// The state of a process according to `/proc`.
///
/// The file `stat` has the state of the main thread. If the main thread has ended, it is
/// shown as a zombie, although other threads may run.
fn status(id: &str) -> Status {
    let Some((state, start)) = stat(&format!("/proc/{id}/stat")) else {
        return Status::Unreadable;
    };
    if !is_end(&state) {
        return Status::Runs { start };
    }
    let threads = fs::read_dir(format!("/proc/{id}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let mut states = threads.filter_map(|thread| {
        let path = thread.path().join("stat");
        Some(stat(path.to_str()?)?.0)
    });
    if states.any(|state| !is_end(&state)) {
        Status::Runs { start }
    } else {
        Status::Zombie
    }
}

fn is_end(state: &str) -> bool {
    matches!(state, "Z" | "X" | "x")
}

/// The state and start time of a process or thread, from fields 3 and 22 of its `stat` file
/// (proc(5)). The start time is in clock ticks since boot. Field 2, the name, may contain any
/// character and ends at the last parenthesis.
fn stat(path: &str) -> Option<(String, String)> {
    let stat = fs::read_to_string(path).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    Some((fields.next()?.to_owned(), fields.nth(18)?.to_owned()))
}

/// The boot id, the network cards, and the process and time namespaces; `None` if one of them
/// is unknown.
///
/// The time namespace matters because start times are shown with the offset of the reader's
/// time namespace. The cards matter because virtual machines that are cloned while they run
/// have equal boot ids, but network cards with different addresses.
pub(super) fn host() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    // This thread is asked, because a main thread that has ended has no namespaces.
    let processes = fs::read_link("/proc/thread-self/ns/pid").ok()?;
    // Older kernels have no time namespaces.
    let time = fs::read_link("/proc/thread-self/ns/time").unwrap_or_default();
    Some(format!(
        "{}/{}/{}/{}",
        boot.trim(),
        cards(),
        processes.to_str()?,
        time.to_str()?
    ))
}

/// A hash of the addresses of the machine's network cards. Interfaces without a device, such
/// as those of containers, are left out because they come and go.
fn cards() -> String {
    let interfaces = fs::read_dir("/sys/class/net").into_iter().flatten();
    let paths = interfaces.filter_map(|interface| Some(interface.ok()?.path()));
    let paths = paths.filter(|path| path.join("device").exists());
    let addresses = paths.filter_map(|path| fs::read_to_string(path.join("address")).ok());
    let addresses: BTreeSet<_> = addresses.map(|text| text.trim().to_owned()).collect();
    let all = addresses.into_iter().collect::<Vec<_>>().join(",");
    // The addresses are hashed because the column is short.
    format!("{:016x}", hash(&all, ""))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::process::Identity;

    #[test]
    fn ended_process_is_gone_before_and_after_it_is_reaped() {
        let here = Identity::current();
        assert!(!here.is_gone(&here));
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let id = child.id();
        let stat = id.to_string();
        let Status::Runs { start } = status(&stat) else {
            panic!("the child does not run")
        };
        let other = Identity {
            host: here.host.clone(),
            process: format!("{id}:{start}").into(),
            host_name: "".into(),
        };
        assert!(!other.is_gone(&here));
        let earlier = Identity {
            host: here.host.clone(),
            process: format!("{id}:1").into(),
            ..other.clone()
        };
        assert!(earlier.is_gone(&here), "the id belongs to a later process");
        let unreadable = Identity {
            host: here.host.clone(),
            process: format!("{id}:").into(),
            ..other.clone()
        };
        assert!(!unreadable.is_gone(&here), "the start time is unknown");

        child.kill().unwrap();
        while !matches!(status(&stat), Status::Zombie) {
            std::thread::yield_now();
        }
        assert!(other.is_gone(&here), "a zombie");
        child.wait().unwrap();
        assert!(other.is_gone(&here), "reaped");
        let elsewhere = Identity {
            host: "elsewhere".into(),
            ..other
        };
        assert!(!elsewhere.is_gone(&here));
    }
}
