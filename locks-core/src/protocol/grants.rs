//! What this process holds, and what it is releasing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    call::{CallId, Loss},
    task::ReleaseId,
    time::{Now, Time},
};
use crate::{
    name::{LockName, Mode, Names},
    table::{LockTable, Nonce, RequestId, SessionId},
};

/// A grant of this process: with a guard, or one lock of a detached one.
#[derive(Clone, Debug)]
pub(super) struct ActiveGrant {
    pub(super) nonce: Nonce,
    pub(super) session: SessionId,
    pub(super) task: Arc<str>,
    pub(super) names: Names,
    pub(super) token: i64,
    /// When it is released at the latest, on the boot clock; `None`: never.
    pub(super) ends: Option<Time>,
    pub(super) fence_row: Arc<str>,
}

impl ActiveGrant {
    /// How the grant is known in the row.
    fn id(&self) -> RequestId {
        (self.session.clone(), self.nonce)
    }

    fn is_in(&self, table: &LockTable) -> bool {
        table.granted(&self.id(), &self.names) == Some(self.token)
    }
}

/// A detached lock, and whether a transaction that was fenced with it may be open.
#[derive(Debug)]
struct Detached {
    grant: ActiveGrant,
    fenced: bool,
}

/// Locks that are being released.
#[derive(Debug)]
pub(super) struct PendingRelease {
    grant: ActiveGrant,
    calls: Vec<CallId>,
    /// A release that no call waits for joins another write until then.
    due: Time,
    /// A fenced transaction may be open. Until it has ended, nothing is released.
    awaits_fence: bool,
    /// A write that released the locks has no answer.
    maybe_applied: bool,
    /// Another process may release the locks for this one.
    submitted: bool,
}

impl PendingRelease {
    pub(super) fn id(&self) -> RequestId {
        self.grant.id()
    }

    pub(super) fn grant(&self) -> &ActiveGrant {
        &self.grant
    }

    pub(super) fn names(&self) -> &[LockName] {
        &self.grant.names
    }

    /// Whether a write may release the locks.
    pub(super) fn is_ready(&self) -> bool {
        !self.awaits_fence
    }

    /// Whether the locks may have been released already.
    pub(super) fn maybe_applied(&self) -> bool {
        self.maybe_applied || self.submitted
    }

    pub(super) fn into_calls(self) -> Vec<CallId> {
        self.calls
    }
}

/// What a lock that is released by name is to this process.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    /// Its release has begun.
    Releasing,
    /// A guard of this task holds it.
    Guarded,
    /// It belongs to another task or another process.
    Other,
}

/// What this process holds, and what it is releasing.
#[derive(Debug, Default)]
pub(super) struct Grants {
    guarded: BTreeMap<Nonce, ActiveGrant>,
    /// By name and request: a task can share a name repeatedly.
    detached: BTreeMap<(LockName, Nonce), Detached>,
    releases: BTreeMap<ReleaseId, PendingRelease>,
    next_release: u64,
}

impl Grants {
    pub(super) fn add(&mut self, grant: ActiveGrant) {
        self.guarded.insert(grant.nonce, grant);
    }

    /// Everything that is held.
    fn active(&self) -> impl Iterator<Item = &ActiveGrant> {
        let detached = self.detached.values().map(|detached| &detached.grant);
        self.guarded.values().chain(detached)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.guarded.is_empty() && self.detached.is_empty()
    }

    pub(super) fn has_detached(&self) -> bool {
        !self.detached.is_empty()
    }

    /// The requests of which anything is held or being released.
    pub(super) fn nonces(&self) -> BTreeSet<Nonce> {
        let releases = self.releases.values().map(|release| &release.grant);
        let grants = self.active().chain(releases);
        grants.map(|grant| grant.nonce).collect()
    }

    /// The session of a grant that has a guard.
    pub(super) fn session_of(&self, nonce: Nonce) -> Option<&SessionId> {
        self.guarded.get(&nonce).map(|grant| &grant.session)
    }

    /// The sessions under which something is held or being released.
    pub(super) fn busy_sessions(&self) -> BTreeSet<SessionId> {
        let releases = self.releases.values().map(|release| &release.grant);
        let grants = self.active().chain(releases);
        grants.map(|grant| grant.session.clone()).collect()
    }

    /// The sessions under which something is held.
    pub(super) fn holding_sessions(&self) -> BTreeSet<SessionId> {
        self.active().map(|grant| grant.session.clone()).collect()
    }

    /// The fence rows of a session that are in use.
    pub(super) fn fence_rows_in_use(&self, session: &SessionId) -> BTreeSet<Arc<str>> {
        let releases = self.releases.values().map(|release| &release.grant);
        let grants = self.active().chain(releases);
        grants
            .filter(|grant| grant.session == *session)
            .map(|grant| grant.fence_row.clone())
            .collect()
    }

    /// The guard of a grant is gone and its locks stay: each can be released by its name.
    pub(super) fn detach(&mut self, nonce: Nonce, fenced: bool) {
        let Some(grant) = self.guarded.remove(&nonce) else {
            return;
        };
        for (name, mode) in grant.names.with_modes() {
            let grant = ActiveGrant {
                names: Names::one(name.clone(), mode),
                ..grant.clone()
            };
            self.detached
                .insert((name.clone(), nonce), Detached { grant, fenced });
        }
    }

    /// Begins the release of a grant that has a guard, if it is still there.
    pub(super) fn start_release(
        &mut self,
        nonce: Nonce,
        fenced: bool,
        call: Option<CallId>,
        due: Time,
    ) -> Option<ReleaseId> {
        let grant = self.guarded.remove(&nonce)?;
        Some(self.release(grant, fenced, call, due))
    }

    /// Begins the release of a lock by its name, if it is a detached one of this task. `nonces`
    /// are the requests that hold the name.
    pub(super) fn release_name(
        &mut self,
        task: &str,
        name: &LockName,
        nonces: &[Nonce],
        call: CallId,
        now: Time,
    ) -> (Ownership, Option<ReleaseId>) {
        let is_ours = |grant: &ActiveGrant| &*grant.task == task;
        let mut keys = nonces.iter().map(|nonce| (name.clone(), *nonce));
        let detached = keys.find(|key| {
            let detached = self.detached.get(key);
            detached.is_some_and(|detached| is_ours(&detached.grant))
        });
        if let Some(Detached { grant, fenced }) =
            detached.and_then(|key| self.detached.remove(&key))
        {
            let id = self.release(grant, fenced, Some(call), now);
            return (Ownership::Releasing, Some(id));
        }
        let mut guarded = nonces.iter().filter_map(|nonce| self.guarded.get(nonce));
        if guarded.any(is_ours) {
            return (Ownership::Guarded, None);
        }
        (Ownership::Other, None)
    }

    /// When the time of a grant is over, on the boot clock.
    pub(super) fn next_end(&self) -> Option<Time> {
        self.active().filter_map(|grant| grant.ends).min()
    }

    /// The time of some grants is over. Begins the releases of those that are detached, and
    /// returns the others, each once, and the releases.
    pub(super) fn take_over(&mut self, now: Now) -> (Vec<ActiveGrant>, Vec<ReleaseId>) {
        let is_over = |grant: &ActiveGrant| grant.ends.is_some_and(|ends| ends <= now.boot);
        let guarded = self.guarded.values_mut().filter(|grant| is_over(grant));
        let guarded = guarded.map(|grant| {
            grant.ends = None;
            grant.clone()
        });
        let guarded = guarded.collect();
        let detached = self
            .detached
            .extract_if(.., |_, detached| is_over(&detached.grant));
        let detached: Vec<_> = detached.map(|(_, detached)| detached).collect();
        let releases = detached.into_iter();
        let releases = releases.map(|one| self.release(one.grant, one.fenced, None, now.monotonic));
        (guarded, releases.collect())
    }

    fn release(
        &mut self,
        grant: ActiveGrant,
        fenced: bool,
        call: Option<CallId>,
        due: Time,
    ) -> ReleaseId {
        let id = ReleaseId::new(self.next_release);
        self.next_release += 1;
        let release = PendingRelease {
            grant,
            calls: call.into_iter().collect(),
            due,
            awaits_fence: fenced,
            maybe_applied: false,
            submitted: false,
        };
        self.releases.insert(id, release);
        id
    }

    /// Begins the release of everything, except for detached locks if `keep_detached` is
    /// set. Returns the grants that had guards, and the releases.
    pub(super) fn release_all(
        &mut self,
        keep_detached: bool,
        fenced: &BTreeSet<Nonce>,
        now: Time,
    ) -> (Vec<Nonce>, Vec<ReleaseId>) {
        let guarded = std::mem::take(&mut self.guarded);
        let nonces = guarded.keys().copied().collect();
        let mut releases: Vec<_> = guarded
            .into_values()
            .map(|grant| {
                let fenced = fenced.contains(&grant.nonce);
                self.release(grant, fenced, None, now)
            })
            .collect();
        if !keep_detached {
            for Detached { grant, fenced } in std::mem::take(&mut self.detached).into_values() {
                releases.push(self.release(grant, fenced, None, now));
            }
        }
        (nonces, releases)
    }

    pub(super) fn releases(&self) -> impl Iterator<Item = (&ReleaseId, &PendingRelease)> {
        self.releases.iter()
    }

    pub(super) fn get_release(&self, id: ReleaseId) -> Option<&PendingRelease> {
        self.releases.get(&id)
    }

    pub(super) fn is_releasing(&self) -> bool {
        !self.releases.is_empty()
    }

    /// A release is done, or has nothing left to do.
    pub(super) fn remove_release(&mut self, id: ReleaseId) -> Option<PendingRelease> {
        self.releases.remove(&id)
    }

    /// No transaction that was fenced with the locks is open.
    pub(super) fn on_fence_ended(&mut self, id: ReleaseId) {
        if let Some(release) = self.releases.get_mut(&id) {
            release.awaits_fence = false;
        }
    }

    /// A write that releases the locks has no answer.
    pub(super) fn on_release_indeterminate(&mut self, id: ReleaseId) {
        if let Some(release) = self.releases.get_mut(&id) {
            release.maybe_applied = true;
        }
    }

    /// What may be released is submitted to other processes.
    pub(super) fn on_submitted(&mut self) {
        let ready = self
            .releases
            .values_mut()
            .filter(|release| release.is_ready());
        ready.for_each(|release| release.submitted = true);
    }

    /// No other process releases anything for this one any more. `may_have` says whether one may
    /// have done so.
    pub(super) fn on_submission_settled(&mut self, may_have: bool) {
        for release in self.releases.values_mut() {
            let submitted = std::mem::take(&mut release.submitted);
            release.maybe_applied |= submitted && may_have;
        }
    }

    /// Whether a write has to release something now.
    pub(super) fn any_release_due(&self, now: Time) -> bool {
        let mut releases = self.releases.values();
        releases.any(|release| release.is_ready() && release.due <= now)
    }

    /// When a write has to release something next.
    pub(super) fn next_release_due(&self) -> Option<Time> {
        let ready = self.releases.values().filter(|release| release.is_ready());
        ready.map(|release| release.due).min()
    }

    /// When the first call of a release was made, of those that still wait.
    pub(super) fn oldest_call(&self) -> Option<Time> {
        let called = self.releases.values().filter(|r| !r.calls.is_empty());
        called.map(|release| release.due).min()
    }

    /// The calls that wait for releases which were `due` at such a time. The releases go
    /// on.
    pub(super) fn take_calls(&mut self, due: impl Fn(Time) -> bool) -> Vec<CallId> {
        let releases = self.releases.values_mut();
        let releases = releases.filter(|release| due(release.due));
        releases
            .flat_map(|release| std::mem::take(&mut release.calls))
            .collect()
    }

    /// The locks that are being released.
    pub(super) fn names_in_release(&self) -> impl Iterator<Item = &LockName> {
        let releases = self.releases.values();
        releases.flat_map(|release| &*release.grant.names)
    }

    /// The grants that the row does not show, with the task that holds one of their locks
    /// instead; and the sessions of releases that have nothing to release although no
    /// write of this process can have done so.
    pub(super) fn missing_in(
        &self,
        table: &LockTable,
    ) -> (Vec<(ActiveGrant, Loss)>, Vec<SessionId>) {
        let missing = self.active().filter(|grant| !grant.is_in(table));
        let missing = missing.map(|grant| {
            // Those that share a lock have not taken it.
            let mut entries = grant.names.with_modes().flat_map(|(name, mode)| {
                let entries = table.entries(name.as_str());
                entries.filter(move |entry| (mode, entry.mode()) != (Mode::Shared, Mode::Shared))
            });
            let loss = Loss {
                reason: "another process released it: by release_task, release_holder or release_all, \
                         by an eviction, or as the original does",
                by: entries.next().map(|entry| entry.task.clone()),
            };
            (grant.clone(), loss)
        });
        let stolen = self.releases.values().filter(|release| {
            let granted = table.granted(&release.id(), release.names());
            !release.maybe_applied() && granted.is_none()
        });
        let stolen = stolen.map(|release| release.grant.session.clone());
        (missing.collect(), stolen.collect())
    }

    /// Removes a grant, with a guard or detached.
    pub(super) fn lose(&mut self, grant: &ActiveGrant) {
        if self.guarded.remove(&grant.nonce).is_none() {
            for name in &*grant.names {
                self.detached.remove(&(name.clone(), grant.nonce));
            }
        }
    }

    /// Removes everything that is held under a session, or everything that is held.
    pub(super) fn lose_all(&mut self, session: Option<&SessionId>) -> Vec<ActiveGrant> {
        let lost = |grant: &ActiveGrant| session.is_none_or(|id| grant.session == *id);
        let guarded = self.guarded.extract_if(.., |_, grant| lost(grant));
        let mut all: Vec<_> = guarded.map(|(_, grant)| grant).collect();
        let detached = self
            .detached
            .extract_if(.., |_, detached| lost(&detached.grant));
        all.extend(detached.map(|(_, detached)| detached.grant));
        all
    }
}

#[cfg(test)]
mod tests;
