//! Failures of servers, networks, clocks and processes.

mod clocks;
mod notifications;
mod outage;
mod peers;
mod tokens;
mod unknown_writes;
