//! Whether others write the row as well, and what is done about it.
//!
//! Alone, the row is as our last write left it, and the next one needs no look at it.
//! With others, a row that was read some time ago is out of date: it is read again before
//! a write that would be in vain. And where a server lets those who wait for a row's lock
//! have it in order, a row that is read under that lock cannot be out of date: turns are
//! taken. That costs two more statements, so it is for those who have lost the race, and
//! only while others write in between.

use std::time::{Duration, Instant};

use crate::store::RowVersion;

/// How many conflicts in a row show that racing does not work.
const CONFLICTS: u32 = 2;
/// How many writes of ours, with none of others in between, show that we are alone.
const ALONE: u32 = 4;
/// How long what we wrote is likely to be there while others write as well.
const FRESH: Duration = Duration::from_millis(1);
/// The longest pause out of courtesy.
const LONGEST: Duration = Duration::from_millis(5);

/// What is known of others who write.
#[derive(Debug)]
pub(super) struct Turns {
    state: State,
    /// What our last write made.
    wrote: Option<RowVersion>,
    /// How often nobody wrote between two writes of ours.
    alone: u32,
    /// When our last write had its answer, unless the row was looked at since: once is
    /// enough, or those who have much to look at would never get to write.
    answered: Option<Instant>,
}

#[derive(Debug, PartialEq)]
enum State {
    /// The engine has no such lock, or it is not to be had.
    Impossible,
    /// So many conflicts in a row.
    Racing(u32),
    Taking,
    /// It is our turn: we have the lock, and the next statement gives it back.
    Ours,
}

impl Turns {
    /// Turns can be taken where rows can be locked.
    pub(super) fn new(locks_rows: bool) -> Self {
        let state = if locks_rows {
            State::Racing(0)
        } else {
            State::Impossible
        };
        Self {
            state,
            wrote: None,
            alone: ALONE,
            answered: None,
        }
    }

    /// The lock is not to be had.
    pub(super) fn refused(&mut self) {
        self.state = State::Impossible;
    }

    /// Whether the row has to be looked at before it is written.
    pub(super) fn doubt(&self, now: Instant) -> bool {
        let old = |answered| now.duration_since(answered) > FRESH;
        self.alone < ALONE && self.answered.is_some_and(old)
    }

    pub(super) fn are_taken(&self) -> bool {
        self.state == State::Taking
    }

    pub(super) fn is_ours(&self) -> bool {
        self.state == State::Ours
    }

    /// The row was read under its lock.
    pub(super) fn begin(&mut self) {
        self.state = State::Ours;
    }

    /// The lock is being given back; the row was found to be of the write `found`. Turns
    /// go on while others write in between.
    pub(super) fn end(&mut self, found: Option<&RowVersion>) {
        self.state = if found.is_some() && found == self.wrote.as_ref() {
            // Should that be over too early, one more conflict tells.
            State::Racing(CONFLICTS - 1)
        } else {
            State::Taking
        };
    }

    /// The row was looked at.
    pub(super) fn looked(&mut self) {
        self.answered = None;
    }

    /// Our write replaced the write `from` and made `at`.
    pub(super) fn wrote(&mut self, from: &RowVersion, at: &RowVersion, now: Instant) {
        self.alone = match self.wrote.replace(at.clone()) {
            Some(last) if last != *from => 0,
            _ => self.alone.saturating_add(1),
        };
        self.answered = Some(now);
        if let State::Racing(conflicts) = &mut self.state {
            *conflicts = 0;
        }
    }

    /// The most to wait after our write, which took so long, before the next one, so that
    /// as many others get in between: who has just written knows the row, and would win
    /// every race. Nothing where we are alone, or the lock sees to the order.
    pub(super) fn courtesy(&self, others: usize, took: Duration) -> Option<Duration> {
        let racing = matches!(self.state, State::Impossible | State::Racing(_));
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        (racing && self.alone < ALONE).then(|| took.saturating_mul(2 * others).min(LONGEST))
    }

    /// Somebody else wrote first.
    pub(super) fn conflict(&mut self) {
        self.alone = 0;
        if let State::Racing(conflicts) = &mut self.state {
            *conflicts += 1;
            if *conflicts >= CONFLICTS {
                self.state = State::Taking;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(version: i64) -> RowVersion {
        let stamp = Some(version.to_string());
        RowVersion { version, stamp }
    }

    /// We write on top of the write `from`.
    fn write(turns: &mut Turns, from: i64) {
        turns.wrote(&at(from), &at(from + 1), Instant::now());
    }

    #[test]
    fn are_taken_after_two_conflicts_in_a_row() {
        let mut turns = Turns::new(true);
        turns.conflict();
        write(&mut turns, 1);
        turns.conflict();
        assert!(!turns.are_taken());
        turns.conflict();
        assert!(turns.are_taken());
    }

    #[test]
    fn end_when_nobody_writes_in_between() {
        let mut turns = Turns::new(true);
        turns.conflict();
        turns.conflict();
        for version in [2, 4] {
            turns.begin();
            assert!(turns.is_ours() && !turns.are_taken());
            turns.end(Some(&at(version)));
            write(&mut turns, version);
            assert!(turns.are_taken());
        }
        turns.begin();
        turns.end(Some(&at(5)));
        assert!(!turns.are_taken() && !turns.is_ours());
    }

    #[test]
    fn are_never_taken_where_there_is_no_lock() {
        let mut refused = Turns::new(true);
        refused.refused();
        for mut turns in [Turns::new(false), refused] {
            for _ in 0..10 {
                turns.conflict();
            }
            assert!(!turns.are_taken());
        }
    }

    #[test]
    fn what_we_wrote_is_doubted_once_while_others_write_as_well() {
        let mut turns = Turns::new(false);
        let later = |turns: &Turns| turns.doubt(Instant::now() + FRESH * 2);
        write(&mut turns, 1);
        write(&mut turns, 2);
        assert!(!later(&turns));
        write(&mut turns, 4);
        assert!(later(&turns));
        assert!(!turns.doubt(turns.answered.expect("it was written") + FRESH));
        for version in 5..9 {
            assert!(later(&turns));
            write(&mut turns, version);
        }
        assert!(!later(&turns));
        turns.conflict();
        assert!(later(&turns));
        turns.looked();
        assert!(!later(&turns));
        write(&mut turns, 20);
        assert!(later(&turns));
    }

    #[test]
    fn others_are_let_in_while_they_write_as_well() {
        let took = Duration::from_millis(1);
        let mut turns = Turns::new(true);
        write(&mut turns, 1);
        assert_eq!(turns.courtesy(2, took), None);
        write(&mut turns, 3);
        assert_eq!(turns.courtesy(2, took), Some(took * 4));
        assert_eq!(turns.courtesy(100, took), Some(LONGEST));
        turns.conflict();
        turns.conflict();
        assert_eq!(
            turns.courtesy(2, took),
            None,
            "the lock is waited for in order"
        );
    }
}
