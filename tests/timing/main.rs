//! Tests which measure time, CPU or allocations, or change state of the whole process.
//!
//! They run one after the other, with no other test at that time.

mod far_away;
mod finished_tasks;
mod many_sessions;
mod polling;
mod session_costs;
mod session_counts;
mod wake_up;
mod with_lock_cost;
mod with_lock_default;
