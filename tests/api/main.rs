//! The public interface on every engine: what its calls grant, refuse, release and report.

mod bad_input;
mod closing;
mod conflict_table;
mod conformance;
mod dropped_guards;
mod fence;
mod shared_fence;
mod supervisor;
