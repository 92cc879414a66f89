//! Locks between processes.
mod builder;
mod driver;
mod error;
mod fence;
mod guard;
mod installed;
mod manager;
mod matrix;
mod matrix_check;
mod name;
mod process;
mod report;
mod request;
mod scope;
mod store;
mod table;
mod with_lock;

pub use builder::{Builder, Evidence, Expiry, Fairness};
pub use error::{LockError, Result};
pub use fence::FenceConnection;
pub use guard::LockGuard;
pub use installed::Installed;
pub use manager::LockManager;
pub use matrix::ConflictMatrix;
pub use name::{IntoLockNames, LockName};
pub use report::{Blocker, Holder, Lost, Waiter};
pub use request::{Request, Wait};
pub use store::IntoConnectOptions;

pub use sqlx;

#[cfg(feature = "macros")]
#[doc = include_str!("with_lock.md")]
pub use locks_macros::with_lock;

/// What `#[with_lock]` calls.
#[doc(hidden)]
pub mod __private {
    pub use crate::with_lock::*;
}
