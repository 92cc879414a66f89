//! When to look whether others have released something.

use std::time::{Duration, Instant};

use super::signal::Signal;

/// The shortest and the longest pause between two looks.
const LEAST: Duration = Duration::from_millis(5);
const MOST: Duration = Duration::from_secs(1);
/// The part of the time already waited that the next look may be late.
const PART: u32 = 20;
/// The same for the number that says whether anybody wrote at all.
const LEAST_CHEAP: Duration = Duration::from_millis(1);
const MOST_CHEAP: Duration = Duration::from_millis(3);
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
        let part = now.duration_since(since) / PART;
        let pause = match signal {
            Signal::None => part.clamp(LEAST, MOST),
            Signal::DataVersion | Signal::Notifications => BEHIND_NOTIFICATIONS,
        };
        let next = now + pause.mul_f64(0.9 + fastrand::f64() / 10.0);
        self.due = Some(self.due.map_or(next, |due| due.min(next)));
        if signal == Signal::DataVersion && self.cheap_due.is_none() {
            self.cheap_due = Some(now + part.clamp(LEAST_CHEAP, MOST_CHEAP));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The pause that is planned for somebody who has waited for so long.
    fn pause(waited: Duration, signal: Signal) -> Duration {
        let since = Instant::now();
        let now = since + waited;
        let mut poll = Poll::default();
        poll.plan(Some(since), signal, now);
        poll.due().expect("somebody waits") - now
    }

    #[test]
    fn looks_come_within_a_twentieth_of_the_time_waited() {
        let cases = [
            (0, 5),
            (50, 5),
            (200, 10),
            (1_000, 50),
            (10_000, 500),
            (20_000, 1_000),
            (600_000, 1_000),
        ];
        for (waited, most) in
            cases.map(|(w, m)| (Duration::from_millis(w), Duration::from_millis(m)))
        {
            for _ in 0..20 {
                let pause = pause(waited, Signal::None);
                assert!(
                    most * 3 / 4 <= pause && pause <= most,
                    "{waited:?}: {pause:?}"
                );
            }
        }
    }

    #[test]
    fn a_slow_look_stays_behind_every_signal() {
        for signal in [Signal::DataVersion, Signal::Notifications] {
            for waited in [Duration::ZERO, Duration::from_secs(100)] {
                assert!(
                    pause(waited, signal) <= Duration::from_secs(1),
                    "{signal:?}"
                );
            }
        }
    }

    #[test]
    fn the_number_is_asked_for_every_few_milliseconds() {
        for (waited, pause) in [(0, 1), (20, 1), (40, 2), (60, 3), (60_000, 3)] {
            let since = Instant::now();
            let now = since + Duration::from_millis(waited);
            let mut poll = Poll::default();
            poll.plan(Some(since), Signal::DataVersion, now);
            let pause = Duration::from_millis(pause);
            assert_eq!(poll.cheap_due(), Some(now + pause), "{waited}");
        }
    }

    #[test]
    fn nobody_who_waits_means_no_look() {
        let now = Instant::now();
        let mut poll = Poll::default();
        poll.plan(Some(now), Signal::DataVersion, now);
        assert!(poll.due().is_some() && poll.cheap_due().is_some());
        poll.plan(None, Signal::DataVersion, now);
        assert_eq!((poll.due(), poll.cheap_due()), (None, None));
    }

    #[test]
    fn a_look_is_never_put_off() {
        let start = Instant::now();
        let mut poll = Poll::default();
        poll.plan(Some(start), Signal::None, start);
        let due = poll.due();
        for later in 1..100 {
            poll.plan(
                Some(start),
                Signal::None,
                start + Duration::from_secs(later),
            );
        }
        assert_eq!(poll.due(), due);
        poll.wake(start);
        assert_eq!(poll.due(), Some(start));
    }

    #[test]
    fn a_number_tells_once_that_it_is_another() {
        let mut poll = Poll::default();
        let seen = [Some(1), Some(1), Some(2), Some(2)].map(|number| poll.moved(number));
        assert_eq!(seen, [true, false, true, false]);
    }
}
