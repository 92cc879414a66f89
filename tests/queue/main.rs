//! Requests that wait: their order, their bound, their time-outs and deadlocks.

mod barging;
mod deadlock;
mod independent_requests;
mod order;
mod queue_limit;
mod time_outs;
