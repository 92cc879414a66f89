//! Whether to wait a moment before the next write, so that it carries more.
//!
//! Whom the last write answered mostly asks for something again at once. A write that
//! does not wait for them leaves them to the next one, and so splits everybody into
//! parties that take turns for ever; a moment's patience lets every write serve all. It
//! begins again with everybody who comes, up to the time that a write takes.

use std::time::{Duration, Instant};

/// The part of a write's own time that may be waited for company, and the most of it.
const PART: u32 = 8;
const MOST: Duration = Duration::from_micros(250);
/// How many writes at most go by without patience when nobody comes.
const MOST_SKIPPED: u32 = 64;

/// Whom the last write answered, and whether waiting for them was worth it.
#[derive(Debug, Default)]
pub(super) struct Gather {
    answered: usize,
    /// How many of those have not come back.
    awaited: usize,
    /// When they were answered, by a write that took so long.
    since: Option<Instant>,
    took: Duration,
    /// Writes to let go by before it is tried again.
    skip: u32,
    /// How many to let go by after the next vain try.
    penalty: u32,
}

impl Gather {
    /// A write that took so long has answered so many.
    pub(super) fn answered(&mut self, answered: usize, took: Duration, now: Instant) {
        self.answered = answered;
        self.awaited = answered;
        self.since = Some(now);
        self.took = took;
        if self.skip > 0 {
            self.skip -= 1;
            self.answered = 0;
            self.awaited = 0;
        }
    }

    /// Somebody asks for something.
    pub(super) fn came(&mut self) {
        if self.awaited == 1 {
            self.penalty = 0;
        }
        self.awaited = self.awaited.saturating_sub(1);
    }

    pub(super) fn awaits_any(&self) -> bool {
        self.awaited > 0
    }

    /// Until when the next write, which could begin now, waits for the next of them.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        // Who did not come within the time of a write has something else to do.
        let last = self.since? + self.took;
        (self.awaits_any() && now < last).then(|| (now + (self.took / PART).min(MOST)).min(last))
    }

    /// The next write begins.
    pub(super) fn begins(&mut self) {
        if self.awaited * 2 > self.answered {
            self.penalty = (self.penalty * 2).clamp(1, MOST_SKIPPED);
            self.skip = self.penalty;
        } else if self.answered > 0 {
            self.penalty = 0;
        }
        self.answered = 0;
        self.awaited = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Duration = Duration::from_millis(1);

    #[test]
    fn waits_for_a_part_of_a_write_while_they_come_back() {
        let mut gather = Gather::default();
        let now = Instant::now();
        assert_eq!(gather.until(now), None);
        for _ in 0..10 {
            gather.answered(2, WRITE, now);
            assert_eq!(gather.until(now), Some(now + WRITE / PART));
            gather.came();
            assert!(gather.until(now).is_some());
            gather.came();
            assert_eq!(gather.until(now), None);
            gather.begins();
        }
        gather.answered(2, WRITE * 100, now);
        assert_eq!(gather.until(now), Some(now + MOST));
        assert_eq!(gather.until(now + WRITE * 100), None);
    }

    #[test]
    fn gives_up_on_those_who_stay_away() {
        let mut gather = Gather::default();
        let now = Instant::now();
        let mut tries = 0;
        for _ in 0..1_000 {
            gather.answered(4, WRITE, now);
            gather.came();
            tries += u32::from(gather.until(now).is_some());
            gather.begins();
        }
        assert!(tries < 30, "{tries}");
    }
}
