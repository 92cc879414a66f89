//! The simulator: several processes on a database in memory, with every fault that can be
//! expressed as an order of steps.
//!
//! ```text
//!   seed ─▶ setup ─▶ World ◀──step── generate (from the seed) or a script
//!                      │
//!       process ── Namespaces ── execution ── database
//!                      │
//!                  properties ──violation──▶ shrink ─▶ a readable schedule
//! ```
//!
//! A statement is sent, applied and answered in three separate steps. Lost answers, late
//! writes, stopped processes and partitions are nothing but orders of steps.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `LOCKS_SIM_SCHEDULES` | how many schedules run | 10,000 |
//! | `LOCKS_SIM_SEED` | the first seed; alone, only this one runs and its steps are printed | 0 |
//! | `LOCKS_SIM_SHRINK` | 0: a schedule that fails is printed as it is, which is faster | 1 |

mod callers;
mod database;
mod engine;
mod execution;
mod generate;
mod lives;
mod log;
mod messages;
mod model;
mod original;
mod power;
mod process;
mod properties;
mod renewals;
mod reports;
mod requests;
mod row_properties;
mod scene;
mod schedule;
mod settle;
mod setup;
mod shrink;
mod statement;
mod tables;
mod tests;
mod traces;
mod transactions;
mod world;
