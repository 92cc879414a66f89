//! The protocol: a state machine that decides what a process does, and when, to share the
//! locks of a namespace with other processes.
//!
//! Nothing here waits, reads a clock, seeds a random generator or knows a database. The driver,
//! or a simulator, hands in what happened and does what comes out:
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
//! [`Namespaces`] holds all namespaces of a driver. They share the row connection, the
//! connection for renewals, group commit, and the shutdown.
//!
//! The path of one acquire if the lock is free:
//!
//! 1. [`Input::Acquire`] adds a pending request (`requests`).
//! 2. If the row is unknown, [`Query::Read`] reads it (`row`). If the task has no session,
//!    [`Query::OpenSessions`] inserts one (`sessions`).
//! 3. `plan` grants the request in the lock table that was read.
//! 4. [`Query::CompareAndSet`] writes that table if the row still has the version that was
//!    read, and if the session is alive. The query carries the plan.
//! 5. The completion brings the plan back. If the row was replaced, the plan is applied:
//!    [`Output::Granted`]. Otherwise the cycle begins again at step 2.
//!
//! If the lock is not free, `plan` refuses the request ([`Output::Failed`]), or adds it to the
//! queue in the table. A queued request stays pending: [`Input::Changed`] or the next poll of the
//! row (`poll_schedule`) begins the cycle again.

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
    renewals::{Renewal, Renewed},
    task::{Evicted, Task, TaskResult},
    time::{Now, Time},
};
