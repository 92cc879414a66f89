//! Documentation that belongs to no single item.
//!
//! | page | what it answers |
//! |---|---|
//! | [`guarantees`] | what holds if a process, a machine, the network or the database fails, and which test shows it |
//! | [`engines`] | what SQLite, MySQL, MariaDB and PostgreSQL need, and what their poolers and clusters change |
//! | [`operations`] | which task holds a lock, how to break one, what log lines and metrics mean, how to upgrade |
//! | [`comparison`] | when to use this library, and when something else |
//! | [`original`] | how a program shares its locks with the platform whose table this library extends |
//!
//! The files of this module contain text only.

#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("engines.md")]
pub mod engines {}

#[doc = include_str!("operations.md")]
pub mod operations {}

#[doc = include_str!("comparison.md")]
pub mod comparison {}

#[doc = include_str!("original.md")]
pub mod original {}
