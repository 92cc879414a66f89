//! Our own sessions: opened, renewed, lost.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::{
    Config,
    job::{INSERTS, Job, PIECE},
    lease::{Lease, Moment},
    namespace::Namespace,
    observer::Cause,
    plan::{ChoreId, Pending, joined},
    request::Mode,
    session::{Kind, Session, SessionKey},
    side_job::SideJob,
};
use crate::{
    error::LockError,
    random::unique,
    store::NewSession,
    table::{Nonce, SessionId},
};

/// How long a session may hold and await nothing while a handle of its task is there.
const IDLE: Duration = Duration::from_mins(1);

impl Namespace {
    /// The session that is open for this, or none yet.
    pub(super) fn session_id(&self, task: &Arc<str>, kind: Kind) -> SessionId {
        match self.sessions.get(&(task.clone(), kind)) {
            Some(session) => session.id.clone(),
            None => SessionId::none(),
        }
    }

    /// Gives each request the sessions that are open for it; those that are wanted.
    pub(super) fn assign_sessions(&mut self, config: &Config) -> BTreeSet<SessionKey> {
        let mut wanted = BTreeSet::new();
        for asking in self.asking.values_mut().filter(|asking| !asking.abandoned) {
            let waits = matches!(asking.mode, Mode::InTurn { .. });
            let mut open = |kind| {
                let key = (asking.claim.task.clone(), kind);
                let session = self.sessions.get(&key);
                let id = session.filter(|s| !s.lease.is_over()).map(|s| s.id.clone());
                if id.is_none() {
                    wanted.insert(key);
                }
                id
            };
            let hold = open(config.holding());
            let queue = if waits {
                open(Kind::Expiring)
            } else {
                hold.clone()
            };
            asking.ready = hold.is_some() && queue.is_some();
            if let Some(id) = hold {
                asking.claim.session = id;
            }
            if let Some(id) = queue.filter(|_| waits) {
                asking.queue_session = id;
            }
        }
        wanted
    }

    /// Opens sessions that requests are in need of, some at a time. In between it is the
    /// turn of requests whose sessions are open.
    pub(super) fn open(&mut self, config: &Config) -> Option<Job> {
        let wanted = self.assign_sessions(config);
        if wanted.is_empty() {
            self.opened_last = false;
            return None;
        }
        let ready = self.asking.values().any(|a| a.ready && !a.abandoned);
        if std::mem::take(&mut self.opened_last) && ready {
            return None;
        }
        self.opened_last = true;
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
        // One statement each, so that their leases begin when they are sent.
        let size = INSERTS.into_iter().find(|size| *size <= wanted.len());
        let piece = wanted.into_iter().take(size.unwrap_or(1));
        Some(Job::Open(piece.map(new).collect()))
    }

    /// A session's rows are there.
    pub(super) fn opened(&mut self, new: NewSession, sent: Moment) {
        let (kind, deadline) = match new.ttl {
            Some(ttl) => (Kind::Expiring, sent.after(ttl)),
            None => (Kind::Never, Moment::NEVER),
        };
        let of_task = self.asking.values().find(|a| a.claim.task == new.task);
        let session = Session {
            id: new.id,
            ttl: new.ttl,
            lease: Arc::new(Lease::until(deadline)),
            handle: of_task.map_or_else(Weak::new, |asking| Arc::downgrade(&asking.seat)),
            idle_since: None,
            next_fence: 0,
        };
        self.least_deadline = self.least_deadline.min(deadline);
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
            let witness = self.witness();
            self.side.push_back(SideJob::Evict { id, cause, witness });
        }
    }

    /// A session of our own that lives, as far as is known: an answer that does not show
    /// it is not believed.
    pub(super) fn witness(&self) -> Option<SessionId> {
        let mut living = self.sessions.values().filter(|s| !s.lease.is_over());
        living.next().map(|session| session.id.clone())
    }

    /// Ends sessions that hold and await nothing: those without a handle now, others
    /// after some time.
    pub(super) fn end_idle_sessions(&mut self, now: Instant) {
        // What a write without an answer did may be under any of them.
        if self.unsettled.is_some() || self.plan.is_some() {
            return;
        }
        let held = self.held.values().map(|held| &held.tenure.session);
        let releasing = self.releasing.values().map(|releasing| &releasing.id.0);
        let busy: BTreeSet<_> = held.chain(releasing).cloned().collect();
        let asking: BTreeSet<_> = self.asking.values().map(|a| a.claim.task.clone()).collect();
        let over = |key: &SessionKey, session: &mut Session| {
            if busy.contains(&session.id) || asking.contains(&key.0) {
                session.idle_since = None;
                return false;
            }
            let since = *session.idle_since.get_or_insert(now);
            session.handle.strong_count() == 0 || now.duration_since(since) >= IDLE
        };
        let ended = self.sessions.remove_where(over).into_iter();
        let ids: Vec<_> = ended
            .map(|session| {
                session.lease.end();
                session.id
            })
            .collect();
        let pieces = ids.chunks(PIECE).map(<[_]>::to_vec);
        self.side.extend(pieces.map(SideJob::Discard));
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
        self.session_ended(id, "its session ended: a lock of it was taken away");
    }

    /// A session of ours is not there any more.
    pub(super) fn session_ended(&mut self, id: &SessionId, reason: &'static str) {
        if let Some(key) = self.sessions.key_of(id).cloned() {
            self.lose_session(&key, reason);
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

    /// A session was renewed, unless it is gone.
    pub(super) fn renewed(&mut self, key: &SessionKey, id: &SessionId, deadline: Option<Moment>) {
        let Some(session) = self.sessions.get(key).filter(|session| session.id == *id) else {
            return;
        };
        match deadline {
            Some(deadline) => session.lease.extend(deadline),
            None => self.lose_session(key, "its session was evicted: it had not been seen to live"),
        }
    }

    /// The sessions to delete at the end: all that hold nothing.
    pub(super) fn leave(&mut self) -> Vec<SessionId> {
        let holding: BTreeSet<_> = self
            .held
            .values()
            .map(|held| held.tenure.session.clone())
            .collect();
        let all = self.sessions.remove_where(|_, _| true);
        all.into_iter()
            .map(|session| session.id)
            .filter(|id| !holding.contains(id))
            .collect()
    }
}
