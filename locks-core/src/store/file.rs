//! The files of a database, and their identity.
//!
//! A deleted file still works for the processes that have it open. So two processes could use
//! two files of one name, and both could hold a lock. After each statement, and before its
//! answer is believed, the device and the inode of three files are therefore compared with those
//! at the connect:
//!
//! | file | who may change its identity, and when |
//! |---|---|
//! | the database | nothing, as long as the driver lives |
//! | `-wal`, `-shm` | SQLite: the last connection of all processes deletes them when it closes, and the next one creates them. While a connection is open they stay; a checkpoint truncates or overwrites `-wal` |
//!
//! The identity of `-wal` and `-shm` is therefore that of the connections that are open. A
//! connection holds a [`SideFiles`]. The next one takes it over while any of them is open, and
//! otherwise looks anew.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use super::{
    failure::{Class, Failure, Kind},
    heartbeat_file::HeartbeatFiles,
};

/// The query for the files that a connection of SQLite has open.
pub(super) const OPEN_FILES: &str = "SELECT file FROM pragma_database_list";

/// The device and the inode of a file.
#[cfg(unix)]
type Id = (u64, u64);
/// The volume of a file, and its id there.
#[cfg(windows)]
type Id = file_id::FileId;

/// The files of a database, if it has any. All connections of a driver share them.
#[derive(Clone, Debug, Default)]
pub(super) struct FileIdentity {
    file: Option<Arc<File>>,
    /// Those of the connection that has this value.
    side: Option<Arc<SideFiles>>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// That of the first connect.
    first: OnceLock<Id>,
    side: Mutex<Weak<SideFiles>>,
    heartbeats: OnceLock<HeartbeatFiles>,
}

/// The files `-wal` and `-shm`, as the connections found them that are open.
#[derive(Debug)]
struct SideFiles([(PathBuf, Option<Id>); 2]);

impl FileIdentity {
    /// No file: a server, or a database in memory.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// The database at this absolute path.
    #[cfg(feature = "sqlite")]
    pub(super) fn of(path: PathBuf) -> Self {
        let file = File {
            path,
            first: OnceLock::new(),
            side: Mutex::default(),
            heartbeats: OnceLock::new(),
        };
        Self {
            file: Some(Arc::new(file)),
            side: None,
        }
    }

    /// The path of the log.
    pub(super) fn log(&self) -> Option<PathBuf> {
        self.file.as_ref().map(|file| file.beside("-wal"))
    }

    /// The path of the database file.
    #[cfg(feature = "sqlite")]
    pub(super) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| &*file.path)
    }

    /// The files of the sessions' heartbeats; `None` if the database is no file.
    pub(super) fn heartbeats(&self) -> Result<Option<&HeartbeatFiles>, Failure> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        if let Some(files) = file.heartbeats.get() {
            return Ok(Some(files));
        }
        let files = HeartbeatFiles::beside(&file.path).map_err(unreadable)?;
        Ok(Some(file.heartbeats.get_or_init(|| files)))
    }

    /// Records the identity of the database file, at the first call.
    pub(super) fn remember(&self) {
        if let Some(file) = &self.file
            && let Some(now) = identity(&file.path)
        {
            file.first.get_or_init(|| now);
        }
    }

    /// Whether the database file was found at the first connect.
    pub(super) fn is_known(&self) -> bool {
        let file = self.file.as_ref();
        file.is_some_and(|file| file.first.get().is_some())
    }

    /// Whether one of these paths is the database file. An empty path is a database without a
    /// file.
    pub(super) fn is_among(&self, paths: &[Option<String>]) -> bool {
        let first = self.file.as_ref().and_then(|file| file.first.get());
        let mut paths = paths.iter().flatten().filter(|path| !path.is_empty());
        first.is_some_and(|first| paths.any(|path| identity(path.as_ref()) == Some(*first)))
    }

    /// Records the identity of `-wal` and `-shm`, which the connection of this value has open
    /// from now on.
    pub(super) fn attach(&mut self) -> Result<(), Failure> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut side = file.side.lock().unwrap_or_else(PoisonError::into_inner);
        let open = side.upgrade().unwrap_or_else(|| {
            let open = Arc::new(SideFiles::of(file));
            *side = Arc::downgrade(&open);
            open
        });
        drop(side);
        self.side = Some(open);
        self.check()
    }

    /// Fails if the identity of a file has changed. A value of no connection looks for the files
    /// that any connection of the driver has open.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let Some(first) = file.first.get() else {
            return Ok(());
        };
        let is_same = identity(&file.path) == Some(*first);
        let open = || {
            let side = file.side.lock().unwrap_or_else(PoisonError::into_inner);
            side.upgrade()
        };
        let side = self.side.clone().or_else(open);
        if is_same && side.is_none_or(|side| side.are_unchanged()) {
            return Ok(());
        }
        Err(Failure::replaced())
    }
}

impl File {
    /// The file beside the database whose name ends with this.
    fn beside(&self, end: &str) -> PathBuf {
        let mut path = OsString::from(&self.path);
        path.push(end);
        path.into()
    }
}

impl SideFiles {
    fn of(file: &File) -> Self {
        Self(["-wal", "-shm"].map(|end| {
            let path = file.beside(end);
            let id = identity(&path);
            (path, id)
        }))
    }

    /// A file that was not there is not looked at: a database that is read-only may have none.
    fn are_unchanged(&self) -> bool {
        let mut files = self.0.iter();
        files.all(|(path, id)| id.is_none() || identity(path) == *id)
    }
}

/// A file beside the database could not be read or written. The database was not changed.
pub(super) fn unreadable(error: std::io::Error) -> Failure {
    Failure::new(Class::NotApplied, Kind::Other, sqlx::Error::Io(error))
}

#[cfg(unix)]
fn identity(path: &Path) -> Option<Id> {
    use std::os::unix::fs::MetadataExt;

    #[allow(clippy::disallowed_methods, reason = "the database file is looked at")]
    let metadata = path.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Windows does not delete or rename a file that SQLite has open. The id is needed to tell one
/// database from another.
#[cfg(windows)]
fn identity(path: &Path) -> Option<Id> {
    file_id::get_file_id(path).ok()
}

/// The network file systems on which a database is refused: the locks of SQLite do not exclude
/// other machines there, or are slow to. The numbers are those of `f_type` in statfs(2), from
/// `linux/magic.h`.
#[cfg(all(feature = "sqlite", any(all(test, unix), target_os = "linux")))]
const NETWORK: [(u32, &str); 8] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
];

#[cfg(all(feature = "sqlite", any(all(test, unix), target_os = "linux")))]
fn network_name(f_type: i128) -> Option<&'static str> {
    // The field is signed on some machines.
    let f_type = f_type & 0xffff_ffff;
    let mut network = NETWORK.into_iter();
    let found = network.find(|(number, _)| i128::from(*number) == f_type);
    found.map(|(_, name)| name)
}

/// The name of the network file system on which a file is or would be created, if it is one.
#[cfg(all(feature = "sqlite", target_os = "linux"))]
pub(super) fn network_file_system(path: &Path) -> Option<&'static str> {
    let directory = path.parent()?;
    let found = rustix::fs::statfs(path).or_else(|_| rustix::fs::statfs(directory));
    network_name(i128::from(found.ok()?.f_type))
}

/// The same on Windows: a share, or a drive that is mapped to one.
#[cfg(all(feature = "sqlite", windows))]
pub(super) fn network_file_system(path: &Path) -> Option<&'static str> {
    use std::path::{Component, Prefix};

    let directory = path.parent()?;
    let found = path.canonicalize().or_else(|_| directory.canonicalize());
    let found = found.ok()?;
    let Component::Prefix(prefix) = found.components().next()? else {
        return None;
    };
    let is_share = matches!(prefix.kind(), Prefix::UNC(..) | Prefix::VerbatimUNC(..));
    is_share.then_some("a share")
}

/// Network file systems are not recognised on other systems.
#[cfg(all(feature = "sqlite", not(any(target_os = "linux", windows))))]
pub(super) fn network_file_system(_: &Path) -> Option<&'static str> {
    None
}

#[cfg(feature = "sqlite")]
#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "files are made and moved")]

    use std::fs;

    use super::*;

    #[test]
    #[cfg(unix)]
    fn network_file_systems_are_known_by_their_numbers() {
        assert_eq!(network_name(0x6969), Some("NFS"));
        let cifs = i128::from(0xff53_4d42_u32.cast_signed());
        assert_eq!(network_name(cifs), Some("CIFS"), "sign-extended");
        // ext4, tmpfs, btrfs, xfs, overlayfs
        for local in [0xef53, 0x0102_1994, 0x9123_683e, 0x5846_5342, 0x794c_7630] {
            assert_eq!(network_name(local), None, "{local:x}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn file_that_does_not_exist_is_judged_by_its_directory() {
        assert_eq!(network_file_system("/proc/no_such_file".as_ref()), None);
    }

    #[test]
    #[cfg(windows)]
    fn drive_of_this_machine_is_no_share() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(network_file_system(&directory.path().join("db")), None);
        fs::write(directory.path().join("db"), "").unwrap();
        assert_eq!(network_file_system(&directory.path().join("db")), None);
    }

    /// A connection to the files of this directory.
    fn connected(identity: &FileIdentity) -> FileIdentity {
        let mut connection = identity.clone();
        connection.attach().unwrap();
        connection
    }

    #[test]
    fn deleted_side_file_is_noticed_while_a_connection_is_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["db", "db-wal", "db-shm"] {
            fs::write(path(name), "").unwrap();
        }
        let identity = FileIdentity::of(path("db"));
        identity.remember();
        let first = connected(&identity);
        let second = connected(&identity);
        for name in ["db-wal", "db-shm", "db"] {
            fs::rename(path(name), path("aside")).unwrap();
            assert!(second.check().is_err(), "{name} is gone");
            fs::write(path(name), "").unwrap();
            assert!(second.check().is_err(), "{name} is another");
            fs::rename(path("aside"), path(name)).unwrap();
            second.check().unwrap();
        }
        assert!(identity.check().is_ok(), "what the connections have open");
        // A connection that is opened later has to find what the others have open.
        drop(first);
        fs::rename(path("db-wal"), path("aside")).unwrap();
        fs::write(path("db-wal"), "").unwrap();
        assert!(identity.check().is_err());
        assert!(identity.clone().attach().is_err());
    }

    #[test]
    fn last_connection_may_delete_the_side_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["db", "db-wal"] {
            fs::write(path(name), "").unwrap();
        }
        let identity = FileIdentity::of(path("db"));
        identity.remember();
        let connection = connected(&identity);
        fs::write(path("db-shm"), "").unwrap();
        connection.check().expect("it was not there");
        drop(connection);
        fs::rename(path("db-wal"), path("aside")).unwrap();
        fs::write(path("db-wal"), "").unwrap();
        connected(&identity).check().unwrap();
    }
}
