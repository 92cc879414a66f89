//! Who is told what, once the row says so.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicU32},
    time::Instant,
};

use tokio::sync::watch;

use super::{
    Config,
    namespace::{Cached, Namespace, Row},
    plan::{Pending, Plan, joined},
    request::{Chore, Reply, Seat},
    session::{Held, Keeper, Tenure},
};
use crate::{
    error::LockError,
    guard::LockGuard,
    report::{Blocker, Waiter},
    store::Fence,
    table::{LockTable, Nonce},
};

/// A grant whose guard is to be made.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) seat: Arc<Seat>,
    pub(super) nonce: Nonce,
    pub(super) tenure: Arc<Tenure>,
    pub(super) reply: Reply<LockGuard>,
}

impl Namespace {
    /// Answers those whom the plan refuses for good.
    fn refuse(&mut self, plan: &mut Plan) {
        for (nonce, error) in plan.refused.drain(..) {
            let Some(mut asking) = self.asking.remove(&nonce) else {
                continue;
            };
            tracing::debug!(
                lock = joined(&asking.claim.names), task = %asking.claim.task,
                namespace = %self.name, %error, "refused"
            );
            self.observing = true;
            if let Some(reply) = asking.reply.take() {
                drop(reply.send(Err(error)));
            }
        }
    }

    /// Answers the chores that only look, from the table that is known.
    fn answer_chores(&mut self, plan: &mut Plan, table: &LockTable, config: &Config) {
        for id in plan.answered.drain(..) {
            let Some(Pending { chore, .. }) = self.chores.remove(&id) else {
                continue;
            };
            match chore {
                Chore::Held(reply) => drop(reply.send(Ok(table.holders()))),
                Chore::Waiting(reply) => drop(reply.send(Ok(waiters(table, config)))),
                Chore::Confirm(nonce, _, reply) => drop(reply.send(self.confirm(nonce))),
                Chore::ReleaseName(task, name, reply) => {
                    self.release_name(table, &task, name, reply);
                }
                chore @ (Chore::ReleaseTask(..) | Chore::ReleaseAll(_)) => {
                    chore.fail(LockError::Closed);
                }
            }
        }
    }

    fn confirm(&self, nonce: Nonce) -> crate::error::Result<()> {
        match self.held.get(&nonce) {
            Some(held) => match held.tenure.lost.borrow().clone() {
                None => Ok(()),
                Some(lost) => Err(LockError::Lost(lost)),
            },
            // Lost, and the guard has been told; it says so itself.
            None => Ok(()),
        }
    }

    fn release_name(
        &mut self,
        table: &LockTable,
        task: &Arc<str>,
        name: crate::name::LockName,
        reply: Reply<()>,
    ) {
        let Some(entry) = table.entry(name.as_str()) else {
            drop(reply.send(Err(LockError::NotHeld { name })));
            return;
        };
        let nonce = entry.grant.as_ref().map(|grant| grant.nonce);
        let ours = nonce.and_then(|nonce| self.held.get(&nonce).map(|held| (nonce, held)));
        match ours {
            Some((nonce, held)) if held.task == *task && held.keeper == Keeper::Detached => {
                self.release_one(nonce, &name, reply, Instant::now());
            }
            Some((_, held)) if held.task == *task => {
                drop(reply.send(Err(LockError::HeldByGuard { name })));
            }
            _ => {
                let holder = crate::table::holder(&name, entry);
                drop(reply.send(Err(LockError::HeldByOther { holder })));
            }
        }
    }

    /// Does what a plan means, once the row says so.
    pub(super) fn carry_out(
        &mut self,
        mut plan: Plan,
        cached: Cached,
        config: &Config,
        now: Instant,
    ) {
        self.refuse(&mut plan);
        self.answer_chores(&mut plan, &cached.table, config);
        let version = cached.at.version;
        self.row = Row::Known(cached);
        // Either it was written, or nothing had to be: that a row can be read says
        // nothing to who wants to write it.
        self.trouble = None;
        for (nonce, session) in plan.enqueued {
            if let Some(asking) = self.asking.get_mut(&nonce) {
                asking.queued_as = Some(session);
                asking.ticket.get_or_insert(version);
            }
        }
        self.note_blocked(plan.blocked, None);
        for (key, found) in plan.released {
            if let Some(releasing) = self.releasing.remove(&key) {
                if !found && !releasing.tried {
                    let reason = "somebody had released it before";
                    let lost = releasing.tenure.lose(reason, None);
                    self.robbed(&releasing.tenure.session);
                    for reply in releasing.replies {
                        drop(reply.send(Err(LockError::Lost(lost.clone()))));
                    }
                    continue;
                }
                tracing::info!(
                    lock = joined(&releasing.tenure.names), task = %releasing.task,
                    namespace = %self.name, token = releasing.tenure.token, "released"
                );
                self.answered += releasing.replies.len();
                for reply in releasing.replies {
                    drop(reply.send(Ok(())));
                }
            }
        }
        for nonce in plan.abandoned {
            self.asking.remove(&nonce);
        }
        for (id, holders) in plan.removed {
            let Some(Pending { chore, .. }) = self.chores.remove(&id) else {
                continue;
            };
            for holder in &holders {
                tracing::warn!(
                    lock = %holder.name, task = %holder.task_id, namespace = %self.name,
                    token = holder.token, "taken away: its task forgot to unlock"
                );
            }
            match chore {
                Chore::ReleaseTask(_, reply) | Chore::ReleaseAll(reply) => {
                    drop(reply.send(Ok(holders)));
                }
                chore => chore.fail(LockError::Closed),
            }
        }
        for (nonce, token) in plan.granted {
            let delivery = self.granted(nonce, token);
            self.answered += usize::from(delivery.is_some());
            self.deliveries.extend(delivery);
        }
        self.reviewed(config, now);
    }

    /// Remembers what stands in whose way. Where it was not written, only a row that was
    /// read after the request came shows it.
    pub(super) fn note_blocked(
        &mut self,
        blocked: Vec<(Nonce, Vec<Blocker>)>,
        proven: Option<Instant>,
    ) {
        for (nonce, blockers) in blocked {
            let Some(asking) = self.asking.get_mut(&nonce) else {
                continue;
            };
            if proven.is_some_and(|proven| proven < asking.since) {
                continue;
            }
            tracing::info!(
                lock = joined(&asking.claim.names), task = %asking.claim.task,
                namespace = %self.name, blocked_by = blockers.first().map(tracing::field::display),
                "waiting"
            );
            asking.blocked_by = blockers;
            self.observing = true;
        }
    }

    fn granted(&mut self, nonce: Nonce, token: i64) -> Option<Delivery> {
        let session = &self.asking.get(&nonce)?.claim.session;
        // Its session may have been lost while the write was under way: then the
        // grant goes with it, and the request goes on under another one.
        let rows = self.fence.rows;
        let in_use: BTreeSet<_> = if rows == 1 {
            BTreeSet::new()
        } else {
            let held = self.held.values().map(|held| &held.tenure);
            let releasing = self.releasing.values().map(|releasing| &releasing.tenure);
            let tenures = held.chain(releasing).filter(|t| t.session == *session);
            tenures.map(|tenure| tenure.fence.row.clone()).collect()
        };
        let key = self.sessions.key_of(session)?.clone();
        let session = self.sessions.get_mut(&key)?;
        if session.lease.is_over() {
            return None;
        }
        let lease = session.lease.clone();
        // The row that was not used for longest, or that will be free next.
        let first = session.next_fence;
        // Where there are several, the first one is nobody's.
        let (reserved, many) = if rows == 1 { (0, 1) } else { (1, rows - 1) };
        let row = |number| session.id.fence_row(reserved + (first + number) % many);
        let free = (0..many).find(|number| !in_use.contains(&*row(*number)));
        let number = free.unwrap_or(0);
        let fence_row = row(number).into();
        session.next_fence = (first + number + 1) % many;
        let mut asking = self.asking.remove(&nonce)?;
        let tenure = Arc::new(Tenure {
            session: asking.claim.session.clone(),
            lease,
            open_fences: AtomicU32::new(0),
            fence: Fence {
                statement: self.fence.clone(),
                row: fence_row,
                namespace: self.name.clone(),
                mark: LockTable::marker_of(nonce).into(),
            },
            lost: watch::Sender::new(None),
            names: asking.claim.names.clone(),
            token,
        });
        let held = Held {
            task: asking.claim.task.clone(),
            keeper: Keeper::Guard,
            tenure: tenure.clone(),
        };
        self.held.insert(nonce, held);
        tracing::info!(
            lock = joined(&asking.claim.names), task = %asking.claim.task,
            namespace = %self.name, token, "acquired"
        );
        if let Some(reply) = asking.reply.take() {
            return Some(Delivery {
                seat: asking.seat,
                nonce,
                tenure,
                reply,
            });
        }
        self.release(nonce, None, None, Instant::now());
        None
    }
}

/// The queue, and what blocks each.
fn waiters(table: &LockTable, config: &Config) -> Vec<Waiter> {
    let queue = table.queue().iter().enumerate();
    queue
        .map(|(place, waiting)| {
            let mut waiter = waiting.report();
            waiter.blocked_by = table.blockers_of(place, &config.matrix);
            waiter
        })
        .collect()
}
