//! The tables of the library, and what a power loss makes of them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    protocol::config::Name,
    store::{LocksRow, SessionRow},
    table::SessionId,
};

/// How many commits a power loss may undo.
const MOST_UNDONE: usize = 40;

/// The tables of the library.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub(super) locks: BTreeMap<Name, LocksRow>,
    pub(super) heartbeats: BTreeMap<SessionId, Heartbeat>,
    pub(super) fences: BTreeSet<Arc<str>>,
}

/// A heartbeat row.
#[derive(Clone, Debug)]
pub(super) struct Heartbeat {
    pub(super) namespace: Name,
    pub(super) row: SessionRow,
    /// When it was renewed last.
    pub(super) renewed: Option<Duration>,
}

/// A locks row was written or deleted.
#[derive(Clone, Debug)]
pub(super) struct RowChange {
    pub(super) namespace: Name,
    pub(super) before: Option<LocksRow>,
    pub(super) after: Option<LocksRow>,
}

impl Tables {
    /// Whether each heartbeat row has its fence rows.
    pub(super) fn is_whole(&self) -> bool {
        self.heartbeats.keys().all(|id| self.fences.contains(&id.0))
    }
}

/// The commits that are not on the disk yet.
#[derive(Debug, Default)]
pub(super) struct NotOnDisk(VecDeque<Tables>);

impl NotOnDisk {
    /// A commit changes these tables.
    pub(super) fn before_commit(&mut self, tables: &Tables) {
        self.0.push_back(tables.clone());
        if self.0.len() > MOST_UNDONE {
            self.0.pop_front();
        }
    }

    /// Everything that was committed is on the disk.
    pub(super) fn flush(&mut self) {
        self.0.clear();
    }

    /// The tables without the last commits, at most `undone` of them; `None`: nothing is undone.
    pub(super) fn undo(&mut self, undone: usize) -> Option<Tables> {
        let kept = self.0.len().saturating_sub(undone);
        let tables = self.0.drain(kept..).next();
        self.flush();
        tables
    }
}
