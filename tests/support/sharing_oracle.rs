//! Judges shared locks and a limit among processes. It knows nothing of the library.
//!
//! Each process notes after a grant what it holds, and before the release that it leaves, in one
//! file under `flock`. What a dead process has noted does not count: its locks may be granted
//! again at any moment.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// The names that begin with this count for the limit.
pub const LIMITED: &str = "backup_";
/// How many of them may be held.
pub const MOST: usize = 3;

/// One process's view of the notes.
#[derive(Debug)]
pub struct SharingOracle {
    directory: PathBuf,
    notes: File,
    inside: Vec<Note>,
    grants: u64,
    read: u64,
}

/// What a process holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pid: u32,
    job: usize,
    name: String,
    shared: bool,
}

impl Note {
    /// What a job of this process holds.
    pub fn new(job: usize, name: &str, shared: bool) -> Self {
        Self {
            pid: std::process::id(),
            job,
            name: name.to_owned(),
            shared,
        }
    }

    /// What is held.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is shared.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    fn is_of_the_living(&self) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        // The state follows the command, which is in parentheses.
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        !state.starts_with(['Z', 'X'])
    }

    fn excludes(&self, other: &Self) -> bool {
        self.name == other.name && !(self.shared && other.shared)
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    In(Note),
    Out(Note),
}

impl SharingOracle {
    /// The notes in this directory, which must exist.
    pub fn open(directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref().to_owned();
        let notes = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(directory.join("notes"))
            .expect("the directory is there");
        Self {
            directory,
            notes,
            inside: Vec::new(),
            grants: 0,
            read: 0,
        }
    }

    /// To be called after each grant. Records a violation if there is one.
    pub fn enter(&mut self, note: &Note) {
        self.locked(|oracle| {
            let with = |other: &&Note| other.excludes(note) && other.is_of_the_living();
            if let Some(other) = oracle.inside.iter().find(with) {
                oracle.report(&format!("{note:?} beside {other:?}"));
            }
            if note.name.starts_with(LIMITED) {
                let limited = oracle.inside.iter().chain([note]);
                let limited = limited.filter(|n| n.name.starts_with(LIMITED));
                let living = limited.filter(|note| note.is_of_the_living());
                let names: BTreeSet<_> = living.map(|note| &note.name).collect();
                if names.len() > MOST {
                    oracle.report(&format!("{note:?} makes it {names:?}"));
                }
            }
            oracle.append(&Line::In(note.clone()));
        });
    }

    /// To be called before each release.
    pub fn leave(&mut self, note: &Note) {
        self.locked(|oracle| oracle.append(&Line::Out(note.clone())));
    }

    /// The number of grants so far.
    pub fn grants(&mut self) -> u64 {
        self.locked(|oracle| oracle.grants)
    }

    /// Panics with the violations, if there are any.
    pub fn assert_clean(&self) {
        let text = fs::read_to_string(self.directory.join("violations")).unwrap_or_default();
        assert!(text.is_empty(), "{text}");
    }

    fn locked<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        flock(&self.notes, FlockOperation::LockExclusive).expect("flock works here");
        self.catch_up();
        let result = act(self);
        flock(&self.notes, FlockOperation::Unlock).expect("flock works here");
        result
    }

    fn catch_up(&mut self) {
        let mut text = String::new();
        self.notes.seek(SeekFrom::Start(self.read)).expect("a file");
        self.notes.read_to_string(&mut text).expect("text");
        self.read += text.len() as u64;
        for line in text.lines() {
            // A process that was killed while it wrote leaves a part of a line.
            match serde_json::from_str(line) {
                Ok(Line::In(note)) => {
                    self.grants += 1;
                    self.inside.push(note);
                }
                Ok(Line::Out(note)) => self.inside.retain(|other| *other != note),
                Err(_) => {}
            }
        }
    }

    fn append(&mut self, line: &Line) {
        let text = serde_json::to_string(line).expect("plain data");
        // A part of a line may come before.
        let text = format!("\n{text}\n");
        self.notes
            .write_all(text.as_bytes())
            .expect("the disk has room");
    }

    fn report(&self, violation: &str) {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("violations"))
            .expect("the directory is there");
        writeln!(file, "{violation}").expect("the disk has room");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enters with these names in this order, and says whether it is clean.
    fn is_clean(notes: &[Note]) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let mut oracle = SharingOracle::open(directory.path());
        for note in notes {
            oracle.enter(note);
        }
        assert_eq!(oracle.grants(), notes.len() as u64);
        !directory.path().join("violations").exists()
    }

    #[test]
    fn what_is_not_shared_by_both_is_a_violation() {
        let note = |job, shared| Note::new(job, "book", shared);
        assert!(is_clean(&[note(1, true), note(2, true)]));
        for pair in [[false, true], [true, false], [false, false]] {
            assert!(!is_clean(&[note(1, pair[0]), note(2, pair[1])]), "{pair:?}");
        }
        let dead = Note {
            pid: u32::MAX,
            ..note(1, false)
        };
        assert!(is_clean(&[dead, note(2, false)]));
    }

    #[test]
    fn names_beyond_the_limit_are_a_violation() {
        let backup = |n: usize| Note::new(n, &format!("{LIMITED}{n}"), false);
        let three: Vec<_> = (0..MOST).map(backup).collect();
        assert!(is_clean(&three));
        assert!(!is_clean(&[&*three, &[backup(MOST)]].concat()));
    }

    #[test]
    fn what_was_left_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let mut oracle = SharingOracle::open(directory.path());
        let (first, second) = (Note::new(1, "book", false), Note::new(2, "book", false));
        oracle.enter(&first);
        oracle.leave(&first);
        oracle.enter(&second);
        oracle.assert_clean();
    }
}
