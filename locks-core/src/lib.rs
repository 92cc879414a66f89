//! Locks between processes, in one versioned row of an SQL database.
//!
//! A [`ConflictMatrix`] says which lock names exclude each other. A [`LockManager`] acquires
//! locks, several together or none, with or without waiting. A [`LockGuard`] holds them and
//! releases them on drop. If a process dies, its locks are recovered.
//!
//! ```
//! use std::time::Duration;
//! use locks_core::LockManager;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> locks_core::Result<()> {
//! # let directory = tempfile::tempdir().unwrap();
//! # let url = format!("sqlite://{}", directory.path().join("locks.db").display());
//! let locks = LockManager::connect(&url).await?; // or mysql://, mariadb://, postgres://
//!
//! // Now, or `LockError::Busy` with what blocks it.
//! let guard = locks.acquire("app_task_1").await?;
//! let refused = locks.acquire("box_update").await.unwrap_err();
//! println!("{refused}"); // lock box_update is not available: app_task_1 is held by …
//! drop(guard); // A background thread releases it.
//!
//! // In order of arrival, both together, within 30 s.
//! let guard = locks
//!     .wait(["app_backup_1", "mail_restart"])
//!     .timeout(Duration::from_secs(30))
//!     .await?;
//! guard.release().await?; // Returns when they are released.
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! - **Exclusion.** No two locks that the matrix forbids are held at one time, by tasks, threads,
//!   processes or machines. It rests on the compare-and-set of one row: on no lock of a database
//!   connection, no clock and no notification.
//! - **No leaks.** A lock is released when its guard is dropped, also by a panic, in a cancelled
//!   future, without a runtime, and at the end of `main`.
//! - **Notice of loss.** A holder that has lost its lock is notified ([`LockGuard::lost`]). If it
//!   was paused for too long to be notified, the fence refuses its commit ([`LockGuard::commit`]).
//! - **Order.** Waiting requests that conflict are granted in order of arrival, across processes.
//!
//! # Shared locks and limits
//!
//! The same as in a process can be had between processes:
//!
//! | `tokio::sync` | here |
//! |---|---|
//! | `Mutex::lock` | `locks.wait("name")` |
//! | `Mutex::try_lock` | `locks.acquire("name")` |
//! | `RwLock::read` | `locks.wait(Shared("name"))` |
//! | `RwLock::write` | `locks.wait("name")`; as with tokio, later readers do not overtake it |
//! | `Semaphore` with three permits | a name for each job and [`ConflictMatrix::limits`]`(&[("job_*", 3)])`; as with tokio, a request for several does not starve |
//!
//! Unlike theirs, these locks can be lost: see [`LockGuard::lost`]. [`Wait::max_hold`] limits how long a
//! lock is held.
//!
//! # Cargo features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `macros` | yes | the attribute `#[with_lock]` |
//! | `sqlite` | yes | SQLite, bundled |
//! | `mysql` | no | MySQL and MariaDB |
//! | `postgres` | no | PostgreSQL |
//! | `cli` | no | the command `locks`, which runs commands under locks, and shows and breaks locks |
//! | `tls-rustls` | no | TLS to the servers |

// The programs of the README are compiled.
#[cfg(all(doctest, feature = "macros", feature = "sqlite"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(not(any(feature = "sqlite", feature = "mysql", feature = "postgres")))]
compile_error!("locks-core needs an engine: turn on `sqlite`, `mysql` or `postgres`");

mod builder;
mod driver;
mod error;
mod guard;
mod manager;
mod matrix;
mod name;
mod options;
mod process;
mod protocol;
mod random;
mod report;
mod scope;
mod store;
mod table;
mod wait;
mod with_lock;

pub use builder::Builder;
pub use error::{LockError, Result};
pub use guard::LockGuard;
pub use manager::{Changes, LockManager};
pub use matrix::ConflictMatrix;
pub use name::{IntoLockNames, LockName, Mode, Shared};
pub use options::{Durability, Evidence, Expiry, Fairness};
pub use report::{Blocker, Endangered, Holder, Lost, Snapshot, Waiter};
pub use store::{FenceConnection, IntoConnectOptions};
pub use wait::{Acquire, Request, Wait};
pub use with_lock::default_manager::Installed;

pub use sqlx;

#[cfg(feature = "macros")]
#[doc = include_str!("with_lock/page.md")]
pub use locks_macros::with_lock;

/// The functions that the expansion of `#[with_lock]` calls. They change with the macro.
#[doc(hidden)]
pub mod __private {
    pub use crate::with_lock::*;
}
