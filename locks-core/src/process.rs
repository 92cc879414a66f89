//! Which process this is, and whether another of the same machine is gone.

use std::{fs, sync::Arc};

use rustix::process::{Pid, test_kill_process};

/// A process, so that others on its machine can tell whether it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The machine since it booted, and the process namespace on it. Empty where
    /// neither can be told: such a process is never judged.
    pub(crate) host: Arc<str>,
    /// The process id, and when it started.
    pub(crate) process: Arc<str>,
}

impl Identity {
    /// This process.
    pub(crate) fn current() -> Self {
        let id = std::process::id();
        let started = match status(id) {
            Status::Runs { start } => start,
            Status::Zombie | Status::Unreadable => String::new(),
        };
        Self {
            host: host().unwrap_or_default().into(),
            process: format!("{id}:{started}").into(),
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
        match status(id) {
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

/// What `/proc/<id>/stat` says (proc(5)): field 3 is the state, field 22 the start in
/// clock ticks since boot. Field 2, the name, may contain anything but ends at the
/// last parenthesis.
fn status(id: u32) -> Status {
    let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else {
        return Status::Unreadable;
    };
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return Status::Unreadable;
    };
    let mut fields = rest.split_ascii_whitespace();
    match (fields.next(), fields.nth(18)) {
        (Some("Z" | "X" | "x"), _) => Status::Zombie,
        (Some(_), Some(ticks)) => Status::Runs {
            start: ticks.to_owned(),
        },
        _ => Status::Unreadable,
    }
}

/// The boot id and the process namespace; both, or nothing can be compared.
fn host() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{}/{}", boot.trim(), namespace.to_str()?))
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
        let Status::Runs { start } = status(id) else {
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
        while !matches!(status(id), Status::Zombie) {
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
