//! A renewal of sessions: what is asked of its connection, and what came of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{config::Name, sessions::SessionKey};
use crate::{
    store::{Failure, RowVersion},
    table::SessionId,
};

/// A step of a renewal.
#[derive(Clone, Debug)]
pub(crate) enum Renewal {
    /// Open the connection, so that the first renewal need not.
    Open,
    /// Advance the heartbeats of these sessions.
    Sessions(Vec<RenewedSession>),
    /// Read the versions of these namespaces' rows.
    Versions(Vec<Name>),
}

/// A session that is renewed, and where it belongs.
#[derive(Clone, Debug)]
pub(crate) struct RenewedSession {
    pub(crate) id: SessionId,
    pub(super) namespace: Name,
    pub(super) key: SessionKey,
}

/// A step that is done.
#[derive(Debug)]
pub(crate) enum Renewed {
    Opened(Result<(), Failure>),
    Sessions {
        sessions: Vec<RenewedSession>,
        /// The sessions that do not exist any more.
        result: Result<BTreeSet<SessionId>, Failure>,
    },
    Versions {
        namespaces: Vec<Name>,
        /// The versions of the rows that exist.
        result: Result<BTreeMap<String, RowVersion>, Failure>,
    },
}
