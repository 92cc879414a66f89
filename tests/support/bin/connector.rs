//! A process that connects to databases that may be empty.

use std::io::BufRead as _;

use locks_core::LockManager;

use crate::say;

/// Connects to each URL of its input, acquires and releases a lock of its own and one that all
/// processes request, and prints the result.
pub(crate) fn connect_each() {
    say("ready");
    for url in std::io::stdin().lock().lines() {
        match settle(&url.expect("text")) {
            Ok(()) => say("settled"),
            Err(error) => say(&format!("failed {error} {error:?}")),
        }
    }
}

fn settle(url: &str) -> locks_core::Result<()> {
    let locks = LockManager::connect(url).blocking()?;
    let own = format!("own_{}", std::process::id());
    let guard = locks.acquire(own).blocking()?;
    locks.wait("shared").blocking()?.release().blocking()?;
    guard.release().blocking()?;
    locks.close().blocking()
}
