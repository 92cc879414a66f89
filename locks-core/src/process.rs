//! Which process this is, and whether another of the same machine is gone.

use std::{collections::BTreeSet, fs, sync::Arc};

use rustix::process::{Pid, test_kill_process};

use crate::matrix::hash;

/// A process, so that others on its machine can tell whether it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The machine since it booted, its network cards, and the process and time namespaces
    /// on it: processes of one host see each other's ids and start times. Empty where that
    /// cannot be told: such a process is never judged.
    pub(crate) host: Arc<str>,
    /// The process id, and when it started.
    pub(crate) process: Arc<str>,
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
        }
    }

    /// Whether this process has ended, as far as can be told on the machine of
    /// `here`: `false` where it runs elsewhere, or where nothing is known.
    pub(crate) fn is_gone(&self, here: &Self) -> bool {
        if self.host.is_empty() || self.host != here.host {
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
        if !proc_is_ours() {
            return false;
        }
        match status(&id.to_string()) {
            Status::Zombie => true,
            // Another process has the id now.
            Status::Runs { start } => !started.is_empty() && start != started,
            Status::Unreadable => false,
        }
    }
}

enum Status {
    Runs { start: String },
    Zombie,
    Unreadable,
}

/// Whether `/proc` shows the process namespace that we are in. A process may be in a
/// namespace of its own and see the `/proc` of the one around it, where its ids mean other
/// processes.
fn proc_is_ours() -> bool {
    let id = fs::read_link("/proc/self").ok();
    let id = id.and_then(|id| id.to_str()?.parse::<u32>().ok());
    id == Some(std::process::id())
}

/// What `/proc` says of a process.
///
/// The state of a process is that of its main thread: one that has ended is a zombie while
/// other threads run.
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

/// State and start of a process or thread (proc(5)): field 3 is the state, field 22 the
/// start in clock ticks since boot. Field 2, the name, may contain anything but ends at the
/// last parenthesis.
fn stat(path: &str) -> Option<(String, String)> {
    let stat = fs::read_to_string(path).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    Some((fields.next()?.to_owned(), fields.nth(18)?.to_owned()))
}

/// The boot id, the network cards, and the process and time namespaces; all of them, or
/// nothing can be compared.
///
/// Start times are shown with the offset of the reader's time namespace. Virtual machines
/// that were cloned while they ran have one boot id, and cards with addresses of their own.
fn host() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    // Of this thread: a main thread that has ended has no namespaces any more.
    let processes = fs::read_link("/proc/thread-self/ns/pid").ok()?;
    // Older kernels have one time for all.
    let time = fs::read_link("/proc/thread-self/ns/time").unwrap_or_default();
    Some(format!(
        "{}/{}/{}/{}",
        boot.trim(),
        cards(),
        processes.to_str()?,
        time.to_str()?
    ))
}

/// The addresses of the machine's own network cards. Interfaces without a device, such as
/// those of containers, come and go.
fn cards() -> String {
    let interfaces = fs::read_dir("/sys/class/net").into_iter().flatten();
    let paths = interfaces.filter_map(|interface| Some(interface.ok()?.path()));
    let paths = paths.filter(|path| path.join("device").exists());
    let addresses = paths.filter_map(|path| fs::read_to_string(path.join("address")).ok());
    let addresses: BTreeSet<_> = addresses.map(|text| text.trim().to_owned()).collect();
    let all = addresses.into_iter().collect::<Vec<_>>().join(",");
    // Some addresses are long, and the column is not.
    format!("{:016x}", hash(&all, ""))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_ended_is_gone_also_as_a_zombie() {
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
            panic!("a child that runs")
        };
        let other = Identity {
            host: here.host.clone(),
            process: format!("{id}:{start}").into(),
        };
        assert!(!other.is_gone(&here));
        let earlier = Identity {
            host: here.host.clone(),
            process: format!("{id}:1").into(),
        };
        assert!(earlier.is_gone(&here), "its id was used again");
        let unreadable = Identity {
            host: here.host.clone(),
            process: format!("{id}:").into(),
        };
        assert!(!unreadable.is_gone(&here), "its start is not known");

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
