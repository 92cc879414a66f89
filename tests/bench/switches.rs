//! The switches of the write schedule: each of its mechanisms can be turned off.

use locks_core::{Builder, LockManager};

use crate::Result;

/// The mechanisms that `--without` turns off.
pub(crate) const MECHANISMS: [&str; 8] = [
    "group-commit",
    "row-lock",
    "combining",
    "reread",
    "yielding",
    "deferral",
    "hand-over",
    "spin",
];

/// Connects with the default settings, and without these mechanisms.
pub(crate) async fn connect(url: &str, without: &[String]) -> Result<LockManager> {
    let builder = turn_off(LockManager::builder(), without);
    Ok(builder.connect(url).await?)
}

/// Turns these mechanisms off.
fn turn_off(builder: Builder, without: &[String]) -> Builder {
    let off = |builder: Builder, name: &String| builder.without(name);
    without.iter().fold(builder, off)
}
