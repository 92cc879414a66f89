//! What the tests share: databases of their own, private servers, a relay that loses
//! connections, worker processes, and an oracle and a foreign client that know nothing of the
//! library.
//!
//! Nothing in here but the `peer` binary uses `locks-core`: what judges the library must not
//! be fooled by it.

// A test that fails panics, and what it returns is looked at.
#![allow(
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    clippy::must_use_candidate
)]

pub mod backends;
pub mod clock;
pub mod cluster;
pub mod conflict_table;
pub mod deeds;
pub mod engine;
pub mod events;
pub mod hostile;
pub mod journal;
pub mod oracle;
pub mod original;
pub mod plain;
pub mod process;
pub mod program;
pub mod relay;
pub mod row;
pub mod server;
pub mod sessions;
pub mod standby;
pub mod wait;
pub mod waiter;
pub mod wall_clock;
pub mod worker;
