//! Which locks exclude each other, as data.

use std::fmt;

/// Rules: a pattern asked for, and the patterns that refuse it while held.
type Rules = &'static [(&'static str, &'static [&'static str])];

/// Which locks exclude each other beyond the same name, which always does.
///
/// A rule reads: *asked for*, *refused while any of these is held*. A pattern is an
/// exact lock name, or a prefix that ends in `*`; a lone `*` fits every name. A name
/// that fits several patterns obeys all of them. Rules are directional: that `a` is
/// refused while `b` is held does not refuse `b` while `a` is held, unless
/// [`symmetric`](Self::symmetric) is applied.
///
/// All processes that share a namespace must use the same matrix. Every held lock
/// and every waiter carries its matrix's fingerprint, and what was taken under
/// another matrix conflicts with everything, so a mistake is noticed instead of
/// breaking exclusion.
///
/// # Examples
///
/// ```
/// use locks_core::ConflictMatrix;
///
/// pub const MATRIX: ConflictMatrix = ConflictMatrix::new(&[
///     ("box_update", &["app_task_*", "app_backup_*"]),
///     ("app_task_*", &["box_update"]),
///     ("mail_restart", &[]), // A known name that excludes only itself.
/// ]);
/// ```
///
/// A bad pattern does not compile:
///
/// ```compile_fail
/// # use locks_core::ConflictMatrix;
/// const MATRIX: ConflictMatrix = ConflictMatrix::new(&[("app_*_task", &[])]);
/// ```
#[derive(Clone, Copy)]
pub struct ConflictMatrix {
    rules: Rules,
    direction: Direction,
    fingerprint: Fingerprint,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    AsWritten,
    BothWays,
}

/// Tells two matrices apart across processes. Two matrices with the same rules, in
/// whatever order, have the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(pub(crate) u64);

/// What a held or wanted name may not meet: one exact name, or all with a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    Exact(&'static str),
    Prefix(&'static str),
}

impl ConflictMatrix {
    /// A matrix of `rules`, each a pattern and what refuses it while held.
    ///
    /// # Panics
    ///
    /// When a pattern is empty, longer than 255 bytes, or has a `*` anywhere but at
    /// its end. In a `const` this is a compile error.
    #[must_use]
    #[track_caller]
    pub const fn new(rules: Rules) -> Self {
        let mut i = 0;
        while i < rules.len() {
            check(rules[i].0);
            let mut j = 0;
            while j < rules[i].1.len() {
                check(rules[i].1[j]);
                j += 1;
            }
            i += 1;
        }
        Self::of(rules, Direction::AsWritten)
    }

    /// The same rules, each of them in both directions.
    ///
    /// ```
    /// use locks_core::ConflictMatrix;
    ///
    /// const MATRIX: ConflictMatrix =
    ///     ConflictMatrix::new(&[("box_update", &["app_task_*"])]).symmetric();
    /// ```
    #[must_use]
    pub const fn symmetric(self) -> Self {
        Self::of(self.rules, Direction::BothWays)
    }

    /// The default: the rules of a platform that updates, backs up and runs apps.
    ///
    /// | asked for | refused while any of these is held |
    /// |---|---|
    /// | `box_update` | `app_task_*`, `app_backup_*` |
    /// | `app_task_*` | `box_update` |
    /// | `full_backup_task_*` | `box_update_task` |
    /// | `box_update_task` | `full_backup_task_*` |
    /// | `app_backup_*`, `mail_restart`, any other name | (nothing more) |
    #[must_use]
    pub const fn platform() -> Self {
        Self::new(&[
            ("box_update", &["app_task_*", "app_backup_*"]),
            ("app_task_*", &["box_update"]),
            ("full_backup_task_*", &["box_update_task"]),
            ("box_update_task", &["full_backup_task_*"]),
            ("app_backup_*", &[]),
            ("mail_restart", &[]),
        ])
    }

    /// No rules: a lock excludes the same name and nothing else.
    #[must_use]
    pub const fn exclusive() -> Self {
        Self::new(&[])
    }

    const fn of(rules: Rules, direction: Direction) -> Self {
        Self {
            rules,
            direction,
            fingerprint: fingerprint(rules, direction),
        }
    }

    pub(crate) const fn rules(&self) -> Rules {
        self.rules
    }

    /// Whether both mean the same.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    pub(crate) const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The patterns that refuse `name` while held.
    pub(crate) fn refusing<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Pattern> + 'a {
        let written = self
            .rules
            .iter()
            .filter(move |rule| Pattern::of(rule.0).fits(name))
            .flat_map(|rule| rule.1);
        let reversed = self
            .rules
            .iter()
            .filter(move |rule| {
                self.direction == Direction::BothWays
                    && rule.1.iter().any(|held| Pattern::of(held).fits(name))
            })
            .map(|rule| &rule.0);
        written.chain(reversed).map(|pattern| Pattern::of(pattern))
    }

    /// Whether `asked` is refused while `held` is held.
    pub(crate) fn refuses(&self, asked: &str, held: &str) -> bool {
        asked == held || self.refusing(asked).any(|pattern| pattern.fits(held))
    }
}

impl Pattern {
    fn of(text: &'static str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix),
            None => Self::Exact(text),
        }
    }

    pub(crate) fn fits(self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Prefix(prefix) => name.starts_with(prefix),
        }
    }
}

impl Default for ConflictMatrix {
    /// [`ConflictMatrix::platform`].
    fn default() -> Self {
        Self::platform()
    }
}

impl fmt::Debug for ConflictMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        map.entries(self.rules.iter().copied());
        if self.direction == Direction::BothWays {
            map.entry(&"direction", &"both ways");
        }
        map.finish()
    }
}

#[track_caller]
const fn check(pattern: &str) {
    let bytes = pattern.as_bytes();
    assert!(!bytes.is_empty(), "a pattern of a conflict matrix is empty");
    assert!(
        bytes.len() <= 255,
        "a pattern of a conflict matrix is longer than 255 bytes"
    );
    let mut i = 0;
    while i + 1 < bytes.len() {
        assert!(
            bytes[i] != b'*',
            "a `*` in a pattern of a conflict matrix may only be its last character"
        );
        i += 1;
    }
}

/// A sum over the distinct pairs of the matrix, so that neither the order of rules
/// nor a repeated one matters, and known names without rules do not either.
const fn fingerprint(rules: Rules, direction: Direction) -> Fingerprint {
    let mut sum = 0u64;
    let mut i = 0;
    while i < pairs(rules, direction) {
        let (asked, held) = pair(rules, i);
        let mut seen = false;
        let mut j = 0;
        while j < i {
            let (a, h) = pair(rules, j);
            seen = seen || (same(a, asked) && same(h, held));
            j += 1;
        }
        if !seen {
            sum = sum.wrapping_add(hash(asked, held));
        }
        i += 1;
    }
    Fingerprint(sum)
}

/// How many pairs the rules make; a symmetric matrix has each once more, reversed.
const fn pairs(rules: Rules, direction: Direction) -> usize {
    let written = written(rules);
    match direction {
        Direction::AsWritten => written,
        Direction::BothWays => 2 * written,
    }
}

const fn written(rules: Rules) -> usize {
    let mut count = 0;
    let mut i = 0;
    while i < rules.len() {
        count += rules[i].1.len();
        i += 1;
    }
    count
}

/// The pair at `index`: first those written, then the same reversed.
const fn pair(rules: Rules, index: usize) -> (&'static str, &'static str) {
    let written = written(rules);
    let mut rest = index % written;
    let mut i = 0;
    while rest >= rules[i].1.len() {
        rest -= rules[i].1.len();
        i += 1;
    }
    let (asked, held) = (rules[i].0, rules[i].1[rest]);
    if index < written {
        (asked, held)
    } else {
        (held, asked)
    }
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// FNV-1a, 64 bits, of both texts with a zero byte after each (offset basis and
/// prime from the FNV reference).
pub(crate) const fn hash(asked: &str, held: &str) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut part = 0;
    while part < 2 {
        let bytes = if part == 0 { asked } else { held }.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(PRIME);
            i += 1;
        }
        hash = hash.wrapping_mul(PRIME);
        part += 1;
    }
    hash
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const NAMES: [&str; 10] = [
        "box_update",
        "box_update_task",
        "app_task_1",
        "app_task_2",
        "app_backup_1",
        "app_backup_2",
        "full_backup_task_1",
        "full_backup_task_2",
        "mail_restart",
        "other",
    ];

    /// Row: asked for; column: held; in the order of `NAMES`.
    pub(crate) const REFUSED: [&str; 10] = [
        "x.xxxx....",
        ".x....xx..",
        "x.x.......",
        "x..x......",
        "....x.....",
        ".....x....",
        ".x....x...",
        ".x.....x..",
        "........x.",
        ".........x",
    ];

    #[test]
    fn the_platform_table_all_pairs() {
        for (asked, row) in NAMES.iter().zip(REFUSED) {
            for (held, cell) in NAMES.iter().zip(row.chars()) {
                let refused = ConflictMatrix::platform().refuses(asked, held);
                assert_eq!(refused, cell == 'x', "{asked} while {held} is held");
            }
        }
    }

    #[test]
    fn symmetric_holds_both_ways() {
        const M: ConflictMatrix = ConflictMatrix::new(&[("a", &["b_*"])]);
        assert!(M.refuses("a", "b_1") && !M.refuses("b_1", "a"));
        let m = M.symmetric();
        assert!(m.refuses("a", "b_1") && m.refuses("b_1", "a"));
        assert!(!m.refuses("b_1", "b_2") && m.refuses("b_1", "b_1"));
    }

    #[test]
    fn a_name_obeys_all_patterns_it_fits() {
        const M: ConflictMatrix =
            ConflictMatrix::new(&[("*", &["stop"]), ("app_*", &["x"]), ("app_1", &["y"])]);
        for held in ["stop", "x", "y", "app_1"] {
            assert!(M.refuses("app_1", held), "{held}");
        }
        assert!(!M.refuses("app_2", "y") && M.refuses("other", "stop"));
    }

    #[test]
    fn a_fingerprint_is_of_the_meaning() {
        const ONE: ConflictMatrix = ConflictMatrix::new(&[("a", &["b", "c"]), ("d", &["a"])]);
        const TWO: ConflictMatrix =
            ConflictMatrix::new(&[("d", &["a"]), ("a", &["c"]), ("a", &["b", "c"]), ("e", &[])]);
        const BACK: ConflictMatrix = ConflictMatrix::new(&[("b", &["a"]), ("a", &["b"])]);
        const FORTH: ConflictMatrix = ConflictMatrix::new(&[("a", &["b"])]);
        assert_eq!(ONE.fingerprint(), TWO.fingerprint());
        assert_ne!(ONE.fingerprint(), ONE.symmetric().fingerprint());
        assert_eq!(BACK.fingerprint(), FORTH.symmetric().fingerprint());
        let platform = ConflictMatrix::platform().fingerprint();
        assert_ne!(platform, ConflictMatrix::exclusive().fingerprint());
    }

    #[test]
    fn bad_patterns_panic() {
        const BAD: [Rules; 3] = [&[("", &[])], &[("a*b", &[])], &[("a", &["**"])]];
        for rules in BAD {
            assert!(std::panic::catch_unwind(|| ConflictMatrix::new(rules)).is_err());
        }
    }
}
