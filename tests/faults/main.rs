//! Failures of servers, networks, clocks and processes.

mod clocks;
mod lasting;
mod notifications;
mod outage;
mod peers;
mod poison;
mod tokens;
mod unknown_writes;
