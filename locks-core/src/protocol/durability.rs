//! Which writes have to survive a power loss, and what tells a write that one may have happened.
//!
//! SQLite can answer a write before it is on the disk (`synchronous = NORMAL`). A power loss, or a
//! crash of the operating system, then undoes the last commits of the file, never one without all
//! later ones (<https://www.sqlite.org/pragma.html#pragma_synchronous>). What the processes of the
//! machine were told is of no use any more, because they have ended. But the versions that were
//! undone must not be given again, because they are the tokens of grants.
//!
//! The stamp of each write ends with the boot of the machine and with the version of the last
//! write that was on the disk before it was answered:
//!
//! ```text
//! <random>/<boot>/<version>
//! ```
//!
//! - A write is answered before it is on the disk only if the row that it replaces is of this boot,
//!   and if its version is at most [`DISTANCE`] above the last one on the disk. So what a power
//!   loss undoes follows a row of that boot, and its versions are at most that far above it.
//! - A write on a row of another boot skips [`SKIP`] versions, which is more, and is on the disk
//!   before it is answered.
//! - Locks that do not end with their process are granted and released by writes that are on the
//!   disk before they are answered.
//!
//! Versions are microseconds since 1970, or count writes where the clock is behind. So after a
//! restart they are at most 18 minutes ahead of the clock.

use std::sync::Arc;

use crate::{options::Durability, store::RowVersion};

const SEPARATOR: char = '/';
/// How far above the last version that is on the disk another one may be.
const DISTANCE: i64 = 1 << 29;
/// How many versions the first write after a restart skips.
const SKIP: i64 = 1 << 30;

/// What the stamp of a row says about its last writer, for a process of the boot `own`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastWriter {
    /// It wrote since the machine was started, and this version is on the disk.
    SameBoot { on_disk: i64 },
    /// The machine was restarted since then.
    EarlierBoot,
    /// Its boot or that of this process is not known.
    Unknown,
}

impl LastWriter {
    pub(super) fn of(row: &RowVersion, own: Option<&Arc<str>>) -> Self {
        let stamp = row.stamp.as_deref().unwrap_or_default();
        let mut parts = stamp.split(SEPARATOR).skip(1);
        let (Some(boot), Some(on_disk), Some(own)) = (parts.next(), parts.next(), own) else {
            return Self::Unknown;
        };
        match on_disk.parse() {
            Ok(on_disk) if *boot == **own => Self::SameBoot { on_disk },
            Ok(_) => Self::EarlierBoot,
            Err(_) => Self::Unknown,
        }
    }

    /// The version after which the next write may continue.
    pub(super) fn base(self, version: i64) -> i64 {
        match self {
            Self::SameBoot { .. } | Self::Unknown => version,
            Self::EarlierBoot => version.saturating_add(SKIP),
        }
    }

    /// What the next write must survive, if its locks need `wanted`.
    pub(super) fn durability(self, next: i64, wanted: Durability) -> Durability {
        match self {
            Self::SameBoot { on_disk } if next.saturating_sub(on_disk) <= DISTANCE => wanted,
            _ => Durability::Full,
        }
    }

    /// The stamp of the next write: a random text that no other write has, and the rest.
    pub(super) fn stamp(
        self,
        random: u128,
        own: Option<&Arc<str>>,
        next: i64,
        durability: Durability,
    ) -> String {
        let on_disk = match (self, durability) {
            (Self::SameBoot { on_disk }, Durability::Normal) => on_disk,
            _ => next,
        };
        match own {
            None => format!("{random:032x}"),
            Some(own) => format!("{random:032x}{SEPARATOR}{own}{SEPARATOR}{on_disk}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(stamp: Option<String>) -> RowVersion {
        RowVersion { version: 1, stamp }
    }

    #[test]
    fn stamps_tell_the_boot_and_the_last_version_on_the_disk() {
        use Durability::{Full, Normal};
        let [a, b]: [Arc<str>; 2] = ["a".into(), "b".into()];
        let first = LastWriter::Unknown.stamp(7, Some(&a), 50, Full);
        let first = LastWriter::of(&row(Some(first)), Some(&a));
        assert_eq!(first, LastWriter::SameBoot { on_disk: 50 });
        let second = first.stamp(8, Some(&a), 51, Normal);
        let second = LastWriter::of(&row(Some(second)), Some(&a));
        assert_eq!(second, LastWriter::SameBoot { on_disk: 50 });
        let third = row(Some(second.stamp(9, Some(&a), 52, Full)));
        let third_read = LastWriter::of(&third, Some(&a));
        assert_eq!(third_read, LastWriter::SameBoot { on_disk: 52 });
        let later = LastWriter::of(&third, Some(&b));
        assert_eq!(later, LastWriter::EarlierBoot);
        assert_eq!(LastWriter::of(&third, None), LastWriter::Unknown);
    }

    #[test]
    fn other_stamps_tell_nothing() {
        let own: Arc<str> = "a".into();
        let plain = LastWriter::Unknown.stamp(7, None, 50, Durability::Full);
        assert_eq!(plain.len(), 32);
        for stamp in [None, Some(plain), Some("x/a".into()), Some("x/a/y".into())] {
            let found = LastWriter::of(&row(stamp), Some(&own));
            assert_eq!(found, LastWriter::Unknown);
        }
    }

    #[test]
    fn a_restart_skips_more_versions_than_can_have_been_undone() {
        let same = LastWriter::SameBoot { on_disk: 5 };
        assert_eq!(same.base(7), 7);
        assert_eq!(LastWriter::Unknown.base(7), 7);
        assert!(LastWriter::EarlierBoot.base(7) > 7 + DISTANCE);
        assert_eq!(LastWriter::EarlierBoot.base(i64::MAX), i64::MAX);
    }

    #[test]
    fn only_writes_near_one_on_the_disk_may_be_undone() {
        use Durability::{Full, Normal};
        let same = LastWriter::SameBoot { on_disk: 5 };
        assert_eq!(same.durability(6, Normal), Normal);
        assert_eq!(same.durability(6, Full), Full);
        assert_eq!(same.durability(5 + DISTANCE, Normal), Normal);
        assert_eq!(same.durability(6 + DISTANCE, Normal), Full);
        for other in [LastWriter::EarlierBoot, LastWriter::Unknown] {
            assert_eq!(other.durability(6, Normal), Full);
        }
    }
}
