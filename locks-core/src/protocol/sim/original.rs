//! The original: a program that writes the row without stamps, sessions and fences.

use std::collections::BTreeMap;

use super::{
    database::Database,
    properties::Writer,
    schedule::Step,
    world::{World, task},
};
use crate::{
    matrix::ConflictMatrix,
    protocol::config::Name,
    store::{LocksRow, RowVersion},
};

/// The task id of the original's own locks.
pub(super) const TASK: &str = "original";

type Held = BTreeMap<String, String>;

/// What the original knows of one namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Original {
    /// The version and the content of the row when it was last read.
    read: Option<(i64, Held)>,
    /// Whether the row is deleted and not inserted again.
    pub(super) restarting: bool,
    /// Whether it has written the row.
    pub(super) has_written: bool,
}

impl Original {
    pub(super) fn on_power_loss(&mut self) {
        self.forget();
        self.restarting = false;
    }

    /// It writes nothing on the row that it read last.
    pub(super) fn forget(&mut self) {
        self.read = None;
    }
}

impl World {
    /// Takes a step of the original, if it is possible.
    pub(super) fn take_original(&mut self, step: &Step) -> bool {
        let (Step::OriginalReads(number)
        | Step::OriginalTakes(number, _)
        | Step::OriginalReleases(number, _)
        | Step::OriginalReleasesTask(number, ..)
        | Step::OriginalDeletes(number)
        | Step::OriginalInserts(number)) = *step
        else {
            return false;
        };
        if number >= self.originals.len() {
            return false;
        }
        let namespace = self.namespace(number);
        if matches!(step, Step::OriginalReads(_)) {
            return self.original_reads(number, &namespace);
        }
        if !self.db.is_writable(&namespace) {
            return false;
        }
        self.originals[number].has_written = true;
        let done = match step {
            Step::OriginalTakes(_, name) => self.original_writes(number, &namespace, |held| {
                let matrix = ConflictMatrix::platform();
                let free = !held.keys().any(|other| matrix.refuses(name, other));
                free.then(|| held.insert((*name).into(), TASK.into()))
                    .is_some()
            }),
            Step::OriginalReleases(_, name) => self.original_writes(number, &namespace, |held| {
                let own = held.get(*name).is_some_and(|task| task == TASK);
                own && held.remove(*name).is_some()
            }),
            Step::OriginalReleasesTask(_, of, name) => {
                let gone = task(*of, *name);
                self.original_writes(number, &namespace, |held| {
                    held.retain(|_, task| **task != *gone);
                    true
                })
            }
            Step::OriginalDeletes(_) => {
                let exists = self.db.tables.locks.contains_key(&namespace);
                if exists {
                    self.db.delete_row(&namespace);
                    self.originals[number].restarting = true;
                }
                exists
            }
            Step::OriginalInserts(_) => {
                let restarting = std::mem::take(&mut self.originals[number].restarting);
                restarting && self.db.insert_as_original(&namespace, 1)
            }
            _ => false,
        };
        self.db.flush();
        self.after_write(Writer::Original);
        done
    }

    fn original_reads(&mut self, number: usize, namespace: &Name) -> bool {
        let row = self.db.tables.locks.get(namespace);
        let read = row.and_then(|row| {
            let held = serde_json::from_str(row.data_json.as_deref()?).ok()?;
            Some((row.version.version, held))
        });
        let found = read.is_some();
        self.originals[number].read = read;
        found
    }

    /// Writes what was read last, changed by `change`, if that is possible.
    fn original_writes(
        &mut self,
        number: usize,
        namespace: &Name,
        change: impl FnOnce(&mut Held) -> bool,
    ) -> bool {
        let Some((version, mut held)) = self.originals[number].read.take() else {
            return false;
        };
        if !change(&mut held) {
            return false;
        }
        let data = serde_json::to_string(&held).expect("texts serialise");
        self.db.write_as_original(namespace, version, data)
    }

    /// Releases everything that the original holds in a namespace.
    pub(super) fn original_ends(&mut self, number: usize) {
        let namespace = self.namespace(number);
        if !self.db.is_writable(&namespace) {
            return;
        }
        if self.originals[number].restarting {
            self.take_original(&Step::OriginalInserts(number));
        }
        let row = self.db.tables.locks.get(&namespace);
        let data = row.and_then(|row| row.data_json.as_deref());
        if data.is_some_and(|data| data.contains(TASK)) && self.original_reads(number, &namespace) {
            let any = |held: &Held| held.values().any(|task| task == TASK);
            let read = self.originals[number].read.as_ref();
            if read.is_some_and(|(_, held)| any(held)) {
                self.original_writes(number, &namespace, |held| {
                    held.retain(|_, task| task != TASK);
                    true
                });
                self.after_write(Writer::Original);
            }
        }
    }
}

impl Database {
    /// The original's compare-and-set: on the version alone, and of `dataJson` alone.
    pub(super) fn write_as_original(
        &mut self,
        namespace: &Name,
        version: i64,
        data: String,
    ) -> bool {
        self.remember();
        let row = self.tables.locks.get(namespace).cloned();
        let Some(mut row) = row.filter(|row| row.version.version == version) else {
            return false;
        };
        row.data_json = Some(data);
        row.version.version += 1;
        self.put(namespace, Some(row));
        true
    }

    pub(super) fn delete_row(&mut self, namespace: &Name) {
        self.remember();
        self.put(namespace, None);
    }

    /// The original's insert, which lets the columns' defaults stand.
    pub(super) fn insert_as_original(&mut self, namespace: &Name, version: i64) -> bool {
        self.remember();
        if self.tables.locks.contains_key(namespace) {
            return false;
        }
        let row = LocksRow {
            version: RowVersion {
                version,
                stamp: None,
            },
            data_json: Some("{}".into()),
            meta_json: None,
        };
        self.put(namespace, Some(row));
        true
    }
}
