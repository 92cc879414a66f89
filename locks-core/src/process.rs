//! The identity of a process, and whether a process of this machine has ended.
//!
//! Only Linux has a process table that can be read here. On other systems the host of every
//! process is empty, so that no process is ever known to have ended: its session expires.

use std::sync::Arc;

use crate::matrix::hash;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod table;

/// No process table.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod table {
    pub(super) fn host() -> Option<String> {
        None
    }

    pub(super) fn own_start() -> String {
        String::new()
    }

    pub(super) fn has_ended(_: u32, _: &str) -> bool {
        false
    }
}

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
        let started = table::own_start();
        Self {
            host: table::host().unwrap_or_default().into(),
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
        id.parse().is_ok_and(|id| table::has_ended(id, started))
    }
}

/// The name of this machine: at most 64 ASCII letters, digits, dots, hyphens and underscores.
pub(crate) fn host_name() -> String {
    let name = full_host_name();
    let allowed = |c: &char| c.is_ascii_alphanumeric() || ".-_".contains(*c);
    name.chars().filter(allowed).take(64).collect()
}

#[cfg(unix)]
fn full_host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// Windows sets this variable for every process.
#[cfg(not(unix))]
fn full_host_name() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "host".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_of_an_unknown_host_is_never_gone() {
        let gone = Identity {
            host: "".into(),
            // Above the largest id that Linux gives.
            process: "1999999999:1".into(),
            host_name: "".into(),
        };
        let here = Identity::current();
        assert!(!gone.is_gone(&gone));
        assert!(!gone.is_gone(&here) && !here.is_gone(&gone));
    }

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
        assert_eq!(earlier.is_neighbour_of(&here), !here.host.is_empty());
        let unknown = Identity::from_columns(" name", "");
        assert_eq!((&*unknown.host, unknown.id()), ("", None));
    }

    #[test]
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn without_a_process_table_no_process_is_ever_gone() {
        let here = Identity::current();
        assert_eq!((&*here.host, here.boot()), ("", None));
        let named = Identity {
            host: "a host/of/this/version".into(),
            process: "1999999999:1".into(),
            host_name: "".into(),
        };
        assert!(!named.is_gone(&named) && !named.is_gone(&here));
    }
}
