//! When to look whether others have released something.

use std::time::{Duration, Instant};

use super::signal::Signal;

/// The shortest and the longest pause between two looks.
const LEAST: Duration = Duration::from_millis(5);
const MOST: Duration = Duration::from_secs(1);
/// The part of the time already waited that the next look may be late.
const PART: u32 = 20;
/// How often the number is asked for that says whether anybody wrote at all.
const CHEAP: Duration = Duration::from_millis(3);
/// How often to look behind notifications, which may get lost.
const BEHIND_NOTIFICATIONS: Duration = Duration::from_secs(1);

/// When to look at the row, and when to ask the cheap number.
#[derive(Debug, Default)]
pub(super) struct Poll {
    due: Option<Instant>,
    cheap_due: Option<Instant>,
    last_number: Option<i64>,
}

impl Poll {
    /// Plans the next look for somebody who waits since `since`, the latest to come.
    pub(super) fn plan(&mut self, since: Option<Instant>, signal: Signal, now: Instant) {
        let Some(since) = since else {
            *self = Self::default();
            return;
        };
        let pause = match signal {
            Signal::None => (now.duration_since(since) / PART).clamp(LEAST, MOST),
            Signal::DataVersion | Signal::Notifications => BEHIND_NOTIFICATIONS,
        };
        let next = now + pause.mul_f64(0.75 + fastrand::f64() / 4.0);
        self.due = Some(self.due.map_or(next, |due| due.min(next)));
        if signal == Signal::DataVersion && self.cheap_due.is_none() {
            self.cheap_due = Some(now + CHEAP);
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn cheap_due(&self) -> Option<Instant> {
        self.cheap_due
    }

    /// It is being looked; the next look is planned afterwards.
    pub(super) fn looked(&mut self) {
        self.due = None;
    }

    pub(super) fn asked(&mut self) {
        self.cheap_due = None;
    }

    /// Something may have changed: look now.
    pub(super) fn wake(&mut self, now: Instant) {
        self.due = Some(now);
    }

    /// Whether the number says that somebody wrote since it was last asked for.
    pub(super) fn moved(&mut self, number: Option<i64>) -> bool {
        let moved = number != self.last_number;
        self.last_number = number;
        moved
    }
}
