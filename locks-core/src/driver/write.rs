//! The next write of a row: its plan, its version, and what it has to prove.

use std::{
    collections::BTreeSet,
    time::{Instant, SystemTime},
};

use super::{
    Config,
    asking::Asking,
    job::{Job, PIECE, Swap},
    namespace::{LAST_VERSION, Namespace, Row},
    observer::Cause,
    plan::{Due, Plan},
};
use crate::{
    random::unique,
    store::{Preconditions, RowVersion},
    table::{LockTable, SessionId},
};

/// The last clock reading that makes a version: in the year 2112. A clock that is wrong by
/// more does not use the versions up, and every version is exact in JavaScript.
const LAST_CLOCK: i64 = 1 << 52;

impl Namespace {
    /// Plans the next write on the row that is known, and answers what needs none.
    pub(super) fn write(&mut self, config: &Config, now: Instant) -> Option<Job> {
        let Row::Known(mut cached) = std::mem::replace(&mut self.row, Row::Writing) else {
            return None;
        };
        self.dirty = false;
        self.needs_fresh = false;
        self.rides_until = None;
        let strays_of = if std::mem::take(&mut self.strays) {
            let known = cached.table.session_ids().into_iter();
            known.filter(|id| self.sessions.contains(id)).collect()
        } else {
            BTreeSet::new()
        };
        let held = |nonce| self.held.contains_key(&nonce);
        let next_version = self.next_version(cached.at.version);
        let dead = self.dead_in(&cached.table);
        let mut plan = Plan::make(
            &mut cached.table,
            &Due {
                now,
                proven: cached.proven,
                next_version,
                asking: &self.asking,
                releasing: &self.releasing,
                held: &held,
                strays_of,
                dead: &dead,
                chores: &self.chores,
                fairness: config.fairness,
                queue_limit: config.queue_limit,
            },
        );
        // A write that may yet arrive is made impossible by any other one.
        let settle = self.unsettled.take().is_some_and(|at| at == cached.at);
        let write = plan.changed || settle;
        for id in std::mem::take(&mut plan.disowned) {
            self.evict(id, Cause::Gone);
        }
        self.rides_until = plan.rides_until;
        let unready = |a: &Asking| !a.ready && !a.abandoned;
        self.dirty |= plan.cut || dead.len() == PIECE || self.asking.values().any(unready);
        if write {
            let proof = Preconditions {
                alive: self.must_live(&plan),
                dead: dead.into_iter().collect(),
                witness: self.witness(),
            };
            self.plan = Some(plan);
            return Some(Job::Swap(Box::new(Swap {
                proof,
                at: cached.at,
                to: RowVersion {
                    version: next_version,
                    stamp: Some(stamp()),
                },
                table: cached.table,
            })));
        }
        let reading = plan.needs_fresh.then_some(Job::Read);
        self.needs_fresh = plan.needs_fresh;
        self.carry_out(plan, cached, config, now);
        reading
    }

    /// The version that the next write makes, and with it the token of what it grants. The
    /// row may go back in time, when a standby is promoted or a dump restored: no version
    /// is used twice even then, since the clock has gone on. The clock decides nothing.
    pub(super) fn next_version(&self, version: i64) -> i64 {
        let next = version.max(self.highest).saturating_add(1);
        next.max(micros().min(LAST_CLOCK)).min(LAST_VERSION)
    }

    /// The dead that the table knows, as many as one write can take away.
    fn dead_in(&self, table: &LockTable) -> BTreeSet<SessionId> {
        if self.dead.is_empty() {
            return BTreeSet::new();
        }
        let known = table.sessions_of(None).into_iter();
        let dead = known.filter(|id| self.dead.contains(id));
        dead.collect::<BTreeSet<_>>()
            .into_iter()
            .take(PIECE)
            .collect()
    }

    /// The sessions without which a plan must not be written: somebody may have ended
    /// one that held nothing, unnoticed.
    fn must_live(&self, plan: &Plan) -> Vec<SessionId> {
        let granted = plan
            .granted
            .keys()
            .filter_map(|nonce| self.asking.get(nonce));
        let granted = granted.map(|asking| asking.claim.session.clone());
        let alive: BTreeSet<_> = granted.chain(plan.enqueued.values().cloned()).collect();
        alive.into_iter().collect()
    }
}

/// A random text that no other write has.
pub(super) fn stamp() -> String {
    format!("{:016x}{:016x}", unique(), unique())
}

/// Microseconds since 1970, for people to read, and for versions.
pub(super) fn micros() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(0))
}
