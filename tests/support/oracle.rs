//! Judges exclusion among processes. It knows the conflict table and nothing of the library's
//! tables.
//!
//! ```text
//! asking()  ─▶  the library's acquire  ─▶  enter()  …work…  leave()  ─▶  the library's release
//!    └─ before it asks                       └─ after the grant  └─ before the release
//! ```
//!
//! A process that is inside certainly holds its locks, so two processes inside whose names exclude
//! each other in both directions are a violation. The table is not symmetric, though: an
//! `app_backup_*` may start while `box_update` is held, but not the other way round, and the
//! process that entered first was not always granted first. A process that was inside *before the
//! other one asked* certainly held its locks during that request. Between asking and entering, only
//! the fencing tokens show the order, if both sides have one. So there are no false alarms, and
//! every violation that is visible from outside is reported.
//!
//! Everything is appended to one ledger file, under `flock`, which the kernel releases when a
//! process dies.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::conflict_table::refused_while;

/// One process's view of the oracle. All views of a directory share one ledger.
#[derive(Debug)]
pub struct Oracle {
    directory: PathBuf,
    ledger: File,
    /// The content of the ledger, as far as this view has read it.
    inside: BTreeMap<String, Entry>,
    left: BTreeMap<String, Departure>,
    grants: u64,
    read: u64,
}

/// A moment before a request, in the ledger's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment(u64);

/// Two holders that the table forbids, or a token that went backwards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("violation: {0}")]
pub struct Violation(String);

#[derive(Debug, Clone)]
struct Entry {
    owner: String,
    token: Option<i64>,
    entered: Moment,
}

#[derive(Debug, Clone, Copy)]
struct Departure {
    token: Option<i64>,
    at: Moment,
}

/// A line of the ledger.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    In {
        names: Vec<String>,
        owner: String,
        token: Option<i64>,
        asked: Moment,
    },
    Out {
        names: Vec<String>,
        owner: String,
    },
    Gone {
        owner: String,
    },
}

impl Oracle {
    /// The oracle in this directory, which must exist.
    pub fn open(directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref().to_owned();
        let ledger = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(directory.join("ledger"))
            .expect("the oracle's directory is there");
        let (inside, left) = (BTreeMap::new(), BTreeMap::new());
        Self {
            directory,
            ledger,
            inside,
            left,
            grants: 0,
            read: 0,
        }
    }

    /// To be called before each request.
    pub fn asking(&self) -> Moment {
        Moment(self.ledger.metadata().expect("the ledger is there").len())
    }

    /// To be called after the grant, with all names of the grant, its holder (a task or process),
    /// and its fencing token, if there is one. Fails, and records the violation, if a process that
    /// must not be inside is inside.
    pub fn enter(
        &mut self,
        names: &[&str],
        owner: &str,
        token: Option<i64>,
        asked: Moment,
    ) -> Result<(), Violation> {
        self.locked(|oracle| {
            let mut found = Vec::new();
            for name in names {
                for (held, entry) in &oracle.inside {
                    found.extend(forbidden(name, owner, token, asked, held, entry));
                }
                for (before, departure) in &oracle.left {
                    found.extend(backwards(name, owner, token, asked, before, *departure));
                }
            }
            let names = names.iter().map(ToString::to_string).collect();
            oracle.append(&Line::In {
                names,
                owner: owner.to_owned(),
                token,
                asked,
            });
            oracle.report(&found)
        })
    }

    /// To be called before the release.
    pub fn leave(&mut self, names: &[&str], owner: &str) -> Result<(), Violation> {
        self.locked(|oracle| {
            let foreign = |name: &&&str| oracle.inside.get(**name).is_none_or(|e| e.owner != owner);
            let found = names.iter().filter(foreign).map(|name| {
                format!(
                    "{owner} leaves {name}, in which is {:?}",
                    oracle.inside.get(*name)
                )
            });
            let found: Vec<_> = found.collect();
            let names = names.iter().map(ToString::to_string).collect();
            oracle.append(&Line::Out {
                names,
                owner: owner.to_owned(),
            });
            oracle.report(&found)
        })
    }

    /// To be called for a killed process, once it is dead.
    pub fn gone(&mut self, owner: &str) {
        self.locked(|oracle| {
            oracle.append(&Line::Gone {
                owner: owner.to_owned(),
            });
        });
    }

    /// The number of grants so far.
    pub fn grants(&mut self) -> u64 {
        self.locked(|oracle| oracle.grants)
    }

    /// The names inside now, and their holders.
    pub fn inside(&mut self) -> BTreeMap<String, String> {
        self.locked(|oracle| {
            oracle
                .inside
                .iter()
                .map(|(name, entry)| (name.clone(), entry.owner.clone()))
                .collect()
        })
    }

    /// All violations of all processes.
    pub fn violations(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.join("violations")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Panics with the violations, if there are any.
    pub fn assert_clean(&self) {
        let violations = self.violations();
        assert!(
            violations.is_empty(),
            "{} violations: {violations:#?}",
            violations.len()
        );
    }

    /// Brings this view up to date and runs the function, excluding other processes.
    fn locked<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        flock(&self.ledger, FlockOperation::LockExclusive).expect("flock works here");
        self.catch_up();
        let result = act(self);
        self.catch_up();
        flock(&self.ledger, FlockOperation::Unlock).expect("flock works here");
        result
    }

    fn catch_up(&mut self) {
        let mut text = String::new();
        self.ledger
            .seek(SeekFrom::Start(self.read))
            .expect("a file");
        self.ledger
            .read_to_string(&mut text)
            .expect("the ledger is text");
        for line in text.split_inclusive('\n') {
            let at = Moment(self.read);
            self.read += line.len() as u64;
            // A process that was killed while it wrote leaves a line without an end, or a whole
            // one; the next process ends the line.
            if let Ok(line) = serde_json::from_str(line) {
                self.apply(line, at);
            }
        }
    }

    fn apply(&mut self, line: Line, at: Moment) {
        match line {
            Line::In {
                names,
                owner,
                token,
                ..
            } => {
                self.grants += 1;
                for name in names {
                    let entry = Entry {
                        owner: owner.clone(),
                        token,
                        entered: at,
                    };
                    self.inside.insert(name, entry);
                }
            }
            Line::Out { names, owner } => {
                for name in names {
                    if self
                        .inside
                        .get(&name)
                        .is_some_and(|entry| entry.owner == owner)
                    {
                        let token = self.inside.remove(&name).and_then(|entry| entry.token);
                        self.left.insert(name, Departure { token, at });
                    }
                }
            }
            Line::Gone { owner } => self.inside.retain(|_, entry| entry.owner != owner),
        }
    }

    fn append(&mut self, line: &Line) {
        let mut text = serde_json::to_string(line).expect("plain data");
        text.push('\n');
        self.ledger
            .write_all(text.as_bytes())
            .expect("the disk has room");
    }

    fn report(&mut self, found: &[String]) -> Result<(), Violation> {
        if found.is_empty() {
            return Ok(());
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("violations"))
            .expect("the oracle's directory is there");
        for violation in found {
            writeln!(file, "{violation}").expect("the disk has room");
        }
        Err(Violation(found.join("; ")))
    }
}

/// Whether `name`, which enters now, and `held`, which is inside, exclude each other.
fn forbidden(
    name: &str,
    owner: &str,
    token: Option<i64>,
    asked: Moment,
    held: &str,
    entry: &Entry,
) -> Option<String> {
    let says = |how: &str| {
        Some(format!(
            "{name} of {owner} ({token:?}) {how} {held} of {} ({:?})",
            entry.owner, entry.token
        ))
    };
    let tokens = token.zip(entry.token);
    match (refused_while(name, held), refused_while(held, name)) {
        (true, true) => says("overlaps"),
        (true, false) => {
            let was_held = entry.entered < asked || tokens.is_some_and(|(new, old)| old < new);
            was_held
                .then(|| says("was granted while there was"))
                .flatten()
        }
        // It came second, and may have been granted first.
        (false, true) => tokens
            .is_some_and(|(new, old)| new < old)
            .then(|| says("was there before"))
            .flatten(),
        (false, false) => None,
    }
}

/// Whether a token is not larger than that of a conflicting grant that had ended before this one
/// was requested.
fn backwards(
    name: &str,
    owner: &str,
    token: Option<i64>,
    asked: Moment,
    before: &str,
    departure: Departure,
) -> Option<String> {
    let (new, old) = token.zip(departure.token)?;
    let conflict = refused_while(name, before) || refused_while(before, name);
    (conflict && departure.at < asked && new <= old)
        .then(|| format!("{name} of {owner} has the token {new}, {before} before it had {old}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_views() -> (tempfile::TempDir, Oracle, Oracle) {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (
            Oracle::open(directory.path()),
            Oracle::open(directory.path()),
        );
        (directory, a, b)
    }

    /// Enters as a process that asks at this moment.
    fn enter(oracle: &mut Oracle, name: &str, owner: &str) -> Result<(), Violation> {
        let asked = oracle.asking();
        oracle.enter(&[name], owner, None, asked)
    }

    #[test]
    fn what_is_allowed_is_no_violation() {
        let (_directory, mut a, mut b) = two_views();
        enter(&mut a, "app_task_1", "a").unwrap();
        enter(&mut b, "app_task_2", "b").unwrap();
        a.leave(&["app_task_1"], "a").unwrap();
        enter(&mut b, "app_task_1", "b").unwrap();
        assert_eq!(a.inside().len(), 2);
        assert_eq!((a.grants(), b.grants()), (3, 3));
        a.assert_clean();
    }

    #[test]
    fn overlap_is_seen_by_every_view() {
        let (_directory, mut a, mut b) = two_views();
        enter(&mut a, "app_task_1", "a").unwrap();
        enter(&mut b, "app_task_1", "b").unwrap_err();
        assert_eq!(a.violations().len(), 1);
        assert_eq!(a.violations(), b.violations());
    }

    #[test]
    fn what_is_forbidden_both_ways_needs_no_order() {
        let (_directory, mut a, mut b) = two_views();
        let (asked_a, asked_b) = (a.asking(), b.asking());
        a.enter(&["box_update"], "a", None, asked_a).unwrap();
        b.enter(&["x", "app_task_1"], "b", None, asked_b)
            .unwrap_err();
    }

    #[test]
    fn a_direction_that_is_allowed() {
        let (_directory, mut a, mut b) = two_views();
        enter(&mut a, "box_update", "a").unwrap();
        enter(&mut b, "app_backup_1", "b").unwrap();
        a.assert_clean();
    }

    #[test]
    fn a_direction_that_is_forbidden() {
        let (_directory, mut a, mut b) = two_views();
        enter(&mut a, "app_backup_1", "a").unwrap();
        enter(&mut b, "box_update", "b").unwrap_err();
    }

    #[test]
    fn second_to_enter_may_have_been_granted_first() {
        let (_directory, mut a, mut b) = two_views();
        let asked = b.asking();
        // In between, the update was granted, then the backup, which enters first.
        enter(&mut a, "app_backup_1", "a").unwrap();
        b.enter(&["box_update"], "b", None, asked).unwrap();
        a.assert_clean();
    }

    #[test]
    fn tokens_tell_the_order() {
        for (backup, update, ok) in [(8, 7, true), (7, 8, false), (7, 7, true)] {
            let (_directory, mut a, mut b) = two_views();
            let asked = b.asking();
            a.enter(&["app_backup_1"], "a", Some(backup), asked)
                .unwrap();
            assert_eq!(
                b.enter(&["box_update"], "b", Some(update), asked).is_ok(),
                ok
            );

            let (_directory, mut a, mut b) = two_views();
            let asked = b.asking();
            a.enter(&["box_update"], "a", Some(update), asked).unwrap();
            assert_eq!(
                b.enter(&["app_backup_1"], "b", Some(backup), asked).is_ok(),
                ok
            );
        }
    }

    #[test]
    fn a_token_that_goes_backwards_is_a_violation() {
        for (second, ok) in [(8, true), (7, false), (6, false)] {
            let (_directory, mut a, mut b) = two_views();
            let asked = a.asking();
            a.enter(&["app_task_1"], "a", Some(7), asked).unwrap();
            a.leave(&["app_task_1"], "a").unwrap();
            let asked = b.asking();
            assert_eq!(
                b.enter(&["box_update"], "b", Some(second), asked).is_ok(),
                ok
            );
        }
    }

    #[test]
    fn leaving_without_having_entered_is_a_violation() {
        let (_directory, mut a, mut b) = two_views();
        enter(&mut a, "x", "a").unwrap();
        b.leave(&["x"], "b").unwrap_err();
        assert_eq!(a.inside()["x"], "a");
    }

    #[test]
    fn dead_processes_are_not_inside() {
        let (_directory, mut a, mut b) = two_views();
        enter(&mut a, "x", "a").unwrap();
        b.gone("a");
        enter(&mut b, "x", "b").unwrap();
        a.assert_clean();
    }

    #[test]
    fn a_line_that_was_cut_off_is_skipped() {
        let (directory, mut a, _) = two_views();
        enter(&mut a, "x", "a").unwrap();
        let mut ledger = OpenOptions::new()
            .append(true)
            .open(directory.path().join("ledger"))
            .unwrap();
        ledger.write_all(b"{\"In\":{\"na\n").unwrap();
        let mut late = Oracle::open(directory.path());
        assert_eq!(late.inside().len(), 1);
        enter(&mut late, "x", "b").unwrap_err();
    }
}
