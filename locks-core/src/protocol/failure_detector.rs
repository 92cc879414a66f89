//! Which sessions of other processes are dead.
//!
//! A process trusts no clock but its own. It declares a session dead if the heartbeat did not
//! change for the session's whole ttl and a margin, with answers that came without a gap;
//! or at once if the session's process ran on this machine and has ended. The method is
//! that of the `DynamoDB` lock client and of Kubernetes' leader election.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{task::EvictReason, time::Time};
use crate::{
    process::Identity,
    store::{Liveness, SessionRow},
    table::SessionId,
};

/// The part of the ttl that is waited beyond it, for clocks that run apart.
const MARGIN: u32 = 10;
/// How often within a ttl a session is looked at. A heartbeat is seen late by up to one
/// look, so with the margin a session is found dead within its ttl and three twentieths.
const LOOKS: u32 = 20;
/// A look that takes this many times longer than the fastest one counts as a gap.
const SLOW: u32 = 4;
/// The shortest and the longest pause between two looks.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// The pause after a look that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);
/// How often to list the sessions that dead processes left behind, in ttls, and within
/// which limits.
const LIST: u32 = 10;
const LIST_LIMITS: [Duration; 2] = [Duration::from_secs(5), Duration::from_mins(10)];

/// What a look at sessions means.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    pub(super) evict: Vec<(SessionId, EvictReason)>,
    pub(super) dead: Vec<SessionId>,
    /// When to look again.
    pub(super) next: Option<Time>,
}

/// What was seen of the sessions of other processes.
#[derive(Debug, Default)]
pub(super) struct FailureDetector {
    windows: BTreeMap<SessionId, Window>,
    /// How long the fastest look took.
    fastest: Option<Duration>,
    /// The heartbeats that the last list of the namespace's sessions showed, and the list
    /// that showed each first.
    listed: BTreeMap<SessionId, (i64, Time)>,
}

/// The time in which a session was seen with one heartbeat.
#[derive(Debug)]
struct Window {
    row: SessionRow,
    /// The answer that showed this heartbeat first.
    since: Time,
    /// The answer that showed it last.
    last: Time,
}

impl FailureDetector {
    /// Watches these sessions from now on, and no others. `due` is when the next look was
    /// to be; the answer is when it has to be now.
    pub(super) fn watch(
        &mut self,
        sessions: &BTreeSet<SessionId>,
        due: Option<Time>,
        now: Time,
    ) -> Option<Time> {
        self.windows.retain(|id, _| sessions.contains(id));
        if sessions.is_empty() {
            return None;
        }
        let all_seen = sessions.iter().all(|id| self.windows.contains_key(id));
        let due = due.unwrap_or(now);
        Some(if all_seen { due } else { due.min(now) })
    }

    /// The processes of watched sessions that run on the machine of `here`.
    pub(super) fn neighbours(&self, here: &Identity) -> Vec<(SessionId, Identity)> {
        let rows = self.windows.values().map(|window| &window.row);
        let near = rows.filter(|row| row.ttl.is_some() && row.process.is_neighbour_of(here));
        near.map(|row| (row.id.clone(), row.process.clone()))
            .collect()
    }

    /// Takes in what a look found that was sent at `sent`.
    pub(super) fn on_checked(
        &mut self,
        states: Vec<(SessionId, Liveness)>,
        sent: Time,
        now: Time,
    ) -> Verdict {
        let took = now - sent;
        let fastest = self.fastest.map_or(took, |fastest| fastest.min(took));
        self.fastest = Some(fastest);
        let mut verdict = Verdict::default();
        let mut pause = LONGEST_PAUSE;
        for (id, state) in states {
            match state {
                Liveness::Dead => {
                    self.windows.remove(&id);
                    verdict.dead.push(id);
                }
                Liveness::Evicting => verdict.evict.push((id, EvictReason::Resumed)),
                Liveness::Alive(row) => {
                    let ttl = row.ttl;
                    let window = self.windows.entry(id.clone()).or_insert_with(|| Window {
                        row: row.clone(),
                        since: now,
                        last: now,
                    });
                    let Some(ttl) = ttl else { continue };
                    // A gap is a pause or an outage of this process: the window restarts.
                    // The round trip to a database that is far away is no gap.
                    let paused = sent - window.last > ttl / 2;
                    let stalled = took > (ttl / 2).max(fastest * SLOW);
                    if paused || stalled || window.row.heartbeat != row.heartbeat {
                        window.since = now;
                    }
                    window.last = now;
                    window.row = row;
                    let end = window.since + ttl + ttl / MARGIN;
                    if now >= end {
                        let heartbeat = window.row.heartbeat;
                        let reason = EvictReason::HeartbeatExpired { heartbeat };
                        verdict.evict.push((id, reason));
                    } else {
                        let look = (ttl / LOOKS).min(end - now);
                        pause = pause.min(look.max(LEAST_PAUSE));
                    }
                }
            }
        }
        verdict.next = (!self.windows.is_empty()).then(|| now + pause);
        verdict
    }

    /// Whether a heartbeat has not changed for longer than a living session would let it.
    pub(super) fn suspects(&self, now: Time) -> bool {
        self.windows.values().any(|window| {
            let ttl = window.row.ttl;
            ttl.is_some_and(|ttl| now - window.since > ttl / 2)
        })
    }

    /// After a look that failed nothing is known: every window restarts. Returns when to
    /// look again.
    pub(super) fn on_check_failed(&mut self, now: Time) -> Time {
        for window in self.windows.values_mut() {
            window.since = now;
            window.last = now;
        }
        now + PAUSE_AFTER_FAILURE
    }

    /// Watches a session from the start again, because its eviction failed.
    pub(super) fn forget(&mut self, id: &SessionId) {
        self.windows.remove(id);
    }

    /// Takes in a list of the namespace's sessions, those of this process left out, and
    /// returns those whose heartbeat has not changed for their ttl and a margin since an
    /// earlier list. Sessions that never expire are judged by a supervisor alone.
    pub(super) fn on_listed(
        &mut self,
        rows: &[SessionRow],
        now: Time,
    ) -> Vec<(SessionId, EvictReason)> {
        let before = std::mem::take(&mut self.listed);
        let mut evict = Vec::new();
        for row in rows {
            let Some(ttl) = row.ttl else { continue };
            let seen = before.get(&row.id);
            let seen = seen.filter(|(heartbeat, _)| *heartbeat == row.heartbeat);
            let since = seen.map_or(now, |(_, since)| *since);
            if now - since >= ttl.saturating_add(ttl / MARGIN) {
                let heartbeat = row.heartbeat;
                let reason = EvictReason::HeartbeatExpired { heartbeat };
                evict.push((row.id.clone(), reason));
            } else {
                self.listed.insert(row.id.clone(), (row.heartbeat, since));
            }
        }
        evict
    }

    /// When to list the sessions next, after a list that succeeded. `first` says whether it
    /// was the first list.
    pub(super) fn next_list(
        &self,
        first: bool,
        ttl: Duration,
        now: Time,
        rng: &mut fastrand::Rng,
    ) -> Time {
        let [least, most] = LIST_LIMITS;
        let pause = if first && !self.listed.is_empty() {
            // What dead processes left before this one started is removed soon.
            ttl.saturating_add(ttl / MARGIN).min(most)
        } else {
            let pause = ttl.saturating_mul(LIST).clamp(least, most);
            pause.mul_f64(0.9 + rng.f64() / 5.0)
        };
        now + pause
    }

    /// When to list the sessions next, after a list that failed.
    pub(super) fn list_after_failure(now: Time) -> Time {
        now + LIST_LIMITS[0]
    }

    /// Whether a list has shown any session.
    pub(super) fn has_listed(&self) -> bool {
        !self.listed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn row(id: &str, heartbeat: i64, ttl: Option<Duration>) -> SessionRow {
        SessionRow {
            id: SessionId(id.into()),
            task: "t".into(),
            process: Identity {
                host: "".into(),
                process: "".into(),
                host_name: "".into(),
            },
            ttl,
            heartbeat,
        }
    }

    fn alive(id: &str, heartbeat: i64, ttl: Option<Duration>) -> Vec<(SessionId, Liveness)> {
        let row = row(id, heartbeat, ttl);
        vec![(row.id.clone(), Liveness::Alive(row))]
    }

    fn at(secs: u64) -> Time {
        Time::new(Duration::from_secs(secs))
    }

    fn expired(id: &str, heartbeat: i64) -> Vec<(SessionId, EvictReason)> {
        let reason = EvictReason::HeartbeatExpired { heartbeat };
        vec![(SessionId(id.into()), reason)]
    }

    #[test]
    fn a_heartbeat_that_stands_still_expires_after_ttl_and_margin_and_never_before() {
        let mut detector = FailureDetector::default();
        let start = at(100);
        let mut now = start;
        loop {
            let verdict = detector.on_checked(alive("a", 7, Some(TTL)), now, now);
            assert!(verdict.dead.is_empty());
            if !verdict.evict.is_empty() {
                assert_eq!(verdict.evict, expired("a", 7));
                break;
            }
            assert_eq!(detector.suspects(now), now - start > TTL / 2);
            let next = verdict.next.expect("it is watched");
            assert!(next - now <= TTL / LOOKS && next > now);
            now = next;
        }
        assert_eq!(now - start, TTL + TTL / MARGIN);
    }

    #[test]
    fn a_heartbeat_a_gap_and_a_failure_restart_the_window() {
        let mut detector = FailureDetector::default();
        for second in 0..60 {
            let states = alive("a", i64::try_from(second / 9).unwrap(), Some(TTL));
            let verdict = detector.on_checked(states, at(second), at(second));
            assert!(verdict.evict.is_empty(), "it is renewed");
        }
        for minute in 1..5 {
            let states = alive("a", 6, Some(TTL));
            let verdict = detector.on_checked(states, at(60 * minute), at(60 * minute));
            assert!(verdict.evict.is_empty(), "this process was paused");
        }
        let mut detector = FailureDetector::default();
        for second in 0..60 {
            let states = alive("a", 1, Some(TTL));
            let verdict = detector.on_checked(states, at(second), at(second));
            assert!(verdict.evict.is_empty(), "every second look fails");
            let next = detector.on_check_failed(at(second));
            assert_eq!(next, at(second) + PAUSE_AFTER_FAILURE);
        }
    }

    #[test]
    fn a_slow_answer_is_a_gap_unless_the_database_is_far_away() {
        // The answers take 6 s, which is more than half of the ttl.
        for (fast, evicts) in [(true, false), (false, true)] {
            let mut detector = FailureDetector::default();
            if fast {
                detector.on_checked(alive("a", 1, Some(TTL)), at(0), at(0));
            }
            let looks = (1..20).map(|look| (at(look * 6), at(look * 6 + 6)));
            let mut evicted = false;
            for (sent, now) in looks {
                let verdict = detector.on_checked(alive("a", 1, Some(TTL)), sent, now);
                evicted |= !verdict.evict.is_empty();
            }
            assert_eq!(evicted, evicts, "fast once: {fast}");
        }
    }

    #[test]
    fn pauses_and_answers_of_half_a_ttl_are_no_gap() {
        // Looks with this pause between them, whose answers take this long after a fast one.
        let expires = |pause: u64, took: u64| {
            let mut detector = FailureDetector::default();
            detector.on_checked(alive("a", 1, Some(TTL)), at(0), at(0));
            let mut now = at(0);
            (0..20).any(|_| {
                let sent = now + Duration::from_millis(pause);
                now = sent + Duration::from_millis(took);
                let verdict = detector.on_checked(alive("a", 1, Some(TTL)), sent, now);
                !verdict.evict.is_empty()
            })
        };
        assert!(expires(5_000, 0) && !expires(5_001, 0));
        assert!(expires(100, 5_000) && !expires(100, 5_001));
    }

    #[test]
    fn permanent_dead_and_half_deleted_sessions_are_told_apart() {
        let mut detector = FailureDetector::default();
        for second in 0..100 {
            let verdict = detector.on_checked(alive("a", 1, None), at(second), at(second));
            assert!(verdict.evict.is_empty());
            assert_eq!(verdict.next, Some(at(second) + LONGEST_PAUSE));
        }
        assert!(!detector.suspects(at(1000)));
        let id = SessionId("a".into());
        let states = vec![(id.clone(), Liveness::Evicting)];
        let verdict = detector.on_checked(states, at(100), at(100));
        assert_eq!(verdict.evict, [(id.clone(), EvictReason::Resumed)]);
        let states = vec![(id.clone(), Liveness::Dead)];
        let verdict = detector.on_checked(states, at(100), at(100));
        assert_eq!(verdict.dead, [id]);
        assert_eq!(verdict.next, None, "nothing is left to watch");
    }

    #[test]
    fn new_sessions_are_looked_at_at_once_and_others_are_forgotten() {
        let mut detector = FailureDetector::default();
        let ids = |ids: &[&str]| ids.iter().map(|id| SessionId((*id).into())).collect();
        assert_eq!(detector.watch(&ids(&[]), Some(at(1)), at(5)), None);
        assert_eq!(detector.watch(&ids(&["a"]), None, at(5)), Some(at(5)));
        assert_eq!(
            detector.watch(&ids(&["a"]), Some(at(3)), at(5)),
            Some(at(3))
        );
        detector.on_checked(alive("a", 1, Some(TTL)), at(5), at(5));
        assert_eq!(
            detector.watch(&ids(&["a"]), Some(at(9)), at(6)),
            Some(at(9))
        );
        assert_eq!(
            detector.watch(&ids(&["a", "b"]), Some(at(9)), at(6)),
            Some(at(6))
        );
        assert!(detector.suspects(at(20)));
        detector.forget(&SessionId("a".into()));
        assert!(!detector.suspects(at(20)));
        detector.on_checked(alive("a", 1, Some(TTL)), at(20), at(20));
        detector.watch(&ids(&["b"]), Some(at(9)), at(26));
        assert!(!detector.suspects(at(90)));
    }

    #[test]
    fn only_neighbours_that_expire_are_asked_for() {
        let mut detector = FailureDetector::default();
        let process = |host: &str| Identity {
            host: host.into(),
            process: "1:1".into(),
            host_name: "".into(),
        };
        let states = [
            ("a", "here", true),
            ("b", "there", true),
            ("c", "here", false),
        ];
        let states = states.map(|(id, host, expires)| {
            let mut row = row(id, 1, expires.then_some(TTL));
            row.process = process(host);
            (row.id.clone(), Liveness::Alive(row))
        });
        detector.on_checked(states.to_vec(), at(0), at(0));
        let near = detector.neighbours(&process("here"));
        assert_eq!(near, [(SessionId("a".into()), process("here"))]);
        assert!(detector.neighbours(&process("")).is_empty());
    }

    #[test]
    fn a_listed_session_expires_between_two_lists() {
        let mut detector = FailureDetector::default();
        assert!(!detector.has_listed());
        let rows = [
            row("a", 1, Some(TTL)),
            row("b", 1, Some(TTL)),
            row("c", 1, None),
        ];
        assert!(detector.on_listed(&rows, at(0)).is_empty());
        assert!(detector.has_listed());
        let rows = [
            row("a", 1, Some(TTL)),
            row("b", 2, Some(TTL)),
            row("c", 1, None),
        ];
        assert!(detector.on_listed(&rows, at(10)).is_empty());
        assert_eq!(detector.on_listed(&rows, at(11)), expired("a", 1));
        assert!(detector.on_listed(&rows[..1], at(12)).is_empty(), "once");
        let mut rng = fastrand::Rng::with_seed(1);
        let first = detector.next_list(true, TTL, at(0), &mut rng);
        assert_eq!(first, at(11));
        for (ttl, from, to) in [(TTL, 90, 110), (TTL / 100, 4, 6), (TTL * 100, 540, 660)] {
            let next = detector.next_list(false, ttl, at(0), &mut rng);
            assert!(at(from) <= next && next <= at(to), "{ttl:?}: {next:?}");
        }
        let mut none = FailureDetector::default();
        none.on_listed(&[], at(0));
        assert!(none.next_list(true, TTL, at(0), &mut rng) >= at(90));
        assert_eq!(FailureDetector::list_after_failure(at(0)), at(5));
    }
}
