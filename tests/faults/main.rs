//! Failures of servers, networks, clocks and processes.

mod chaos;
mod clocks;
mod exclusion;
mod galera;
mod notifications;
mod outage;
mod processes;
mod tokens;
mod unknown_writes;
