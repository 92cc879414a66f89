//! Locks between processes.
mod builder;
mod driver;
mod error;
mod fence;
mod guard;
mod manager;
mod matrix;
mod name;
mod process;
mod report;
mod request;
mod scope;
mod store;
mod table;

pub use builder::{Builder, Evidence, Expiry, Fairness};
pub use error::{LockError, Result};
pub use fence::FenceConnection;
pub use guard::LockGuard;
pub use manager::LockManager;
pub use matrix::ConflictMatrix;
pub use name::{IntoLockNames, LockName};
pub use report::{Blocker, Holder, Lost, Waiter};
pub use request::{Request, Wait};
pub use store::IntoConnectOptions;

pub use sqlx;
