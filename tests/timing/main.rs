//! Tests which measure time, CPU or allocations, or change state of the whole process.
//!
//! They run one after the other, with no other test at that time.

mod attribute_cost;
mod default_manager;
mod finished_tasks;
mod herd;
mod killed_holders;
mod max_hold;
mod polling;
mod remote_database;
mod time_outs;
mod wake_up;
