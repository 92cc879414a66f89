//! The lock table: who holds what and who waits, as one value.
//!
//! Everything here is a function of values: no I/O, no clock, no randomness.
//!
//! ```text
//!   dataJson ─┐                        ┌─ blockers(request)   order.rs
//!             ├─▶ LockTable ──────────▶├─ cycle(request)     wait_for.rs
//!   metaJson ─┘   json.rs              └─ grant, release, enqueue, …
//! ```

mod json;
mod order;
mod text_cache;
mod wait_for;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    matrix::{ConflictMatrix, Fingerprint},
    name::LockName,
    report::{Holder, Waiter},
    scope::ScopePath,
};

use self::text_cache::TextCache;
pub(crate) use self::{json::Columns, order::Order};

/// The id of a session: one per driver, namespace and task id, never used again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub(crate) Arc<str>);

impl SessionId {
    /// A fresh id. It starts with the namespace, so that a fence row, which has
    /// nothing but the id, can be found by it.
    pub(crate) fn new(namespace: &str, random: u64) -> Self {
        Self(format!("{}{random:016x}", Self::start_of(namespace)).into())
    }

    /// No session: what asks has none yet.
    pub(crate) fn none() -> Self {
        Self("".into())
    }

    /// How the ids of a namespace start; `/` is in none.
    pub(crate) fn start_of(namespace: &str) -> String {
        format!("{namespace}/")
    }

    /// The first text that is an id of a namespace, and the first behind them all: `0`
    /// follows `/`.
    pub(crate) fn range_of(namespace: &str) -> (String, String) {
        (Self::start_of(namespace), format!("{namespace}0"))
    }

    /// The key of a fence row of this session. The first one is the session's own id.
    pub(crate) fn fence_row(&self, number: usize) -> String {
        match number {
            0 => self.0.to_string(),
            number => format!("{}#{number}", self.0),
        }
    }

    /// The first key of a fence row of this session, and the first behind them all: `$`
    /// follows `#`.
    pub(crate) fn fence_range(&self) -> (String, String) {
        (self.0.to_string(), format!("{}$", self.0))
    }

    /// The session that a fence row belongs to.
    pub(crate) fn of_fence_row(row: &str) -> Self {
        let id = row.split_once('#').map_or(row, |(id, _)| id);
        Self(id.into())
    }
}

/// Tells one request from every other of its session, through repeated writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Nonce(pub(crate) u64);

/// One request of one session: what is looked for in the row.
pub(crate) type RequestId = (SessionId, Nonce);

/// All that is held and awaited in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LockTable {
    held: BTreeMap<LockName, Entry>,
    /// In order of arrival.
    queue: Vec<QueuedRequest>,
    /// How many locks each session of ours holds, so that those of another matrix
    /// are found without a look at every lock.
    sessions: BTreeMap<SessionId, SessionUse>,
    /// How many locks the original holds.
    foreign: usize,
    /// Locks of ours that somebody took out of `dataJson` without asking: nothing is
    /// granted before the sessions they belong to are dead, since a commit that was
    /// fenced while they held may still be under way.
    stolen: BTreeMap<LockName, (Arc<str>, Grant, Fingerprint)>,
    /// The texts of `held`.
    text_cache: TextCache,
}

/// A held lock: ours with a grant, the original's without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) task: Arc<str>,
    pub(crate) grant: Option<Grant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) session: SessionId,
    pub(crate) nonce: Nonce,
    /// The version that the grant's write made.
    pub(crate) token: i64,
    /// Microseconds since 1970, for people to read.
    pub(crate) since: i64,
    /// The innermost scope that asked, if any did.
    pub(crate) scope: Option<u64>,
}

/// A request in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueuedRequest {
    pub(crate) session: SessionId,
    pub(crate) nonce: Nonce,
    pub(crate) task: Arc<str>,
    pub(crate) names: Arc<[LockName]>,
    pub(crate) matrix: Fingerprint,
    /// The version that the first write of this waiter made: its place.
    pub(crate) ticket: i64,
    pub(crate) since: i64,
    pub(crate) path: ScopePath,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SessionUse {
    task: Arc<str>,
    matrix: Fingerprint,
    held: usize,
}

/// What somebody asks for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) session: SessionId,
    pub(crate) nonce: Nonce,
    pub(crate) task: Arc<str>,
    pub(crate) names: Arc<[LockName]>,
    pub(crate) matrix: ConflictMatrix,
    pub(crate) path: ScopePath,
    pub(crate) since: i64,
}

impl PartialEq for Request {
    /// Two matrices are equal if their fingerprints are.
    fn eq(&self, other: &Self) -> bool {
        let parts = |request: &Self| {
            let Self {
                session,
                nonce,
                task,
                names,
                matrix,
                path,
                since,
            } = request.clone();
            (
                session,
                nonce,
                task,
                names,
                matrix.fingerprint(),
                path,
                since,
            )
        };
        parts(self) == parts(other)
    }
}

impl Eq for Request {}

impl LockTable {
    pub(crate) fn queue(&self) -> &[QueuedRequest] {
        &self.queue
    }

    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.held.get(name)
    }

    /// The token of this request's grant, if all of it is held.
    pub(crate) fn granted(&self, id: &RequestId, names: &[LockName]) -> Option<i64> {
        let mut token = None;
        for name in names {
            let grant = self.held.get(name)?.grant.as_ref()?;
            if grant.session != id.0 || grant.nonce != id.1 {
                return None;
            }
            token = Some(grant.token);
        }
        token
    }

    /// The place in the queue of a request.
    pub(crate) fn position(&self, id: &RequestId) -> Option<usize> {
        self.queue
            .iter()
            .position(|w| w.session == id.0 && w.nonce == id.1)
    }

    /// Every session that holds or awaits something, once.
    pub(crate) fn session_ids(&self) -> BTreeSet<SessionId> {
        let holding = self.sessions.keys().cloned();
        let waiting = self.queue.iter().map(|w| w.session.clone());
        holding.chain(waiting).collect()
    }

    /// Every session that holds something, once.
    pub(crate) fn holding_sessions(&self) -> impl Iterator<Item = &SessionId> {
        self.sessions.keys()
    }

    /// The sessions that hold or await something for this task, or for any.
    pub(crate) fn sessions_of(&self, task: Option<&str>) -> Vec<SessionId> {
        let wanted = |t: &str| task.is_none_or(|task| task == t);
        let holding = self.sessions.iter().filter(|(_, used)| wanted(&used.task));
        let waiting = self.queue.iter().filter(|w| wanted(&w.task));
        let stolen = self.stolen.values().filter(|(task, ..)| wanted(task));
        holding
            .map(|(id, _)| id.clone())
            .chain(waiting.map(|w| w.session.clone()))
            .chain(stolen.map(|(_, grant, _)| grant.session.clone()))
            .collect()
    }

    /// The sessions whose locks somebody took without asking.
    pub(crate) fn stolen(&self) -> impl Iterator<Item = &SessionId> {
        self.stolen.values().map(|(_, grant, _)| &grant.session)
    }

    /// Forgets what dead sessions were robbed of.
    pub(crate) fn forget_stolen(&mut self, dead: impl Fn(&SessionId) -> bool) {
        self.stolen.retain(|_, (_, grant, _)| !dead(&grant.session));
    }

    /// The requests of these sessions that hold something, and what they hold.
    pub(crate) fn grants_of(
        &self,
        sessions: &BTreeSet<SessionId>,
    ) -> BTreeMap<RequestId, Vec<LockName>> {
        let mut grants = BTreeMap::<_, Vec<_>>::new();
        if sessions.is_empty() {
            return grants;
        }
        for (name, entry) in &self.held {
            if let Some(grant) = &entry.grant
                && sessions.contains(&grant.session)
            {
                let id = (grant.session.clone(), grant.nonce);
                grants.entry(id).or_default().push(name.clone());
            }
        }
        grants
    }

    /// Grants `request`, which is known to be free of conflicts, and takes it off
    /// the queue where it stands there.
    pub(crate) fn grant(&mut self, request: &Request, token: i64) {
        for name in &*request.names {
            let grant = Grant {
                session: request.session.clone(),
                nonce: request.nonce,
                token,
                since: request.since,
                scope: request.path.innermost(),
            };
            let entry = Entry {
                task: request.task.clone(),
                grant: Some(grant),
            };
            self.insert(name.clone(), entry, request.matrix.fingerprint());
        }
    }

    /// Adds an entry and keeps the counts.
    fn insert(&mut self, name: LockName, entry: Entry, matrix: Fingerprint) {
        self.remove(&name);
        self.text_cache.touch(&name);
        match &entry.grant {
            None => self.foreign += 1,
            Some(grant) => {
                self.sessions
                    .entry(grant.session.clone())
                    .or_insert_with(|| SessionUse {
                        task: entry.task.clone(),
                        matrix,
                        held: 0,
                    })
                    .held += 1;
            }
        }
        self.held.insert(name, entry);
    }

    /// Removes an entry and keeps the counts.
    fn remove(&mut self, name: &LockName) -> Option<Entry> {
        let entry = self.held.remove(name)?;
        self.text_cache.touch(name);
        match &entry.grant {
            None => self.foreign -= 1,
            Some(grant) => {
                if let Some(used) = self.sessions.get_mut(&grant.session) {
                    used.held -= 1;
                    if used.held == 0 {
                        self.sessions.remove(&grant.session);
                    }
                }
            }
        }
        Some(entry)
    }

    /// Removes what a request holds among `names`; whether there was anything.
    pub(crate) fn release(&mut self, id: &RequestId, names: &[LockName]) -> bool {
        let mut any = false;
        for name in names {
            let ours = self
                .held
                .get(name)
                .and_then(|entry| entry.grant.as_ref())
                .is_some_and(|grant| grant.session == id.0 && grant.nonce == id.1);
            any |= ours && self.remove(name).is_some();
        }
        any
    }

    /// Removes every lock of the entries that `gone` fits, and returns them.
    pub(crate) fn release_where(&mut self, gone: impl Fn(&Entry) -> bool) -> Vec<Holder> {
        let names: Vec<_> = self
            .held
            .iter()
            .filter(|(_, entry)| gone(entry))
            .map(|(name, _)| name.clone())
            .collect();
        let take = |name: LockName| {
            let entry = self.remove(&name)?;
            Some(holder(&name, &entry))
        };
        names.into_iter().filter_map(take).collect()
    }

    /// Puts `request` into the queue, behind everybody with a lower or equal ticket.
    pub(crate) fn enqueue(&mut self, request: &Request, session: &SessionId, ticket: i64) {
        let at = self.queue.partition_point(|w| w.ticket <= ticket);
        let waiting = QueuedRequest {
            session: session.clone(),
            nonce: request.nonce,
            task: request.task.clone(),
            names: request.names.clone(),
            matrix: request.matrix.fingerprint(),
            ticket,
            since: request.since,
            path: request.path.clone(),
        };
        self.queue.insert(at, waiting);
    }

    /// Removes every waiter that `gone` fits; how many.
    pub(crate) fn dequeue_where(&mut self, gone: impl Fn(&QueuedRequest) -> bool) -> usize {
        let before = self.queue.len();
        self.queue.retain(|waiting| !gone(waiting));
        before - self.queue.len()
    }

    /// Takes one waiter off the queue; whether it stood there.
    pub(crate) fn dequeue(&mut self, id: &RequestId) -> bool {
        match self.position(id) {
            Some(place) => {
                self.queue.remove(place);
                true
            }
            None => false,
        }
    }

    /// Lets a waiter of a lost session go on under another one, in its place.
    pub(crate) fn move_request(&mut self, id: &RequestId, to: &SessionId) -> bool {
        match self.position(id) {
            Some(place) => {
                self.queue[place].session = to.clone();
                true
            }
            None => false,
        }
    }

    /// Everything that is held.
    pub(crate) fn holders(&self) -> Vec<Holder> {
        let holders = self.held.iter();
        holders.map(|(name, entry)| holder(name, entry)).collect()
    }
}

pub(crate) fn holder(name: &LockName, entry: &Entry) -> Holder {
    Holder {
        name: name.clone(),
        task_id: entry.task.clone(),
        token: entry.grant.as_ref().map(|grant| grant.token),
        since: entry.grant.as_ref().and_then(|grant| time(grant.since)),
    }
}

impl QueuedRequest {
    pub(crate) fn report(&self) -> Waiter {
        Waiter {
            names: self.names.to_vec(),
            task_id: self.task.clone(),
            since: time(self.since),
            blocked_by: Vec::new(),
        }
    }
}

/// Microseconds since 1970 as a time; nothing when out of range.
fn time(micros: i64) -> Option<SystemTime> {
    let since = Duration::from_micros(u64::try_from(micros).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
pub(crate) mod tests;
