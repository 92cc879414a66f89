//! The database as the driver uses it: a fixed set of statements on a connection.
//!
//! Only this module knows the names of engines. Each engine has a file with its SQL text, its
//! settings and the meaning of its errors. The code that runs statements is shared.

mod busy;
mod change;
mod connection;
mod dialect;
mod executor;
mod failure;
pub(crate) mod fence;
mod file;
mod given_options;
mod heartbeat_file;
mod listen;
#[cfg(feature = "mysql")]
mod mysql;
mod names;
#[cfg(feature = "postgres")]
mod pooler;
#[cfg(feature = "postgres")]
mod postgres;
mod provider;
mod reconnecting;
mod reopen;
mod rows;
mod schema;
mod session_rows;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statements;
mod target;
mod turn;

pub(crate) use self::{
    change::{Change, ChangeSource, Signal},
    connection::Connection,
    failure::{Class, Failure, Kind},
    listen::Listener,
    names::TableChoice,
    reconnecting::Reconnecting,
    rows::{Liveness, LocksRow, NewSession, Preconditions, RowVersion, SessionRow},
    statements::{Fence, FenceStatement},
    target::{Target, sealed},
    turn::{Submission, Turn, TurnOutcome},
};
pub use self::{fence::FenceConnection, target::IntoConnectOptions};

/// Items for the implementations of `FenceConnection`.
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
pub(crate) mod fencing {
    pub(in crate::store) use super::{
        executor::{Sql, failure},
        failure::Kind,
        file::OPEN_FILES,
        statements::FenceKind,
    };
}
