//! Wrong wall clocks for single processes: servers and peers.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
};

use tempfile::TempDir;

use crate::engine::{all_engines_wanted, note};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/support/clock_offset.c");

/// A wall clock with an adjustable offset, which may change while processes use it.
#[derive(Debug)]
pub struct WallClock {
    directory: TempDir,
    offset: File,
}

impl WallClock {
    /// A correct clock. `None`, with a note, where a wrong clock is not possible.
    pub fn new() -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("clock-").tempdir();
        let directory = directory.expect("a temporary directory");
        // Servers run as other users.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("our own");
        let library = directory.path().join("clock_offset.so");
        if !compile(&library) {
            assert!(!all_engines_wanted(), "cc cannot make a wrong clock here");
            note("left out: wrong clocks, which need Linux with glibc, and cc");
            return None;
        }
        let path = directory.path().join("offset");
        fs::write(&path, 0_i64.to_ne_bytes()).expect("the disk has room");
        let offset = File::options().write(true).open(path).expect("it is there");
        Some(Self { directory, offset })
    }

    /// Sets the offset in seconds; positive is ahead.
    pub fn set(&self, seconds: i64) {
        self.offset
            .write_all_at(&seconds.to_ne_bytes(), 0)
            .expect("the disk has room");
    }

    /// Makes a command, and all processes that it starts, use this clock.
    pub fn rule(&self, command: &mut Command) {
        let path = |name: &str| self.directory.path().join(name);
        command
            .env("LD_PRELOAD", path("clock_offset.so"))
            .env("LOCKS_CLOCK_OFFSET", path("offset"));
    }
}

fn compile(library: &Path) -> bool {
    let flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o"];
    let output = Command::new("cc")
        .args(flags)
        .arg(library)
        .args([SOURCE, "-ldl"])
        .output();
    output.is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_uses_the_clock() {
        let Some(clock) = WallClock::new() else {
            return;
        };
        let seconds = |ruled: bool| {
            let mut command = Command::new("date");
            command.arg("+%s");
            if ruled {
                clock.rule(&mut command);
            }
            let output = command.output().expect("there is a date");
            let text = String::from_utf8(output.stdout).expect("digits");
            text.trim().parse::<i64>().expect("a number")
        };
        for offset in [0, 3_600, -3_600] {
            clock.set(offset);
            let off = seconds(true) - seconds(false);
            assert!((off - offset).abs() < 60, "{off} instead of {offset}");
        }
    }
}
