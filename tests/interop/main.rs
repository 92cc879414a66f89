//! The original's client and this library on one row.

mod original;
mod traces;
