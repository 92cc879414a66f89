//! The identity of a database file.
//!
//! A deleted file still works for the processes that have it open. So two processes could use
//! two files of one name, and both could hold a lock.

#[cfg(any(unix, feature = "sqlite"))]
use std::path::Path;
use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use super::failure::Failure;

/// The file of a database, if it is one. All connections of a driver share the value.
#[derive(Clone, Debug, Default)]
pub(super) struct FileIdentity(Option<Arc<File>>);

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// The device and the inode at the first connect.
    first: OnceLock<(u64, u64)>,
}

impl FileIdentity {
    /// No file: a server, or a database in memory.
    pub(super) fn none() -> Self {
        Self(None)
    }

    #[cfg(feature = "sqlite")]
    pub(super) fn of(path: &Path) -> Self {
        // A database in memory has a name of this form and no file.
        if path.starts_with(":memory:") || path.to_string_lossy().starts_with("file:") {
            return Self::none();
        }
        Self(Some(Arc::new(File {
            path: path.to_owned(),
            first: OnceLock::new(),
        })))
    }

    /// Records the identity of the file, at the first call.
    pub(super) fn remember(&self) {
        if let Some(file) = &self.0
            && let Some(now) = identity(&file.path)
        {
            file.first.get_or_init(|| now);
        }
    }

    /// Fails if the identity of the file has changed.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match &self.0 {
            Some(file) => match file.first.get() {
                Some(first) if identity(&file.path) != Some(*first) => Err(Failure::replaced()),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }
}

#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;

    #[allow(clippy::disallowed_methods, reason = "the database file is looked at")]
    let metadata = path.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Path) -> Option<(u64, u64)> {
    None
}
