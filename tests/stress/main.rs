//! Random requests and faults of many processes, which keep the machine busy for seconds.
//!
//! Few of them run at one time: they check rates and the time until a grant as well.

mod contention;
mod exclusion;
mod galera;
mod random_faults;
mod random_programs;
mod starvation;
