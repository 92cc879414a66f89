//! Time as the protocol sees it: values that the driver, or a simulator, hands in.

use std::{
    ops::{Add, Sub},
    time::Duration,
};

/// A point on one of a process's clocks, as the time since a fixed start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(Duration);

impl Time {
    pub(crate) const fn new(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// The time from `earlier` to this point; zero if this point comes first.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub(crate) const fn since_start(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    /// Saturates, so that a limit of [`Duration::MAX`] is never reached.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl Sub for Time {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// What the clocks of a process show at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// The monotonic clock. It stands still while the machine sleeps. All timers use it.
    pub(crate) monotonic: Time,
    /// The boot clock, which goes on while the machine sleeps. All leases use it.
    pub(crate) boot: Time,
    /// Microseconds since 1970 by the wall clock. Reports and version numbers use it;
    /// no decision does.
    pub(crate) wall: i64,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// So many milliseconds after the start of both clocks.
    pub(in crate::protocol) fn at(millis: u64) -> Now {
        let time = Time::new(Duration::from_millis(millis));
        Now {
            monotonic: time,
            boot: time,
            wall: 0,
        }
    }

    #[test]
    fn time_saturates() {
        let start = Time::default();
        let second = start + Duration::from_secs(1);
        assert_eq!(second - start, Duration::from_secs(1));
        assert_eq!(start - second, Duration::ZERO);
        assert_eq!(
            (second + Duration::MAX).since_start(),
            Duration::MAX,
            "no overflow"
        );
    }
}
