//! The part of a heartbeat that is a file beside the database file.
//!
//! A database file has one writer at a time and no queue for writers. An application that writes
//! in transactions back to back can therefore keep renewals from the file for longer than a ttl,
//! although nothing is wrong with the holder. So a session that could not be renewed in the
//! database advances a number in a file of its own. The heartbeat that others see is the sum of
//! the column `beat` and of this number. Each of the two only grows while the session lives.
//!
//! A renewal of a row and an eviction exclude each other, because both write the row. A renewal of
//! the file excludes no eviction. It needs not to:
//!
//! - The holder's lease ends one ttl after its last renewal was sent. It is extended only if the
//!   file was written, and read back from its path, before that end.
//! - Another process evicts after it has seen one heartbeat for longer than a ttl, and reads the
//!   file again before it deletes the row. So it reads after the end of the lease, and a renewal
//!   that was in time is in the file by then.
//!
//! A stopped process writes no file, so that its lease ends like any other. That its process is
//! in the process table would not show this.
//!
//! ```text
//!  locks.db
//!  locks.db-beats/
//!      4f0c1d22a97be310    a hash of the session's id; the number, in 20 digits
//! ```
//!
//! The file is made at the first renewal that needs it, and deleted with the session's fence rows.
//! The directory is deleted with the last file.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::{matrix::hash, table::SessionId};

/// How often a file is made anew, because another process has deleted the empty directory.
const ATTEMPTS: u32 = 5;

/// The files of the sessions of one database.
#[derive(Clone, Debug)]
pub(super) struct HeartbeatFiles {
    /// The database, without symbolic links, as SQLite names the files beside it.
    database: PathBuf,
    directory: PathBuf,
}

#[allow(
    clippy::disallowed_methods,
    reason = "the heartbeats of a database file are files"
)]
impl HeartbeatFiles {
    /// `database` is the database file.
    pub(super) fn beside(database: &Path) -> io::Result<Self> {
        let database = fs::canonicalize(database)?;
        let mut directory = database.clone().into_os_string();
        directory.push("-beats");
        Ok(Self {
            directory: directory.into(),
            database,
        })
    }

    fn path(&self, id: &SessionId) -> PathBuf {
        self.directory.join(format!("{:016x}", hash(&id.0, "")))
    }

    /// Whether no session has a number.
    pub(super) fn are_none(&self) -> bool {
        matches!(self.directory.metadata(), Err(error) if is_absent(&error))
    }

    /// The number of a session; 0 if it has none.
    pub(super) fn read(&self, id: &SessionId) -> io::Result<i64> {
        match fs::read_to_string(self.path(id)) {
            // The text may be incomplete while it is written. Then it changes again.
            Ok(text) => Ok(text.trim().parse().unwrap_or(0)),
            Err(error) if is_absent(&error) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Advances the number of a session. Only the session's own process calls this, and not
    /// twice at one time.
    pub(super) fn advance(&self, id: &SessionId) -> io::Result<()> {
        let next = self.read(id)?.saturating_add(1);
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.write(id, next) {
                Err(error) if is_absent(&error) && attempts < ATTEMPTS => {}
                result => return result,
            }
        }
    }

    fn write(&self, id: &SessionId, number: i64) -> io::Result<()> {
        match fs::create_dir(&self.directory) {
            Ok(()) => share(&self.database, &self.directory)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let path = self.path(id);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        if number == 1 {
            share(&self.database, &path)?;
        }
        file.write_all(format!("{number:020}").as_bytes())?;
        drop(file);
        // The file may have been deleted after it was opened.
        if self.read(id)? != number {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(())
    }

    /// Deletes the files of sessions that are dead.
    pub(super) fn remove(&self, ids: &[SessionId]) {
        if self.are_none() {
            return;
        }
        for id in ids {
            match fs::remove_file(self.path(id)) {
                Err(error) if !is_absent(&error) => {
                    tracing::debug!(%error, id = %id.0, "the heartbeat of a dead session is left");
                }
                _ => {}
            }
        }
        match fs::remove_dir(&self.directory) {
            Err(error) if !is_absent(&error) && !is_in_use(&error) => {
                tracing::debug!(%error, "the directory of the heartbeats is left");
            }
            _ => {}
        }
    }
}

/// Whether there is no such file, or another file has the name of the directory.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::DirectoryNotEmpty
}

/// Gives a new file or directory the owner and the rights of the database, as SQLite does with
/// its own files, so that every process that uses the database can use it.
#[cfg(unix)]
#[allow(clippy::disallowed_methods, reason = "the rights of a file")]
fn share(database: &Path, new: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

    let [of, has] = [fs::metadata(database)?, fs::metadata(new)?];
    let mut mode = of.mode() & 0o666;
    if has.is_dir() {
        // A directory is read if its files are looked up.
        mode |= (mode & 0o444) >> 2;
    }
    if has.mode() & 0o777 != mode {
        fs::set_permissions(new, fs::Permissions::from_mode(mode))?;
    }
    if rustix::process::geteuid().is_root() && (of.uid(), of.gid()) != (has.uid(), has.gid()) {
        chown(new, Some(of.uid()), Some(of.gid()))?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn share(_: &Path, _: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests of files")]
mod tests {
    use super::*;

    #[test]
    fn a_number_grows_until_its_session_is_dead() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("db");
        fs::write(&database, "").unwrap();
        let files = HeartbeatFiles::beside(&database).unwrap();
        let [a, b] = ["../n/a", "../n/b"].map(|id| SessionId(id.into()));
        assert_eq!(files.read(&a).unwrap(), 0);
        for number in 1..12 {
            files.advance(&a).unwrap();
            assert_eq!(files.read(&a).unwrap(), number);
        }
        assert_eq!(files.read(&b).unwrap(), 0, "another session");
        files.advance(&b).unwrap();
        let count = |path: &Path| fs::read_dir(path).unwrap().count();
        assert_eq!(count(&files.directory), 2);
        files.remove(std::slice::from_ref(&a));
        assert_eq!((files.read(&a).unwrap(), files.read(&b).unwrap()), (0, 1));
        assert!(!files.are_none());
        files.remove(&[a, b]);
        assert!(files.are_none());
        assert_eq!(count(directory.path()), 1);
    }

    #[test]
    #[cfg(unix)]
    fn a_file_has_the_rights_of_the_database_and_is_found_behind_a_link() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};

        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("db"), "").unwrap();
        fs::set_permissions(path("db"), fs::Permissions::from_mode(0o660)).unwrap();
        symlink(path("db"), path("link")).unwrap();
        let id = SessionId("n/a".into());
        let linked = HeartbeatFiles::beside(&path("link")).unwrap();
        linked.advance(&id).unwrap();
        let files = HeartbeatFiles::beside(&path("db")).unwrap();
        assert_eq!(files.read(&id).unwrap(), 1);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&files.path(&id)), 0o660);
        assert_eq!(mode(&files.directory), 0o770);
    }
}
