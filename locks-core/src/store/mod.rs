//! The database, as the driver sees it: a few fixed statements on a connection.
//!
//! Nothing outside this module knows an engine's name. An engine is a file with its
//! SQL text and what its errors mean; how a statement is run is written once.

mod change;
mod connection;
mod failure;
mod file;
mod link;
mod listen;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod run;
mod schema;
#[cfg(feature = "sqlite")]
mod sqlite;
mod target;

pub use self::target::IntoConnectOptions;
pub(crate) use self::{
    change::{Change, Tells},
    connection::{Connection, Liveness, NewSession, Row, SessionRow, Stamp},
    failure::{Class, Failure},
    link::Link,
    listen::Listener,
    target::{Target, sealed},
};
