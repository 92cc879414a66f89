//! The clocks of this process.

use std::time::{Duration, Instant, SystemTime};

use crate::protocol::{Now, Time};

/// The start of the monotonic clock, from which the protocol's times are counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(super) fn now(self) -> Now {
        Now {
            monotonic: Time::new(self.start.elapsed()),
            boot: boot_time(),
            wall: wall_micros(),
        }
    }

    /// The point of the monotonic clock.
    pub(super) fn instant(self, time: Time) -> Instant {
        let far = Duration::from_hours(24);
        let since_start = time.since_start();
        let limit = self.start.elapsed().saturating_add(far);
        self.start + since_start.min(limit)
    }
}

/// The time since boot, on a clock that goes on while the machine sleeps, unlike
/// [`Instant`] on Linux.
#[cfg(unix)]
pub(super) fn boot_time() -> Time {
    use rustix::time::{ClockId, clock_gettime};

    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = ClockId::Boottime;
    // On macOS this clock goes on during sleep.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = ClockId::Monotonic;
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Time::new(Duration::new(seconds, nanos))
}

/// The time since the first call, on a clock that goes on while the machine sleeps: on Windows,
/// [`Instant`] is `QueryPerformanceCounter`, which does.
#[cfg(not(unix))]
pub(super) fn boot_time() -> Time {
    static FIRST: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    Time::new(FIRST.get_or_init(Instant::now).elapsed())
}

/// Microseconds since 1970.
fn wall_micros() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(0))
}
