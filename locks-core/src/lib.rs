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
//! # The interface
//!
//! | call | what it does |
//! |---|---|
//! | [`LockManager::connect`], [`builder`](LockManager::builder) | connects and starts a background thread, the driver |
//! | [`acquire(names)`](LockManager::acquire) | takes all locks now, or none and returns [`Busy`](LockError::Busy) with what blocks them |
//! | [`wait(names)`](LockManager::wait), [`.timeout(d)`](Wait::timeout) | waits in order of arrival per conflict, across processes |
//! | [`Shared(name)`](Shared), [`.max_hold(d)`](Wait::max_hold) | holds a lock together with others that share it; for a limited time |
//! | [`with_lock`](macro@with_lock) | runs a function while it holds its locks |
//! | [`token`](LockGuard::token) | a fencing token, larger than that of every earlier grant that conflicts with it |
//! | [`lost`](LockGuard::lost), [`is_lost`](LockGuard::is_lost) | notifies of the loss of the lock |
//! | [`endangered`](LockGuard::endangered), [`is_endangered`](LockGuard::is_endangered) | warns when renewals are late, before the lock is lost |
//! | [`commit(tx)`](LockGuard::commit), [`fence`](LockGuard::fence) | makes your transaction fail if the lock is no longer held |
//! | [`release`](LockGuard::release), a drop | returns when the lock is released; releases it some milliseconds later |
//! | [`detach`](LockGuard::detach), [`release(name)`](LockManager::release) | keeps the lock without a guard; releases it by name |
//! | [`is_held`](LockManager::is_held), [`assert_held`](LockManager::assert_held) | what this process holds, without a look at the database |
//! | [`held`](LockManager::held), [`waiting`](LockManager::waiting), [`changes`](LockManager::changes) | the holders; the waiters, with what blocks each; both, whenever they have changed |
//! | [`release_holder`](LockManager::release_holder), [`release_task`](LockManager::release_task), [`release_all`](LockManager::release_all) | takes locks away from their holders |
//! | [`close`](LockManager::close) | releases everything and ends the driver |
//!
//! Every request is a lazy future; [`.blocking()`](Request::blocking) waits for it without a
//! runtime.
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
//! [`_documentation`] says [what holds in which failure](_documentation::guarantees),
//! [what each engine needs](_documentation::engines),
//! [what operators have to know](_documentation::operations), and
//! [when to use something else](_documentation::comparison).
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
//! | `metrics` | no | [metrics](_documentation::operations#metrics) through the facade of that name |
//! | `cli` | no | the command `locks`, which runs commands under locks, and shows and breaks locks |
//! | `tls-rustls` | no | TLS to the servers |

// The programs of the README are compiled.
#[cfg(all(doctest, feature = "macros", feature = "sqlite"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(not(any(feature = "sqlite", feature = "mysql", feature = "postgres")))]
compile_error!("locks-core needs an engine: turn on `sqlite`, `mysql` or `postgres`");

#[cfg(any(doc, doctest))]
pub mod _documentation;

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
