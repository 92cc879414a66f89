//! The original's client and this library on one row.

mod original;
mod stolen_locks;
mod traces;
