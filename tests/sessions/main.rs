//! Sessions of processes that die, pause or are not seen: renewal, eviction and its cost.

mod blocked_evictions;
mod dead_sessions;
mod dead_waiters;
mod killed_holders;
mod locked_rows;
mod process_identity;
mod released_sessions;
mod renewal;
mod session_costs;
mod session_traces;
mod stopped_processes;
