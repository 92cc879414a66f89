//! How the driver waits: by looking again and again for a moment, then asleep.
//!
//! A thread that sleeps is woken some ten microseconds late, twice per write: when the
//! database has answered, and when somebody asks for something. Beside a write of a few
//! hundred microseconds that is a lot. So the driver keeps looking while a write is under
//! way that will be done in a moment, and for a moment after it has answered somebody, who
//! often comes back at once. It lets others have the processor whenever it has looked in
//! vain, and sleeps while writes are slow or lost to others: then it is not the waking
//! that takes the time.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::{task, time};

/// The longest write that is waited for awake.
const WRITE: Duration = Duration::from_millis(1);
/// Timers go off that much too late.
const TIMER: Duration = Duration::from_micros(500);
/// How long to stay awake for those who were answered.
const ANSWERED: Duration = Duration::from_micros(100);

/// Until when to stay awake.
#[derive(Debug)]
pub(super) struct Awake {
    /// Whether anybody else can run meanwhile.
    possible: bool,
    /// What the last write took; nothing if it was in vain.
    took: Option<Duration>,
    until: Option<Instant>,
}

impl Awake {
    pub(super) fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            possible: processors > 1,
            took: None,
            until: None,
        }
    }

    /// A write begins, or what comes before or after one.
    pub(super) fn working(&mut self, now: Instant) {
        let short = self.took.is_some_and(|took| took <= WRITE);
        self.until = (self.possible && short).then(|| now + WRITE);
    }

    /// A write has succeeded, and answered so many.
    pub(super) fn wrote(&mut self, took: Duration, answered: usize, now: Instant) {
        let stay = self.possible && took <= WRITE && answered > 0;
        self.until = stay.then(|| now + ANSWERED);
        self.took = Some(took);
    }

    /// A write was in vain.
    pub(super) fn in_vain(&mut self) {
        self.took = None;
        self.until = None;
    }

    /// Waits until `wake`, awake at first, and to the end if that is too near for a timer.
    /// Cancel safe.
    pub(super) async fn wait(&self, wake: Instant) {
        let now = Instant::now();
        let near = self.possible && wake.saturating_duration_since(now) < TIMER;
        let until = if near { Some(wake) } else { self.until };
        let awake = |until| Instant::now() < wake.min(until);
        while until.is_some_and(awake) {
            thread::yield_now();
            task::yield_now().await;
        }
        time::sleep_until(wake.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_awake_for_short_writes_that_succeed() {
        let now = Instant::now();
        let mut awake = Awake {
            possible: true,
            ..Awake::new()
        };
        awake.working(now);
        assert_eq!(awake.until, None, "it is not known how long it takes");
        awake.wrote(WRITE, 1, now);
        assert_eq!(awake.until, Some(now + ANSWERED));
        awake.working(now);
        assert_eq!(awake.until, Some(now + WRITE));
        awake.wrote(WRITE, 0, now);
        assert_eq!(awake.until, None, "nobody was answered");
        awake.wrote(WRITE * 2, 1, now);
        assert_eq!(awake.until, None);
        awake.working(now);
        assert_eq!(awake.until, None, "writes are slow");
        awake.wrote(WRITE, 1, now);
        awake.in_vain();
        awake.working(now);
        assert_eq!(awake.until, None, "others write as well");
    }

    #[test]
    fn sleeps_where_nobody_else_could_run() {
        let now = Instant::now();
        let mut awake = Awake {
            possible: false,
            ..Awake::new()
        };
        awake.wrote(WRITE, 1, now);
        assert_eq!(awake.until, None);
        awake.working(now);
        assert_eq!(awake.until, None);
    }
}
