//! The sessions of this process in a namespace.
//!
//! A session belongs to one task. It has a heartbeat row, which this process renews, and
//! fence rows. Locks are held and requests are queued under sessions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    config::Config,
    time::{Now, Time},
};
use crate::{store::NewSession, table::SessionId};

/// How many sessions one statement inserts, so that only a few statements are ever prepared.
const INSERTS: [usize; 7] = [64, 32, 16, 8, 4, 2, 1];
/// How long a session may hold and wait for nothing while a handle acts for its task.
const IDLE: Duration = Duration::from_mins(1);

/// Nothing new is held under a session that has less than this part of its ttl left.
const SHORT: u32 = 4;

/// The holders of a session are warned when it has this part of its ttl left. It is renewed when it
/// has two thirds left.
const ENDANGERED: u32 = 2;

/// Whether a session ends when it is not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Expiring,
    Permanent,
}

impl Kind {
    /// The kind of session that holds locks.
    pub(super) fn holding(config: &Config) -> Self {
        match config.ttl {
            Some(_) => Self::Expiring,
            None => Self::Permanent,
        }
    }

    /// Whether other processes may grant requests that are queued under a session of this kind:
    /// if it is the one that will hold the locks.
    fn accepts_grants(self, config: &Config) -> bool {
        config.mechanisms.hand_over && config.reads_durable && self == Self::holding(config)
    }
}

/// For which task a session is, and of which kind.
pub(crate) type SessionKey = (Arc<str>, Kind);

/// A session whose rows exist.
#[derive(Debug)]
struct Session {
    id: SessionId,
    /// When its lease ends, on the boot clock; `None`: never.
    deadline: Option<Time>,
    /// Whether its holders were warned since the last renewal.
    warned: bool,
    /// Whether a handle acts for its task.
    owned: bool,
    /// Since when it was seen to hold and wait for nothing.
    idle_since: Option<Time>,
    /// The number of the fence row that the next grant uses.
    next_fence: usize,
}

impl Session {
    fn is_over(&self, now: Now) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now.boot)
    }

    /// Whether its lease ends within this time.
    fn ends_within(&self, time: Duration, now: Now) -> bool {
        let end = now.boot + time;
        self.deadline.is_some_and(|deadline| deadline <= end)
    }
}

/// The sessions of this process in a namespace.
#[derive(Debug, Default)]
pub(super) struct OwnSessions {
    sessions: BTreeMap<SessionKey, Session>,
    keys: BTreeMap<SessionId, SessionKey>,
    /// No lease ends before this point of the boot clock. Leases are only extended, so it
    /// may be too early.
    earliest_deadline: Option<Time>,
    /// Nothing is to be warned of before this point of the boot clock. It may be too early, too.
    earliest_warning: Option<Time>,
    /// Whether the last thing done was to open sessions.
    opened_last: bool,
}

impl OwnSessions {
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(super) fn contains(&self, id: &SessionId) -> bool {
        self.keys.contains_key(id)
    }

    pub(super) fn key_of(&self, id: &SessionId) -> Option<&SessionKey> {
        self.keys.get(id)
    }

    /// The session for this key, or no session.
    pub(super) fn id_of(&self, task: &Arc<str>, kind: Kind) -> SessionId {
        let session = self.sessions.get(&(task.clone(), kind));
        session.map_or_else(SessionId::none, |session| session.id.clone())
    }

    /// The session for this key, if its lease has not ended.
    pub(super) fn living(&self, key: &SessionKey, now: Now) -> Option<SessionId> {
        let session = self.sessions.get(key)?;
        (!session.is_over(now)).then(|| session.id.clone())
    }

    /// Whether the lease of this key's session ends so soon that it has to be renewed before
    /// anything is granted under it.
    pub(super) fn ends_soon(&self, key: &SessionKey, ttl: Duration, now: Now) -> bool {
        let session = self.sessions.get(key);
        session.is_some_and(|session| session.ends_within(ttl / SHORT, now))
    }

    /// A session whose lease has not ended. An answer that does not show it proves nothing.
    pub(super) fn witness(&self, now: Now) -> Option<SessionId> {
        let mut living = self.sessions.values().filter(|s| !s.is_over(now));
        living.next().map(|session| session.id.clone())
    }

    /// Those of `ids` that are sessions of this process.
    pub(super) fn own_among(&self, ids: BTreeSet<SessionId>) -> BTreeSet<SessionId> {
        ids.into_iter().filter(|id| self.contains(id)).collect()
    }

    /// Whether a session is there and its lease has not ended.
    pub(super) fn is_living(&self, id: &SessionId, now: Now) -> bool {
        let session = self.keys.get(id).and_then(|key| self.sessions.get(key));
        session.is_some_and(|session| !session.is_over(now))
    }

    /// When the lease of a session ends, on the boot clock; `None`: never.
    pub(super) fn deadline(&self, id: &SessionId) -> Option<Time> {
        self.sessions.get(self.keys.get(id)?)?.deadline
    }

    /// The sessions to insert next, of those that are `missing`. `others_ready` says whether
    /// requests are ready that need none: after an insert it is their turn.
    pub(super) fn open_next(
        &mut self,
        missing: BTreeSet<SessionKey>,
        others_ready: bool,
        at_most: usize,
        namespace: &Arc<str>,
        config: &Config,
        rng: &mut fastrand::Rng,
    ) -> Option<Vec<NewSession>> {
        if missing.is_empty() {
            self.opened_last = false;
            return None;
        }
        if std::mem::take(&mut self.opened_last) && others_ready {
            return None;
        }
        self.opened_last = true;
        let mut new = |(task, kind): SessionKey| NewSession {
            id: SessionId::new(namespace, rng.u64(..), kind.accepts_grants(config)),
            namespace: namespace.clone(),
            task,
            process: config.process.clone(),
            ttl: match kind {
                Kind::Expiring => Some(config.session_ttl()),
                Kind::Permanent => None,
            },
        };
        // One statement each, so that their leases begin when they are sent.
        let most = missing.len().min(at_most);
        let size = INSERTS.into_iter().find(|size| *size <= most);
        let chunk = missing.into_iter().take(size.unwrap_or(1));
        Some(chunk.map(&mut new).collect())
    }

    /// The rows of a session exist. Its lease runs from when the insert was `sent`. Returns
    /// the session that it replaces.
    pub(super) fn add(&mut self, new: NewSession, sent: Now) -> Option<SessionId> {
        let kind = match new.ttl {
            Some(_) => Kind::Expiring,
            None => Kind::Permanent,
        };
        let deadline = new.ttl.map(|ttl| sent.boot + ttl);
        let key = (new.task, kind);
        let replaced = self.sessions.get(&key).map(|session| session.id.clone());
        if let Some(replaced) = &replaced {
            self.keys.remove(replaced);
        }
        self.keys.insert(new.id.clone(), key.clone());
        let session = Session {
            id: new.id,
            deadline,
            warned: false,
            owned: true,
            idle_since: None,
            next_fence: 0,
        };
        self.sessions.insert(key, session);
        self.note_deadline(deadline);
        self.note_warning(new.ttl.map(|ttl| sent.boot + ttl / ENDANGERED));
        replaced
    }

    fn note_warning(&mut self, at: Option<Time>) {
        self.earliest_warning = self.earliest_warning.into_iter().chain(at).min();
    }

    fn note_deadline(&mut self, deadline: Option<Time>) {
        let earliest = self.earliest_deadline.into_iter().chain(deadline).min();
        self.earliest_deadline = earliest;
    }

    /// A session was renewed by a statement that was `sent` then. Returns its new deadline,
    /// unless its lease has ended.
    pub(super) fn renew(
        &mut self,
        key: &SessionKey,
        id: &SessionId,
        ttl: Duration,
        sent: Now,
        now: Now,
    ) -> Option<Time> {
        let session = self.sessions.get_mut(key)?;
        if session.id != *id || session.is_over(now) {
            return None;
        }
        let deadline = session.deadline?.max(sent.boot + ttl);
        session.deadline = Some(deadline);
        if std::mem::take(&mut session.warned) {
            self.note_warning(Some(sent.boot + ttl / ENDANGERED));
        }
        Some(deadline)
    }

    /// The sessions that were not renewed in time, each once until it is renewed.
    pub(super) fn endangered(&mut self, ttl: Duration, now: Now) -> Vec<SessionId> {
        let mut endangered = Vec::new();
        if self.earliest_warning.is_none_or(|at| at > now.boot) {
            return endangered;
        }
        self.earliest_warning = None;
        for session in self.sessions.values_mut().filter(|s| !s.warned) {
            let Some(deadline) = session.deadline else {
                continue;
            };
            if session.ends_within(ttl / ENDANGERED, now) {
                session.warned = true;
                endangered.push(session.id.clone());
            } else {
                let left = (deadline - now.boot).saturating_sub(ttl / ENDANGERED);
                let at = now.boot + left;
                let earliest = self.earliest_warning.into_iter().chain([at]).min();
                self.earliest_warning = earliest;
            }
        }
        endangered
    }

    /// Whether the holders of a session were warned since its last renewal.
    pub(super) fn is_endangered(&self, id: &SessionId) -> bool {
        let session = self.keys.get(id).and_then(|key| self.sessions.get(key));
        session.is_some_and(|session| session.warned)
    }

    /// When a lease may end next, or a warning is due, on the boot clock.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let times = [self.earliest_deadline, self.earliest_warning];
        times.into_iter().flatten().min()
    }

    /// When a lease may end next, on the boot clock.
    #[cfg(test)]
    pub(super) fn earliest_deadline(&self) -> Option<Time> {
        self.earliest_deadline
    }

    /// The sessions whose lease has ended.
    pub(super) fn expired(&mut self, now: Now) -> Vec<SessionKey> {
        if self.earliest_deadline.is_none_or(|at| at > now.boot) {
            return Vec::new();
        }
        let over = self.sessions.iter().filter(|(_, s)| s.is_over(now));
        let over = over.map(|(key, _)| key.clone()).collect();
        let living = self.sessions.values().filter(|s| !s.is_over(now));
        self.earliest_deadline = living.filter_map(|session| session.deadline).min();
        over
    }

    pub(super) fn remove(&mut self, key: &SessionKey) -> Option<SessionId> {
        let session = self.sessions.remove(key)?;
        self.keys.remove(&session.id);
        Some(session.id)
    }

    /// Removes all sessions.
    pub(super) fn remove_all(&mut self) -> Vec<SessionId> {
        self.keys.clear();
        let all = std::mem::take(&mut self.sessions).into_values();
        all.map(|session| session.id).collect()
    }

    /// A handle acts for this task.
    pub(super) fn on_owner(&mut self, task: &Arc<str>, owned: bool) {
        for kind in [Kind::Expiring, Kind::Permanent] {
            if let Some(session) = self.sessions.get_mut(&(task.clone(), kind)) {
                session.owned = owned;
            }
        }
    }

    /// Removes sessions that hold and wait for nothing: those without a handle at once,
    /// others after some time. `busy` are the sessions that hold or release something,
    /// `requesting` the tasks that have requests.
    pub(super) fn remove_idle(
        &mut self,
        busy: &BTreeSet<SessionId>,
        requesting: &BTreeSet<Arc<str>>,
        now: Time,
    ) -> Vec<SessionId> {
        let idle = |key: &SessionKey, session: &mut Session| {
            if busy.contains(&session.id) || requesting.contains(&key.0) {
                session.idle_since = None;
                return false;
            }
            let since = *session.idle_since.get_or_insert(now);
            !session.owned || now - since >= IDLE
        };
        let removed: Vec<_> = self.sessions.extract_if(.., idle).collect();
        let removed = removed.into_iter().map(|(_, session)| session.id);
        removed.inspect(|id| drop(self.keys.remove(id))).collect()
    }

    /// The sessions to renew, with the point of the boot clock at which their lease ends.
    pub(super) fn to_renew(&self) -> impl Iterator<Item = (Time, &SessionKey, &SessionId)> {
        let sessions = self.sessions.iter();
        sessions.filter_map(|(key, session)| Some((session.deadline?, key, &session.id)))
    }

    /// The fence row for the next grant of a session: one that is not in use, the one that
    /// was unused for longest; or the one that was used for longest.
    pub(super) fn next_fence_row(
        &mut self,
        id: &SessionId,
        rows: usize,
        in_use: &BTreeSet<Arc<str>>,
    ) -> Arc<str> {
        let Some(session) = self
            .keys
            .get(id)
            .and_then(|key| self.sessions.get_mut(key))
            .filter(|_| rows > 1)
        else {
            return id.fence_row(0).into();
        };
        // Where there are several, the first one is used by no guard.
        let many = rows - 1;
        let first = session.next_fence;
        let row = |number: usize| -> Arc<str> { id.fence_row(1 + (first + number) % many).into() };
        let free = (0..many).find(|number| !in_use.contains(&row(*number)));
        let number = free.unwrap_or(0);
        session.next_fence = first + number + 1;
        row(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::config::tests::config;

    const TTL: Duration = Duration::from_secs(12);

    /// So many seconds after the start of both clocks, which differ.
    fn at(secs: u64) -> Now {
        Now {
            monotonic: Time::new(Duration::from_secs(secs)),
            boot: Time::new(Duration::from_secs(1_000 + secs)),
            wall: 0,
        }
    }

    fn id(id: &str) -> SessionId {
        SessionId(id.into())
    }

    fn key(task: &str) -> SessionKey {
        (task.into(), Kind::Expiring)
    }

    fn new(id_: &str, task: &str, ttl: Option<Duration>) -> NewSession {
        NewSession {
            id: id(id_),
            namespace: "n".into(),
            task: task.into(),
            process: config().process,
            ttl,
        }
    }

    /// A session `s` of task `a`, whose insert was sent at zero.
    fn one() -> OwnSessions {
        let mut sessions = OwnSessions::default();
        assert_eq!(sessions.add(new("s", "a", Some(TTL)), at(0)), None);
        sessions
    }

    #[test]
    fn a_lease_runs_for_the_ttl_from_when_the_insert_was_sent() {
        let mut sessions = one();
        let (key, s) = (key("a"), id("s"));
        assert_eq!(sessions.deadline(&s), Some(at(12).boot));
        assert_eq!(sessions.earliest_deadline(), Some(at(12).boot));
        for (now, lives) in [(at(11), true), (at(12), false)] {
            assert_eq!(sessions.is_living(&s, now), lives);
            assert_eq!(sessions.living(&key, now), lives.then(|| s.clone()));
            assert_eq!(sessions.witness(now), lives.then(|| s.clone()));
        }
        assert!(sessions.expired(at(11)).is_empty());
        assert_eq!(sessions.expired(at(12)), std::slice::from_ref(&key));
        assert_eq!(sessions.remove(&key), Some(s.clone()));
        assert_eq!(sessions.remove(&key), None);
        assert!(sessions.is_empty() && !sessions.contains(&s));
        assert_eq!(sessions.deadline(&s), None);
        assert_eq!(sessions.earliest_deadline(), None);
    }

    #[test]
    fn a_permanent_session_has_no_deadline() {
        let mut sessions = OwnSessions::default();
        sessions.add(new("p", "a", None), at(0));
        assert!(sessions.is_living(&id("p"), at(1_000_000)));
        assert_eq!(sessions.deadline(&id("p")), None);
        assert_eq!(sessions.to_renew().count(), 0);
        assert_eq!(sessions.id_of(&"a".into(), Kind::Permanent), id("p"));
        assert_eq!(
            sessions.id_of(&"a".into(), Kind::Expiring),
            SessionId::none()
        );
        let renewed = sessions.renew(&("a".into(), Kind::Permanent), &id("p"), TTL, at(1), at(1));
        assert_eq!(renewed, None);
    }

    #[test]
    fn a_renewal_extends_a_lease_that_has_not_ended() {
        let mut sessions = one();
        let renew = |sessions: &mut OwnSessions, key: &SessionKey, s, sent, now| {
            sessions.renew(key, &id(s), TTL, at(sent), at(now))
        };
        let key = key("a");
        assert_eq!(renew(&mut sessions, &key, "s", 5, 6), Some(at(17).boot));
        assert_eq!(
            renew(&mut sessions, &key, "s", 4, 7),
            Some(at(17).boot),
            "an answer that comes late shortens nothing"
        );
        assert_eq!(renew(&mut sessions, &key, "other", 6, 7), None);
        assert_eq!(
            renew(&mut sessions, &key, "s", 16, 17),
            None,
            "it has ended"
        );
        assert_eq!(sessions.deadline(&id("s")), Some(at(17).boot));
        let renewed: Vec<_> = sessions.to_renew().collect();
        assert_eq!(renewed, [(at(17).boot, &key, &id("s"))]);
    }

    #[test]
    fn a_lease_ends_soon_in_its_last_quarter() {
        let sessions = one();
        assert!(!sessions.ends_soon(&key("a"), TTL, at(8)));
        assert!(sessions.ends_soon(&key("a"), TTL, at(9)));
        assert!(!sessions.ends_soon(&key("b"), TTL, at(9)), "there is none");
    }

    #[test]
    fn the_earliest_deadline_is_that_of_a_living_session() {
        let mut sessions = one();
        sessions.add(new("t", "b", Some(TTL)), at(3));
        assert_eq!(sessions.earliest_deadline(), Some(at(12).boot));
        assert_eq!(sessions.expired(at(13)), [key("a")]);
        assert_eq!(sessions.earliest_deadline(), Some(at(15).boot));
        assert_eq!(sessions.witness(at(13)), Some(id("t")));
    }

    #[test]
    fn a_session_replaces_that_of_its_task() {
        let mut sessions = one();
        assert_eq!(sessions.add(new("t", "a", Some(TTL)), at(1)), Some(id("s")));
        assert!(sessions.contains(&id("t")) && !sessions.contains(&id("s")));
        assert_eq!(sessions.key_of(&id("t")), Some(&key("a")));
        assert_eq!(sessions.key_of(&id("s")), None);
        let all = BTreeSet::from([id("s"), id("t")]);
        assert_eq!(sessions.own_among(all), BTreeSet::from([id("t")]));
        assert_eq!(sessions.remove_all(), [id("t")]);
        assert!(sessions.is_empty() && !sessions.contains(&id("t")));
    }

    #[test]
    fn sessions_are_opened_in_powers_of_two_and_by_turns_with_ready_requests() {
        let mut sessions = OwnSessions::default();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut open = |missing: u32, ready, at_most| {
            let missing = (0..missing).map(|task| key(&task.to_string())).collect();
            let (namespace, config) = (&"n".into(), &config());
            let new = sessions.open_next(missing, ready, at_most, namespace, config, &mut rng);
            new.map(|new| new.len())
        };
        for (missing, size) in [(1, 1), (3, 2), (63, 32), (64, 64), (200, 64)] {
            assert_eq!(open(missing, false, 1_000), Some(size));
        }
        assert_eq!(open(200, false, 5), Some(4));
        assert_eq!(open(200, true, 5), None, "the ready requests first");
        assert_eq!(open(200, true, 5), Some(4));
        assert_eq!(open(0, true, 5), None);
        assert_eq!(open(1, true, 5), Some(1), "the last thing was no insert");
    }

    #[test]
    fn a_session_ends_when_it_is_idle_without_a_handle_or_for_a_minute() {
        let mut sessions = one();
        sessions.add(new("t", "b", Some(TTL)), at(0));
        let (none, nothing) = (BTreeSet::new(), BTreeSet::new());
        let (busy, requesting) = (BTreeSet::from([id("s")]), BTreeSet::from(["b".into()]));
        let mut idle = |busy, requesting, secs: u64| {
            sessions.remove_idle(busy, requesting, at(secs).monotonic)
        };
        assert!(idle(&none, &nothing, 0).is_empty());
        assert!(idle(&busy, &requesting, 60).is_empty(), "both are in use");
        assert!(idle(&busy, &nothing, 100).is_empty());
        assert!(idle(&busy, &nothing, 159).is_empty());
        assert_eq!(idle(&busy, &nothing, 160), [id("t")]);
        sessions.on_owner(&"a".into(), false);
        let removed = sessions.remove_idle(&busy, &requesting, at(160).monotonic);
        assert!(removed.is_empty());
        let removed = sessions.remove_idle(&none, &requesting, at(160).monotonic);
        assert_eq!(removed, [id("s")]);
        assert!(sessions.is_empty() && !sessions.contains(&id("s")));
    }

    #[test]
    fn a_session_is_endangered_once_when_half_of_its_ttl_is_left() {
        let mut sessions = one();
        let (key, s) = (key("a"), id("s"));
        assert_eq!(sessions.next_deadline(), Some(at(6).boot));
        assert!(sessions.endangered(TTL, at(5)).is_empty());
        assert!(!sessions.is_endangered(&s));
        assert_eq!(sessions.endangered(TTL, at(6)), std::slice::from_ref(&s));
        assert!(sessions.is_endangered(&s));
        assert!(sessions.endangered(TTL, at(7)).is_empty());
        assert_eq!(sessions.next_deadline(), Some(at(12).boot));
        sessions.renew(&key, &s, TTL, at(7), at(8));
        assert!(!sessions.is_endangered(&s));
        sessions.renew(&key, &s, TTL, at(9), at(10));
        assert!(sessions.endangered(TTL, at(13)).is_empty(), "renewed again");
        assert_eq!(sessions.endangered(TTL, at(15)), [s]);
    }

    #[test]
    fn guards_use_different_fence_rows_while_there_are_some() {
        let mut sessions = one();
        let s = id("s");
        let row = |number| -> Arc<str> { s.fence_row(number).into() };
        let mut next = |rows, in_use: &[usize]| {
            let in_use = in_use.iter().map(|number| row(*number)).collect();
            sessions.next_fence_row(&s, rows, &in_use)
        };
        assert_eq!(next(1, &[]), row(0), "there is one");
        // Of four rows, guards use the last three.
        assert_eq!(next(4, &[]), row(1));
        assert_eq!(next(4, &[1]), row(2));
        assert_eq!(next(4, &[2]), row(3), "the one that was unused for longest");
        assert_eq!(next(4, &[1, 3]), row(2));
        assert_eq!(
            next(4, &[1, 2, 3]),
            row(3),
            "the one that was used for longest"
        );
        assert_eq!(next(4, &[2]), row(1));
        let other = sessions.next_fence_row(&id("other"), 4, &BTreeSet::new());
        assert_eq!(&*other, id("other").fence_row(0));
    }
}
