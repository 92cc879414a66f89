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

mod admin;
mod agenda;
mod config;
mod failure_detector;
mod grants;
mod group_commit;
mod input;
mod namespace;
mod namespaces;
mod output;
mod plan;
mod poll_schedule;
mod query;
mod renewals;
mod requests;
mod row;
mod sessions;
mod shutdown;
#[cfg(test)]
mod sim;
mod task;
mod time;
mod timers;
mod write_schedule;

pub(crate) use self::{
    config::{Config, Mechanisms, Name},
    failure_detector::EvictReason,
    input::{AcquireRequest, CallId, Check, DriverInput, Input, Inspection, Removal, WaitPolicy},
    namespaces::Namespaces,
    output::{Answer, DriverOutput, Granted, Loss, Output},
    query::{CHUNK, CompareAndSet, Completion, Orphans, Peers, Query},
    renewals::{Renewal, Renewed, RenewedSession},
    task::{Evicted, Task, TaskResult},
    time::{Now, Time},
};
