//! Failures of servers, networks, clocks and processes.

mod clocks;
mod exclusion;
mod galera;
mod notifications;
mod outage;
mod peers;
mod random_faults;
mod tokens;
mod unknown_writes;
