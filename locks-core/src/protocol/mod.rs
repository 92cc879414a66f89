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
//! The driver talks to [`Namespaces`], which holds all namespaces and hands their outputs on. They
//! share the row connection, with one query in flight for all of them, the connection for
//! renewals, group commit, and the shutdown.
//!
//! The path of one acquire if the lock is free:
//!
//! 1. [`Input::Acquire`] adds a pending request (`requests`).
//! 2. If the row is unknown, [`Query::Read`] reads it (`row`). If the task has no session,
//!    [`Query::OpenSessions`] inserts one (`sessions`).
//! 3. `plan` grants the request in the lock table that was read.
//! 4. [`Query::CompareAndSet`] writes that table if the row still has the version and the
//!    stamp that were read, and if the session is alive. The query carries the plan.
//! 5. The completion brings the plan back. If the row was replaced, the plan is applied:
//!    [`Output::Granted`]. Otherwise the cycle begins again at step 2.
//!
//! If the lock is not free, `plan` refuses the request ([`Output::Failed`]), or adds it to the
//! queue in the table. A queued request stays pending: [`Input::Changed`] or the next poll of the
//! row (`poll_schedule`) begins the cycle again.

// Each module uses only modules above it.
mod time;
mod timers;

mod call;
mod config;
mod task;

mod batch_limit;
mod durability;
mod failure_detector;
mod poll_schedule;
mod row;
mod sessions;
mod write_schedule;

mod grants;
mod requests;

mod combining;

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
    task::{EvictReason, Evicted, Listed, Task, TaskResult},
    time::{Now, Time},
};
