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
}

impl Identity {
    /// This process.
    pub(crate) fn current() -> Self {
        let started = table::own_start();
        Self {
            host: table::host().unwrap_or_default().into(),
            process: format!("{}:{started}", std::process::id()).into(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_of_an_unknown_host_is_never_gone() {
        let gone = Identity {
            host: "".into(),
            // Above the largest id that Linux gives.
            process: "1999999999:1".into(),
        };
        let here = Identity::current();
        assert!(!gone.is_gone(&gone));
        assert!(!gone.is_gone(&here) && !here.is_gone(&gone));
    }

    #[test]
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn without_a_process_table_no_process_is_ever_gone() {
        let here = Identity::current();
        assert_eq!((&*here.host, here.boot()), ("", None));
        let named = Identity {
            host: "a host/of/this/version".into(),
            process: "1999999999:1".into(),
        };
        assert!(!named.is_gone(&named) && !named.is_gone(&here));
    }
}
