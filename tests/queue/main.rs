//! Requests that wait: their order, their bound, their time-outs and deadlocks.

mod barging;
mod contention;
mod deadlock;
mod order;
mod parallelism;
mod queue_bound;
mod queue_programs;
mod starvation;
mod time_outs;
