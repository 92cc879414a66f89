//! A request that has no answer yet.

use std::time::Instant;

use super::request::{Mode, Reply};
use crate::{
    guard::LockGuard,
    report::Blocker,
    table::{Request as TableRequest, RequestId, SessionId},
};

/// A request that has no answer yet.
#[derive(Debug)]
pub(super) struct Asking {
    /// What is asked for, under the session that will hold it.
    pub(super) claim: TableRequest,
    /// The session that waits. It always beats, while the one that holds may never
    /// expire.
    pub(super) queue_session: SessionId,
    /// Whether its sessions are open.
    pub(super) ready: bool,
    /// The session it stands in the queue under, where it was seen there.
    pub(super) queued_as: Option<SessionId>,
    /// Its place, kept when it has to queue again.
    pub(super) ticket: Option<i64>,
    pub(super) mode: Mode,
    pub(super) since: Instant,
    /// What stood in the way when it was first seen refused.
    pub(super) blocked_by: Vec<Blocker>,
    /// Whether the last thing heard from the database was that it is refused.
    pub(super) reply: Option<Reply<LockGuard>>,
    /// Nobody waits for the answer any more: what the row has of it must go.
    pub(super) abandoned: bool,
    pub(super) seat: std::sync::Arc<super::request::Seat>,
}

impl Asking {
    /// How the grant will be known in the row.
    pub(super) fn id(&self) -> RequestId {
        (self.claim.session.clone(), self.claim.nonce)
    }

    /// Every session the row may know this request under.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        let now = [self.claim.session.clone(), self.queue_session.clone()];
        now.into_iter().chain(self.queued_as.clone())
    }

    /// When the waiting is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.mode {
            Mode::AtOnce => None,
            Mode::InTurn { limit } => limit.and_then(|limit| self.since.checked_add(limit)),
        }
    }
}
