//! Requests that wait: their order, their bound, their time-outs and deadlocks.

mod barging;
mod contention;
mod deadlock;
mod independent_requests;
mod order;
mod queue_limit;
mod random_programs;
mod starvation;
mod time_outs;
