//! How much one statement may carry, so that the fault of one part does not become that of all.
//!
//! A write serves many requests, and the database may refuse it because of what one of them
//! brings: a character that the database cannot store, or a text that makes the statement too
//! long. After such a refusal the writes become smaller, until the part at fault is alone.

/// How many parts the next statement may carry.
#[derive(Debug, Default)]
pub(super) struct BatchLimit(Option<usize>);

/// Above this number a limit is given up.
const LARGE: usize = 1024;

impl BatchLimit {
    /// The highest number of parts.
    pub(super) fn get(&self) -> usize {
        self.0.unwrap_or(usize::MAX)
    }

    /// A statement with this many parts was refused. Returns whether the next one is smaller;
    /// if not, the only part is at fault, or none is.
    pub(super) fn on_rejected(&mut self, parts: usize) -> bool {
        let splits = parts > 1;
        if splits {
            self.0 = Some(parts / 2);
        }
        splits
    }

    /// A statement was accepted.
    pub(super) fn on_accepted(&mut self) {
        self.0 = self
            .0
            .and_then(|limit| limit.checked_mul(2))
            .filter(|limit| *limit < LARGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `total` parts in their order, one of them bad, and returns the numbers of
    /// statements and of parts that were refused alone.
    fn send(total: usize, bad: usize) -> (usize, Vec<usize>) {
        let mut limit = BatchLimit::default();
        let (mut left, mut refused, mut statements) = ((0..total).collect::<Vec<_>>(), vec![], 0);
        while !left.is_empty() {
            statements += 1;
            let parts: Vec<_> = left.iter().copied().take(limit.get()).collect();
            if !parts.contains(&bad) {
                limit.on_accepted();
                left.drain(..parts.len());
            } else if !limit.on_rejected(parts.len()) {
                refused.push(left.remove(0));
            }
        }
        (statements, refused)
    }

    #[test]
    fn one_bad_part_is_refused_alone_after_few_statements() {
        for total in [1, 2, 3, 100, 101, 5_000] {
            for bad in [0, total / 2, total - 1] {
                let (statements, refused) = send(total, bad);
                assert_eq!(refused, [bad], "{total}");
                let doublings = total.ilog2() as usize + 1;
                assert!(statements <= 6 * doublings + 2, "{total}: {statements}");
            }
        }
    }

    #[test]
    fn a_limit_is_given_up_when_statements_are_accepted() {
        let mut limit = BatchLimit::default();
        assert_eq!(limit.get(), usize::MAX);
        assert!(limit.on_rejected(9));
        assert_eq!(limit.get(), 4);
        limit.on_accepted();
        assert_eq!(limit.get(), 8);
        for _ in 0..7 {
            limit.on_accepted();
        }
        assert_eq!(limit.get(), usize::MAX);
        assert!(!limit.on_rejected(1));
        assert!(!limit.on_rejected(0));
        assert_eq!(limit.get(), usize::MAX);
    }
}
