//! Pauses after conflicts and failures, random so that processes come apart.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// How long to leave the database alone.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    until: Option<Instant>,
    conflicts: Option<ExponentialBackoff>,
    failures: Option<ExponentialBackoff>,
}

impl Backoff {
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    pub(super) fn pause(&mut self, now: Instant, pause: Duration) {
        self.until = Some(now + pause);
    }

    /// Somebody else wrote first.
    pub(super) fn conflict(&mut self, now: Instant) {
        let (least, most) = (Duration::from_micros(200), Duration::from_millis(5));
        let pause = next(&mut self.conflicts, least, most);
        self.pause(now, pause.mul_f64(fastrand::f64()));
    }

    /// The database did not do it.
    pub(super) fn failure(&mut self, now: Instant) {
        let (least, most) = (Duration::from_millis(10), Duration::from_millis(500));
        let pause = next(&mut self.failures, least, most);
        self.pause(now, pause);
    }

    /// The database answers; whether others write first is another matter.
    pub(super) fn answered(&mut self) {
        self.failures = None;
        self.until = None;
    }

    /// Whether others wrote first, the last time.
    pub(super) fn is_contended(&self) -> bool {
        self.conflicts.is_some()
    }

    /// It worked.
    pub(super) fn success(&mut self) {
        *self = Self::default();
    }
}

fn next(pauses: &mut Option<ExponentialBackoff>, least: Duration, most: Duration) -> Duration {
    let pauses = pauses.get_or_insert_with(|| {
        ExponentialBuilder::default()
            .with_min_delay(least)
            .with_max_delay(most)
            .with_jitter()
            .without_max_times()
            .build()
    });
    pauses.next().unwrap_or(most)
}
