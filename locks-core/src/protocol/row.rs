//! The row as this process last saw it.
//!
//! ```text
//!               ┌───────────── conflict, failure ────────────┐
//!               ▼                                            │
//!    Unknown ─read─▶ Missing ─create─▶ Unknown               │
//!               ├──▶ Unstamped ─adopt─▶ Unknown              │
//!               └──▶ Known ─plan─▶ (compare-and-set) ─▶ Known
//! ```

use std::{collections::BTreeSet, time::Duration};

use super::time::Time;
use crate::{
    error::LockError,
    store::{LocksRow, RowVersion},
    table::{LockTable, SessionId},
};

/// The last version that a row may have: it leaves room for the next one.
const LAST_VERSION: i64 = i64::MAX - 1;
/// The last clock reading that makes a version: in the year 2112. A clock that is wrong by
/// more does not use the versions up, and every version is exact in JavaScript.
const LAST_CLOCK: i64 = 1 << 52;
/// How long to wait for the other half of the original's delete-and-insert.
const INSERT_GRACE: Duration = Duration::from_secs(3);

/// What is known of the row.
#[derive(Debug, Default)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one, and it is mostly the large one"
)]
pub(super) enum Row {
    #[default]
    Unknown,
    Missing {
        /// Whether the sessions of the namespace were deleted.
        cleared: bool,
    },
    /// The original wrote it.
    Unstamped {
        version: i64,
        /// Whether the sessions of the namespace were deleted.
        cleared: bool,
    },
    Known(CachedRow),
}

/// A row with the locks in it.
#[derive(Clone, Debug)]
pub(super) struct CachedRow {
    pub(super) version: RowVersion,
    pub(super) table: LockTable,
    /// The row had this content at this moment.
    pub(super) proven: Time,
}

/// What a row that was read means.
#[derive(Debug)]
pub(super) enum Read {
    /// It is known now. If a write was refused although no other process wrote, the sessions
    /// that had to be alive are in doubt.
    Known { doubtful: Option<Vec<SessionId>> },
    /// The original started the lock table anew: nothing that was held is held any more.
    Unstamped,
    /// Nothing can be done with it.
    Unusable(LockError),
}

/// The row as this process last saw it, and what that means for the next write.
#[derive(Debug, Default)]
pub(super) struct RowCache {
    row: Row,
    /// The highest version seen: no version up to it is given again.
    highest: i64,
    /// The highest version at which the log said that the row went back in time.
    warned_at: i64,
    /// Whether a row was ever there: then its absence may be the original's restart.
    seen: bool,
    missing_since: Option<Time>,
    /// The version on which a write without answer was based: it may yet be applied.
    unsettled: Option<RowVersion>,
    /// What was submitted to other processes is withdrawn. The next row that is read is one on
    /// which a write of theirs may be based.
    withdrawn: bool,
    /// The row may have entries of this process's sessions that this process does not know of.
    unchecked: bool,
    /// A write that was refused: the version it was based on, and the sessions that had to be
    /// alive.
    refused: Option<(RowVersion, Vec<SessionId>)>,
}

impl RowCache {
    pub(super) fn state(&self) -> &Row {
        &self.row
    }

    pub(super) fn known(&self) -> Option<&CachedRow> {
        match &self.row {
            Row::Known(cached) => Some(cached),
            _ => None,
        }
    }

    pub(super) fn forget(&mut self) {
        self.row = Row::Unknown;
    }

    /// Whether a write without answer may yet be applied.
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled.is_some() || self.withdrawn
    }

    /// The version that a write on top of `version` makes, and with it the token of what it
    /// grants.
    ///
    /// The row may go back in time when a standby is promoted or a dump is restored. Since
    /// the version follows the clock, none is used twice even then. The clock decides
    /// nothing.
    pub(super) fn next_version(&self, version: i64, wall: i64) -> i64 {
        let next = version.max(self.highest).saturating_add(1);
        next.max(wall.min(LAST_CLOCK)).min(LAST_VERSION)
    }

    /// Takes the row out for a write. Until the write is done the row is unknown. The flag
    /// says whether a write is needed to settle an earlier one without answer.
    pub(super) fn take(&mut self) -> Option<(CachedRow, bool)> {
        match std::mem::take(&mut self.row) {
            Row::Known(cached) => {
                // A row that is older than the write may be one that a lagging node has shown.
                let version = cached.version.version;
                self.unsettled.take_if(|at| at.version < version);
                Some((cached, self.is_unsettled()))
            }
            other => {
                self.row = other;
                None
            }
        }
    }

    /// Whether the row may have entries that this process does not know of. Asked once
    /// after each read.
    pub(super) fn take_unchecked(&mut self) -> bool {
        std::mem::take(&mut self.unchecked)
    }

    pub(super) fn put_back(&mut self, cached: CachedRow) {
        self.highest = self.highest.max(cached.version.version);
        self.row = Row::Known(cached);
    }

    /// A write was refused: another process wrote, or a precondition did not hold for one of
    /// these sessions.
    pub(super) fn on_refused(&mut self, expected: RowVersion, sessions: Vec<SessionId>) {
        self.refused = Some((expected, sessions));
    }

    /// A write on top of this version has no answer.
    pub(super) fn on_indeterminate(&mut self, expected: RowVersion) {
        let earlier = self.unsettled.take();
        self.unsettled = earlier
            .filter(|at| at.version > expected.version)
            .or(Some(expected));
    }

    /// What was submitted is withdrawn, but another process may be about to write it.
    pub(super) fn on_withdrawn(&mut self) {
        self.withdrawn = true;
        self.forget();
    }

    /// A write was applied: an earlier one without answer can no longer be.
    pub(super) fn on_written(&mut self) {
        self.unsettled = None;
        self.withdrawn = false;
    }

    /// Takes in a row that was read by a query sent at `sent`.
    pub(super) fn on_read(&mut self, row: LocksRow, namespace: &str, sent: Time) -> Read {
        self.seen = true;
        self.missing_since = None;
        let version = row.version.version;
        self.row = Row::Unknown;
        if version > LAST_VERSION {
            let reason = format!(
                "the version of the locks row is {version}: no further write is possible; \
                 stop all processes that lock and delete the row"
            );
            return Read::Unusable(LockError::schema(reason));
        }
        if version < self.highest && self.warned_at != self.highest {
            self.warned_at = self.highest;
            tracing::warn!(
                namespace,
                version,
                seen = self.highest,
                "the locks row went back in time, as after a restore or a failover"
            );
        }
        self.highest = self.highest.max(version);
        if row.version.stamp.is_none() {
            self.row = Row::Unstamped {
                version,
                cleared: false,
            };
            return Read::Unstamped;
        }
        match LockTable::parse(row.data_json.as_deref(), row.meta_json.as_deref()) {
            Ok(table) => {
                if std::mem::take(&mut self.withdrawn) {
                    self.on_indeterminate(row.version.clone());
                }
                let refused = self.refused.take();
                let refused = refused.filter(|(version, _)| *version == row.version);
                self.row = Row::Known(CachedRow {
                    version: row.version,
                    table,
                    proven: sent,
                });
                self.unchecked = true;
                Read::Known {
                    doubtful: refused.map(|(_, sessions)| sessions),
                }
            }
            Err(unreadable) => Read::Unusable(LockError::schema(unreadable.to_string())),
        }
    }

    /// There is no row.
    pub(super) fn on_missing(&mut self, now: Time) {
        self.missing_since.get_or_insert(now);
        self.row = Row::Missing { cleared: false };
    }

    /// Whether to wait for the row: the original deletes it and inserts it a moment later.
    pub(super) fn may_reappear(&self, now: Time) -> bool {
        let waits = |since: Time| now - since < INSERT_GRACE;
        self.seen && self.missing_since.is_some_and(waits)
    }

    /// The version of the row was read by a query sent at `sent`. Returns whether the row is
    /// as it is known.
    pub(super) fn on_version_read(&mut self, version: Option<&RowVersion>, sent: Time) -> bool {
        match &mut self.row {
            Row::Known(cached) if version == Some(&cached.version) => {
                cached.proven = cached.proven.max(sent);
                true
            }
            _ => false,
        }
    }

    /// The sessions of the namespace were deleted, because the row is missing or not ours.
    pub(super) fn on_cleared(&mut self, had_sessions: bool) {
        // Sessions without a row: it was there a moment ago.
        self.seen |= had_sessions;
        match &mut self.row {
            Row::Missing { cleared } | Row::Unstamped { cleared, .. } => *cleared = true,
            _ => {}
        }
    }

    /// The sessions of the row that are not of this process and not known to be dead.
    pub(super) fn peers(
        &self,
        is_known: impl Fn(&SessionId) -> bool,
    ) -> Option<BTreeSet<SessionId>> {
        let ids = self.known()?.table.session_ids().into_iter();
        Some(ids.filter(|id| !is_known(id)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(version: i64) -> RowVersion {
        RowVersion {
            version,
            stamp: Some(version.to_string()),
        }
    }

    fn row(number: i64) -> LocksRow {
        LocksRow {
            version: version(number),
            data_json: Some("{}".into()),
            meta_json: None,
        }
    }

    fn at(secs: u64) -> Time {
        Time::new(Duration::from_secs(secs))
    }

    #[test]
    fn a_version_follows_the_row_the_highest_seen_and_the_clock() {
        let mut cache = RowCache::default();
        assert_eq!(cache.next_version(0, 0), 1);
        assert_eq!(cache.next_version(5, 3), 6);
        assert_eq!(cache.next_version(5, 600), 600);
        assert_eq!(cache.next_version(5, i64::MAX), LAST_CLOCK);
        assert_eq!(cache.next_version(LAST_CLOCK, i64::MAX), LAST_CLOCK + 1);
        assert_eq!(cache.next_version(i64::MAX, 0), LAST_VERSION);
        cache.on_read(row(70), "n", at(0));
        assert_eq!(cache.next_version(5, 0), 71, "the row went back in time");
    }

    #[test]
    fn the_last_versions_are_refused() {
        let mut cache = RowCache::default();
        let read = cache.on_read(row(LAST_VERSION), "n", at(0));
        assert!(matches!(read, Read::Known { .. }), "{read:?}");
        let read = cache.on_read(row(LAST_VERSION + 1), "n", at(0));
        assert!(matches!(read, Read::Unusable(_)), "{read:?}");
        assert!(cache.known().is_none());
    }

    #[test]
    fn a_row_that_does_not_parse_is_not_known() {
        let mut cache = RowCache::default();
        let mut broken = row(3);
        broken.data_json = Some("[".into());
        let read = cache.on_read(broken, "n", at(0));
        assert!(matches!(read, Read::Unusable(_)), "{read:?}");
        assert!(matches!(cache.state(), Row::Unknown));
    }

    #[test]
    fn a_refused_write_makes_its_sessions_doubtful_only_if_nothing_else_changed() {
        for (read, doubts) in [(7, true), (8, false)] {
            let mut cache = RowCache::default();
            cache.on_refused(version(7), vec![SessionId("s".into())]);
            let Read::Known { doubtful } = cache.on_read(row(read), "n", at(0)) else {
                panic!("it parses")
            };
            assert_eq!(doubtful.is_some(), doubts);
            let Read::Known { doubtful } = cache.on_read(row(7), "n", at(0)) else {
                panic!("it parses")
            };
            assert_eq!(doubtful, None, "once");
        }
    }

    #[test]
    fn a_write_without_answer_is_settled_by_another_on_its_version() {
        let mut cache = RowCache::default();
        cache.on_indeterminate(version(7));
        assert!(cache.is_unsettled());
        assert!(cache.take().is_none(), "the row is not known");
        assert!(cache.is_unsettled());
        cache.on_read(row(7), "n", at(0));
        assert!(cache.take().expect("known").1);
        assert!(cache.known().is_none());
        cache.on_read(row(7), "n", at(0));
        assert!(cache.take().expect("known").1, "the other was not applied");
        cache.on_written();
        assert!(!cache.is_unsettled());
        cache.on_indeterminate(version(7));
        cache.on_read(row(6), "n", at(0));
        assert!(cache.take().expect("known").1, "the read was stale");
        cache.on_indeterminate(version(6));
        cache.on_read(row(7), "n", at(0));
        assert!(cache.take().expect("known").1, "the first may be applied");
        cache.on_read(row(8), "n", at(0));
        assert!(
            !cache.take().expect("known").1,
            "another write came between"
        );
        assert!(!cache.is_unsettled());
    }

    #[test]
    fn a_missing_row_may_reappear_if_it_was_there() {
        let mut cache = RowCache::default();
        cache.on_missing(at(10));
        assert!(!cache.may_reappear(at(10)), "it was never there");
        cache.on_cleared(true);
        assert!(matches!(cache.state(), Row::Missing { cleared: true }));
        assert!(cache.may_reappear(at(12)));
        assert!(!cache.may_reappear(at(13)));
        cache.on_missing(at(12));
        assert!(
            !cache.may_reappear(at(13)),
            "it is missing since the first look"
        );
        cache.on_read(row(1), "n", at(14));
        assert!(!cache.may_reappear(at(14)));
        cache.on_missing(at(15));
        assert!(cache.may_reappear(at(16)));
    }

    #[test]
    fn a_version_proves_the_row_only_if_it_is_that_of_the_row() {
        let mut cache = RowCache::default();
        assert!(!cache.on_version_read(None, at(1)));
        cache.on_read(row(7), "n", at(1));
        assert!(cache.on_version_read(Some(&version(7)), at(3)));
        assert!(cache.on_version_read(Some(&version(7)), at(2)));
        assert_eq!(cache.known().expect("known").proven, at(3));
        let mut other = version(7);
        other.stamp = Some("other".into());
        assert!(!cache.on_version_read(Some(&other), at(4)));
        assert!(!cache.on_version_read(None, at(4)));
        assert_eq!(cache.known().expect("known").proven, at(3));
    }

    #[test]
    fn an_unstamped_row_is_cleared_before_it_is_adopted() {
        let mut cache = RowCache::default();
        let mut unstamped = row(4);
        unstamped.version.stamp = None;
        let read = cache.on_read(unstamped, "n", at(0));
        assert!(matches!(read, Read::Unstamped), "{read:?}");
        let state = |cache: &RowCache| match cache.state() {
            Row::Unstamped { version, cleared } => (*version, *cleared),
            state => panic!("{state:?}"),
        };
        assert_eq!(state(&cache), (4, false));
        cache.on_cleared(false);
        assert_eq!(state(&cache), (4, true));
    }

    #[test]
    fn a_row_is_checked_for_unknown_entries_once_after_each_read() {
        let mut cache = RowCache::default();
        assert!(!cache.take_unchecked());
        cache.on_read(row(1), "n", at(0));
        assert!(cache.take_unchecked());
        assert!(!cache.take_unchecked());
    }
}
