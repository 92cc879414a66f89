//! What the processes of a world have in common, for each seed.

use std::time::Duration;

use super::{
    engine::{ENGINES, Engine},
    schedule::ProcessId,
};
use crate::{
    matrix::ConflictMatrix,
    options::{Durability, Evidence, Fairness},
    protocol::Mechanisms,
};

/// By how much wall clocks are behind, in microseconds.
const BEHIND: i64 = 10_000_000_000;

/// The matrix with limits.
const LIMITED: ConflictMatrix =
    ConflictMatrix::platform().limits(&[("app_*", 2), ("app_task_*", 1), ("mail_restart", 1)]);

/// What the processes of a world have in common.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Setup {
    pub(super) seed: u64,
    pub(super) engine: Engine,
    pub(super) processes: usize,
    pub(super) namespaces: usize,
    pub(super) ttl: Option<Duration>,
    pub(super) fairness: Fairness,
    pub(super) evidence: Evidence,
    pub(super) queue_limit: usize,
    pub(super) mechanisms: Mechanisms,
    /// Whether the rows exist at the start.
    pub(super) warm: bool,
    /// Whether the processes' wall clocks are behind, so that versions count writes.
    pub(super) clocks_behind: bool,
    /// Whether the database cannot store one of the names.
    pub(super) rejects_names: bool,
    /// Whether the last process has a matrix of its own.
    pub(super) mixed_matrices: bool,
    /// Whether the locks of the first process never expire.
    pub(super) first_is_permanent: bool,
    /// Whether the table for submissions is there.
    pub(super) turns: bool,
    /// Whether a power loss can undo commits.
    pub(super) loses_power: bool,
    /// Whether the matrix has limits.
    pub(super) limited: bool,
}

impl Setup {
    pub(super) fn matrix_of(&self, p: ProcessId) -> ConflictMatrix {
        if self.mixed_matrices && p + 1 == self.processes {
            ConflictMatrix::exclusive()
        } else if self.limited {
            LIMITED
        } else {
            ConflictMatrix::platform()
        }
    }

    /// The ttl of a process's sessions; `None`: its locks never expire.
    pub(super) fn ttl_of(&self, p: ProcessId) -> Option<Duration> {
        self.ttl.filter(|_| p > 0 || !self.first_is_permanent)
    }

    /// What the program of a process has chosen.
    pub(super) fn durability_of(&self, p: ProcessId) -> Durability {
        if p == 2 && self.seed.is_multiple_of(2) {
            Durability::Full
        } else {
            Durability::Normal
        }
    }

    /// What the processes' wall clocks are ahead of the database's, in microseconds.
    pub(super) fn wall_offset(&self) -> i64 {
        if self.clocks_behind { -BEHIND } else { 0 }
    }
}

/// The setup of a seed.
pub(super) fn setup(seed: u64) -> Setup {
    let mut rng = fastrand::Rng::with_seed(seed);
    let ttls = [600, 2_000, 5_000].map(Duration::from_millis);
    let one_of = |rng: &mut fastrand::Rng, n: u32| rng.u32(..n) == 0;
    let mut mechanisms = Mechanisms::default();
    if one_of(&mut rng, 3) {
        mechanisms.deferral = rng.bool();
        mechanisms.group_commit = rng.bool();
        mechanisms.row_lock = rng.bool();
        mechanisms.reread = rng.bool();
        mechanisms.yielding = rng.bool();
    }
    mechanisms.hand_over = seed % 6 != 4;
    let engine = ENGINES[rng.usize(..ENGINES.len())];
    Setup {
        seed,
        engine,
        processes: [2, 2, 3, 3, 4, 5][rng.usize(..6)],
        namespaces: if one_of(&mut rng, 4) { 2 } else { 1 },
        ttl: (!one_of(&mut rng, 10)).then(|| ttls[rng.usize(..3)]),
        fairness: if one_of(&mut rng, 8) {
            Fairness::Barging
        } else {
            Fairness::InTurn
        },
        evidence: if rng.bool() {
            Evidence::Process
        } else {
            Evidence::Time
        },
        queue_limit: if one_of(&mut rng, 10) { 2 } else { 1_000 },
        mechanisms,
        warm: rng.u32(..6) > 0,
        clocks_behind: one_of(&mut rng, 4),
        mixed_matrices: one_of(&mut rng, 10),
        rejects_names: one_of(&mut rng, 4),
        first_is_permanent: false,
        turns: !seed.is_multiple_of(4),
        // The engine that has one writer is a file.
        loses_power: engine.one_writer && rng.bool(),
        limited: seed % 7 == 3,
    }
}
