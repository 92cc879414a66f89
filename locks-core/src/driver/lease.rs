//! How long a session's holder may trust it.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// A moment on a clock that also runs while the machine sleeps, unlike
/// [`std::time::Instant`] on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Further than any clock goes.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    pub(crate) fn now() -> Self {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let clock = ClockId::Boottime;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let clock = ClockId::Monotonic;
        let time = clock_gettime(clock);
        let nanos = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
        Self(u64::try_from(nanos).unwrap_or_default())
    }

    pub(crate) fn after(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// From `earlier` to this moment; nothing when it is not earlier.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A session's deadline, shared between the driver, which moves it, and the guards,
/// which look at it themselves: a process that was stopped for long must not have to
/// wait for its driver to learn that it is too late.
pub(crate) struct Lease {
    deadline: AtomicU64,
}

impl Lease {
    pub(crate) fn until(deadline: Moment) -> Self {
        Self {
            deadline: AtomicU64::new(deadline.0),
        }
    }

    pub(crate) fn deadline(&self) -> Moment {
        Moment(self.deadline.load(Ordering::Acquire))
    }

    /// Moves the deadline, unless it has passed already: a lease that ran out stays
    /// so, whatever a late answer says.
    pub(crate) fn extend(&self, deadline: Moment) {
        if !self.is_over() {
            self.deadline.store(deadline.0, Ordering::Release);
        }
    }

    /// Ends the lease now.
    pub(crate) fn end(&self) {
        self.deadline.store(0, Ordering::Release);
    }

    /// How long it still lasts; nothing when it never ends.
    pub(crate) fn left(&self) -> Option<Duration> {
        let deadline = self.deadline();
        (deadline != Moment::NEVER).then(|| deadline.since(Moment::now()))
    }

    pub(crate) fn is_over(&self) -> bool {
        Moment::now() >= self.deadline()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.deadline().since(Moment::now());
        f.debug_struct("Lease").field("left", &left).finish()
    }
}
