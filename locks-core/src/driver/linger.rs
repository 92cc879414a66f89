//! How long changes are listened for when no request is blocked any more.

use std::time::{Duration, Instant};

/// The next blocked request often comes soon.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// Since when no request is blocked.
#[derive(Debug, Default)]
pub(super) struct Linger(Option<Instant>);

impl Linger {
    /// Whether a request is blocked, or was within the last [`LINGER`].
    pub(super) fn goes_on(&mut self, blocked: bool, now: Instant) -> bool {
        if blocked {
            self.0 = None;
            return true;
        }
        now < *self.0.get_or_insert(now) + LINGER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_for_a_while_after_the_last_blocked_request() {
        let (mut linger, start) = (Linger::default(), Instant::now());
        assert!(linger.goes_on(true, start));
        let idle = start + LINGER;
        assert!(linger.goes_on(false, idle));
        let almost = Duration::from_millis(9_999);
        assert!(linger.goes_on(false, idle + almost));
        assert!(!linger.goes_on(false, idle + LINGER));
        assert!(linger.goes_on(true, idle + LINGER));
        assert!(linger.goes_on(false, idle + LINGER + almost));
    }
}
