//! The sessions of this driver, and what is held under them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;

use super::{
    lease::Lease,
    request::{Reply, Seat},
};
use crate::{
    name::LockName,
    report::Lost,
    store::Fence,
    table::{Nonce, RequestId, SessionId},
};

/// Whether a session ends when nobody renews it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Expiring,
    Never,
}

/// For which task a session is, and of which kind.
pub(super) type SessionKey = (Arc<str>, Kind);

/// A session whose two rows are there.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) ttl: Option<Duration>,
    pub(super) lease: Arc<Lease>,
    /// A handle that asks under this session; gone when the last such handle is.
    pub(super) handle: Weak<Seat>,
    /// Since when it was seen to hold and await nothing.
    pub(super) idle_since: Option<Instant>,
    /// The fence row that the next grant uses.
    pub(super) next_fence: usize,
}

/// The sessions of this driver in a namespace, found by what they are for and by their id.
#[derive(Debug, Default)]
pub(super) struct OwnSessions {
    sessions: BTreeMap<SessionKey, Session>,
    keys: BTreeMap<SessionId, SessionKey>,
}

impl OwnSessions {
    pub(super) fn get(&self, key: &SessionKey) -> Option<&Session> {
        self.sessions.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &SessionKey) -> Option<&mut Session> {
        self.sessions.get_mut(key)
    }

    pub(super) fn contains(&self, id: &SessionId) -> bool {
        self.keys.contains_key(id)
    }

    pub(super) fn key_of(&self, id: &SessionId) -> Option<&SessionKey> {
        self.keys.get(id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&SessionKey, &Session)> {
        self.sessions.iter()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// Adds a session; none may be there for this key.
    pub(super) fn insert(&mut self, key: SessionKey, session: Session) {
        self.keys.insert(session.id.clone(), key.clone());
        self.sessions.insert(key, session);
    }

    pub(super) fn remove(&mut self, key: &SessionKey) -> Option<Session> {
        let session = self.sessions.remove(key)?;
        self.keys.remove(&session.id);
        Some(session)
    }

    /// Removes the sessions that `over` fits, and returns them.
    pub(super) fn remove_where(
        &mut self,
        over: impl FnMut(&SessionKey, &mut Session) -> bool,
    ) -> Vec<Session> {
        let removed: Vec<_> = self.sessions.extract_if(.., over).collect();
        for (_, session) in &removed {
            self.keys.remove(&session.id);
        }
        removed.into_iter().map(|(_, session)| session).collect()
    }
}

/// What a guard and its driver share.
#[derive(Debug)]
pub(crate) struct Tenure {
    pub(crate) session: SessionId,
    pub(crate) lease: Arc<Lease>,
    /// How many transactions were fenced and are not known to have ended. Counted before
    /// the fence is sent.
    pub(crate) open_fences: AtomicU32,
    pub(crate) fence: Fence,
    pub(crate) lost: watch::Sender<Option<Lost>>,
    pub(crate) names: Arc<[LockName]>,
    pub(crate) token: i64,
}

impl Tenure {
    pub(crate) fn lose(&self, reason: &'static str, by: Option<Arc<str>>) -> Lost {
        let lost = Lost {
            names: self.names.clone(),
            since: SystemTime::now(),
            by,
            reason,
        };
        self.lost.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(lost.clone());
            }
            first
        });
        self.lost.borrow().clone().unwrap_or(lost)
    }
}

/// Who takes care of a lock that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    Guard,
    /// Nobody: it goes by name, or with the session.
    Detached,
}

impl Held {
    /// Takes one lock away from a grant whose guard is gone; nothing where it is the
    /// only one.
    pub(super) fn split(&mut self, name: &LockName) -> Option<Self> {
        let (one, rest): (Vec<_>, Vec<_>) = self
            .tenure
            .names
            .iter()
            .cloned()
            .partition(|held| held == name);
        if rest.is_empty() {
            return None;
        }
        let part = |names: Vec<LockName>| {
            Arc::new(Tenure {
                session: self.tenure.session.clone(),
                lease: self.tenure.lease.clone(),
                open_fences: AtomicU32::new(self.tenure.open_fences.load(Ordering::Acquire)),
                fence: self.tenure.fence.clone(),
                lost: watch::Sender::new(None),
                names: names.into(),
                token: self.tenure.token,
            })
        };
        let (one, rest) = (part(one), part(rest));
        self.tenure = rest;
        Some(Self {
            task: self.task.clone(),
            keeper: self.keeper,
            tenure: one,
        })
    }
}

/// A lock that is held.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) task: Arc<str>,
    pub(super) keeper: Keeper,
    pub(super) tenure: Arc<Tenure>,
}

/// Tells releases apart: a detached grant goes lock by lock, so its nonce alone does
/// not. The number is that of its locks before.
pub(super) type ReleaseKey = (Nonce, usize);

/// A lock that is to go.
#[derive(Debug)]
pub(super) struct Releasing {
    pub(super) id: RequestId,
    pub(super) tenure: Arc<Tenure>,
    pub(super) task: Arc<str>,
    pub(super) replies: Vec<Reply<()>>,
    /// A release that nobody waits for rides with the next write until then.
    pub(super) due: Instant,
    pub(super) fence: FenceState,
    /// Whether a write that released it has no answer.
    pub(super) tried: bool,
}

/// Whether a commit that was fenced with the lock may still be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FenceState {
    Clear,
    /// To be touched by us, which waits for such commits.
    ToTouch,
    Touching,
}

impl Releasing {
    pub(super) fn new(nonce: Nonce, held: Held, due: Instant) -> Self {
        let fence = if held.tenure.open_fences.load(Ordering::Acquire) > 0 {
            FenceState::ToTouch
        } else {
            FenceState::Clear
        };
        Self {
            id: (held.tenure.session.clone(), nonce),
            task: held.task,
            tenure: held.tenure,
            replies: Vec::new(),
            due,
            fence,
            tried: false,
        }
    }
}
