//! Locks between processes, in one versioned row of the SQL database you already have.
//!
//! A program's tasks are separate processes, so that they can be killed. Some may run
//! side by side, some must not. Which, a [`ConflictMatrix`] says; a [`LockManager`]
//! takes the locks, at once or in turn, several together or not at all; a
//! [`LockGuard`] holds them and releases on drop; and when its process dies, others
//! get them.
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
//! // At once, or `LockError::Busy` with what stands in the way.
//! let guard = locks.acquire("app_task_1").await?;
//! let refused = locks.acquire("box_update").await.unwrap_err();
//! println!("{refused}"); // lock box_update is not available: app_task_1 is held by …
//! drop(guard); // Released by a background thread.
//!
//! // In turn, both together, for at most 30 s.
//! let guard = locks
//!     .wait(["app_backup_1", "mail_restart"])
//!     .timeout(Duration::from_secs(30))
//!     .await?;
//! guard.release().await?; // Released when it returns.
//! # Ok(())
//! # }
//! ```
//!
//! # What holds
//!
//! - No two holders that the matrix forbids, between tasks, threads, processes and
//!   machines, on SQLite, MySQL, MariaDB and PostgreSQL. It rests on the
//!   compare-and-set of one row and on nothing else: no session-bound server lock, no
//!   clock, no notification.
//! - Nothing leaks: a lock goes when its guard goes, also in a panic, in a cancelled
//!   future, without a runtime, and at the end of `main`.
//! - A holder that lost its lock is told ([`LockGuard::lost`]); one that was paused for
//!   too long to be told is stopped by the fence ([`LockGuard::commit`]).
//! - Waiters are served in order of arrival per conflict, across processes.
//!
//! # Cargo features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `macros` | yes | the attribute `#[with_lock]` |
//! | `sqlite` | yes | SQLite, bundled |
//! | `mysql` | no | MySQL and MariaDB |
//! | `postgres` | no | PostgreSQL |
//! | `tls-rustls` | no | TLS to the servers |

#[cfg(not(any(feature = "sqlite", feature = "mysql", feature = "postgres")))]
compile_error!("locks-core needs an engine: turn on `sqlite`, `mysql` or `postgres`");

mod builder;
mod driver;
mod error;
mod fence;
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
pub use fence::FenceConnection;
pub use guard::LockGuard;
pub use manager::LockManager;
pub use matrix::ConflictMatrix;
pub use name::{IntoLockNames, LockName};
pub use options::{Evidence, Expiry, Fairness};
pub use report::{Blocker, Holder, Lost, Waiter};
pub use store::IntoConnectOptions;
pub use wait::{Request, Wait};
pub use with_lock::default_manager::Installed;

pub use sqlx;

#[cfg(feature = "macros")]
#[doc = include_str!("with_lock/page.md")]
pub use locks_macros::with_lock;

/// What the expansion of `#[with_lock]` uses. It changes with the macro.
#[doc(hidden)]
pub mod __private {
    pub use crate::with_lock::*;
}
