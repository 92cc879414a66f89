//! The core: what a process does, and when, to share the locks of a namespace with others.
//!
//! Nothing here waits, reads a clock, draws a random number that was not handed in, or knows
//! a database. The driver, or a simulator, hands in what happened and does what comes out:
//!
//! ```text
//!                      ┌──────────────────────────┐
//!   Input ──handle──▶  │ Namespace                │ ──poll──────▶ Output: Task, Granted,
//!   (with Now)         │   requests   grants      │               Failed, Answer, Lost, …
//!                      │   sessions   admin       │
//!                      │   row ─▶ plan ─▶ write   │ ──poll_query▶ Query
//!                      │   failure_detector       │ ◀─Completed── (one in flight)
//!                      │   timers                 │ ──poll_timeout▶ Time
//!                      └──────────────────────────┘
//! ```
//!
//! [`Namespaces`] holds all namespaces of a process. They share one row connection, one
//! connection for renewals, group commit, and shutdown.
//!
//! The path of one acquire, when the lock is free:
//!
//! 1. [`Input::Acquire`] adds a pending request (`requests`).
//! 2. Is the row unknown, [`Query::Read`] reads it (`row`). Has the task no session,
//!    [`Query::OpenSessions`] inserts one (`sessions`).
//! 3. `plan` grants the request in a copy of the lock table.
//! 4. [`Query::CompareAndSet`] writes the table if the row is still of the version that was
//!    read, and if the session is alive.
//! 5. The completion brings the plan back. If the row was replaced, the plan is applied:
//!    [`Output::Granted`]. If not, the cycle begins again at step 2.

// Each module uses only modules above it.
mod time;
mod timers;

mod call;
mod config;
mod task;

mod failure_detector;
mod poll_schedule;
mod row;
mod sessions;
mod write_schedule;

mod grants;
mod requests;

mod admin;
mod plan;

mod query;
mod renewal;

mod input;
mod output;

mod namespace;

mod agenda;
mod group_commit;
mod renewals;
mod shutdown;

mod namespaces;

#[cfg(test)]
mod sim;

pub(crate) use self::{
    call::{AcquireRequest, Answer, CallId, Check, Granted, Inspection, Loss, Removal, WaitPolicy},
    config::{CHUNK, Config, Mechanisms, Name},
    input::{DriverInput, Input},
    namespaces::Namespaces,
    output::{DriverOutput, Output},
    query::{CompareAndSet, Completion, Orphans, Peers, Query},
    renewal::{Renewal, Renewed},
    task::{EvictReason, Evicted, Task, TaskResult},
    time::{Now, Time},
};
