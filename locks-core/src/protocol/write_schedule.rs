//! When the next write may begin.
//!
//! Four rules. A benchmark can turn off all but the first ([`Mechanisms`]):
//!
//! - After a conflict or a failure the namespace pauses, for random and growing times.
//! - While other processes write as well, a cached row is read again before a write.
//! - After a write, other processes get time to write, because the process that has just
//!   written knows the row and would win every race.
//! - After two consecutive conflicts, or one of a slow write, the row is read under its lock, which
//!   the server grants in order of arrival, until this process is alone again.
//!
//! Without other processes and without failures, none of them delays a write.

use std::time::Duration;

use super::{
    config::Mechanisms,
    time::Time,
    timers::{Timer, Timers},
};
use crate::store::RowVersion;

/// How long a write waits for which no caller waits: a release by drop, or a queue entry. It
/// joins any other write.
pub(super) const DEFERRAL: Duration = Duration::from_millis(1);

/// The first and the longest pause after a conflict.
const CONFLICT_PAUSES: [Duration; 2] = [Duration::from_micros(200), Duration::from_millis(5)];
/// The first and the longest pause after a failure.
const FAILURE_PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];
/// This many consecutive conflicts show that racing does not work.
const CONFLICTS: u32 = 2;
/// This many writes of this process, with none of others between them, show that it is
/// alone.
const ALONE: u32 = 4;
/// This many turns in a row that could not be taken show that turns do not work.
const TURN_FAILURES: u32 = 3;
/// One conflict of a write that took longer shows it, too: another process writes meanwhile again.
const SLOW: Duration = Duration::from_millis(5);
/// With so many other holders, one conflict shows that racing does not work.
const MANY: usize = 3;
/// How many writes go without turns after turns did not work.
const WITHOUT_TURNS: u32 = 100;
/// How long a written row is likely to be current while other processes write as well.
const FRESH: Duration = Duration::from_millis(1);
/// The longest time that other processes get after a write.
const LONGEST_YIELD: Duration = Duration::from_millis(5);

/// How this process competes for the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contention {
    /// By compare-and-set on the cached row, with this many consecutive conflicts.
    Racing(u32),
    /// By the row's lock.
    Locking,
    /// By turns.
    Turns,
}

/// A write that has succeeded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'a> {
    /// The version that it replaced, and the one that it made.
    pub(super) from: &'a RowVersion,
    pub(super) to: &'a RowVersion,
    /// How many sessions of other processes hold locks.
    pub(super) others: usize,
    pub(super) sent: Time,
}

/// When the next write may begin.
#[derive(Debug)]
pub(super) struct WriteSchedule {
    mechanisms: Mechanisms,
    contention: Contention,
    /// How many writes still go without turns, because turns did not work.
    without_turns: u32,
    /// The version at the last turn that did not come.
    missed_at: Option<RowVersion>,
    /// How many turns in a row could not be taken.
    turn_failures: u32,
    /// The version that the last write of this process made.
    wrote: Option<RowVersion>,
    /// How often no other process wrote between two writes of this one.
    alone: u32,
    /// When the last write was answered, or a grant by another process was found, unless the row
    /// was read since then. One read is enough, or a namespace whose reads are slow would never
    /// write.
    unread_since: Option<Time>,
    /// Conflicts since the last write that succeeded.
    conflicts: u32,
    /// Writes that failed since the last one that succeeded.
    write_failures: u32,
    /// Reads that failed since the last one that succeeded.
    read_failures: u32,
}

impl WriteSchedule {
    /// `row_lock` says whether the engine has a row lock, `turns` whether it has turns.
    pub(super) fn new(mechanisms: Mechanisms, row_lock: bool, turns: bool) -> Self {
        Self {
            mechanisms: Mechanisms {
                row_lock: mechanisms.row_lock && row_lock,
                combining: mechanisms.combining && turns,
                ..mechanisms
            },
            contention: Contention::Racing(0),
            without_turns: 0,
            missed_at: None,
            turn_failures: 0,
            wrote: None,
            alone: ALONE,
            unread_since: None,
            conflicts: 0,
            write_failures: 0,
            read_failures: 0,
        }
    }

    /// How long a write may wait that no caller waits for.
    pub(super) fn deferral(&self) -> Duration {
        if self.mechanisms.deferral {
            DEFERRAL
        } else {
            Duration::ZERO
        }
    }

    /// Whether the last write was lost to another process.
    pub(super) fn is_contended(&self) -> bool {
        self.conflicts > 0
    }

    /// Whether the row is to be read under its lock.
    pub(super) fn locks_row(&self) -> bool {
        self.contention == Contention::Locking
    }

    /// Whether the row is to be locked at a turn as well: other processes write without turns.
    pub(super) fn locks_row_at_turn(&self) -> bool {
        self.takes_turns() && self.conflicts > 0 && self.mechanisms.row_lock
    }

    /// Whether the process takes turns.
    pub(super) fn takes_turns(&self) -> bool {
        self.contention == Contention::Turns
    }

    /// The turn came, and the row was of this version. Returns whether many other processes write
    /// as well, of which `others` hold locks.
    pub(super) fn on_turn(&mut self, found: Option<&RowVersion>, others: usize) -> bool {
        self.missed_at = None;
        self.turn_failures = 0;
        others >= MANY && found.is_some() && found != self.wrote.as_ref()
    }

    /// The turn could not be taken.
    pub(super) fn on_turn_failed(&mut self) {
        self.turn_failures += 1;
        if self.turn_failures >= TURN_FAILURES {
            self.leave_turns();
        }
    }

    /// The turn did not come in time, and the row was of this version then. If other processes
    /// write, it is slow; if not, the process that has it is stopped.
    pub(super) fn on_turn_missed(&mut self, found: Option<&RowVersion>) {
        if self.missed_at.as_ref() == found {
            self.leave_turns();
        } else {
            self.missed_at = found.cloned();
        }
    }

    /// Turns do not work: the next writes go without.
    pub(super) fn leave_turns(&mut self) {
        self.missed_at = None;
        self.turn_failures = 0;
        if self.takes_turns() {
            self.without_turns = WITHOUT_TURNS;
            self.contention = Contention::Racing(0);
        }
    }

    /// Turns were refused for good.
    pub(super) fn on_turns_refused(&mut self) {
        self.mechanisms.combining = false;
        self.leave_turns();
    }

    /// No other process competes for the row.
    pub(super) fn on_alone(&mut self) {
        self.contention = Contention::Racing(0);
    }

    /// Whether the cached row is to be read again before a write.
    pub(super) fn must_reread(&self, now: Time) -> bool {
        let old = |at: Time| now - at > FRESH;
        self.mechanisms.reread && self.alone < ALONE && self.unread_since.is_some_and(old)
    }

    /// The row's lock was refused for good.
    pub(super) fn on_row_lock_refused(&mut self) {
        self.mechanisms.row_lock = false;
        if self.locks_row() {
            self.contention = Contention::Racing(0);
        }
    }

    /// The row's lock is being given back. The row was of this version.
    pub(super) fn on_row_unlocked(&mut self, found: Option<&RowVersion>) {
        if self.locks_row() && found.is_some() && found == self.wrote.as_ref() {
            // No other process wrote. If that changes, one more conflict shows it.
            self.contention = Contention::Racing(CONFLICTS - 1);
        }
    }

    /// The database has answered a read of the row.
    pub(super) fn on_read(&mut self, timers: &mut Timers) {
        self.unread_since = None;
        self.read_failures = 0;
        timers.stop(Timer::Pause);
    }

    /// The row that was read shows a grant which another process has written.
    pub(super) fn on_grant_found(&mut self, now: Time) {
        self.unread_since = Some(now);
    }

    /// A write has succeeded.
    pub(super) fn on_written(
        &mut self,
        written: Written<'_>,
        now: Time,
        timers: &mut Timers,
        rng: &mut fastrand::Rng,
    ) {
        let Written {
            from,
            to,
            others,
            sent,
        } = written;
        self.on_progress(timers);
        self.alone = match self.wrote.replace(to.clone()) {
            Some(last) if last != *from => 0,
            _ => self.alone.saturating_add(1),
        };
        self.unread_since = Some(now);
        self.without_turns = self.without_turns.saturating_sub(1);
        let Contention::Racing(conflicts) = &mut self.contention else {
            // The server orders the writers.
            return;
        };
        *conflicts = 0;
        if self.mechanisms.yielding && self.alone < ALONE {
            let others = u32::try_from(others).unwrap_or(u32::MAX);
            let pause = (now - sent).saturating_mul(2).saturating_mul(others);
            let pause = pause.min(LONGEST_YIELD).mul_f64(rng.f64());
            if !pause.is_zero() {
                timers.set(Timer::Pause, now + pause);
            }
        }
    }

    /// A statement that writes has succeeded.
    pub(super) fn on_progress(&mut self, timers: &mut Timers) {
        self.conflicts = 0;
        self.write_failures = 0;
        self.read_failures = 0;
        timers.stop(Timer::Pause);
    }

    /// Another process wrote before a write that was `sent` then. `others` is how many sessions of
    /// other processes hold locks.
    pub(super) fn on_conflict(
        &mut self,
        others: usize,
        sent: Time,
        now: Time,
        timers: &mut Timers,
        rng: &mut fastrand::Rng,
    ) {
        self.alone = 0;
        self.conflicts += 1;
        match &mut self.contention {
            Contention::Racing(conflicts) => {
                *conflicts += 1;
                let lost = *conflicts >= CONFLICTS || now - sent > SLOW;
                if (lost || others >= MANY) && self.mechanisms.combining && self.without_turns == 0
                {
                    self.contention = Contention::Turns;
                } else if lost && self.mechanisms.row_lock {
                    self.contention = Contention::Locking;
                }
            }
            Contention::Turns | Contention::Locking => {}
        }
        if matches!(self.contention, Contention::Racing(_)) {
            let pause = pause(CONFLICT_PAUSES, self.conflicts, rng);
            timers.set(Timer::Pause, now + pause.mul_f64(rng.f64()));
        }
    }

    /// A query failed. `writes` says whether it was a write.
    pub(super) fn on_failure(
        &mut self,
        writes: bool,
        now: Time,
        timers: &mut Timers,
        rng: &mut fastrand::Rng,
    ) {
        let failures = if writes {
            &mut self.write_failures
        } else {
            &mut self.read_failures
        };
        *failures += 1;
        // A read that succeeds says nothing about the next write.
        let failures = self.write_failures.max(self.read_failures);
        let pause = pause(FAILURE_PAUSES, failures, rng);
        timers.set(Timer::Pause, now + pause);
    }
}

/// The pause number `attempt`, from 1: doubled each time, up to the longest, and up to half
/// as long again by chance.
fn pause([first, longest]: [Duration; 2], attempt: u32, rng: &mut fastrand::Rng) -> Duration {
    let doubled = first.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    doubled.min(longest).mul_f64(1.0 + rng.f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        schedule: WriteSchedule,
        timers: Timers,
        rng: fastrand::Rng,
        now: Time,
    }

    fn version(version: i64) -> RowVersion {
        RowVersion {
            version,
            stamp: Some(version.to_string()),
        }
    }

    impl Scene {
        fn new(row_lock: bool) -> Self {
            Self::with(Mechanisms::default(), row_lock)
        }

        fn with(mechanisms: Mechanisms, row_lock: bool) -> Self {
            Self {
                schedule: WriteSchedule::new(mechanisms, row_lock, false),
                timers: Timers::default(),
                rng: fastrand::Rng::with_seed(3),
                now: Time::new(Duration::from_secs(1)),
            }
        }

        fn conflict(&mut self) {
            let (timers, rng) = (&mut self.timers, &mut self.rng);
            self.schedule
                .on_conflict(1, self.now, self.now, timers, rng);
        }

        fn fail(&mut self, writes: bool) {
            let (timers, rng) = (&mut self.timers, &mut self.rng);
            self.schedule.on_failure(writes, self.now, timers, rng);
        }

        /// A write of a millisecond on top of this version, with two other holders.
        fn write(&mut self, from: i64) {
            let (sent, millisecond) = (self.now, Duration::from_millis(1));
            self.now = self.now + millisecond;
            let (timers, rng) = (&mut self.timers, &mut self.rng);
            let (from, to) = (&version(from), &version(from + 1));
            let others = 2;
            let written = Written {
                from,
                to,
                others,
                sent,
            };
            self.schedule.on_written(written, self.now, timers, rng);
        }

        fn pause(&self) -> Option<Duration> {
            self.timers.get(Timer::Pause).map(|at| at - self.now)
        }

        fn rereads_later(&self) -> bool {
            self.schedule.must_reread(self.now + FRESH * 2)
        }
    }

    #[test]
    fn one_conflict_of_a_slow_write_shows_that_racing_does_not_work() {
        for (millis, locks) in [(5, false), (6, true)] {
            let mut scene = Scene::new(true);
            let sent = scene.now;
            scene.now = scene.now + Duration::from_millis(millis);
            let (timers, rng) = (&mut scene.timers, &mut scene.rng);
            scene.schedule.on_conflict(1, sent, scene.now, timers, rng);
            assert_eq!(scene.schedule.locks_row(), locks, "{millis} ms");
        }
    }

    #[test]
    fn the_row_is_locked_after_two_conflicts_in_a_row() {
        let mut scene = Scene::new(true);
        scene.conflict();
        assert!(scene.pause().is_some());
        scene.write(1);
        scene.conflict();
        assert!(!scene.schedule.locks_row());
        scene.timers.stop(Timer::Pause);
        scene.conflict();
        assert!(scene.schedule.locks_row());
        assert_eq!(scene.pause(), None, "the lock sees to the order");
    }

    #[test]
    fn the_row_is_no_longer_locked_when_no_other_process_writes() {
        let mut scene = Scene::new(true);
        scene.conflict();
        scene.conflict();
        for from in [2, 4] {
            scene.schedule.on_row_unlocked(Some(&version(from)));
            scene.write(from);
            assert!(scene.schedule.locks_row());
        }
        scene.schedule.on_row_unlocked(None);
        assert!(scene.schedule.locks_row());
        scene.schedule.on_row_unlocked(Some(&version(5)));
        assert!(!scene.schedule.locks_row());
        scene.conflict();
        assert!(scene.schedule.locks_row(), "one conflict is enough now");
    }

    #[test]
    fn the_row_is_never_locked_without_a_lock() {
        let mut refused = Scene::new(true);
        refused.conflict();
        refused.conflict();
        refused.schedule.on_row_lock_refused();
        let off = Mechanisms {
            row_lock: false,
            ..Mechanisms::default()
        };
        for mut scene in [Scene::new(false), refused, Scene::with(off, true)] {
            for _ in 0..10 {
                assert!(!scene.schedule.locks_row());
                scene.conflict();
            }
        }
    }

    #[test]
    fn a_written_row_is_read_again_once_while_others_write() {
        let mut scene = Scene::new(false);
        scene.write(1);
        scene.write(2);
        assert!(!scene.rereads_later());
        scene.write(4);
        assert!(scene.rereads_later());
        assert!(!scene.schedule.must_reread(scene.now + FRESH));
        for version in 5..9 {
            assert!(scene.rereads_later());
            scene.write(version);
        }
        assert!(!scene.rereads_later(), "alone");
        scene.conflict();
        assert!(scene.rereads_later());
        scene.schedule.on_read(&mut scene.timers);
        assert!(!scene.rereads_later());
        scene.write(20);
        assert!(scene.rereads_later());
        scene.schedule.on_read(&mut scene.timers);
        scene.schedule.on_grant_found(scene.now);
        assert!(scene.rereads_later(), "a grant was found");
        scene.schedule.mechanisms.reread = false;
        assert!(!scene.rereads_later());
    }

    #[test]
    fn other_processes_get_time_after_a_write() {
        let mut scene = Scene::new(true);
        scene.write(1);
        assert_eq!(scene.pause(), None, "alone");
        scene.write(3);
        let pause = scene.pause().expect("two others");
        assert!(pause > Duration::ZERO && pause <= Duration::from_millis(4));
        for from in 4..7 {
            scene.timers.stop(Timer::Pause);
            scene.write(from);
            assert!(scene.pause().is_some());
        }
        scene.write(7);
        assert_eq!(scene.pause(), None, "alone again");
        scene.schedule.mechanisms.yielding = false;
        scene.write(15);
        assert_eq!(scene.pause(), None, "turned off");
        scene.schedule.mechanisms.yielding = true;
        scene.conflict();
        scene.conflict();
        scene.timers.stop(Timer::Pause);
        scene.write(19);
        assert_eq!(scene.pause(), None, "the lock sees to the order");
    }

    #[test]
    fn the_longest_yield_is_limited() {
        let mut scene = Scene::new(true);
        scene.write(1);
        for from in (3..200).step_by(2) {
            let sent = scene.now;
            let written = Written {
                from: &version(from),
                to: &version(from + 1),
                others: 1_000,
                sent,
            };
            let (timers, rng) = (&mut scene.timers, &mut scene.rng);
            let now = sent + Duration::from_millis(1);
            scene.schedule.on_written(written, now, timers, rng);
            assert!(timers.get(Timer::Pause).expect("others") - now <= LONGEST_YIELD);
        }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_a_read_does_not_shorten_those_of_writes() {
        let mut scene = Scene::new(false);
        let mut last = Duration::ZERO;
        for attempt in 1..20 {
            scene.fail(true);
            let pause = scene.pause().expect("it failed");
            let [first, longest] = FAILURE_PAUSES;
            let doubled = first * (1 << (attempt - 1).min(7));
            let shortest = doubled.min(longest);
            assert!(
                pause >= shortest && pause <= shortest * 3 / 2,
                "{attempt}: {pause:?}"
            );
            last = pause;
            scene.schedule.on_read(&mut scene.timers);
            assert_eq!(scene.pause(), None);
        }
        assert!(last >= FAILURE_PAUSES[1]);
        scene.fail(false);
        assert!(scene.pause() >= Some(FAILURE_PAUSES[1]));
        scene.write(1);
        scene.fail(false);
        assert!(scene.pause() < Some(FAILURE_PAUSES[1]));
        scene.fail(false);
        scene.fail(false);
        scene.schedule.on_read(&mut scene.timers);
        scene.fail(false);
        assert!(scene.pause() <= Some(FAILURE_PAUSES[0] * 3 / 2));
    }

    #[test]
    fn pauses_after_conflicts_are_random_and_limited() {
        let mut scene = Scene::new(false);
        assert!(!scene.schedule.is_contended());
        let mut pauses = Vec::new();
        for _ in 0..200 {
            scene.conflict();
            pauses.push(scene.pause().expect("a conflict"));
        }
        assert!(scene.schedule.is_contended());
        let longest = pauses.iter().max().expect("some");
        assert!(*longest <= CONFLICT_PAUSES[1] * 3 / 2 && *longest > CONFLICT_PAUSES[1] / 2);
        assert!(pauses.iter().any(|pause| *pause < CONFLICT_PAUSES[1] / 10));
        assert!(pauses[0] <= CONFLICT_PAUSES[0] * 3 / 2);
        scene.write(1);
        assert!(!scene.schedule.is_contended());
    }

    #[test]
    fn deferral_can_be_turned_off() {
        assert_eq!(Scene::new(true).schedule.deferral(), DEFERRAL);
        let mut scene = Scene::new(true);
        scene.schedule.mechanisms.deferral = false;
        assert_eq!(scene.schedule.deferral(), Duration::ZERO);
    }
}
