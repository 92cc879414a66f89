//! A clock shared by all processes of the machine.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Microseconds since the machine was started.
pub fn micros() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let time = Duration::new(
        u64::try_from(time.tv_sec).expect("it was started before"),
        u32::try_from(time.tv_nsec).expect("less than a second"),
    );
    u64::try_from(time.as_micros()).expect("some years")
}

/// The median of these times, and the longest of them.
pub fn median_and_longest(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() - 1])
}
