//! The database, as the driver sees it: a few fixed statements on a connection.
//!
//! Nothing outside this module knows an engine's name. An engine is a file with its
//! SQL text and what its errors mean; how a statement is run is written once.

mod change;
mod connection;
mod dialect;
mod executor;
mod failure;
mod file;
mod listen;
#[cfg(feature = "mysql")]
mod mysql;
mod names;
#[cfg(feature = "postgres")]
mod postgres;
mod reconnecting;
mod schema;
mod session_rows;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statements;
mod target;

pub use self::target::IntoConnectOptions;
pub(crate) use self::{
    change::{Change, ChangeSource},
    connection::{
        Connection, Liveness, LocksRow, NewSession, Preconditions, RowVersion, SessionRow,
    },
    failure::{Class, Failure, Kind},
    listen::Listener,
    names::TableChoice,
    reconnecting::Reconnecting,
    statements::{Fence, FenceStatement},
    target::{Target, sealed},
};

/// What the implementations of `FenceConnection` are made of.
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
pub(crate) mod fencing {
    pub(in crate::store) use super::{
        executor::{Sql, failure},
        failure::Kind,
        statements::FenceKind,
    };
}
