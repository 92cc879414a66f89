//! When to look whether other processes have released something.

use std::time::Duration;

use super::{
    time::Time,
    timers::{Timer, Timers},
};
use crate::store::ChangeSource;

/// The shortest and the longest pause between two looks at the row.
const LEAST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1);
/// The part of the time already waited by which the next look may be late.
const PART: u32 = 20;
/// The shortest and the longest pause between two looks at the change counter.
const LEAST_CHEAP: Duration = Duration::from_millis(1);
const LONGEST_CHEAP: Duration = Duration::from_millis(3);
/// How often to look where notifications arrive, because one may get lost.
const BEHIND_NOTIFICATIONS: Duration = Duration::from_secs(1);

/// When to look at the row, and when at the change counter of the database file.
#[derive(Debug, Default)]
pub(super) struct PollSchedule {
    last_counter: Option<i64>,
}

impl PollSchedule {
    /// Schedules the next look for a request that waits since `since`, the one that came
    /// last. `None`: no request waits.
    pub(super) fn schedule(
        since: Option<Time>,
        source: ChangeSource,
        timers: &mut Timers,
        rng: &mut fastrand::Rng,
        now: Time,
    ) {
        let Some(since) = since else {
            timers.stop(Timer::Poll);
            timers.stop(Timer::CheapPoll);
            return;
        };
        let part = (now - since) / PART;
        let pause = match source {
            ChangeSource::None => part.clamp(LEAST, LONGEST),
            ChangeSource::DataVersion | ChangeSource::Notifications | ChangeSource::Reports => {
                BEHIND_NOTIFICATIONS
            }
        };
        let next = now + pause.mul_f64(0.9 + rng.f64() / 10.0);
        timers.set_no_later(Timer::Poll, next);
        if source != ChangeSource::DataVersion {
            timers.stop(Timer::CheapPoll);
        } else if !timers.is_set(Timer::CheapPoll) {
            let pause = part.clamp(LEAST_CHEAP, LONGEST_CHEAP);
            timers.set(Timer::CheapPoll, now + pause);
        }
    }

    /// Whether the change counter says that another connection wrote since the last look.
    pub(super) fn has_changed(&mut self, counter: Option<i64>) -> bool {
        let changed = counter != self.last_counter;
        self.last_counter = counter;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// The pauses that are scheduled for a request that has waited for this long.
    fn pauses(waited: Duration, source: ChangeSource) -> (Duration, Option<Duration>) {
        let since = Time::new(ms(77));
        let now = since + waited;
        let mut timers = Timers::default();
        let mut rng = fastrand::Rng::with_seed(7);
        PollSchedule::schedule(Some(since), source, &mut timers, &mut rng, now);
        let poll = timers.get(Timer::Poll).expect("a request waits");
        let cheap = timers.get(Timer::CheapPoll);
        (poll - now, cheap.map(|cheap| cheap - now))
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
        for (waited, most) in cases {
            let (pause, cheap) = pauses(ms(waited), ChangeSource::None);
            let range = ms(most) * 9 / 10..=ms(most);
            assert!(range.contains(&pause), "{waited}: {pause:?}");
            assert_eq!(cheap, None);
        }
    }

    #[test]
    fn the_row_is_looked_at_once_a_second_where_changes_are_told() {
        for waited in [0, 600_000] {
            for source in [
                ChangeSource::DataVersion,
                ChangeSource::Notifications,
                ChangeSource::Reports,
            ] {
                let (pause, _) = pauses(ms(waited), source);
                assert!((ms(900)..=ms(1_000)).contains(&pause), "{pause:?}");
            }
        }
        let cheap = |waited| pauses(ms(waited), ChangeSource::DataVersion).1;
        assert_eq!(cheap(0), Some(ms(1)));
        assert_eq!(cheap(40), Some(ms(2)));
        assert_eq!(cheap(600_000), Some(ms(3)));
        for source in [ChangeSource::Notifications, ChangeSource::Reports] {
            assert_eq!(pauses(ms(9), source).1, None);
        }
    }

    #[test]
    fn a_look_that_is_due_earlier_stays_and_nothing_is_due_for_nobody() {
        let now = Time::new(ms(10));
        let (mut timers, mut rng) = (Timers::default(), fastrand::Rng::with_seed(1));
        let source = ChangeSource::DataVersion;
        timers.set(Timer::Poll, now);
        timers.set(Timer::CheapPoll, now);
        PollSchedule::schedule(Some(now), source, &mut timers, &mut rng, now);
        assert_eq!(timers.get(Timer::Poll), Some(now));
        assert_eq!(timers.get(Timer::CheapPoll), Some(now));
        PollSchedule::schedule(None, source, &mut timers, &mut rng, now);
        assert_eq!(timers.next_query(), None);
    }

    #[test]
    fn the_counter_is_compared_with_the_last_one() {
        let mut poll = PollSchedule::default();
        assert!(poll.has_changed(Some(1)));
        assert!(!poll.has_changed(Some(1)));
        assert!(poll.has_changed(Some(2)));
        assert!(poll.has_changed(None));
        assert!(!poll.has_changed(None));
    }
}
