//! Random requests and faults of many processes, which keep the machine busy for seconds.
//!
//! Few of them run at one time: they check rates and the time until a grant as well.

mod contention;
mod exclusion;
mod galera;
mod many_sessions;
mod queue_limit;
mod random_faults;
mod random_programs;
mod session_counts;
mod sharing;
mod sorted_requests;
mod starvation;
mod turns;
