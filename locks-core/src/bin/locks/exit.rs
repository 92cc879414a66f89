//! Exit codes.

use std::error::Error;

/// The exit code of the program, or why it failed.
pub(crate) type Outcome = Result<u8, Box<dyn Error>>;

/// The lock to release is not held any more by that grant.
pub(crate) const NOT_HELD: u8 = 1;
/// The locks are not available: `EX_TEMPFAIL`.
pub(crate) const BUSY: u8 = 75;
/// The locks were lost while the command ran.
pub(crate) const LOST: u8 = 76;
/// The locks were not available in time, as with `timeout`.
pub(crate) const TIMED_OUT: u8 = 124;
/// `locks` itself failed.
pub(crate) const FAILED: u8 = 125;
/// The command cannot be run.
pub(crate) const CANNOT_RUN: u8 = 126;
/// There is no such command.
pub(crate) const NOT_FOUND: u8 = 127;
/// The number of a signal is added to it.
pub(crate) const SIGNALLED: u8 = 128;
