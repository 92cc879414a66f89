//! The lock table of one namespace as a value: held locks and queued requests.
//!
//! Everything here is a function of values: no I/O, no clock, no randomness.
//!
//! ```text
//!   dataJson ─┐                        ┌─ blockers(request)   order.rs, limit.rs
//!             ├─▶ LockTable ──────────▶├─ cycle(request)      wait_for.rs
//!   metaJson ─┘   json.rs              └─ grant, release, enqueue, …
//! ```

mod holders;
mod json;
mod limit;
mod order;
mod text_cache;
mod wait_for;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    matrix::{ConflictMatrix, Fingerprint},
    name::{LockName, Mode, Names},
    report::{Blocker, Holder, Waiter},
    scope::ScopePath,
};

use self::{holders::Holders, text_cache::TextCache};
pub(crate) use self::{json::Columns, order::Order};

/// The id of a session: one per driver, namespace and task id, never used again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub(crate) Arc<str>);

impl SessionId {
    /// The end of the ids of sessions that accept grants of other processes. Version 0.1 has
    /// none.
    const ACCEPTS: &'static str = "+";

    /// A new id. It starts with the namespace, so that the fence rows of a namespace,
    /// which contain nothing but the id, can be found.
    pub(crate) fn new(namespace: &str, random: u64, accepts_grants: bool) -> Self {
        let end = if accepts_grants { Self::ACCEPTS } else { "" };
        Self(format!("{}{random:016x}{end}", Self::start_of(namespace)).into())
    }

    /// Whether other processes may grant requests that are queued under this session.
    pub(crate) fn accepts_grants(&self) -> bool {
        self.0.ends_with(Self::ACCEPTS)
    }

    /// The empty id, of a request that has no session yet.
    pub(crate) fn none() -> Self {
        Self("".into())
    }

    /// The prefix of every id of a namespace. A namespace contains no `/`.
    pub(crate) fn start_of(namespace: &str) -> String {
        format!("{namespace}/")
    }

    /// The range of the ids of a namespace: the first text in it, and the first text
    /// after it. `0` follows `/`.
    pub(crate) fn range_of(namespace: &str) -> (String, String) {
        (Self::start_of(namespace), format!("{namespace}0"))
    }

    /// The key of fence row `number` of this session. Row 0 has the session's id as its
    /// key.
    pub(crate) fn fence_row(&self, number: usize) -> String {
        match number {
            0 => self.0.to_string(),
            number => format!("{}#{number}", self.0),
        }
    }

    /// The range of the keys of this session's fence rows: the first key in it, and the
    /// first text after it. `$` follows `#`.
    pub(crate) fn fence_range(&self) -> (String, String) {
        (self.0.to_string(), format!("{}$", self.0))
    }

    /// The session to which a fence row belongs.
    pub(crate) fn of_fence_row(row: &str) -> Self {
        let id = row.split_once('#').map_or(row, |(id, _)| id);
        Self(id.into())
    }
}

/// Identifies one request among those of its session. It stays through repeated writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Nonce(pub(crate) u64);

/// Identifies a request or a grant in the row.
pub(crate) type RequestId = (SessionId, Nonce);

/// The held locks and the queue of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LockTable {
    held: BTreeMap<LockName, Holders>,
    /// In order of tickets.
    queue: Vec<QueuedRequest>,
    /// The sessions with a grant in `held`, so that a session with another matrix is
    /// found without looking at every lock.
    sessions: BTreeMap<SessionId, SessionUse>,
    /// The number of holders without a grant.
    foreign: usize,
    /// The number of holders that share a name.
    shared: usize,
    /// Locks whose entry in `dataJson` a program without fences removed or replaced.
    /// Nothing is granted before their sessions are dead: until then a transaction that
    /// was fenced under such a lock can still commit.
    stolen: BTreeMap<LockName, Vec<StolenLock>>,
    /// The JSON texts of `held`.
    text_cache: TextCache,
}

/// A holder of a lock. One of the original has no grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) task: Arc<str>,
    pub(crate) grant: Option<Grant>,
}

impl Entry {
    /// How it holds the lock.
    pub(crate) fn mode(&self) -> Mode {
        self.grant
            .as_ref()
            .map_or(Mode::Exclusive, |grant| grant.mode)
    }

    /// Whether it was granted in one of these scopes.
    fn is_of_scopes(&self, path: &ScopePath) -> bool {
        let scope = self.grant.as_ref().and_then(|grant| grant.scope);
        scope.is_some_and(|scope| path.contains(scope))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) session: SessionId,
    pub(crate) nonce: Nonce,
    pub(crate) mode: Mode,
    /// The row version of the write that granted.
    pub(crate) token: i64,
    /// When it was granted, in microseconds since 1970: for people to read.
    pub(crate) since: i64,
    /// The innermost scope of the request, if it was made in one.
    pub(crate) scope: Option<u64>,
}

impl Grant {
    /// Whether it was made to this request.
    fn is_of(&self, id: &RequestId) -> bool {
        self.session == id.0 && self.nonce == id.1
    }
}

/// A request in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueuedRequest {
    pub(crate) session: SessionId,
    pub(crate) nonce: Nonce,
    pub(crate) task: Arc<str>,
    pub(crate) names: Names,
    pub(crate) matrix: Fingerprint,
    /// The row version of the write that first queued the request. It decides the
    /// position in the queue.
    pub(crate) ticket: i64,
    /// When it was queued, in microseconds since 1970: for people to read.
    pub(crate) since: i64,
    pub(crate) path: ScopePath,
}

/// A lock whose entry in `dataJson` was removed or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StolenLock {
    task: Arc<str>,
    grant: Grant,
    matrix: Fingerprint,
}

/// What a session holds.

#[derive(Clone, Debug, PartialEq, Eq)]
struct SessionUse {
    task: Arc<str>,
    matrix: Fingerprint,
    /// The number of locks.
    held: usize,
}

/// A request that is to be granted or queued.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) session: SessionId,
    pub(crate) nonce: Nonce,
    pub(crate) task: Arc<str>,
    pub(crate) names: Names,
    pub(crate) matrix: ConflictMatrix,
    pub(crate) path: ScopePath,
    /// When it was made, in microseconds since 1970; of a grant, when it was granted.
    pub(crate) since: i64,
}

impl PartialEq for Request {
    /// Two matrices with one fingerprint have equal rules.
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

    /// The holders of a name, in the order of their grants.
    pub(crate) fn entries(&self, name: &str) -> impl Iterator<Item = &Entry> {
        self.held.get(name).into_iter().flat_map(Holders::iter)
    }

    /// The first holder of a name.
    #[cfg(test)]
    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries(name).next()
    }

    /// The token of the request's grant; `None` unless the request holds all of `names`.
    pub(crate) fn granted(&self, id: &RequestId, names: &[LockName]) -> Option<i64> {
        let mut token = None;
        for name in names {
            let mut grants = self.entries(name.as_str()).filter_map(|e| e.grant.as_ref());
            let grant = grants.find(|grant| grant.is_of(id))?;
            token = Some(grant.token);
        }
        token
    }

    /// The position of the request in the queue.
    pub(crate) fn position(&self, id: &RequestId) -> Option<usize> {
        self.queue
            .iter()
            .position(|queued| queued.session == id.0 && queued.nonce == id.1)
    }

    /// Every session that holds a lock or has a request in the queue, once.
    pub(crate) fn session_ids(&self) -> BTreeSet<SessionId> {
        let holding = self.sessions.keys().cloned();
        let queued = self.queue.iter().map(|queued| queued.session.clone());
        holding.chain(queued).collect()
    }

    /// Every session that holds a lock, once.
    pub(crate) fn holding_sessions(&self) -> impl Iterator<Item = &SessionId> {
        self.sessions.keys()
    }

    /// The sessions that hold a lock, have a request in the queue or had a lock stolen: for
    /// `task`, or for any task. A session can occur repeatedly.
    pub(crate) fn sessions_of(&self, task: Option<&str>) -> Vec<SessionId> {
        let matches = |found: &str| task.is_none_or(|task| task == found);
        let holding = self.sessions.iter().filter(|(_, used)| matches(&used.task));
        let queued = self.queue.iter().filter(|queued| matches(&queued.task));
        let stolen = self.stolen.values().flatten();
        let stolen = stolen.filter(|lock| matches(&lock.task));
        holding
            .map(|(id, _)| id.clone())
            .chain(queued.map(|queued| queued.session.clone()))
            .chain(stolen.map(|lock| lock.grant.session.clone()))
            .collect()
    }

    /// The sessions of the stolen locks, one for each lock.
    pub(crate) fn stolen(&self) -> impl Iterator<Item = &SessionId> {
        self.stolen
            .values()
            .flatten()
            .map(|lock| &lock.grant.session)
    }

    /// The stolen locks, as blockers of every request.
    pub(crate) fn stolen_blockers(&self) -> Vec<Blocker> {
        let stolen = self.stolen.iter().flat_map(|(name, locks)| {
            locks.iter().map(move |lock| {
                let entry = Entry {
                    task: lock.task.clone(),
                    grant: Some(lock.grant.clone()),
                };
                Blocker::Holder(holder(name, &entry))
            })
        });
        stolen.collect()
    }

    /// Forgets the stolen locks of dead sessions, and says whether there were any. A lock that
    /// was shared is forgotten when all its sessions are dead.
    pub(crate) fn forget_stolen(&mut self, is_dead: impl Fn(&SessionId) -> bool) -> bool {
        let before = self.stolen.len();
        self.stolen
            .retain(|_, locks| !locks.iter().all(|lock| is_dead(&lock.grant.session)));
        self.stolen.len() < before
    }

    /// The grants of these sessions, each with its locks.
    pub(crate) fn grants_of(
        &self,
        sessions: &BTreeSet<SessionId>,
    ) -> BTreeMap<RequestId, Vec<LockName>> {
        let mut grants = BTreeMap::<_, Vec<_>>::new();
        if sessions.is_empty() {
            return grants;
        }
        for (name, holders) in &self.held {
            let found = holders.iter().filter_map(|entry| entry.grant.as_ref());
            for grant in found.filter(|grant| sessions.contains(&grant.session)) {
                let id = (grant.session.clone(), grant.nonce);
                grants.entry(id).or_default().push(name.clone());
            }
        }
        grants
    }

    /// Grants `request`, which must be free of conflicts. It does not remove the request
    /// from the queue.
    pub(crate) fn grant(&mut self, request: &Request, token: i64) {
        for (name, mode) in request.names.with_modes() {
            let grant = Grant {
                session: request.session.clone(),
                nonce: request.nonce,
                mode,
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

    /// Adds a holder, and updates the counts. If it cannot share the name with those that are
    /// there, it replaces them.
    fn insert(&mut self, name: LockName, entry: Entry, matrix: Fingerprint) {
        let both = |holders: &Holders| (holders.mode(), entry.mode());
        let both = self.held.get(&name).map(both);
        if both.is_some_and(|both| both != (Mode::Shared, Mode::Shared)) {
            self.remove(&name, |_| true);
        }
        self.text_cache.invalidate(&name);
        self.shared += usize::from(entry.mode() == Mode::Shared);
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
        match self.held.entry(name) {
            btree_map::Entry::Vacant(vacant) => drop(vacant.insert(Holders::new(entry))),
            btree_map::Entry::Occupied(mut occupied) => occupied.get_mut().push(entry),
        }
    }

    /// Removes holders of a name, updates the counts, and returns what was removed.
    fn remove(&mut self, name: &LockName, is_removed: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let Some((name, holders)) = self.held.remove_entry(name) else {
            return Vec::new();
        };
        let (removed, left) = holders.partition(is_removed);
        if !removed.is_empty() {
            self.text_cache.invalidate(&name);
        }
        if let Some(left) = left {
            self.held.insert(name, left);
        }
        for entry in &removed {
            self.shared -= usize::from(entry.mode() == Mode::Shared);
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
        }
        removed
    }

    /// Removes the locks among `names` that the request holds. Returns whether it held any
    /// of them.
    pub(crate) fn release(&mut self, id: &RequestId, names: &[LockName]) -> bool {
        let mut released = false;
        let is_its = |entry: &Entry| entry.grant.as_ref().is_some_and(|grant| grant.is_of(id));
        for name in names {
            let is_held = self.entries(name.as_str()).any(is_its);
            released |= is_held && !self.remove(name, is_its).is_empty();
        }
        released
    }

    /// Removes every holder for which `is_released` returns true, and returns them.
    pub(crate) fn release_where(
        &mut self,
        is_released: impl Fn(&LockName, &Entry) -> bool,
    ) -> Vec<Holder> {
        let names: Vec<_> = self
            .held
            .iter()
            .filter(|(name, holders)| holders.iter().any(|entry| is_released(name, entry)))
            .map(|(name, _)| name.clone())
            .collect();
        let mut released = Vec::new();
        for name in names {
            let removed = self.remove(&name, |entry| is_released(&name, entry));
            released.extend(removed.iter().map(|entry| holder(&name, entry)));
        }
        released
    }

    /// Adds `request` to the queue under `session`, after all requests with a lower or
    /// equal ticket.
    pub(crate) fn enqueue(&mut self, request: &Request, session: &SessionId, ticket: i64) {
        let position = self.queue.partition_point(|queued| queued.ticket <= ticket);
        let queued = QueuedRequest {
            session: session.clone(),
            nonce: request.nonce,
            task: request.task.clone(),
            names: request.names.clone(),
            matrix: request.matrix.fingerprint(),
            ticket,
            since: request.since,
            path: request.path.clone(),
        };
        self.queue.insert(position, queued);
    }

    /// Removes every queued request for which `is_removed` returns true. Returns their
    /// number.
    pub(crate) fn dequeue_where(&mut self, is_removed: impl Fn(&QueuedRequest) -> bool) -> usize {
        let before = self.queue.len();
        self.queue.retain(|queued| !is_removed(queued));
        before - self.queue.len()
    }

    /// Removes a request from the queue. Returns whether it was queued.
    pub(crate) fn dequeue(&mut self, id: &RequestId) -> bool {
        match self.position(id) {
            Some(position) => {
                self.queue.remove(position);
                true
            }
            None => false,
        }
    }

    /// Moves a queued request to another session, without changing its position. Returns
    /// whether it was queued.
    pub(crate) fn move_request(&mut self, id: &RequestId, to: &SessionId) -> bool {
        match self.position(id) {
            Some(position) => {
                self.queue[position].session = to.clone();
                true
            }
            None => false,
        }
    }

    /// Every held lock.
    pub(crate) fn holders(&self) -> Vec<Holder> {
        let holders = self.held.iter();
        holders
            .flat_map(|(name, holders)| holders.iter().map(|entry| holder(name, entry)))
            .collect()
    }
}

pub(crate) fn holder(name: &LockName, entry: &Entry) -> Holder {
    Holder {
        name: name.clone(),
        task_id: entry.task.clone(),
        token: entry.grant.as_ref().map(|grant| grant.token),
        since: entry.grant.as_ref().and_then(|grant| time(grant.since)),
        session: entry.grant.as_ref().map(|grant| grant.session.0.clone()),
        mode: entry.mode(),
        host: None,
        process: None,
    }
}

impl QueuedRequest {
    pub(crate) fn report(&self) -> Waiter {
        Waiter {
            names: self.names.to_vec(),
            shared: self.names.shared().to_vec(),
            task_id: self.task.clone(),
            since: time(self.since),
            blocked_by: Vec::new(),
            session: self.session.0.clone(),
            host: None,
            process: None,
        }
    }
}

/// The time `micros` microseconds after 1970; `None` when it is out of range.
fn time(micros: i64) -> Option<SystemTime> {
    let since = Duration::from_micros(u64::try_from(micros).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
pub(crate) mod tests;
