//! How the driver's thread waits: by spinning for a moment, then asleep.
//!
//! A thread that sleeps wakes up some ten microseconds late, twice per write: when the
//! database has answered, and when a caller asks for something. Compared with a write of a few
//! hundred microseconds that is much. Therefore the thread spins while a short write is in
//! flight, and for a moment after it has answered a caller, which often calls again at once. It
//! yields the processor after each turn. It sleeps while writes are slow or are lost to other
//! processes, because then the wake-up is a small part of the time. It also sleeps while other
//! threads want the processor, which shows when it does not get the processor back at once.

use std::{
    cell::Cell,
    thread,
    time::{Duration, Instant},
};

use tokio::{task, time};

/// The longest write that is waited for by spinning.
const WRITE: Duration = Duration::from_millis(1);
/// Timers fire up to this much too late.
const TIMER: Duration = Duration::from_micros(500);
/// How long to spin for callers that were answered.
const ANSWERED: Duration = Duration::from_micros(100);

/// A thread that has yielded for longer than this has let another thread run.
const YIELD: Duration = Duration::from_micros(300);
/// How long not to spin after that.
const BUSY: Duration = Duration::from_millis(100);

/// Until when to spin.
#[derive(Debug)]
pub(super) struct Spin {
    /// Whether other threads can run while this one spins, and spinning is on.
    possible: bool,
    /// What the last write took; `None` if it was lost to another process.
    took: Option<Duration>,
    until: Option<Instant>,
    /// Until when the processors count as busy.
    busy_until: Cell<Option<Instant>>,
}

impl Spin {
    pub(super) fn new(on: bool) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            possible: on && processors > 1,
            took: None,
            until: None,
            busy_until: Cell::new(None),
        }
    }

    pub(super) fn is_possible(&self) -> bool {
        self.possible
    }

    /// A write begins, or what comes before or after one.
    pub(super) fn on_sent(&mut self, now: Instant) {
        let short = self.took.is_some_and(|took| took <= WRITE);
        self.until = (self.can_spin(now) && short).then(|| now + WRITE);
    }

    /// Whether the thread may spin now.
    fn can_spin(&self, now: Instant) -> bool {
        self.possible && self.busy_until.get().is_none_or(|until| until <= now)
    }

    /// The thread has yielded the processor, and had it back after this time.
    fn on_yielded(&self, took: Duration, now: Instant) {
        if took > YIELD {
            self.busy_until.set(Some(now + BUSY));
        }
    }

    /// A write has succeeded. `answered` says whether a caller was answered.
    pub(super) fn on_written(&mut self, took: Duration, answered: bool, now: Instant) {
        let stay = self.can_spin(now) && took <= WRITE && answered;
        self.until = stay.then(|| now + ANSWERED);
        self.took = Some(took);
    }

    /// A write was lost to another process.
    pub(super) fn on_conflict(&mut self) {
        self.took = None;
        self.until = None;
    }

    /// Waits until `wake`: first by spinning, and to the end if `wake` is too near for a
    /// timer. Cancel safe.
    pub(super) async fn wait(&self, wake: Instant) {
        let mut now = Instant::now();
        let near = self.can_spin(now) && wake.saturating_duration_since(now) < TIMER;
        let until = if near { Some(wake) } else { self.until };
        while until.is_some_and(|until| now < wake.min(until)) && self.can_spin(now) {
            let before = Instant::now();
            thread::yield_now();
            now = Instant::now();
            self.on_yielded(now - before, now);
            task::yield_now().await;
        }
        time::sleep_until(wake.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin(possible: bool) -> Spin {
        Spin {
            possible,
            ..Spin::new(true)
        }
    }

    #[test]
    fn spins_for_short_writes_that_succeed() {
        let now = Instant::now();
        let mut spin = spin(true);
        spin.on_sent(now);
        assert_eq!(spin.until, None, "it is not known how long a write takes");
        spin.on_written(WRITE, true, now);
        assert_eq!(spin.until, Some(now + ANSWERED));
        spin.on_sent(now);
        assert_eq!(spin.until, Some(now + WRITE));
        spin.on_written(WRITE, false, now);
        assert_eq!(spin.until, None, "no caller was answered");
        spin.on_written(WRITE * 2, true, now);
        assert_eq!(spin.until, None);
        spin.on_sent(now);
        assert_eq!(spin.until, None, "writes are slow");
        spin.on_written(WRITE, true, now);
        spin.on_conflict();
        spin.on_sent(now);
        assert_eq!(spin.until, None, "other processes write as well");
    }

    #[test]
    fn sleeps_while_other_threads_want_the_processor() {
        let now = Instant::now();
        let mut spin = spin(true);
        spin.on_written(WRITE, true, now);
        spin.on_yielded(YIELD, now);
        spin.on_sent(now);
        assert_eq!(spin.until, Some(now + WRITE));
        spin.on_yielded(YIELD * 2, now);
        spin.on_sent(now);
        assert_eq!(spin.until, None);
        spin.on_written(WRITE, true, now + BUSY / 2);
        assert_eq!(spin.until, None);
        spin.on_sent(now + BUSY);
        assert_eq!(spin.until, Some(now + BUSY + WRITE));
    }

    #[test]
    fn sleeps_where_no_other_thread_can_run() {
        let now = Instant::now();
        let mut spin = spin(false);
        spin.on_written(WRITE, true, now);
        assert_eq!(spin.until, None);
        spin.on_sent(now);
        assert_eq!(spin.until, None);
        assert!(!Spin::new(false).possible);
    }
}
