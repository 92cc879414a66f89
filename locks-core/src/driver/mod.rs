//! The driver: a thread that does what the protocol says, and decides nothing.
//!
//! ```text
//! guard, manager ──Command──▶ event_loop ──Input──▶ protocol
//!       ▲                       │    ▲                 │
//!       └────────Reply──────────┘    └──Completed──┐   │ Output
//!                                                  │   ▼
//!                                           connections ──▶ store
//! ```
//!
//! The thread has a runtime of its own, so that neither blocking code in the caller's runtime
//! nor its end can stop releases and renewals.

#![allow(
    clippy::disallowed_methods,
    reason = "time, chance and files come from here"
)]

mod clock;
mod command;
mod connections;
mod event_loop;
mod file_watch;
mod grant;
mod handle;
mod held;
mod lease;
mod linger;
mod listener;
mod meters;
mod queries;
mod replies;
mod spin;
mod tasks;
mod watches;

pub(crate) use self::{
    command::{Command, Owner, Reply},
    grant::Grant,
    handle::Driver,
    lease::GrantState,
    watches::Watch,
};
