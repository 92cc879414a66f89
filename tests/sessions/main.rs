//! Sessions of processes that die, pause or are not seen: renewal, eviction and its cost.

mod crashed;
mod dead_sessions;
mod ghosts;
mod identity;
mod paused;
mod renewal;
mod session_traces;
mod stuck;
mod stuck_evictions;
