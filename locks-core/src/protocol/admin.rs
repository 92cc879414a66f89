//! Calls that are not about a request of their own: inspections and removals.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    call::{Answer, CallId, Check, Inspection, Removal},
    requests::PATIENCE,
    task::{Evicted, Listed, Task},
    time::Time,
};
use crate::{
    name::LockName,
    report::Holder,
    store::Failure,
    table::{Entry, Nonce, SessionId},
};

/// How long to go on deleting the sessions of a removal while transactions that are fenced with
/// them are open.
const STUCK: Duration = Duration::from_mins(1);

/// How long a call waits for the connection of the rows, which may be busy with a write.
const SLOW: Duration = Duration::from_secs(1);

/// An inspection without answer.
#[derive(Debug)]
struct PendingInspection {
    what: Inspection,
    since: Time,
    /// The session that has to be looked for, if the answer depends on it.
    session: Option<SessionId>,
    /// Whether the row is read for it on a side connection.
    aside: bool,
    /// What the row says, if only the rows of sessions are missing.
    report: Option<Answer>,
}

impl PendingInspection {
    /// Whether any connection can answer it.
    fn may_go_aside(&self) -> bool {
        !self.aside && self.what.is_report()
    }

    /// Whether it waits for the row.
    fn needs_row(&self) -> bool {
        self.session.is_none() && self.report.is_none()
    }
}

/// A removal without answer.
#[derive(Debug)]
struct PendingRemoval {
    what: Removal,
    since: Time,
    phase: Phase,
    /// The sessions that were listed and are not dead yet. Those that are opened later are not
    /// concerned.
    left: Vec<SessionId>,
    /// The sessions that are dead.
    dead: BTreeSet<SessionId>,
    /// What was held before the first session was deleted.
    held: Vec<Holder>,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    /// The sessions have to be listed first.
    ToList,
    Listing,
    /// The sessions have to be deleted.
    ToEvict,
    Evicting,
    /// All sessions are dead: what they held can be taken away, unless another process has done
    /// so.
    Evicted,
}

/// A removal whose sessions are dead.
#[derive(Debug)]
pub(super) struct ReadyRemoval<'a> {
    pub(super) call: CallId,
    what: &'a Removal,
    dead: &'a BTreeSet<SessionId>,
    /// What was held before the first session was deleted.
    pub(super) held: &'a [Holder],
    since: Time,
}

impl ReadyRemoval<'_> {
    /// Whether the removal takes this entry away. Entries of the original have no session.
    pub(super) fn covers(&self, name: &LockName, entry: &Entry) -> bool {
        match (&entry.grant, self.what) {
            (Some(grant), _) => self.dead.contains(&grant.session),
            (None, Removal::Task(task)) => entry.task == *task,
            (None, Removal::All) => true,
            (None, Removal::Grant(holder)) => {
                holder.session.is_none() && holder.name == *name && holder.task_id == entry.task
            }
        }
    }

    /// Whether a row of that moment shows what is left to remove.
    pub(super) fn is_shown_by(&self, proven: Time) -> bool {
        proven >= self.since
    }
}

/// What follows from an eviction.
#[derive(Debug)]
pub(super) enum AfterEviction {
    /// The entries can be taken away.
    Ready,
    /// Sessions are left; the eviction goes on later.
    Retry(Task, Failure),
    /// Sessions are left, for too long.
    Failed(Failure),
    /// The call is gone.
    Gone,
}

/// The calls of a namespace.
#[derive(Debug, Default)]
pub(super) struct Admin {
    inspections: BTreeMap<CallId, PendingInspection>,
    removals: BTreeMap<CallId, PendingRemoval>,
}

impl Admin {
    /// `session` has to be looked for before the inspection is answered.
    pub(super) fn inspect(
        &mut self,
        call: CallId,
        what: Inspection,
        session: Option<SessionId>,
        since: Time,
    ) {
        let pending = PendingInspection {
            what,
            since,
            session,
            aside: false,
            report: None,
        };
        self.inspections.insert(call, pending);
    }

    /// The row answers an inspection, except for what the rows of sessions say.
    pub(super) fn on_report(&mut self, call: CallId, report: Answer) {
        if let Some(pending) = self.inspections.get_mut(&call) {
            pending.report = Some(report);
        }
    }

    /// The rows of sessions were read for this inspection. Returns what the row said.
    pub(super) fn take_report(&mut self, call: CallId) -> Option<Answer> {
        self.inspections.remove(&call)?.report
    }

    /// What an inspection asks for, unless it is answered.
    pub(super) fn inspection(&self, call: CallId) -> Option<&Inspection> {
        Some(&self.inspections.get(&call)?.what)
    }

    pub(super) fn remove(&mut self, call: CallId, what: Removal, since: Time) {
        let pending = PendingRemoval {
            what,
            since,
            phase: Phase::ToList,
            left: Vec::new(),
            dead: BTreeSet::new(),
            held: Vec::new(),
        };
        self.removals.insert(call, pending);
    }

    /// Whether the row is needed for a call.
    pub(super) fn needs_row(&self) -> bool {
        self.inspections.values().any(PendingInspection::needs_row)
            || self.ready_removals().next().is_some()
    }

    /// The inspections that a row of that moment answers; and whether others need a later
    /// one.
    pub(super) fn answerable(&self, proven: Time) -> (Vec<CallId>, bool) {
        let ready = self.inspections.iter().filter(|(_, p)| p.needs_row());
        let (fresh, stale): (Vec<_>, Vec<_>) = ready
            .map(|(call, pending)| (*call, pending.since))
            .partition(|(_, since)| proven >= *since);
        let fresh = fresh.into_iter().map(|(call, _)| call).collect();
        (fresh, !stale.is_empty())
    }

    /// The calls to answer on a side connection, because the connection of the rows takes too
    /// long, or because what it does `fails`.
    pub(super) fn go_aside(&mut self, fails: bool, now: Time) -> Vec<CallId> {
        let slow = |p: &PendingInspection| fails || p.since + SLOW <= now;
        let inspections = self.inspections.iter_mut();
        let slow = inspections.filter(|(_, p)| p.may_go_aside() && slow(p));
        slow.map(|(call, pending)| {
            pending.aside = true;
            *call
        })
        .collect()
    }

    /// When a call has to be answered on a side connection.
    pub(super) fn next_aside(&self) -> Option<Time> {
        let inspections = self.inspections.values();
        let waiting = inspections.filter(|pending| pending.may_go_aside());
        waiting.map(|pending| pending.since + SLOW).min()
    }

    pub(super) fn take_inspection(&mut self, call: CallId) -> Option<Inspection> {
        self.inspections.remove(&call).map(|pending| pending.what)
    }

    /// The removals whose sessions are dead.
    pub(super) fn ready_removals(&self) -> impl Iterator<Item = ReadyRemoval<'_>> {
        let ready = self.removals.iter();
        let ready = ready.filter(|(_, pending)| pending.phase == Phase::Evicted);
        ready.map(|(call, pending)| ReadyRemoval {
            call: *call,
            what: &pending.what,
            dead: &pending.dead,
            held: &pending.held,
            since: pending.since,
        })
    }

    /// A removal is answered. `None`: its call is gone.
    pub(super) fn finish_removal(&mut self, call: CallId) -> Option<Removal> {
        self.removals.remove(&call).map(|pending| pending.what)
    }

    /// Begins what removals need next.
    pub(super) fn start_removals(&mut self) -> Vec<Task> {
        let removals = self.removals.iter_mut();
        let start = |(call, pending): (&CallId, &mut PendingRemoval)| match pending.phase {
            Phase::ToList => {
                pending.phase = Phase::Listing;
                let what = pending.what.clone();
                Some(Task::ListHolders { call: *call, what })
            }
            Phase::ToEvict => {
                pending.phase = Phase::Evicting;
                Some(evict_holders(*call, pending))
            }
            Phase::Listing | Phase::Evicting | Phase::Evicted => None,
        };
        removals.filter_map(start).collect()
    }

    /// The sessions of a removal were listed.
    pub(super) fn on_listed(&mut self, call: CallId, listed: Listed) {
        if let Some(pending) = self.removals.get_mut(&call) {
            pending.left = listed.sessions;
            pending.held = listed.held;
            pending.phase = Phase::ToEvict;
        }
    }

    /// What a removal had begun could not be run at all: it begins again.
    pub(super) fn on_removal_failed(&mut self, call: CallId) {
        if let Some(pending) = self.removals.get_mut(&call) {
            pending.phase = match pending.phase {
                Phase::ToList | Phase::Listing => Phase::ToList,
                Phase::ToEvict | Phase::Evicting => Phase::ToEvict,
                Phase::Evicted => Phase::Evicted,
            };
        }
    }

    /// An eviction has deleted sessions.
    pub(super) fn on_evicted(
        &mut self,
        call: CallId,
        evicted: Evicted,
        now: Time,
    ) -> AfterEviction {
        let Some(pending) = self.removals.get_mut(&call) else {
            return AfterEviction::Gone;
        };
        pending.dead.extend(evicted.dead);
        pending.left.retain(|id| !pending.dead.contains(id));
        if let Some(failure) = evicted.stuck {
            if now - pending.since >= STUCK {
                self.removals.remove(&call);
                return AfterEviction::Failed(failure);
            }
            return AfterEviction::Retry(evict_holders(call, pending), failure);
        }
        pending.since = now;
        pending.phase = Phase::Evicted;
        AfterEviction::Ready
    }

    /// The sessions that inspections have to look for.
    pub(super) fn doubtful_sessions(&self) -> impl Iterator<Item = SessionId> {
        let sessions = self.inspections.values();
        sessions.filter_map(|pending| pending.session.clone())
    }

    /// These sessions were looked for and found. Returns the calls that asked for them.
    pub(super) fn on_sessions_found(&mut self, sessions: &BTreeSet<SessionId>) -> Vec<CallId> {
        let found = |_: &CallId, pending: &mut PendingInspection| {
            let session = pending.session.as_ref();
            session.is_some_and(|session| sessions.contains(session))
        };
        let calls = self.inspections.extract_if(.., found);
        calls.map(|(call, _)| call).collect()
    }

    /// The calls that ask for this grant.
    pub(super) fn take_confirmations(&mut self, nonce: Nonce) -> Vec<CallId> {
        let asks = |_: &CallId, pending: &mut PendingInspection| matches!(pending.what, Inspection::Confirm(asked, _) if asked == nonce);
        let calls = self.inspections.extract_if(.., asks);
        calls.map(|(call, _)| call).collect()
    }

    /// When the call that waits for longest was made.
    pub(super) fn oldest(&self) -> Option<Time> {
        let inspections = self.inspections.values().map(|pending| pending.since);
        let removals = self.removals.values().map(|pending| pending.since);
        inspections.chain(removals).min()
    }

    /// The calls that wait for too long.
    pub(super) fn take_overdue(&mut self, now: Time) -> Vec<CallId> {
        let over = |since: Time| since + PATIENCE <= now;
        let inspections = self.inspections.extract_if(.., |_, p| over(p.since));
        let mut calls: Vec<_> = inspections.map(|(call, _)| call).collect();
        let removals = self.removals.extract_if(.., |_, p| over(p.since));
        calls.extend(removals.map(|(call, _)| call));
        calls
    }

    /// All calls.
    pub(super) fn take_all(&mut self) -> Vec<CallId> {
        let inspections = std::mem::take(&mut self.inspections).into_keys();
        let removals = std::mem::take(&mut self.removals).into_keys();
        inspections.chain(removals).collect()
    }

    /// Whether this call is a check of a grant's session.
    pub(super) fn session_to_check(what: &Inspection) -> Option<Nonce> {
        match what {
            Inspection::Confirm(nonce, Check::Session) => Some(*nonce),
            _ => None,
        }
    }
}

fn evict_holders(call: CallId, removal: &PendingRemoval) -> Task {
    let sessions = removal.left.clone();
    Task::EvictHolders { call, sessions }
}

/// Whether two reports are of one grant.
pub(super) fn is_same_grant(a: &Holder, b: &Holder) -> bool {
    // Those that share a lock can have one token.
    a.name == b.name && a.token == b.token && a.session == b.session
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        name::Mode,
        store::{Class, Kind},
        table::Grant,
    };

    const CALL: CallId = CallId(7);

    fn at(millis: u64) -> Time {
        Time::new(Duration::from_millis(millis))
    }

    fn session(id: &str) -> SessionId {
        SessionId(id.into())
    }

    fn name(name: &str) -> LockName {
        LockName::found(name.into())
    }

    fn holder(lock: &str, token: i64) -> Holder {
        Holder {
            name: name(lock),
            task_id: "a".into(),
            token: Some(token),
            since: None,
            session: Some("s".into()),
            mode: Mode::Exclusive,
            host: None,
            process: None,
        }
    }

    fn evict(sessions: &[&str]) -> Task {
        let sessions = sessions.iter().copied().map(session).collect();
        Task::EvictHolders {
            call: CALL,
            sessions,
        }
    }

    fn confirm(check: Check) -> Inspection {
        Inspection::Confirm(Nonce(3), check)
    }

    #[test]
    fn held_and_waiting_go_aside_once_after_a_second_or_if_queries_fail() {
        for what in [Inspection::Held, Inspection::Waiting] {
            let mut admin = Admin::default();
            admin.inspect(CALL, what, None, at(500));
            assert_eq!(admin.next_aside(), Some(at(1_500)));
            assert_eq!(admin.go_aside(false, at(1_499)), []);
            assert_eq!(admin.go_aside(false, at(1_500)), [CALL]);
            assert_eq!(admin.go_aside(true, at(9_000)), [], "it has gone");
            assert_eq!(admin.next_aside(), None);
            assert!(admin.needs_row(), "either row answers it");
        }
        let mut admin = Admin::default();
        admin.inspect(CALL, confirm(Check::Row), None, at(500));
        assert_eq!(admin.go_aside(true, at(9_000)), [], "the next write counts");
        assert_eq!(admin.next_aside(), None);
        admin.inspect(CallId(8), Inspection::Held, None, at(500));
        assert_eq!(admin.go_aside(true, at(500)), [CallId(8)]);
    }

    #[test]
    fn a_row_answers_the_inspections_that_came_before_it() {
        let mut admin = Admin::default();
        assert!(!admin.needs_row());
        assert_eq!(admin.answerable(at(9)), (vec![], false));
        admin.inspect(CALL, Inspection::Held, None, at(5));
        assert!(admin.needs_row());
        assert_eq!(admin.answerable(at(4)), (vec![], true));
        assert_eq!(admin.answerable(at(5)), (vec![CALL], false));
        admin.inspect(CallId(8), Inspection::Waiting, None, at(6));
        assert_eq!(admin.answerable(at(5)), (vec![CALL], true));
        assert!(matches!(
            admin.take_inspection(CALL),
            Some(Inspection::Held)
        ));
        assert!(admin.take_inspection(CALL).is_none());
    }

    #[test]
    fn a_check_of_a_session_is_answered_when_the_session_was_found() {
        assert_eq!(
            Admin::session_to_check(&confirm(Check::Session)),
            Some(Nonce(3))
        );
        assert_eq!(Admin::session_to_check(&confirm(Check::Row)), None);
        let mut admin = Admin::default();
        let s = session("s");
        admin.inspect(CALL, confirm(Check::Session), Some(s.clone()), at(5));
        admin.inspect(CallId(8), confirm(Check::Row), None, at(5));
        assert_eq!(admin.answerable(at(9)), (vec![CallId(8)], false));
        assert!(admin.doubtful_sessions().eq([s.clone()]));
        assert_eq!(admin.on_sessions_found(&[session("t")].into()), []);
        assert_eq!(admin.on_sessions_found(&[s].into()), [CALL]);
        assert_eq!(admin.take_confirmations(Nonce(4)), []);
        assert_eq!(admin.take_confirmations(Nonce(3)), [CallId(8)]);
        assert!(!admin.needs_row());
    }

    #[test]
    fn a_removal_takes_what_dead_sessions_hold_and_what_the_original_holds_for_it() {
        let dead = BTreeSet::from([session("s")]);
        let covers = |what: &Removal, lock: &str, task: &str, holding: Option<&str>| {
            let grant = holding.map(|id| Grant {
                session: session(id),
                nonce: Nonce(1),
                mode: Mode::Exclusive,
                token: 1,
                since: 0,
                scope: None,
            });
            let task = task.into();
            let removal = ReadyRemoval {
                call: CALL,
                what,
                dead: &dead,
                held: &[],
                since: at(0),
            };
            removal.covers(&name(lock), &Entry { task, grant })
        };
        let (task, all) = (Removal::Task("a".into()), Removal::All);
        let original = Removal::Grant(Holder {
            session: None,
            ..holder("x", 1)
        });
        let ours = Removal::Grant(holder("x", 1));
        for what in [&task, &all, &original, &ours] {
            assert!(covers(what, "x", "a", Some("s")));
            assert!(!covers(what, "x", "a", Some("t")), "that session lives");
        }
        assert!(covers(&task, "x", "a", None) && !covers(&task, "x", "b", None));
        assert!(covers(&all, "x", "b", None));
        assert!(covers(&original, "x", "a", None));
        assert!(!covers(&original, "y", "a", None) && !covers(&original, "x", "b", None));
        assert!(!covers(&ours, "x", "a", None));
    }

    #[test]
    fn a_removal_is_ready_once_its_sessions_are_dead() {
        let mut admin = Admin::default();
        let what = Removal::Task("a".into());
        admin.remove(CALL, what.clone(), at(5));
        assert!(!admin.needs_row());
        let list = Task::ListHolders { call: CALL, what };
        assert_eq!(admin.start_removals(), std::slice::from_ref(&list));
        assert_eq!(admin.start_removals(), [], "it is under way");
        admin.on_removal_failed(CALL);
        assert_eq!(admin.start_removals(), [list]);
        let listed = Listed {
            sessions: vec![session("s")],
            held: vec![holder("x", 1)],
        };
        admin.on_listed(CALL, listed);
        let evict = evict(&["s"]);
        assert_eq!(admin.start_removals(), std::slice::from_ref(&evict));
        assert_eq!(admin.start_removals(), [], "it is under way");
        admin.on_removal_failed(CALL);
        assert_eq!(admin.start_removals(), [evict]);
        let evicted = || Evicted {
            dead: vec![session("s")],
            stuck: None,
        };
        let after = admin.on_evicted(CALL, evicted(), at(9));
        assert!(matches!(after, AfterEviction::Ready), "{after:?}");
        assert!(admin.needs_row());
        let ready = admin.ready_removals().next().expect("it is ready");
        assert_eq!((ready.call, ready.held), (CALL, &[holder("x", 1)][..]));
        assert!(ready.is_shown_by(at(9)) && !ready.is_shown_by(at(8)));
        admin.on_removal_failed(CALL);
        assert_eq!(admin.start_removals(), [], "it is ready");
        assert!(admin.finish_removal(CALL).is_some());
        assert!(admin.finish_removal(CALL).is_none());
        let after = admin.on_evicted(CALL, evicted(), at(9));
        assert!(matches!(after, AfterEviction::Gone), "{after:?}");
    }

    #[test]
    fn a_removal_deletes_what_was_listed_first_and_waits_a_minute_for_fenced_transactions() {
        let mut admin = Admin::default();
        admin.remove(CALL, Removal::All, at(5));
        admin.start_removals();
        let listed = Listed {
            sessions: ["s", "t", "u"].map(session).into(),
            held: vec![holder("x", 1)],
        };
        admin.on_listed(CALL, listed);
        assert_eq!(admin.start_removals(), [evict(&["s", "t", "u"])]);
        let after = |admin: &mut Admin, dead: &[&str], now| {
            let dead = dead.iter().copied().map(session).collect();
            let stuck = Some(Failure::simulated(Class::NotApplied, Kind::Locked));
            match admin.on_evicted(CALL, Evicted { dead, stuck }, at(now)) {
                AfterEviction::Retry(task, _) => Some(task),
                AfterEviction::Failed(_) => None,
                after => panic!("{after:?}"),
            }
        };
        assert_eq!(after(&mut admin, &["t"], 10), Some(evict(&["s", "u"])));
        assert_eq!(after(&mut admin, &[], 60_004), Some(evict(&["s", "u"])));
        assert!(!admin.needs_row());
        assert_eq!(after(&mut admin, &[], 60_005), None);
        let gone = admin.on_evicted(CALL, Evicted::default(), at(60_006));
        assert!(matches!(gone, AfterEviction::Gone), "{gone:?}");
    }

    #[test]
    fn calls_wait_for_ten_seconds() {
        let mut admin = Admin::default();
        assert_eq!(admin.oldest(), None);
        admin.inspect(CALL, Inspection::Held, None, at(7));
        admin.remove(CallId(8), Removal::All, at(5));
        assert_eq!(admin.oldest(), Some(at(5)));
        assert_eq!(admin.take_overdue(at(10_004)), []);
        assert_eq!(admin.take_overdue(at(10_005)), [CallId(8)]);
        assert_eq!(admin.take_overdue(at(10_007)), [CALL]);
        admin.inspect(CALL, Inspection::Held, None, at(7));
        admin.remove(CallId(8), Removal::All, at(5));
        assert_eq!(admin.take_all(), [CALL, CallId(8)]);
        assert_eq!(admin.take_all(), []);
    }
}
