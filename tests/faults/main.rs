//! Failures of servers, networks, clocks and processes.

mod clocks;
mod connect_by;
mod connections;
mod ipv6;
mod lasting;
mod notifications;
mod outage;
mod peers;
mod poison;
mod poolers;
mod power_loss;
mod tokens;
mod unknown_writes;
