//! The identity of a process, and whether a process of this machine has ended.

#![allow(
    clippy::disallowed_methods,
    reason = "it reads the process table for the driver"
)]

use std::{collections::BTreeSet, fs, sync::Arc};

use rustix::process::{Pid, test_kill_process};

use crate::matrix::hash;

/// Identifies a process to other processes of its machine, which can then tell whether it has
/// ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The boot of the machine, its network cards, and the process and time namespaces. Two
    /// processes with equal hosts see each other's ids and start times. It is empty if a part
    /// is unknown; such a process is never considered ended.
    pub(crate) host: Arc<str>,
    /// The process id and the start time.
    pub(crate) process: Arc<str>,
    /// The name of the machine, for display only. It is empty if it is unknown.
    pub(crate) host_name: Arc<str>,
}

impl Identity {
    /// This process.
    pub(crate) fn current() -> Self {
        let started = match status("self") {
            Status::Runs { start } => start,
            Status::Zombie | Status::Unreadable => String::new(),
        };
        Self {
            host: host().unwrap_or_default().into(),
            process: format!("{}:{started}", std::process::id()).into(),
            host_name: host_name().into(),
        }
    }

    /// The identity whose texts are in the columns of a session.
    pub(crate) fn from_columns(host: &str, process: &str) -> Self {
        let (host, host_name) = host.split_once(' ').unwrap_or((host, ""));
        Self {
            host: host.into(),
            process: process.into(),
            host_name: host_name.into(),
        }
    }

    /// The text of the column `host`: the host, a space and the host's name. Sessions of version
    /// 0.1 have no name.
    pub(crate) fn host_column(&self) -> String {
        match &*self.host_name {
            "" => self.host.to_string(),
            name => format!("{} {name}", self.host),
        }
    }

    /// The process id.
    pub(crate) fn id(&self) -> Option<u32> {
        let (id, _) = self.process.split_once(':')?;
        id.parse().ok()
    }

    /// The boot of the machine, in 16 characters.
    pub(crate) fn boot(&self) -> Option<Arc<str>> {
        let (boot, _) = self.host.split_once('/')?;
        Some(format!("{:016x}", hash(boot, "")).into())
    }

    /// Whether this process runs on the machine of `here`, whose process table shows it.
    pub(crate) fn is_neighbour_of(&self, here: &Self) -> bool {
        !self.host.is_empty() && self.host == here.host
    }

    /// Whether this process is known to have ended. `here` is the observing process. The
    /// answer is `false` if the two run on different hosts or if the state is unknown.
    pub(crate) fn is_gone(&self, here: &Self) -> bool {
        if !self.is_neighbour_of(here) {
            return false;
        }
        let Some((id, started)) = self.process.split_once(':') else {
            return false;
        };
        let Ok(id) = id.parse::<u32>() else {
            return false;
        };
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
}

/// The name of this machine: at most 64 ASCII letters, digits, dots, hyphens and underscores.
pub(crate) fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    let allowed = |c: &char| c.is_ascii_alphanumeric() || ".-_".contains(*c);
    name.chars().filter(allowed).take(64).collect()
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
    if !has_ended(&state) {
        return Status::Runs { start };
    }
    let threads = fs::read_dir(format!("/proc/{id}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let mut states = threads.filter_map(|thread| {
        let path = thread.path().join("stat");
        Some(stat(path.to_str()?)?.0)
    });
    if states.any(|state| !has_ended(&state)) {
        Status::Runs { start }
    } else {
        Status::Zombie
    }
}

fn has_ended(state: &str) -> bool {
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
fn host() -> Option<String> {
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

    #[test]
    fn columns_have_the_name_of_the_host() {
        let here = Identity::current();
        let column = here.host_column();
        assert!(column.len() < 255, "{column}");
        let read = Identity::from_columns(&column, &here.process);
        assert_eq!(read, here);
        assert_eq!(read.id(), Some(std::process::id()));
        let earlier = Identity::from_columns(&here.host, "7:1");
        assert_eq!((&*earlier.host_name, earlier.id()), ("", Some(7)));
        assert!(earlier.is_neighbour_of(&here));
        let unknown = Identity::from_columns(" name", "");
        assert_eq!((&*unknown.host, unknown.id()), ("", None));
    }

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
