//! Locks between processes.
mod error;
mod fence;
mod matrix;
mod name;
mod process;
mod report;
mod scope;
mod store;
mod table;
pub use error::{LockError, Result};
pub use matrix::ConflictMatrix;
pub use name::{IntoLockNames, LockName};
pub use report::{Blocker, Holder, Lost, Waiter};
