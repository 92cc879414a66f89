//! What engines do differently, as switches of the database.

use crate::store::ChangeSource;

/// What engines do differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(super) struct Engine {
    pub(super) name: &'static str,
    /// A fenced transaction keeps every other write waiting.
    pub(super) one_writer: bool,
    /// The row can be read under its lock.
    pub(super) row_lock: bool,
    /// The engine has turns.
    pub(super) turns: bool,
    /// The preconditions of a write may be read before it waits for the row.
    pub(super) early_preconditions: bool,
    /// A read may show an earlier state, and any write may lose in certification.
    pub(super) lags: bool,
    /// A fence looks for its grant in the row. Where it does not, the driver is asked.
    pub(super) fence_looks_at_row: bool,
    pub(super) fence_rows: usize,
    /// A commit is on the disk before other connections see it.
    pub(super) shows_durable: bool,
    pub(super) change_source: ChangeSource,
}

const SERVER: Engine = Engine {
    name: "PostgreSQL",
    one_writer: false,
    row_lock: true,
    turns: true,
    early_preconditions: false,
    lags: false,
    fence_looks_at_row: false,
    fence_rows: 1,
    shows_durable: true,
    change_source: ChangeSource::Notifications,
};

pub(super) const ENGINES: [Engine; 4] = [
    SERVER,
    Engine {
        name: "MySQL",
        early_preconditions: true,
        shows_durable: false,
        change_source: ChangeSource::None,
        ..SERVER
    },
    Engine {
        name: "Galera",
        early_preconditions: true,
        shows_durable: false,
        lags: true,
        turns: false,
        fence_rows: 4,
        change_source: ChangeSource::None,
        ..SERVER
    },
    Engine {
        name: "SQLite",
        one_writer: true,
        row_lock: false,
        turns: false,
        fence_looks_at_row: true,
        change_source: ChangeSource::DataVersion,
        ..SERVER
    },
];
