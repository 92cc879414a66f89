//! The pauses before a statement is run again because another connection writes the file.
//!
//! A write of the locks takes some 50 µs, and SQLite has no queue for writers. Pauses that are
//! much longer than a write leave the file unused; if many connections make pauses that are not
//! longer, they keep the processors busy with vain attempts. So the pause of a connection grows
//! while its statements need many attempts, and shrinks while they need none. It depends on
//! how contended the file is, and not on how long this statement has waited: the connections
//! that wait have equal chances.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_micros(50);
const LONGEST: Duration = Duration::from_millis(5);
/// A statement that needs more attempts than this makes the pause longer.
const MANY: u32 = 4;

/// The pauses of one connection.
#[derive(Debug)]
pub(super) struct BusyPauses {
    pause: Duration,
    rng: fastrand::Rng,
}

impl BusyPauses {
    /// The seed must differ between connections.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            pause: SHORTEST,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// The pause after a statement has found the file busy this many times.
    pub(super) fn next(&mut self, attempts: u32) -> Duration {
        if attempts.is_multiple_of(MANY) {
            self.pause = (self.pause * 2).min(LONGEST);
        }
        // Connections that wait for one write must not come back at one moment.
        self.pause.mul_f64(0.5 + self.rng.f64())
    }

    /// A statement was run after so many attempts that found the file busy.
    pub(super) fn on_done(&mut self, attempts: u32) {
        if attempts < 2 {
            self.pause = (self.pause * 3 / 4).max(SHORTEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_contention_and_shrink_without() {
        let mut pauses = BusyPauses::new(1);
        let range = |pause: Duration| pause.mul_f64(0.5)..pause.mul_f64(1.5);
        for attempts in 1..MANY {
            assert!(range(SHORTEST).contains(&pauses.next(attempts)));
        }
        assert!(range(2 * SHORTEST).contains(&pauses.next(MANY)));
        for attempts in 1..200 {
            assert!(pauses.next(attempts) < 2 * LONGEST);
        }
        assert!(range(LONGEST).contains(&pauses.next(1)));
        pauses.on_done(3);
        assert!(range(LONGEST).contains(&pauses.next(1)), "it is contended");
        for _ in 0..40 {
            pauses.on_done(0);
        }
        assert!(range(SHORTEST).contains(&pauses.next(1)));
    }
}
