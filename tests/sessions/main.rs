//! Sessions of processes that die, pause or are not seen: renewal, eviction and its cost.

mod blocked_evictions;
mod blocked_statements;
mod busy_files;
mod dead_sessions;
mod dead_waiters;
mod endangered;
mod killed_holders;
mod process_identity;
mod released_sessions;
mod renewal;
mod session_costs;
mod session_traces;
mod stopped_processes;
