//! Whether a matrix knows names of some spelling, for checks at compile time.

use crate::matrix::ConflictMatrix;

impl ConflictMatrix {
    /// Whether a name that starts with `start` is sure to fit one of the patterns, on
    /// either side of the rules. With `more`, something unknown follows `start`;
    /// without, `start` is the whole name.
    pub(crate) const fn knows(&self, start: &str, more: bool) -> bool {
        let rules = self.rules();
        let mut i = 0;
        while i < rules.len() {
            let (asked, held) = rules[i];
            if covers(asked, start, more) {
                return true;
            }
            let mut j = 0;
            while j < held.len() {
                if covers(held[j], start, more) {
                    return true;
                }
                j += 1;
            }
            i += 1;
        }
        false
    }
}

/// Whether `pattern` covers every such name.
const fn covers(pattern: &str, start: &str, more: bool) -> bool {
    let (pattern, start) = (pattern.as_bytes(), start.as_bytes());
    match pattern {
        [prefix @ .., b'*'] => begins(start, prefix),
        _ => !more && start.len() == pattern.len() && begins(start, pattern),
    }
}

const fn begins(text: &[u8], prefix: &[u8]) -> bool {
    if text.len() < prefix.len() {
        return false;
    }
    let mut i = 0;
    while i < prefix.len() {
        if text[i] != prefix[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATRIX: ConflictMatrix =
        ConflictMatrix::new(&[("box_update", &["app_task_*"]), ("mail_restart", &[])]);

    #[test]
    fn names_it_knows() {
        for (start, more, known) in [
            ("box_update", false, true),
            ("box_update", true, false),
            ("box_updat", false, false),
            ("box_update_task", false, false),
            ("mail_restart", false, true),
            ("app_task_", true, true),
            ("app_task_x_", true, true),
            ("app_task_1", false, true),
            ("app_", true, false),
            ("app_taks_", true, false),
            ("", true, false),
        ] {
            assert_eq!(MATRIX.knows(start, more), known, "{start:?} {more}");
        }
    }

    #[test]
    fn a_lone_star_knows_all() {
        const ALL: ConflictMatrix = ConflictMatrix::new(&[("*", &[])]);
        assert!(ALL.knows("", true) && ALL.knows("x", false));
        assert!(!ConflictMatrix::exclusive().knows("x", false));
    }
}
