//! Requests that wait: their order, their bound, their time-outs and deadlocks.

mod barging;
mod deadlock;
mod hand_over;
mod independent_requests;
mod order;
mod queue_limit;
mod time_outs;
