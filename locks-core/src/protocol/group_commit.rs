//! Whether a write waits a moment for more callers.
//!
//! A caller that the last write answered mostly calls again at once. A write that does not
//! wait for such callers leaves them to the next one, and splits them into groups that
//! alternate without end. The wait begins again with every caller that comes, up to the time
//! that a write takes.

use std::time::Duration;

use super::time::Time;

/// The part of a write's own time that the next write waits for a caller, and the most.
const PART: u32 = 8;
const LONGEST: Duration = Duration::from_micros(250);
/// How many writes at most do not wait, after waits in which no caller came.
const MOST_SKIPPED: u32 = 64;

/// The callers that the last write answered, and whether to wait for them.
#[derive(Debug, Default)]
pub(super) struct GroupCommit {
    answered: usize,
    /// How many of those have not come back.
    awaited: usize,
    /// When they were answered, by a write that took this long.
    since: Time,
    took: Duration,
    /// When the write in question begins, if no other caller comes.
    hold: Option<Time>,
    /// Writes that do not wait from now on.
    skip: u32,
    /// How many do not wait after the next wait in which no caller comes.
    penalty: u32,
}

impl GroupCommit {
    /// A write that took this long has answered callers.
    pub(super) fn on_answered(&mut self, answered: usize, took: Duration, now: Time) {
        self.hold = None;
        self.since = now;
        self.took = took;
        if self.skip > 0 {
            self.skip -= 1;
            self.answered = 0;
        } else {
            self.answered = answered;
        }
        self.awaited = self.answered;
    }

    /// A caller asks for something.
    pub(super) fn on_call(&mut self) {
        if self.awaited == 1 {
            self.penalty = 0;
        }
        self.awaited = self.awaited.saturating_sub(1);
        self.hold = None;
    }

    /// Until when a write that could begin now waits; `None`: it begins.
    pub(super) fn hold(&mut self, now: Time) -> Option<Time> {
        // A caller that does not come within the time of a write has something else to do.
        let last = self.since + self.took;
        if self.awaited > 0 && now < last {
            let next = (now + (self.took / PART).min(LONGEST)).min(last);
            let until = *self.hold.get_or_insert(next);
            if now < until {
                return Some(until);
            }
        }
        self.on_write();
        None
    }

    /// No write could begin now.
    pub(super) fn stop_waiting(&mut self) {
        self.hold = None;
    }

    /// The end of the wait that is under way.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.hold
    }

    fn on_write(&mut self) {
        self.hold = None;
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

    const TOOK: Duration = Duration::from_micros(800);
    const PATIENCE: Duration = Duration::from_micros(100);

    fn at(micros: u64) -> Time {
        Time::new(Duration::from_micros(micros))
    }

    #[test]
    fn a_write_waits_for_each_caller_anew_up_to_the_time_of_a_write() {
        let mut group = GroupCommit::default();
        assert_eq!(group.hold(at(0)), None, "none was answered");
        group.on_answered(20, TOOK, at(0));
        assert_eq!(group.hold(at(0)), Some(at(100)));
        assert_eq!(group.hold(at(60)), Some(at(100)), "none came");
        assert_eq!(group.poll_timeout(), Some(at(100)));
        for call in 1..10 {
            group.on_call();
            let now = at(80 * call);
            let until = (now + PATIENCE).min(at(800));
            assert_eq!(group.hold(now), Some(until).filter(|until| now < *until));
        }
        group.on_call();
        assert_eq!(group.hold(at(800)), None, "as long as a write");
        assert_eq!(group.poll_timeout(), None);
    }

    #[test]
    fn a_write_begins_when_all_have_come() {
        let mut group = GroupCommit::default();
        group.on_answered(2, TOOK, at(0));
        group.on_call();
        assert!(group.hold(at(10)).is_some());
        group.on_call();
        assert_eq!(group.hold(at(20)), None);
    }

    #[test]
    fn a_wait_in_which_half_of_the_callers_come_was_worth_it() {
        for (calls, waits_again) in [(1, false), (2, true)] {
            let mut group = GroupCommit::default();
            group.on_answered(4, TOOK, at(0));
            for _ in 0..calls {
                group.on_call();
            }
            assert!(group.hold(at(0)).is_some());
            assert_eq!(group.hold(at(100)), None);
            group.on_answered(4, TOOK, at(1_000));
            assert_eq!(group.hold(at(1_000)).is_some(), waits_again, "{calls}");
        }
    }

    #[test]
    fn a_wait_in_which_most_callers_come_forgives_those_before() {
        let mut group = GroupCommit::default();
        // How many writes do not wait after one that so many callers have joined.
        let skipped = |calls| {
            group.on_answered(4, TOOK, at(0));
            for _ in 0..calls {
                group.on_call();
            }
            assert!(group.hold(at(0)).is_some());
            assert_eq!(group.hold(at(100)), None);
            std::mem::take(&mut group.skip)
        };
        assert_eq!([0, 1, 3, 0].map(skipped), [1, 2, 0, 1]);
    }

    #[test]
    fn a_wait_ends_when_there_is_nothing_to_write() {
        let mut group = GroupCommit::default();
        group.on_answered(2, TOOK, at(0));
        assert_eq!(group.hold(at(0)), Some(at(100)));
        group.stop_waiting();
        assert_eq!(group.poll_timeout(), None);
    }

    #[test]
    fn the_longest_wait_is_limited() {
        let mut group = GroupCommit::default();
        group.on_answered(1, Duration::from_secs(1), at(0));
        assert_eq!(group.hold(at(0)), Some(at(250)));
    }

    #[test]
    fn waits_in_which_none_comes_are_skipped_and_skipped_more_often() {
        let mut group = GroupCommit::default();
        let mut waits = Vec::new();
        for write in 0..300 {
            let start = at(write * 10_000);
            group.on_answered(4, TOOK, start);
            if group.hold(start).is_some() {
                waits.push(write);
                assert_eq!(group.hold(start + PATIENCE), None);
            }
        }
        assert_eq!(waits, [0, 2, 5, 10, 19, 36, 69, 134, 199, 264]);
        let start = at(300 * 10_000);
        for write in 0..64 {
            group.on_answered(1, TOOK, start);
            let held = group.hold(start).is_some();
            assert_eq!(held, write == 29, "{write}");
            if held {
                group.on_call();
                break;
            }
        }
        assert_eq!(group.hold(start), None);
        group.on_answered(1, TOOK, start);
        assert!(group.hold(start).is_some(), "a caller came: no more skips");
    }
}
