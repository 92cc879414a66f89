//! The settings of a driver that its namespaces need.

use std::{sync::Arc, time::Duration};

use crate::{
    matrix::ConflictMatrix,
    options::{Durability, Evidence, Fairness},
    process::Identity,
};

/// The ttl of sessions that only wait, where what is held never expires.
const WAITERS_TTL: Duration = Duration::from_secs(15);

/// How many times within its ttl a session is renewed.
const RENEWALS: u32 = 3;

/// How many sessions, or namespaces, one statement may name: far below every engine's
/// limit for arguments, and few enough that a statement stays short.
pub(crate) const CHUNK: usize = 512;

/// The settings of a driver.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) matrix: ConflictMatrix,
    /// `None`: what is held never expires.
    pub(crate) ttl: Option<Duration>,
    pub(crate) fairness: Fairness,
    pub(crate) queue_limit: usize,
    pub(crate) process: Identity,
    pub(crate) evidence: Evidence,
    /// The mechanisms of the write schedule that are on.
    pub(crate) mechanisms: Mechanisms,
    /// Whether the engine can lock the row in order of arrival.
    pub(crate) row_lock: bool,
    /// Whether the engine has turns, and the table for submissions is there.
    pub(crate) turns: bool,
    /// How many fence rows a session has.
    pub(crate) fence_rows: usize,
    /// What writes survive, where the engine lets each of them choose.
    pub(crate) durability: Durability,
    /// The boot of this machine, if a restart can undo writes and the boot is known.
    pub(crate) boot: Option<Arc<str>>,
    /// Whether what is read has survived what the writes of this process must survive, whoever
    /// has written it.
    pub(crate) reads_durable: bool,
}

impl Config {
    /// The ttl of sessions that expire.
    pub(crate) fn session_ttl(&self) -> Duration {
        self.ttl.unwrap_or(WAITERS_TTL)
    }

    /// How often sessions are renewed.
    pub(crate) fn renewal_pause(&self) -> Duration {
        self.session_ttl() / RENEWALS
    }

    /// What the writes of this process must survive.
    pub(crate) fn durability(&self) -> Durability {
        // What never expires does not end with the machine.
        let may_be_undone = self.ttl.is_some() && self.boot.is_some();
        if may_be_undone {
            self.durability
        } else {
            Durability::Full
        }
    }

    /// Whether a process of this machine that has ended proves its sessions dead.
    pub(super) fn trusts_process_table(&self) -> bool {
        self.evidence == Evidence::Process
    }
}

/// The mechanisms that decide when a write begins. Each can be turned off, so that a
/// benchmark can measure what it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(crate) struct Mechanisms {
    /// A write waits a moment for the callers that the last one answered.
    pub(crate) group_commit: bool,
    /// After conflicts the row is read under its lock.
    pub(crate) row_lock: bool,
    /// After a conflict one process writes for all that wait for their turn.
    pub(crate) combining: bool,
    /// A cached row is read again before a write while other processes write as well.
    pub(crate) reread: bool,
    /// After a write the driver lets other processes write first.
    pub(crate) yielding: bool,
    /// Releases by drop and queue entries wait for another write to join.
    pub(crate) deferral: bool,
    /// A write that frees locks grants them to the requests of other processes in the queue.
    pub(crate) hand_over: bool,
    /// The driver's thread spins for a moment instead of sleeping.
    pub(crate) spin: bool,
}

impl Default for Mechanisms {
    fn default() -> Self {
        Self {
            group_commit: true,
            row_lock: true,
            combining: true,
            reread: true,
            yielding: true,
            deferral: true,
            hand_over: true,
            spin: true,
        }
    }
}

impl Mechanisms {
    /// Turns a mechanism off by its name, and says whether there is one of that name.
    pub(crate) fn turn_off(&mut self, name: &str) -> bool {
        let switch = match name {
            "group-commit" => &mut self.group_commit,
            "row-lock" => &mut self.row_lock,
            "combining" => &mut self.combining,
            "reread" => &mut self.reread,
            "yielding" => &mut self.yielding,
            "deferral" => &mut self.deferral,
            "hand-over" => &mut self.hand_over,
            "spin" => &mut self.spin,
            _ => return false,
        };
        *switch = false;
        true
    }
}

/// The name of a namespace.
pub(crate) type Name = Arc<str>;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Sessions expire after 12 s.
    pub(in crate::protocol) fn config() -> Config {
        Config {
            matrix: ConflictMatrix::platform(),
            ttl: Some(Duration::from_secs(12)),
            fairness: Fairness::InTurn,
            queue_limit: 100,
            process: Identity {
                host: "host".into(),
                process: "1:1".into(),
                host_name: "".into(),
            },
            evidence: Evidence::Process,
            mechanisms: Mechanisms::default(),
            row_lock: true,
            turns: true,
            fence_rows: 1,
            durability: Durability::default(),
            boot: None,
            reads_durable: true,
        }
    }

    #[test]
    fn a_session_is_renewed_three_times_within_its_ttl() {
        let mut config = config();
        assert_eq!(config.renewal_pause(), Duration::from_secs(4));
        config.ttl = None;
        assert_eq!(config.renewal_pause(), WAITERS_TTL / 3);
    }

    #[test]
    fn each_mechanism_is_turned_off_by_its_name_alone() {
        let names = [
            "group-commit",
            "row-lock",
            "combining",
            "reread",
            "yielding",
            "deferral",
            "hand-over",
            "spin",
        ];
        let on = |m: Mechanisms| {
            [
                m.group_commit,
                m.row_lock,
                m.combining,
                m.reread,
                m.yielding,
                m.deferral,
                m.hand_over,
                m.spin,
            ]
        };
        for (index, name) in names.into_iter().enumerate() {
            let mut mechanisms = Mechanisms::default();
            assert!(mechanisms.turn_off(name));
            let mut expected = [true; 8];
            expected[index] = false;
            assert_eq!(on(mechanisms), expected, "{name}");
        }
        let mut mechanisms = Mechanisms::default();
        assert!(!mechanisms.turn_off("unknown"));
        assert_eq!(mechanisms, Mechanisms::default());
    }
}
