//! Unique random numbers.
//!
//! They come from the operating system. The generator of `fastrand` is seeded from the clock
//! and the thread's id, so two processes that start together can have one sequence. That is
//! good enough for pauses, but not for numbers that have to be unique.

/// A random number of 64 bits, which is unique across processes.
///
/// # Panics
///
/// If the operating system has no random numbers.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn unique() -> u64 {
    getrandom::u64().expect("BUG: the system has no random numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_do_not_depend_on_a_seed() {
        let drawn = [1, 1].map(|seed| {
            fastrand::seed(seed);
            unique()
        });
        assert_ne!(drawn[0], drawn[1]);
    }
}
