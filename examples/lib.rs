//! What the examples share.

mod database;

pub use database::Database;

/// What an example returns: whatever went wrong is printed and ends it.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;
