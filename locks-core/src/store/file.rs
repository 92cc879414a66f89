//! Whether a database file is still the one that was opened.
//!
//! A file that is deleted keeps working for whoever has it open, so two processes
//! could lock in two files of the same name.

#[cfg(any(unix, feature = "sqlite"))]
use std::path::Path;
use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use super::failure::Failure;

/// The file of a database, where it is one; all connections of a driver share it.
#[derive(Clone, Debug, Default)]
pub(super) struct FileIdentity(Option<Arc<File>>);

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// Device and inode at the first connect.
    first: OnceLock<(u64, u64)>,
}

impl FileIdentity {
    /// Not a file: a server, or memory.
    pub(super) fn none() -> Self {
        Self(None)
    }

    #[cfg(feature = "sqlite")]
    pub(super) fn of(path: &Path) -> Self {
        // In-memory databases have names of this form, and no file.
        if path.starts_with(":memory:") || path.to_string_lossy().starts_with("file:") {
            return Self::none();
        }
        Self(Some(Arc::new(File {
            path: path.to_owned(),
            first: OnceLock::new(),
        })))
    }

    /// Remembers the file as it is now, at the first call.
    pub(super) fn remember(&self) {
        if let Some(file) = &self.0
            && let Some(now) = identity(&file.path)
        {
            file.first.get_or_init(|| now);
        }
    }

    /// Fails when the file is not the one that is remembered.
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

    let metadata = path.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Path) -> Option<(u64, u64)> {
    None
}
