//! One table of deadlines.

use super::time::Time;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// A request times out.
    Request,
    /// A call fails with the last error of the database.
    Call,
    /// A lease ends, or the time of a grant is over.
    Lease,
    /// The processes of this machine are looked at.
    Processes,
    /// A task that failed is run again.
    RetryTask,
    /// A call is answered on a side connection.
    Aside,

    // The timers below let a query begin. They wait while a query is in flight.
    /// The pause after a conflict or a failure ends.
    Pause,
    /// The missing row is read again.
    MissingRow,
    /// A deferred release has to be written.
    Release,
    /// Deferred queue entries have to be written.
    Enqueue,
    /// The sessions of other processes are looked at.
    Peers,
    /// The version of the row is read.
    Poll,
    /// The change counter of the database file is read.
    CheapPoll,
    /// The sessions of the namespace are listed.
    Orphans,
}

impl Timer {
    const COUNT: usize = Self::Orphans as usize + 1;
    /// The first of those that let a query begin.
    const FIRST_QUERY: usize = Self::Pause as usize;
}

/// The deadlines of one namespace.
#[derive(Debug, Default)]
pub(super) struct Timers([Option<Time>; Timer::COUNT]);

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, at: Time) {
        self.0[timer as usize] = Some(at);
    }

    /// Sets the timer, unless it is set to an earlier point already.
    pub(super) fn set_no_later(&mut self, timer: Timer, at: Time) {
        let slot = &mut self.0[timer as usize];
        *slot = Some(slot.map_or(at, |before| before.min(at)));
    }

    pub(super) fn set_or_stop(&mut self, timer: Timer, at: Option<Time>) {
        self.0[timer as usize] = at;
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(super) fn get(&self, timer: Timer) -> Option<Time> {
        self.0[timer as usize]
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.get(timer).is_some()
    }

    /// Whether the timer is set and its time has come.
    pub(super) fn is_due(&self, timer: Timer, now: Time) -> bool {
        self.get(timer).is_some_and(|at| at <= now)
    }

    /// Stops the timer if its time has come, and says whether it had.
    pub(super) fn take_due(&mut self, timer: Timer, now: Time) -> bool {
        let due = self.is_due(timer, now);
        if due {
            self.stop(timer);
        }
        due
    }

    /// The next point at which something other than a query is due.
    pub(super) fn next_action(&self) -> Option<Time> {
        self.0[..Timer::FIRST_QUERY].iter().flatten().min().copied()
    }

    /// The next point at which a query may begin: never before the pauses end.
    pub(super) fn next_query(&self) -> Option<Time> {
        let next = self.0[Timer::FIRST_QUERY..].iter().flatten().min();
        let pauses = [Timer::Pause, Timer::MissingRow].map(|timer| self.get(timer));
        next.into_iter()
            .chain(pauses.iter().flatten())
            .max()
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(secs: u64) -> Time {
        Time::new(Duration::from_secs(secs))
    }

    #[test]
    fn a_timer_is_due_from_its_time_on_until_it_is_stopped() {
        let mut timers = Timers::default();
        assert!(!timers.is_due(Timer::Poll, at(9)));
        timers.set(Timer::Poll, at(5));
        assert!(!timers.is_due(Timer::Poll, at(4)));
        assert!(timers.is_due(Timer::Poll, at(5)));
        assert!(!timers.take_due(Timer::Poll, at(4)));
        assert!(timers.take_due(Timer::Poll, at(5)));
        assert!(!timers.is_set(Timer::Poll));
        timers.set_no_later(Timer::Poll, at(7));
        timers.set_no_later(Timer::Poll, at(8));
        assert_eq!(timers.get(Timer::Poll), Some(at(7)));
        timers.set_no_later(Timer::Poll, at(6));
        assert_eq!(timers.get(Timer::Poll), Some(at(6)));
        timers.set_or_stop(Timer::Poll, None);
        assert!(!timers.is_set(Timer::Poll));
    }

    #[test]
    fn a_pause_delays_queries_and_nothing_else() {
        let mut timers = Timers::default();
        assert_eq!((timers.next_action(), timers.next_query()), (None, None));
        timers.set(Timer::RetryTask, at(3));
        timers.set(Timer::Request, at(2));
        timers.set(Timer::Poll, at(4));
        timers.set(Timer::Orphans, at(1));
        assert_eq!(timers.next_action(), Some(at(2)));
        assert_eq!(timers.next_query(), Some(at(1)));
        timers.set(Timer::Pause, at(6));
        assert_eq!(timers.next_query(), Some(at(6)));
        assert_eq!(timers.next_action(), Some(at(2)));
    }
}
