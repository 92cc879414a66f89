//! What the examples share.

mod crew;
mod database;
mod namespace;
mod orders;

use std::process::ExitCode;

pub use crew::{Crew, Said};
pub use database::Database;
pub use namespace::in_a_namespace;
pub use orders::{Orders, obey, say};

/// What an example returns: whatever went wrong is printed and ends it.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Says what went wrong, and who says so if that is not plain; how the program then ends.
#[must_use]
pub fn exit_code(who: &str, outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{who}error: {error}");
            ExitCode::FAILURE
        }
    }
}
