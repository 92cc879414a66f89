//! The check of a template against a conflict matrix when the program is compiled.

use crate::matrix::ConflictMatrix;

/// What is known of a lock name at compile time.
#[derive(Clone, Copy, Debug)]
pub enum Known<'a> {
    /// The whole name: the template has no placeholder.
    Name(&'a str),
    /// The text before the first placeholder.
    Prefix(&'a str),
}

/// Panics with `message` unless a pattern of `matrix`, on either side of its rules or in its
/// limits, matches every such name. In a constant the panic is a compile error.
#[track_caller]
pub const fn assert_in_matrix(matrix: &ConflictMatrix, known: Known<'_>, message: &'static str) {
    assert!(is_in_matrix(matrix, known), "{}", message);
}

const fn is_in_matrix(matrix: &ConflictMatrix, known: Known<'_>) -> bool {
    let rules = matrix.rules();
    let mut i = 0;
    while i < rules.len() {
        let (requested, held) = rules[i];
        if matches_all(requested, known) {
            return true;
        }
        let mut j = 0;
        while j < held.len() {
            if matches_all(held[j], known) {
                return true;
            }
            j += 1;
        }
        i += 1;
    }
    let limits = matrix.limit_rules();
    let mut i = 0;
    while i < limits.len() {
        if matches_all(limits[i].0, known) {
            return true;
        }
        i += 1;
    }
    false
}

/// Whether `pattern` matches every name of which that much is known.
const fn matches_all(pattern: &str, known: Known<'_>) -> bool {
    let (Known::Name(text) | Known::Prefix(text)) = known;
    match (pattern.as_bytes(), known) {
        ([prefix @ .., b'*'], _) => starts_with(text.as_bytes(), prefix),
        (pattern, Known::Name(_)) => {
            text.len() == pattern.len() && starts_with(text.as_bytes(), pattern)
        }
        (_, Known::Prefix(_)) => false,
    }
}

/// `text.starts_with(prefix)`, which is not `const`.
const fn starts_with(text: &[u8], prefix: &[u8]) -> bool {
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
    use super::{
        Known::{Name, Prefix},
        *,
    };

    const MATRIX: ConflictMatrix =
        ConflictMatrix::new(&[("box_update", &["app_task_*"]), ("mail_restart", &[])]);

    #[test]
    fn names_that_match_a_pattern_are_accepted() {
        for (known, expected) in [
            (Name("box_update"), true),
            (Prefix("box_update"), false),
            (Name("box_updat"), false),
            (Name("box_update_task"), false),
            (Name("mail_restart"), true),
            (Prefix("app_task_"), true),
            (Prefix("app_task_x_"), true),
            (Name("app_task_1"), true),
            (Prefix("app_"), false),
            (Prefix("app_taks_"), false),
            (Prefix(""), false),
        ] {
            assert_eq!(is_in_matrix(&MATRIX, known), expected, "{known:?}");
        }
    }

    #[test]
    fn names_that_match_a_limit_are_accepted() {
        const LIMITED: ConflictMatrix = MATRIX.limits(&[("app_backup_*", 3)]);
        assert!(is_in_matrix(&LIMITED, Prefix("app_backup_")));
        assert!(!is_in_matrix(&LIMITED, Prefix("app_bakcup_")));
    }

    #[test]
    fn pattern_of_one_star_matches_every_name() {
        const ALL: ConflictMatrix = ConflictMatrix::new(&[("*", &[])]);
        assert!(is_in_matrix(&ALL, Prefix("")) && is_in_matrix(&ALL, Name("x")));
        assert!(!is_in_matrix(&ConflictMatrix::exclusive(), Name("x")));
    }
}
