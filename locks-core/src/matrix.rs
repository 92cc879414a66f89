//! The conflict matrix: which locks exclude each other.

use std::fmt;

use crate::name::LockName;

/// Pairs of a requested pattern and the patterns that refuse it while they are held.
type Rules = &'static [(&'static str, &'static [&'static str])];
/// Pairs of a pattern and how many held names may match it.
type Limits = &'static [(&'static str, u32)];

/// Which locks with different names exclude each other, and how many may be held at a time. A
/// lock always excludes itself, unless all its holders [share](crate::Shared) it.
///
/// A rule has two parts: the pattern of a requested lock, and the patterns of held locks
/// that refuse it. A pattern is a lock name, or a prefix followed by `*`; the pattern `*`
/// matches every name. If a name matches several patterns, all of their rules apply.
///
/// Rules are directional: if `a` is refused while `b` is held, `b` may still be granted while
/// `a` is held. [`symmetric`](Self::symmetric) applies each rule in both directions.
///
/// A limit has a pattern too: at most so many held names may match it
/// ([`limits`](Self::limits)).
///
/// All processes of a namespace must use one matrix. Every held lock and every waiter
/// carries the fingerprint of its matrix. Locks with different fingerprints always conflict,
/// so a mistake blocks requests but does not break exclusion.
///
/// # Examples
///
/// ```
/// use locks_core::ConflictMatrix;
///
/// pub const MATRIX: ConflictMatrix = ConflictMatrix::new(&[
///     ("box_update", &["app_task_*", "app_backup_*"]),
///     ("app_task_*", &["box_update"]),
///     ("mail_restart", &[]), // Excludes only itself.
/// ]);
/// ```
///
/// An invalid pattern in a constant does not compile:
///
/// ```compile_fail
/// # use locks_core::ConflictMatrix;
/// const MATRIX: ConflictMatrix = ConflictMatrix::new(&[("app_*_task", &[])]);
/// ```
#[derive(Clone, Copy)]
pub struct ConflictMatrix {
    rules: Rules,
    direction: Direction,
    limits: Limits,
    fingerprint: Fingerprint,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    AsWritten,
    BothWays,
}

/// Identifies the meaning of a matrix across processes. It does not depend on the order of
/// the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(pub(crate) u64);

/// The lock names that a pattern matches: one name, or all names with a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    Exact(&'static str),
    Prefix(&'static str),
}

impl ConflictMatrix {
    /// A matrix of `rules`: pairs of a requested pattern and the patterns that refuse it
    /// while they are held.
    ///
    /// # Panics
    ///
    /// If a pattern is empty, is longer than 255 bytes, or has a `*` before its last
    /// character. In a `const` this is a compile error.
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
        Self::of(rules, Direction::AsWritten, &[])
    }

    /// This matrix with each rule applied in both directions.
    ///
    /// ```
    /// use locks_core::ConflictMatrix;
    ///
    /// const MATRIX: ConflictMatrix =
    ///     ConflictMatrix::new(&[("box_update", &["app_task_*"])]).symmetric();
    /// ```
    #[must_use]
    pub const fn symmetric(self) -> Self {
        Self::of(self.rules, Direction::BothWays, self.limits)
    }

    /// This matrix with limits: pairs of a pattern and how many held names may match it, at
    /// least 1. They replace the limits of an earlier call.
    ///
    /// The names are counted over all processes. A name that several holders
    /// [share](crate::Shared) counts once, and a lock that the original platform holds counts
    /// too. Names that earlier requests wait for count as if they were held. So a request for
    /// three locks does not starve behind requests for one.
    ///
    /// A request for more names than a limit allows fails with
    /// [`InvalidConfig`](crate::LockError::InvalidConfig). Deadlock detection does not see a
    /// request that waits for a limit, unless the locks of its own scopes use the limit up.
    ///
    /// # Panics
    ///
    /// If a limit is 0, or if a pattern is invalid as in [`new`](Self::new). In a `const` this is
    /// a compile error.
    ///
    /// # Examples
    ///
    /// ```
    /// use locks_core::ConflictMatrix;
    ///
    /// /// At most three backups run at a time.
    /// const MATRIX: ConflictMatrix = ConflictMatrix::platform().limits(&[("app_backup_*", 3)]);
    /// ```
    #[must_use]
    #[track_caller]
    pub const fn limits(self, limits: &'static [(&'static str, u32)]) -> Self {
        let mut i = 0;
        while i < limits.len() {
            check(limits[i].0);
            assert!(limits[i].1 > 0, "a limit of a conflict matrix is 0");
            i += 1;
        }
        Self::of(self.rules, self.direction, limits)
    }

    /// The default matrix: the rules of a platform that updates, backs up and runs apps.
    ///
    /// | requested | refused while any of these is held |
    /// |---|---|
    /// | `box_update` | `app_task_*`, `app_backup_*` |
    /// | `app_task_*` | `box_update` |
    /// | `full_backup_task_*` | `box_update_task` |
    /// | `box_update_task` | `full_backup_task_*` |
    /// | `app_backup_*`, `mail_restart`, any other name | only the requested lock itself |
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

    /// The matrix without rules: a lock excludes only itself.
    #[must_use]
    pub const fn exclusive() -> Self {
        Self::new(&[])
    }

    const fn of(rules: Rules, direction: Direction, limits: Limits) -> Self {
        Self {
            rules,
            direction,
            limits,
            fingerprint: fingerprint(rules, direction, limits),
        }
    }

    pub(crate) const fn rules(&self) -> Rules {
        self.rules
    }

    pub(crate) const fn limit_rules(&self) -> Limits {
        self.limits
    }

    /// The limits that apply to one of these names.
    pub(crate) fn limits_on<'a>(
        &'a self,
        names: &'a [LockName],
    ) -> impl Iterator<Item = Limit> + 'a {
        let limits = self.limits.iter().map(|(pattern, most)| Limit {
            pattern,
            most: *most,
        });
        limits.filter(|limit| names.iter().any(|name| limit.counts(name.as_str())))
    }

    /// The limit that a request for these names exceeds on its own.
    pub(crate) fn exceeded_by(&self, names: &[LockName]) -> Option<Limit> {
        let counted = |limit: &Limit| {
            names
                .iter()
                .filter(|name| limit.counts(name.as_str()))
                .count()
        };
        self.limits_on(names)
            .find(|limit| counted(limit) > limit.most as usize)
    }

    /// Whether both matrices have the same meaning.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// Whether both matrices have the same rules. Their limits may differ.
    pub(crate) fn has_rules_of(&self, other: &Self) -> bool {
        self.limits(&[]).same_as(&other.limits(&[]))
    }

    pub(crate) const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The patterns of held locks that refuse `name`.
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

    /// Whether a request for `asked` is refused while `held` is held.
    pub(crate) fn refuses(&self, asked: &str, held: &str) -> bool {
        asked == held || self.refusing(asked).any(|pattern| pattern.fits(held))
    }
}

/// How many held names may match a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) pattern: &'static str,
    pub(crate) most: u32,
}

impl Limit {
    /// Whether the name matches the pattern.
    pub(crate) fn counts(self, name: &str) -> bool {
        Pattern::of(self.pattern).fits(name)
    }
}

impl Pattern {
    pub(crate) fn of(text: &'static str) -> Self {
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
        if !self.limits.is_empty() {
            map.entry(&"limits", &self.limits);
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
            "a pattern of a conflict matrix may contain `*` only as its last character"
        );
        i += 1;
    }
}

/// The sum of the hashes of all distinct pairs and limits. It does not depend on their order, on
/// repetitions, or on patterns without rules.
const fn fingerprint(rules: Rules, direction: Direction, limits: Limits) -> Fingerprint {
    let mut sum = 0u64;
    let mut i = 0;
    while i < pairs(rules, direction) {
        let (asked, held) = pair(rules, i);
        let mut is_repeated = false;
        let mut j = 0;
        while j < i {
            let (earlier_asked, earlier_held) = pair(rules, j);
            is_repeated |= equal(earlier_asked, asked) && equal(earlier_held, held);
            j += 1;
        }
        if !is_repeated {
            sum = sum.wrapping_add(hash(asked, held));
        }
        i += 1;
    }
    let mut i = 0;
    while i < limits.len() {
        let mut is_repeated = false;
        let mut j = 0;
        while j < i {
            is_repeated |= equal(limits[j].0, limits[i].0) && limits[j].1 == limits[i].1;
            j += 1;
        }
        if !is_repeated {
            sum = sum.wrapping_add(hash_of_limit(limits[i].0, limits[i].1));
        }
        i += 1;
    }
    Fingerprint(sum)
}

/// The number of pairs; a symmetric matrix has the reverse of each pair as well.
const fn pairs(rules: Rules, direction: Direction) -> usize {
    match direction {
        Direction::AsWritten => written_pairs(rules),
        Direction::BothWays => 2 * written_pairs(rules),
    }
}

const fn written_pairs(rules: Rules) -> usize {
    let mut count = 0;
    let mut i = 0;
    while i < rules.len() {
        count += rules[i].1.len();
        i += 1;
    }
    count
}

/// The pair at `index`: first the pairs as written, then their reverses.
const fn pair(rules: Rules, index: usize) -> (&'static str, &'static str) {
    let written = written_pairs(rules);
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

/// `a == b`, which is not `const`.
const fn equal(a: &str, b: &str) -> bool {
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

/// The hash of a rule: a requested pattern and a held one.
pub(crate) const fn hash(asked: &str, held: &str) -> u64 {
    fnv([asked.as_bytes(), held.as_bytes(), &[]])
}

/// The hash of a limit. No rule has three parts.
const fn hash_of_limit(pattern: &str, most: u32) -> u64 {
    fnv([pattern.as_bytes(), b"limit", &most.to_le_bytes()])
}

/// The 64-bit FNV-1a hash of the parts, each followed by a zero byte unless it is an empty last
/// one. The offset basis and the prime are those of the FNV reference.
const fn fnv(parts: [&[u8]; 3]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut part = 0;
    while part < parts.len() {
        let bytes = parts[part];
        if part == 2 && bytes.is_empty() {
            break;
        }
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

    /// Rows are requested names and columns are held names, both in the order of `NAMES`.
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
    fn platform_matrix_refuses_exactly_the_pairs_of_the_table() {
        for (asked, row) in NAMES.iter().zip(REFUSED) {
            for (held, cell) in NAMES.iter().zip(row.chars()) {
                let refused = ConflictMatrix::platform().refuses(asked, held);
                assert_eq!(refused, cell == 'x', "{asked} while {held} is held");
            }
        }
    }

    #[test]
    fn symmetric_matrix_refuses_in_both_directions() {
        const M: ConflictMatrix = ConflictMatrix::new(&[("a", &["b_*"])]);
        assert!(M.refuses("a", "b_1") && !M.refuses("b_1", "a"));
        let m = M.symmetric();
        assert!(m.refuses("a", "b_1") && m.refuses("b_1", "a"));
        assert!(!m.refuses("b_1", "b_2") && m.refuses("b_1", "b_1"));
    }

    #[test]
    fn all_patterns_that_match_a_name_apply() {
        const M: ConflictMatrix =
            ConflictMatrix::new(&[("*", &["stop"]), ("app_*", &["x"]), ("app_1", &["y"])]);
        for held in ["stop", "x", "y", "app_1"] {
            assert!(M.refuses("app_1", held), "{held}");
        }
        assert!(!M.refuses("app_2", "y") && M.refuses("other", "stop"));
    }

    #[test]
    fn fingerprint_depends_only_on_the_meaning() {
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
    fn fingerprint_depends_on_the_limits() {
        const PLAIN: ConflictMatrix = ConflictMatrix::platform();
        const THREE: ConflictMatrix = PLAIN.limits(&[("app_*", 3), ("x", 1)]);
        const AGAIN: ConflictMatrix = PLAIN.limits(&[("x", 1), ("app_*", 3), ("x", 1)]);
        const FOUR: ConflictMatrix = PLAIN.limits(&[("app_*", 4), ("x", 1)]);
        assert_eq!(THREE.fingerprint(), AGAIN.fingerprint());
        assert_eq!(THREE.limits(&[]).fingerprint(), PLAIN.fingerprint());
        let others = [PLAIN, FOUR, THREE.symmetric()];
        assert!(others.iter().all(|other| !THREE.same_as(other)));
        // It is stored in rows, so it must not change.
        assert_eq!(PLAIN.fingerprint(), Fingerprint(0x844e_95b1_7d25_a2c9));
    }

    #[test]
    fn a_request_exceeds_a_limit_by_its_own_names() {
        const M: ConflictMatrix = ConflictMatrix::exclusive().limits(&[("a*", 2), ("ab", 1)]);
        let names = |names: &[&str]| -> Vec<_> {
            let names = names.iter();
            names.map(|name| LockName::found((*name).into())).collect()
        };
        assert_eq!(M.exceeded_by(&names(&["a1", "ab", "b1", "b2"])), None);
        let exceeded = M.exceeded_by(&names(&["a1", "a2", "a3", "b1"]));
        assert_eq!(
            exceeded.map(|limit| (limit.pattern, limit.most)),
            Some(("a*", 2))
        );
        assert_eq!(M.limits_on(&names(&["ab"])).count(), 2);
        assert_eq!(M.limits_on(&names(&["b"])).count(), 0);
    }

    #[test]
    fn a_limit_of_zero_panics() {
        let zero = || ConflictMatrix::exclusive().limits(&[("a", 0)]);
        assert!(std::panic::catch_unwind(zero).is_err());
    }

    #[test]
    fn invalid_patterns_panic() {
        const BAD: [Rules; 3] = [&[("", &[])], &[("a*b", &[])], &[("a", &["**"])]];
        for rules in BAD {
            assert!(std::panic::catch_unwind(|| ConflictMatrix::new(rules)).is_err());
        }
    }
}
