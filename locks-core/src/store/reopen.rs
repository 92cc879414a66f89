//! How often connections may be opened after failures.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::failure::Failure;

/// The pause after the first failure, and the longest one: it doubles with each failure.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// The last failure to open a connection. All connections of a driver share it, so that a
/// database that is down is asked once a second and not by each of them.
#[derive(Debug, Default)]
pub(super) struct Reopen(Mutex<Option<Failed>>);

#[derive(Debug)]
struct Failed {
    failure: Failure,
    count: u32,
    until: Instant,
}

impl Reopen {
    /// The failure of the last attempt, if the next one has to wait.
    pub(super) fn check(&self, now: Instant) -> Result<(), Failure> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(last) if now < last.until => Err(last.failure.clone()),
            _ => Ok(()),
        }
    }

    /// An attempt has ended.
    pub(super) fn on_attempt<T>(&self, result: &Result<T, Failure>, now: Instant) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = result.as_ref().err().map(|failure| {
            let count = last.as_ref().map_or(0, |last| last.count);
            let [first, longest] = PAUSES;
            let pause = first.saturating_mul(1 << count.min(10)).min(longest);
            Failed {
                failure: failure.clone(),
                count: count + 1,
                until: now + pause,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Class, Kind};

    #[test]
    fn attempts_become_rare_and_a_success_ends_the_pauses() {
        let reopen = Reopen::default();
        let failed: Result<(), _> = Err(Failure::simulated(Class::Indeterminate, Kind::Other));
        #[allow(clippy::disallowed_methods, reason = "a point of time to count from")]
        let mut now = Instant::now();
        let start = now;
        let mut attempts = 0;
        while now < start + Duration::from_mins(1) {
            if reopen.check(now).is_ok() {
                attempts += 1;
                reopen.on_attempt(&failed, now);
            }
            now += Duration::from_millis(5);
        }
        assert!((60..=68).contains(&attempts), "{attempts}");
        assert!(reopen.check(now).is_err());
        reopen.on_attempt(&Ok(()), now);
        assert!(reopen.check(now).is_ok());
        reopen.on_attempt(&failed, now);
        assert!(reopen.check(now + PAUSES[0]).is_ok());
    }
}
