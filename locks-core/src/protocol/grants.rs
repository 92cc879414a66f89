//! What this process holds, and what it is releasing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    call::{CallId, Loss},
    task::ReleaseId,
    time::Time,
};
use crate::{
    name::LockName,
    table::{LockTable, Nonce, RequestId, SessionId},
};

/// A grant of this process: with a guard, or one lock of a detached one.
#[derive(Clone, Debug)]
pub(super) struct ActiveGrant {
    pub(super) nonce: Nonce,
    pub(super) session: SessionId,
    pub(super) task: Arc<str>,
    pub(super) names: Arc<[LockName]>,
    pub(super) token: i64,
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

    pub(super) fn maybe_applied(&self) -> bool {
        self.maybe_applied
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
    detached: BTreeMap<LockName, Detached>,
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
        for name in &*grant.names {
            let grant = ActiveGrant {
                names: [name.clone()].into(),
                ..grant.clone()
            };
            self.detached
                .insert(name.clone(), Detached { grant, fenced });
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

    /// Begins the release of a lock by its name, if it is a detached one of this task.
    pub(super) fn release_name(
        &mut self,
        task: &str,
        name: &LockName,
        nonce: Option<Nonce>,
        call: CallId,
        now: Time,
    ) -> (Ownership, Option<ReleaseId>) {
        let detached = self.detached.get(name);
        let ours = |grant: &ActiveGrant| Some(grant.nonce) == nonce && &*grant.task == task;
        if detached.is_some_and(|detached| ours(&detached.grant))
            && let Some(Detached { grant, fenced }) = self.detached.remove(name)
        {
            let id = self.release(grant, fenced, Some(call), now);
            return (Ownership::Releasing, Some(id));
        }
        let guarded = nonce.and_then(|nonce| self.guarded.get(&nonce));
        if guarded.is_some_and(ours) {
            return (Ownership::Guarded, None);
        }
        (Ownership::Other, None)
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
            let mut entries = grant.names.iter().filter_map(|n| table.entry(n.as_str()));
            let loss = Loss {
                reason: "another process released it: by release_task, release_holder or release_all, \
                         by an eviction, or as the original does",
                by: entries.next().map(|entry| entry.task.clone()),
            };
            (grant.clone(), loss)
        });
        let stolen = self.releases.values().filter(|release| {
            let granted = table.granted(&release.id(), release.names());
            !release.maybe_applied && granted.is_none()
        });
        let stolen = stolen.map(|release| release.grant.session.clone());
        (missing.collect(), stolen.collect())
    }

    /// Removes a grant, with a guard or detached.
    pub(super) fn lose(&mut self, grant: &ActiveGrant) {
        if self.guarded.remove(&grant.nonce).is_none() {
            self.detached.retain(|name, detached| {
                detached.grant.nonce != grant.nonce || !grant.names.contains(name)
            });
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
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{matrix::ConflictMatrix, scope::ScopePath, table::Request};

    fn at(millis: u64) -> Time {
        Time::new(Duration::from_millis(millis))
    }

    fn name(name: &str) -> LockName {
        LockName::found(name.into())
    }

    fn session(id: &str) -> SessionId {
        SessionId(id.into())
    }

    /// A grant of task `a` with its nonce as its token and the number of its fence row.
    fn grant(nonce: u64, id: &str, names: &[&str]) -> ActiveGrant {
        ActiveGrant {
            nonce: Nonce(nonce),
            session: session(id),
            task: "a".into(),
            names: names.iter().copied().map(name).collect(),
            token: i64::try_from(nonce).unwrap(),
            fence_row: session(id)
                .fence_row(usize::try_from(nonce).unwrap())
                .into(),
        }
    }

    /// One with a guard, one detached, one that is being released.
    fn three() -> (Grants, ReleaseId) {
        let mut grants = Grants::default();
        assert!(grants.is_empty() && !grants.is_releasing() && !grants.has_detached());
        grants.add(grant(1, "s", &["guarded"]));
        assert!(!grants.is_empty() && !grants.has_detached());
        grants.add(grant(2, "t", &["x", "y"]));
        grants.detach(Nonce(2), false);
        assert!(grants.has_detached());
        grants.add(grant(3, "u", &["released"]));
        let release = grants.start_release(Nonce(3), false, None, at(9));
        (grants, release.expect("it is held"))
    }

    /// A table with these locks of the grant, and with others' locks.
    fn table(grant: &ActiveGrant, names: &[&str], of_others: &[&str]) -> LockTable {
        let mut table = LockTable::default();
        let mut add = |grant: &ActiveGrant, names: &[&str]| {
            let request = Request {
                session: grant.session.clone(),
                nonce: grant.nonce,
                task: grant.task.clone(),
                names: names.iter().copied().map(name).collect(),
                matrix: ConflictMatrix::platform(),
                path: ScopePath::default(),
                since: 0,
            };
            table.grant(&request, grant.token);
        };
        add(grant, names);
        let mut other = self::grant(77, "other", of_others);
        other.task = "other".into();
        add(&other, of_others);
        table
    }

    #[test]
    fn what_is_held_and_what_is_released_is_known_by_nonce_and_session() {
        let (grants, _) = three();
        assert_eq!(grants.nonces(), [1, 2, 3].map(Nonce).into());
        assert_eq!(grants.busy_sessions(), ["s", "t", "u"].map(session).into());
        assert_eq!(grants.holding_sessions(), ["s", "t"].map(session).into());
        assert_eq!(grants.session_of(Nonce(1)), Some(&session("s")));
        assert_eq!(grants.session_of(Nonce(2)), None, "it has no guard");
        for (id, number) in [("s", 1), ("t", 2), ("u", 3)] {
            let row: Arc<str> = session(id).fence_row(number).into();
            assert_eq!(grants.fence_rows_in_use(&session(id)), [row].into());
        }
        let names: Vec<_> = grants.names_in_release().collect();
        assert_eq!(names, [&name("released")]);
    }

    #[test]
    fn a_detached_lock_is_released_by_its_task_and_its_name() {
        let (mut grants, _) = three();
        let mut release = |task, lock, nonce: u64| {
            let nonce = Some(Nonce(nonce));
            grants.release_name(task, &name(lock), nonce, CallId(5), at(3))
        };
        assert_eq!(release("b", "x", 2), (Ownership::Other, None));
        assert_eq!(
            release("a", "x", 4),
            (Ownership::Other, None),
            "a later grant"
        );
        assert_eq!(release("a", "guarded", 1), (Ownership::Guarded, None));
        assert_eq!(release("b", "guarded", 1), (Ownership::Other, None));
        let (ownership, id) = release("a", "x", 2);
        assert_eq!(ownership, Ownership::Releasing);
        assert_eq!(release("a", "x", 2), (Ownership::Other, None), "once");
        let release = grants
            .get_release(id.expect("it began"))
            .expect("it is there");
        assert_eq!(release.names(), [name("x")]);
        assert_eq!(release.id(), (session("t"), Nonce(2)));
        assert!(grants.has_detached(), "y stays");
        assert_eq!(grants.oldest_call(), Some(at(3)));
    }

    #[test]
    fn a_release_is_due_unless_it_awaits_a_fenced_transaction() {
        let mut grants = Grants::default();
        grants.add(grant(1, "s", &["x"]));
        let id = grants
            .start_release(Nonce(1), true, None, at(9))
            .expect("held");
        assert!(grants.is_releasing() && !grants.any_release_due(at(10)));
        assert_eq!(grants.next_release_due(), None);
        grants.on_fence_ended(id);
        assert_eq!(grants.next_release_due(), Some(at(9)));
        assert!(!grants.any_release_due(at(8)) && grants.any_release_due(at(9)));
        assert_eq!(
            grants.releases().map(|(id, _)| *id).collect::<Vec<_>>(),
            [id]
        );
        let release = grants.remove_release(id).expect("it is there");
        assert!(release.into_calls().is_empty());
        assert!(
            !grants.is_releasing() && grants.start_release(Nonce(1), true, None, at(9)).is_none()
        );
    }

    #[test]
    fn calls_leave_their_releases() {
        let mut grants = Grants::default();
        for nonce in 1..=3 {
            grants.add(grant(nonce, "s", &["x"]));
            let call = (nonce > 1).then_some(CallId(nonce));
            grants.start_release(Nonce(nonce), false, call, at(nonce));
        }
        assert_eq!(
            grants.oldest_call(),
            Some(at(2)),
            "no call waits for the first"
        );
        assert_eq!(grants.take_calls(|due| due <= at(2)), [CallId(2)]);
        assert_eq!(grants.oldest_call(), Some(at(3)));
        assert_eq!(grants.take_calls(|_| true), [CallId(3)]);
        assert_eq!(grants.oldest_call(), None);
        assert_eq!(grants.releases().count(), 3, "they go on");
    }

    #[test]
    fn everything_is_released_except_for_detached_locks_that_never_expire() {
        for (keep_detached, number) in [(true, 1), (false, 3)] {
            let (mut grants, before) = three();
            let fenced = [Nonce(1)].into();
            let (guarded, releases) = grants.release_all(keep_detached, &fenced, at(4));
            assert_eq!(guarded, [Nonce(1)]);
            assert_eq!(releases.len(), number);
            assert!(!releases.contains(&before));
            assert_eq!(grants.has_detached(), keep_detached);
            assert_eq!(grants.releases().count(), number + 1);
            let ready = |id: &ReleaseId| {
                grants
                    .get_release(*id)
                    .is_some_and(PendingRelease::is_ready)
            };
            assert_eq!(releases.iter().filter(|id| ready(id)).count(), number - 1);
        }
    }

    #[test]
    fn a_grant_is_missing_if_the_row_does_not_show_all_of_it() {
        let held = grant(1, "s", &["x", "y"]);
        let mut grants = Grants::default();
        grants.add(held.clone());
        let (missing, stolen) = grants.missing_in(&table(&held, &["x", "y"], &[]));
        assert!(missing.is_empty() && stolen.is_empty());
        let (missing, _) = grants.missing_in(&table(&held, &["x"], &["y"]));
        let [(held, loss)] = &missing[..] else {
            panic!("{missing:?}");
        };
        assert_eq!(held.nonce, Nonce(1));
        assert!(loss.by.is_some());
        let mut later = grant(1, "s", &["x", "y"]);
        later.token = 9;
        let (missing, _) = grants.missing_in(&table(&later, &["x", "y"], &[]));
        assert_eq!(missing.len(), 1, "another write granted that");
    }

    #[test]
    fn a_release_without_its_locks_shows_that_they_were_stolen_unless_it_was_applied() {
        let (mut grants, id) = three();
        let released = grants.get_release(id).expect("it is there").grant().clone();
        let there = table(&released, &["released"], &[]);
        let gone = table(&released, &[], &[]);
        assert!(grants.missing_in(&there).1.is_empty());
        assert_eq!(grants.missing_in(&gone).1, [session("u")]);
        assert!(!grants.get_release(id).expect("it is there").maybe_applied());
        grants.on_release_indeterminate(id);
        assert!(grants.get_release(id).expect("it is there").maybe_applied());
        assert!(grants.missing_in(&gone).1.is_empty());
    }

    #[test]
    fn what_is_lost_is_no_longer_held() {
        let (mut grants, _) = three();
        grants.add(grant(4, "t", &["z"]));
        grants.detach(Nonce(4), false);
        grants.lose(&grant(2, "t", &["x"]));
        let left: Vec<_> = grants.detached.keys().cloned().collect();
        assert_eq!(left, ["y", "z"].map(name));
        grants.lose(&grant(1, "s", &["guarded"]));
        assert_eq!(grants.session_of(Nonce(1)), None);
        assert!(!grants.is_empty(), "two detached locks");
    }

    #[test]
    fn a_lost_session_takes_along_what_is_held_under_it() {
        let nonces = |lost: Vec<ActiveGrant>| lost.iter().map(|g| g.nonce.0).collect::<Vec<_>>();
        let (mut grants, _) = three();
        assert_eq!(nonces(grants.lose_all(Some(&session("t")))), [2, 2]);
        assert!(!grants.is_empty());
        assert_eq!(nonces(grants.lose_all(None)), [1]);
        assert!(grants.is_empty() && grants.is_releasing());
    }
}
