//! Taking turns at a row that others write as well, instead of racing for it.
//!
//! Where a server lets those who wait for a row's lock have it in order, a write that
//! read the row under that lock cannot be in vain. It costs two more statements, so it
//! is for those who have lost the race, and only while others write in between.

use crate::store::Stamp;

/// How many conflicts in a row show that racing does not work.
const CONFLICTS: u32 = 2;

/// Whether to take turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    state: State,
    /// What our last write made.
    wrote: Option<Stamp>,
}

#[derive(Debug, Default, PartialEq)]
enum State {
    /// The engine has no such lock, or it is not known yet.
    #[default]
    Impossible,
    /// So many conflicts in a row.
    Racing(u32),
    Taking,
    /// It is our turn: we have the lock, and the next statement gives it back.
    Ours,
}

impl Turns {
    /// What the connection can do.
    pub(super) fn allow(&mut self, possible: bool) {
        match (possible, &self.state) {
            (false, _) => self.state = State::Impossible,
            (true, State::Impossible) => self.state = State::Racing(0),
            (true, _) => {}
        }
    }

    pub(super) fn are_taken(&self) -> bool {
        self.state == State::Taking
    }

    pub(super) fn is_ours(&self) -> bool {
        self.state == State::Ours
    }

    /// The row was read under its lock, and is of this write; nothing where the lock
    /// is not to be had.
    pub(super) fn begin(&mut self) {
        self.state = State::Ours;
    }

    /// The lock is being given back. Turns go on while others write in between.
    pub(super) fn end(&mut self, found: Option<&Stamp>) {
        self.state = if found.is_some() && found == self.wrote.as_ref() {
            // Should that be over too early, one more conflict tells.
            State::Racing(CONFLICTS - 1)
        } else {
            State::Taking
        };
    }

    /// Our write made this.
    pub(super) fn wrote(&mut self, at: &Stamp) {
        self.wrote = Some(at.clone());
        if let State::Racing(conflicts) = &mut self.state {
            *conflicts = 0;
        }
    }

    /// Somebody else wrote first.
    pub(super) fn conflict(&mut self) {
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

    fn at(version: i64) -> Stamp {
        let stamp = Some(version.to_string());
        Stamp { version, stamp }
    }

    fn racing() -> Turns {
        let mut turns = Turns::default();
        turns.allow(true);
        turns
    }

    #[test]
    fn are_taken_after_two_conflicts_in_a_row() {
        let mut turns = racing();
        turns.conflict();
        turns.wrote(&at(1));
        turns.conflict();
        assert!(!turns.are_taken());
        turns.conflict();
        assert!(turns.are_taken());
    }

    #[test]
    fn end_when_nobody_writes_in_between() {
        let mut turns = racing();
        turns.conflict();
        turns.conflict();
        for version in [2, 4] {
            turns.begin();
            assert!(turns.is_ours() && !turns.are_taken());
            turns.end(Some(&at(version)));
            turns.wrote(&at(version + 1));
            assert!(turns.are_taken());
        }
        turns.begin();
        turns.end(Some(&at(5)));
        assert!(!turns.are_taken() && !turns.is_ours());
    }

    #[test]
    fn are_never_taken_where_there_is_no_lock() {
        let mut turns = Turns::default();
        for _ in 0..10 {
            turns.conflict();
        }
        assert!(!turns.are_taken());
    }
}
