//! The public interface on every engine: what its calls grant, refuse, release and report.

mod bad_input;
mod closing;
mod conflict_table;
mod conformance;
mod driver_panic;
mod dropped_guards;
mod fence;
mod held_locks;
mod max_hold;
mod reports;
mod shared_fence;
mod sharing;
mod sqlite_files;
mod supervisor;
