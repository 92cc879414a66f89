//! Which sessions of others are dead.
//!
//! An observer trusts nobody's clock but its own: a session is given up when its beat
//! stood still for the holder's whole ttl, plus a margin, between answers that came
//! without a gap; or at once when its process ran on this machine and is gone. The
//! method is that of the `DynamoDB` lock client and of Kubernetes' leader election.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    process::Identity,
    store::{Liveness, SessionRow},
    table::SessionId,
};

/// The part of the ttl that is waited beyond it, for clocks that run apart.
const MARGIN: u32 = 10;
/// How often within a ttl a session is looked at. A beat is seen late by up to one look, so
/// with the margin a session is found dead within its ttl and three twentieths.
const LOOKS: u32 = 20;
/// How much longer than the fastest a look may take before it counts as a gap.
const SLOW: u32 = 4;

/// The longest pause between two looks.
const MOST: Duration = Duration::from_secs(3);

/// Why a session may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its beat stood still at this value.
    Stopped { beat: i64 },
    /// Its process is gone.
    Gone,
    /// Somebody began to evict it.
    Begun,
}

/// What has been seen of the sessions of others.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    seen: BTreeMap<SessionId, Seen>,
    /// When to look at the beats next.
    due: Option<Instant>,
    /// How long the fastest look took.
    fastest: Option<Duration>,
}

#[derive(Debug)]
struct Seen {
    row: SessionRow,
    /// The answer that first showed this beat.
    since: Instant,
    /// The last answer that showed it.
    last: Instant,
}

impl Observer {
    /// Looks at these sessions from now on, and at no others.
    pub(crate) fn watch(&mut self, sessions: &BTreeSet<SessionId>, now: Instant) {
        self.seen.retain(|id, _| sessions.contains(id));
        if sessions.is_empty() {
            self.due = None;
        } else {
            let all_seen = sessions.iter().all(|id| self.seen.contains_key(id));
            let due = self.due.unwrap_or(now);
            self.due = Some(if all_seen { due } else { due.min(now) });
        }
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The sessions whose process is gone, as far as this machine can tell.
    pub(crate) fn gone(&self, here: &Identity) -> Vec<(SessionId, Cause)> {
        self.seen
            .iter()
            .filter(|(_, seen)| seen.row.ttl.is_some() && seen.row.process.is_gone(here))
            .map(|(id, _)| (id.clone(), Cause::Gone))
            .collect()
    }

    /// Takes in what a look found that was sent at `sent`, and says which sessions to
    /// evict and which are dead already.
    pub(crate) fn see(
        &mut self,
        states: Vec<(SessionId, Liveness)>,
        sent: Instant,
        now: Instant,
    ) -> (Vec<(SessionId, Cause)>, Vec<SessionId>) {
        let took = now.duration_since(sent);
        let fastest = self.fastest.map_or(took, |fastest| fastest.min(took));
        self.fastest = Some(fastest);
        let mut evict = Vec::new();
        let mut dead = Vec::new();
        let mut next = MOST;
        for (id, state) in states {
            match state {
                Liveness::Dead => {
                    self.seen.remove(&id);
                    dead.push(id);
                }
                Liveness::Evicting => evict.push((id, Cause::Begun)),
                Liveness::Alive(row) => {
                    let ttl = row.ttl;
                    let seen = self.seen.entry(id.clone()).or_insert_with(|| Seen {
                        row: row.clone(),
                        since: now,
                        last: now,
                    });
                    let Some(ttl) = ttl else { continue };
                    // A gap is a pause or an outage of our own: the window restarts. The
                    // round trip to a database that is far away is none.
                    let paused = sent.saturating_duration_since(seen.last) > ttl / 2;
                    let stalled = took > (ttl / 2).max(fastest * SLOW);
                    if paused || stalled || seen.row.heartbeat != row.heartbeat {
                        seen.since = now;
                    }
                    seen.last = now;
                    seen.row = row;
                    let end = seen.since + ttl + ttl / MARGIN;
                    if now >= end {
                        evict.push((
                            id,
                            Cause::Stopped {
                                beat: seen.row.heartbeat,
                            },
                        ));
                    } else {
                        let look = (ttl / LOOKS).min(end.duration_since(now));
                        next = next.min(look.max(Duration::from_millis(10)));
                    }
                }
            }
        }
        self.due = (!self.seen.is_empty()).then(|| now + next);
        (evict, dead)
    }

    /// Puts the next look off.
    pub(crate) fn postpone(&mut self, due: Instant) {
        self.due = self.due.map(|_| due);
    }

    /// Whether a beat stands still for longer than a session that lives would let it.
    pub(crate) fn suspects(&self, now: Instant) -> bool {
        self.seen.values().any(|seen| {
            let ttl = seen.row.ttl;
            ttl.is_some_and(|ttl| now.duration_since(seen.since) > ttl / 2)
        })
    }

    /// After a failed look nothing is known: every window restarts.
    pub(crate) fn blind(&mut self, now: Instant) {
        for seen in self.seen.values_mut() {
            seen.since = now;
            seen.last = now;
        }
        self.due = self.due.map(|_| now + Duration::from_millis(100));
    }

    /// Looks at this session from the start again, since its eviction failed.
    pub(crate) fn forget(&mut self, id: &SessionId) {
        self.seen.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn beat(id: &str, beat: i64, ttl: Option<Duration>) -> (SessionId, Liveness) {
        let id = SessionId(id.into());
        let row = SessionRow {
            id: id.clone(),
            task: "t".into(),
            process: Identity {
                host: "".into(),
                process: "".into(),
            },
            ttl,
            heartbeat: beat,
        };
        (id, Liveness::Alive(row))
    }

    #[test]
    fn a_still_beat_is_given_up_after_ttl_and_margin_and_never_before() {
        let mut observer = Observer::default();
        let start = Instant::now();
        let mut now = start;
        let mut evicted = None;
        while evicted.is_none() {
            let (evict, dead) = observer.see(vec![beat("a", 7, Some(TTL))], now, now);
            assert!(dead.is_empty());
            if let [(_, cause)] = &evict[..] {
                assert_eq!(*cause, Cause::Stopped { beat: 7 });
                evicted = Some(now - start);
            }
            now = observer.due().unwrap().max(now);
        }
        assert_eq!(evicted, Some(TTL + TTL / MARGIN));
    }

    #[test]
    fn a_beat_or_a_gap_restarts_the_window() {
        let mut observer = Observer::default();
        let start = Instant::now();
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            let seen = vec![beat("a", i64::try_from(second / 9).unwrap(), Some(TTL))];
            assert!(observer.see(seen, now, now).0.is_empty(), "it beats");
        }
        for minute in 1..5 {
            let now = start + Duration::from_secs(60 * minute);
            let seen = vec![beat("a", 6, Some(TTL))];
            assert!(observer.see(seen, now, now).0.is_empty(), "we were away");
        }
        let mut observer = Observer::default();
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            let seen = vec![beat("a", 1, Some(TTL))];
            assert!(
                observer.see(seen, now, now).0.is_empty(),
                "we fail all the time"
            );
            observer.blind(now);
        }
    }

    #[test]
    fn one_that_never_expires_is_left_alone_and_a_dead_one_is_told() {
        let mut observer = Observer::default();
        let now = Instant::now();
        for second in 0..100 {
            let now = now + Duration::from_secs(second);
            assert!(
                observer
                    .see(vec![beat("a", 1, None)], now, now)
                    .0
                    .is_empty()
            );
        }
        let id = SessionId("b".into());
        let (evict, dead) = observer.see(vec![(id.clone(), Liveness::Dead)], now, now);
        assert!(evict.is_empty() && dead == [id.clone()]);
        let (evict, dead) = observer.see(vec![(id.clone(), Liveness::Evicting)], now, now);
        assert!(evict == [(id, Cause::Begun)] && dead.is_empty());
    }
}
