//! What the examples share.

mod crew;
mod database;
mod namespace;
mod orders;

pub use crew::{Crew, Said};
pub use database::Database;
pub use namespace::in_a_namespace;
pub use orders::{Orders, obey, say};

/// What an example returns: whatever went wrong is printed and ends it.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;
