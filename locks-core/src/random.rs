//! Numbers that nobody else has drawn, in any process.
//!
//! They come from the operating system. A generator that is seeded by itself may begin
//! alike in two processes that start at the same moment: `fastrand` takes the clock and
//! the thread's number. That will do for pauses, and for nothing that has to be unique.

/// A number that no other draw gives, for all that chance allows.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn unique() -> u64 {
    getrandom::u64().expect("BUG: the system has no random numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_seed_brings_a_number_back() {
        let drawn = [1, 1].map(|seed| {
            fastrand::seed(seed);
            unique()
        });
        assert_ne!(drawn[0], drawn[1]);
    }
}
