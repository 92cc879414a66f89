//! Shared code of the tests: databases, private servers, a relay that loses connections, worker
//! processes, and an oracle and a foreign client that are independent of the library.
//!
//! Only the `peer` binary uses `locks-core`: code that judges the library must not depend on it.

// A failed test panics, and its return values are used.
#![allow(
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    clippy::must_use_candidate
)]

pub mod application;
pub mod clock;
pub mod cluster;
pub mod conflict_table;
pub mod engine;
pub mod events;
pub mod fenced_writes;
pub mod hostile;
pub mod journal;
pub mod lock_waits;
pub mod oracle;
pub mod original;
pub mod plain;
pub mod process;
pub mod program;
pub mod race;
pub mod relay;
pub mod row;
pub mod server;
pub mod sessions;
pub mod sharing_oracle;
pub mod standby;
pub mod wait;
pub mod waiter;
pub mod wall_clock;
pub mod worker;

// A documentation test, because `unsafe` is forbidden in this package.
#[cfg(doctest)]
#[doc = concat!("```\n", include_str!("../ui/unsafe_functions.rs"), "\n```")]
struct UnsafeFunctions;
