//! Our own sessions: opened, renewed, lost.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    Config,
    job::{Job, SideJob},
    lease::{Lease, Moment},
    namespace::Namespace,
    observer::Cause,
    plan::{ChoreId, Pending, joined},
    request::Mode,
    session::{Kind, Session, SessionKey},
};
use crate::{
    error::LockError,
    random::unique,
    store::NewSession,
    table::{Nonce, SessionId},
};

impl Namespace {
    /// The session that is open for this, or none yet.
    pub(super) fn session_id(&self, task: &Arc<str>, kind: Kind) -> SessionId {
        match self.sessions.get(&(task.clone(), kind)) {
            Some(session) => session.id.clone(),
            None => SessionId::none(),
        }
    }

    /// Opens the sessions that requests are in need of.
    pub(super) fn open(&mut self, config: &Config) -> Option<Job> {
        let mut wanted = BTreeSet::new();
        for asking in self.asking.values_mut() {
            if asking.abandoned {
                continue;
            }
            let key = (asking.claim.task.clone(), config.holding());
            match self.sessions.get(&key) {
                Some(session) if !session.lease.is_over() => {
                    asking.claim.session = session.id.clone();
                }
                _ => _ = wanted.insert(key),
            }
            if matches!(asking.mode, Mode::InTurn { .. }) {
                let key = (asking.claim.task.clone(), Kind::Expiring);
                match self.sessions.get(&key) {
                    Some(session) if !session.lease.is_over() => {
                        asking.queue_session = session.id.clone();
                    }
                    _ => _ = wanted.insert(key),
                }
            }
        }
        if wanted.is_empty() {
            return None;
        }
        let new = |(task, kind): SessionKey| NewSession {
            id: SessionId::new(&self.name, unique()),
            namespace: self.name.clone(),
            task,
            process: config.process.clone(),
            ttl: match kind {
                Kind::Expiring => Some(config.beat_ttl()),
                Kind::Never => None,
            },
        };
        Some(Job::Open(wanted.into_iter().map(new).collect()))
    }

    /// A session's rows are there.
    pub(super) fn opened(&mut self, new: NewSession, sent: Moment) {
        let (kind, deadline) = match new.ttl {
            Some(ttl) => (Kind::Expiring, sent.after(ttl)),
            None => (Kind::Never, Moment::NEVER),
        };
        let session = Session {
            id: new.id,
            ttl: new.ttl,
            lease: Arc::new(Lease::until(deadline)),
        };
        let key = (new.task, kind);
        self.lose_session(&key, "another session took its place");
        self.sessions.insert(key, session);
        self.dirty = true;
    }

    /// Evicts a session of our own that is of no use any more, like anybody's.
    fn bury_own(&mut self, session: Session) {
        session.lease.end();
        self.evict(session.id, Cause::Gone);
    }

    pub(super) fn evict(&mut self, id: SessionId, cause: Cause) {
        if !self.dead.contains(&id) && self.evicting.insert(id.clone()) {
            self.side.push_back(SideJob::Evict(id, cause));
        }
    }

    /// A session of ours is lost, and all that is held under it.
    pub(super) fn lose_session(&mut self, key: &SessionKey, reason: &'static str) {
        let Some(session) = self.sessions.remove(key) else {
            return;
        };
        tracing::warn!(
            session = %session.id.0, task = %key.0, namespace = %self.name, reason,
            "a session is lost"
        );
        let lost: Vec<_> = self
            .held
            .iter()
            .filter(|(_, held)| held.tenure.session == session.id)
            .map(|(nonce, _)| *nonce)
            .collect();
        for nonce in lost {
            self.lose(nonce, reason, None);
        }
        self.bury_own(session);
        self.dirty = true;
    }

    /// Somebody took what was granted under this session, so it is dead, or has to be:
    /// nothing may be granted under it any more.
    pub(super) fn robbed(&mut self, id: &SessionId) {
        let ours = self.sessions.iter().find(|(_, s)| s.id == *id);
        if let Some(key) = ours.map(|(key, _)| key.clone()) {
            self.lose_session(&key, "its session ended: a lock of it was taken away");
        }
    }

    /// What a grant held is lost.
    pub(super) fn lose(&mut self, nonce: Nonce, reason: &'static str, by: Option<Arc<str>>) {
        if let Some(held) = self.held.remove(&nonce) {
            let lost = held.tenure.lose(reason, by);
            tracing::warn!(
                lock = joined(&held.tenure.names), task = %held.task,
                namespace = %self.name, token = held.tenure.token, %lost,
                "a lock is lost"
            );
            // A fence that asks for it is in an open transaction, which an adoption of
            // the row would have to wait for: it is answered before.
            let asked = |_: &ChoreId, p: &mut Pending| p.chore.confirms(nonce);
            for (_, pending) in self.chores.extract_if(.., asked) {
                pending.chore.fail(LockError::Lost(lost.clone()));
            }
        }
    }

    /// What a renewal says of our sessions.
    pub(super) fn renewed(&mut self, renewed: &[SessionId], lost: &[SessionId], deadline: Moment) {
        let renewed: BTreeSet<_> = renewed.iter().collect();
        let lost: BTreeSet<_> = lost.iter().collect();
        let mut gone = Vec::new();
        for (key, session) in &self.sessions {
            if lost.contains(&session.id) {
                gone.push(key.clone());
            } else if renewed.contains(&session.id) {
                session.lease.extend(deadline);
            }
        }
        for key in gone {
            self.lose_session(
                &key,
                "its session was evicted: it had not been seen to live",
            );
        }
    }

    /// How long the least of our leases still lasts.
    pub(super) fn least_left(&self) -> Option<Duration> {
        let sessions = self.sessions.values();
        sessions.filter_map(|session| session.lease.left()).min()
    }

    /// The sessions to delete at the end: all that hold nothing.
    pub(super) fn leave(&mut self) -> Vec<SessionId> {
        let holding: BTreeSet<_> = self
            .held
            .values()
            .map(|held| held.tenure.session.clone())
            .collect();
        std::mem::take(&mut self.sessions)
            .into_values()
            .map(|session| session.id)
            .filter(|id| !holding.contains(id))
            .collect()
    }
}
