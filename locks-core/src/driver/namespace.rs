//! What a driver knows of one namespace, and what it wants to do next.
//!
//! ```text
//!              ┌────────────── conflict, doubt ──────────────┐
//!              ▼                                             │
//!   Unknown ─read─▶ Missing ─create─┐                        │
//!              │└─▶ Unstamped ─adopt┴▶ Unknown               │
//!              └──▶ Known ─plan─▶ Writing ─────▶ Known ──────┘
//! ```
//!
//! Nothing here awaits: jobs are handed out, and what came of them is handed in.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Config,
    answer::Delivery,
    asking::Asking,
    backoff::Backoff,
    job::Job,
    lease::Moment,
    observer::Observer,
    plan::{ChoreId, LINGER, Pending, Phase, Plan},
    poll::Poll,
    request::{Check, Chore, Reply, Request},
    session::{FenceState, Held, Keeper, Kind, OwnSessions, ReleaseKey, Releasing, Tenure},
    side_job::SideJob,
    turns::Turns,
    write::{micros, stamp},
};
use crate::{
    error::LockError,
    name::LockName,
    store::{FenceStatement, RowVersion},
    table::{LockTable, Nonce, Request as TableRequest, SessionId},
};

/// How long to wait for the other half of the original's delete-and-insert.
const INSERT_GRACE: Duration = Duration::from_secs(3);
/// How often to look for a row that is missing.
const MISSING: Duration = Duration::from_millis(50);
/// The last version that a row may have: it leaves room for the next one.
pub(super) const LAST_VERSION: i64 = i64::MAX - 1;
/// How long a request that does not wait tries to get an answer from the database.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of the row.
#[derive(Debug)]
pub(super) enum Row {
    Unknown,
    Missing {
        since: Instant,
        cleared: bool,
    },
    /// The original made it.
    Unstamped {
        version: i64,
        cleared: bool,
    },
    Known(Cached),
    /// A write is under way, and has the table.
    Writing,
}

/// A row, as it was at some moment at least.
#[derive(Debug)]
pub(super) struct Cached {
    pub(super) at: RowVersion,
    pub(super) table: LockTable,
    pub(super) proven: Instant,
}

/// Everything that a driver keeps for one namespace.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) name: Arc<str>,
    pub(super) row: Row,
    /// The highest version seen: a new row starts above it.
    pub(super) highest: i64,
    /// The highest version at which it was told that the row went back in time.
    pub(super) told_back: i64,
    /// Whether a row was ever there: then its absence may be the original's start.
    pub(super) seen: bool,
    pub(super) missing_since: Option<Instant>,
    /// When to look for it again.
    pub(super) missing_due: Option<Instant>,
    /// A write that may yet arrive, by the version it was for.
    pub(super) unsettled: Option<RowVersion>,
    /// The row is new to us: it may hold what we do not know of.
    pub(super) strays: bool,
    pub(super) sessions: OwnSessions,
    pub(super) asking: BTreeMap<Nonce, Asking>,
    pub(super) held: BTreeMap<Nonce, Held>,
    pub(super) releasing: BTreeMap<ReleaseKey, Releasing>,
    pub(super) chores: BTreeMap<ChoreId, Pending>,
    next_chore: ChoreId,
    /// Sessions whose two rows are gone for good, while the row may know them.
    pub(super) dead: BTreeSet<SessionId>,
    pub(super) evicting: BTreeSet<SessionId>,
    pub(super) side: VecDeque<SideJob>,
    /// Side jobs that failed, and when to try them again.
    pub(super) later: Vec<(Instant, SideJob)>,
    pub(super) clearing: bool,
    pub(super) observer: Observer,
    /// A write that found its row in another state than this, or one of these sessions
    /// of ours gone, or one of the dead alive.
    pub(super) in_vain: Option<(RowVersion, Vec<SessionId>)>,
    /// Sessions of ours that are in doubt.
    pub(super) audit: BTreeSet<SessionId>,
    pub(super) sweep: Sweep,
    /// Whether the last thing done was to open sessions.
    pub(super) opened_last: bool,
    /// No lease of ours ends before.
    pub(super) least_deadline: Moment,
    /// What fences the transactions of guards.
    pub(super) fence: FenceStatement,
    /// Somebody was refused: their blockers are looked after.
    pub(super) observing: bool,
    pub(super) neighbours_due: Option<Instant>,
    pub(super) poll: Poll,
    pub(super) backoff: Backoff,
    pub(super) turns: Turns,
    /// The last failure, until something succeeds.
    pub(super) trouble: Option<LockError>,
    /// The version that others who wait are to be told of.
    pub(super) notify: Option<i64>,
    /// Somebody needs an answer from the row as it is now.
    pub(super) needs_fresh: bool,
    /// The plan of the write that is under way.
    pub(super) plan: Option<Plan>,
    /// When those who are blocked must be in the queue.
    pub(super) rides_until: Option<Instant>,
    /// Whether anything happened since the last plan.
    pub(super) dirty: bool,
    /// Grants whose guards are to be handed out.
    pub(super) deliveries: Vec<Delivery>,
    /// How many of those who asked were told that it is done.
    pub(super) answered: usize,
}

impl Namespace {
    pub(super) fn new(name: Arc<str>, locks_rows: bool, fence: FenceStatement) -> Self {
        Self {
            name,
            row: Row::Unknown,
            highest: 0,
            told_back: 0,
            seen: false,
            missing_since: None,
            missing_due: None,
            unsettled: None,
            strays: false,
            sessions: OwnSessions::default(),
            asking: BTreeMap::new(),
            held: BTreeMap::new(),
            releasing: BTreeMap::new(),
            chores: BTreeMap::new(),
            next_chore: 0,
            dead: BTreeSet::new(),
            evicting: BTreeSet::new(),
            side: VecDeque::new(),
            later: Vec::new(),
            clearing: false,
            observer: Observer::default(),
            in_vain: None,
            audit: BTreeSet::new(),
            sweep: Sweep::default(),
            opened_last: false,
            least_deadline: Moment::NEVER,
            fence,
            observing: false,
            neighbours_due: None,
            poll: Poll::default(),
            backoff: Backoff::default(),
            turns: Turns::new(locks_rows),
            trouble: None,
            notify: None,
            needs_fresh: false,
            plan: None,
            rides_until: None,
            dirty: false,
            deliveries: Vec::new(),
            answered: 0,
        }
    }

    /// Takes in a request.
    pub(super) fn ask(&mut self, request: Request, config: &Config) {
        let hold = self.session_id(&request.seat.task, config.holding());
        let queue = self.session_id(&request.seat.task, Kind::Expiring);
        let claim = TableRequest {
            session: hold,
            nonce: request.nonce,
            task: request.seat.task.clone(),
            names: request.names,
            matrix: config.matrix,
            path: request.path,
            since: micros(),
        };
        let asking = Asking {
            claim,
            queue_session: queue,
            ready: false,
            queued_as: None,
            ticket: None,
            mode: request.mode,
            since: request.sent,
            blocked_by: Vec::new(),
            reply: Some(request.reply),
            abandoned: false,
            seat: request.seat,
        };
        let key = (asking.claim.task.clone(), config.holding());
        if let Some(session) = self.sessions.get_mut(&key)
            && session.handle.strong_count() == 0
        {
            session.handle = Arc::downgrade(&asking.seat);
        }
        self.asking.insert(request.nonce, asking);
        self.dirty = true;
    }

    /// Nobody waits for this request any more.
    pub(super) fn abandon(&mut self, nonce: Nonce) {
        if let Some(asking) = self.asking.get_mut(&nonce) {
            asking.abandoned = true;
            asking.reply = None;
            self.dirty = true;
        }
        // Else it was granted in between, and its guard is dropped with the answer.
    }

    /// A guard is gone.
    pub(super) fn release(
        &mut self,
        nonce: Nonce,
        tenure: Option<&Tenure>,
        reply: Option<Reply<()>>,
        now: Instant,
    ) {
        let rides = reply.is_none() && !self.others_wait();
        let due = if rides { now + LINGER } else { now };
        if let Some(held) = self.held.remove(&nonce) {
            let key = (nonce, held.tenure.names.len());
            self.let_go(key, held, reply, due);
        } else if let Some(reply) = reply {
            let lost = tenure.map(|tenure| tenure.lose("it was lost before it was released", None));
            drop(reply.send(Err(lost.map_or(LockError::Closed, LockError::Lost))));
        }
    }

    /// Releases one lock of a grant whose guard is gone.
    pub(super) fn release_one(
        &mut self,
        nonce: Nonce,
        name: &LockName,
        reply: Reply<()>,
        now: Instant,
    ) {
        let Some(held) = self.held.get_mut(&nonce) else {
            return;
        };
        let key = (nonce, held.tenure.names.len());
        match held.split(name) {
            Some(one) => self.let_go(key, one, Some(reply), now),
            None => self.release(nonce, None, Some(reply), now),
        }
    }

    fn let_go(&mut self, key: ReleaseKey, held: Held, reply: Option<Reply<()>>, due: Instant) {
        let mut releasing = Releasing::new(key.0, held, due);
        if releasing.fence == FenceState::ToTouch {
            let row = releasing.tenure.fence.row.to_string();
            self.side.push_back(SideJob::Touch(row, vec![key]));
            releasing.fence = FenceState::Touching;
        }
        releasing.replies.extend(reply);
        self.releasing.insert(key, releasing);
        self.dirty = true;
    }

    /// Whether anybody stands in the queue, as far as is known.
    fn others_wait(&self) -> bool {
        match &self.row {
            Row::Known(cached) => !cached.table.queue().is_empty(),
            _ => !self.asking.is_empty(),
        }
    }

    pub(super) fn detach(&mut self, nonce: Nonce) {
        if let Some(held) = self.held.get_mut(&nonce) {
            held.keeper = Keeper::Detached;
        }
    }

    pub(super) fn chore(&mut self, chore: Chore, now: Instant) {
        let chore = match chore {
            Chore::Confirm(nonce, _, reply) if !self.held.contains_key(&nonce) => {
                // Lost before, and its guard knows.
                drop(reply.send(Ok(())));
                return;
            }
            chore => chore,
        };
        let phase = match &chore {
            Chore::ReleaseTask(..) | Chore::ReleaseAll(_) => Phase::ToEvacuate,
            Chore::Confirm(nonce, Check::Session, _) => {
                let held = self.held.get(nonce);
                self.audit
                    .extend(held.map(|held| held.tenure.session.clone()));
                Phase::Auditing
            }
            _ => Phase::Ready,
        };
        let since = now;
        let pending = Pending {
            chore,
            since,
            phase,
            held: Vec::new(),
        };
        self.chores.insert(self.next_chore, pending);
        self.next_chore += 1;
        self.dirty = true;
    }

    /// Whether something is to be done on the row.
    pub(super) fn is_busy(&self, now: Instant) -> bool {
        let due = |r: &Releasing| r.fence == FenceState::Clear && r.due <= now;
        let ready = |p: &Pending| matches!(p.phase, Phase::Ready | Phase::Evacuated { .. });
        self.needs_fresh
            || self.rides_until.is_some_and(|until| until <= now)
            || self.unsettled.is_some()
            || !self.audit.is_empty()
            || self.releasing.values().any(due)
            || (self.dirty
                && (!self.asking.is_empty()
                    || !self.dead.is_empty()
                    || self.chores.values().any(ready)))
    }

    /// The locks that are still to be released.
    pub(super) fn pending_names(&self) -> impl Iterator<Item = &LockName> {
        let releasing = self.releasing.values();
        releasing.flat_map(|releasing| &*releasing.tenure.names)
    }

    /// Whether nothing is left to do for those who are gone.
    pub(super) fn is_settled(&self) -> bool {
        self.releasing.is_empty()
            && self.asking.is_empty()
            && self.unsettled.is_none()
            && self.plan.is_none()
    }

    /// What the connection should do next for this namespace.
    pub(super) fn job(&mut self, config: &Config, now: Instant) -> Option<Job> {
        if matches!(self.row, Row::Writing) {
            return None;
        }
        if self.turns.is_ours() {
            return Some(self.turn(config, now));
        }
        if let Some(version) = self.notify.take() {
            return Some(Job::Notify(version));
        }
        if self.backoff.holds(now) || self.missing_due.is_some_and(|due| now < due) {
            return None;
        }
        self.missing_due = None;
        self.start_evacuations();
        if self.is_busy(now)
            && let Some(job) = self.work(config, now)
        {
            return Some(job);
        }
        self.look(config, now)
    }

    /// Uses the row's lock, or gives it back: others wait for it.
    fn turn(&mut self, config: &Config, now: Instant) -> Job {
        let at = match &self.row {
            Row::Known(cached) => Some(cached.at.clone()),
            _ => None,
        };
        self.turns.end(at.as_ref());
        // Sessions are opened before. A request that has come to need one since then has to
        // wait for the next write.
        if at.is_some() && self.audit.is_empty() {
            self.assign_sessions(config);
            let job = self.write(config, now);
            if let Some(job @ Job::Swap(_)) = job {
                return job;
            }
        }
        Job::Unlock
    }

    /// A step towards what is asked.
    fn work(&mut self, config: &Config, now: Instant) -> Option<Job> {
        match &mut self.row {
            Row::Writing => None,
            Row::Unknown if self.turns.are_taken() => {
                Some(self.open(config).unwrap_or(Job::ReadLocked))
            }
            Row::Unknown => Some(Job::Read),
            Row::Missing { since, cleared } => {
                if self.seen && now.duration_since(*since) < INSERT_GRACE {
                    self.missing_due = Some(now + MISSING);
                    return Some(Job::Read);
                }
                if *cleared {
                    return Some(Job::Create {
                        least: self.next_version(0),
                        stamp: stamp(),
                    });
                }
                self.clear(None, now);
                None
            }
            Row::Unstamped { version, cleared } => {
                let version = *version;
                if *cleared {
                    return Some(Job::Adopt {
                        version,
                        least: self.next_version(version),
                        stamp: stamp(),
                    });
                }
                self.clear(Some(version), now);
                None
            }
            Row::Known(_) if !self.audit.is_empty() => {
                self.dirty = true;
                let ids = std::mem::take(&mut self.audit);
                Some(Job::Audit(ids.into_iter().collect()))
            }
            Row::Known(_) if self.turns.are_taken() => {
                Some(self.open(config).unwrap_or(Job::ReadLocked))
            }
            Row::Known(_) if self.turns.doubt(now) => Some(Job::Read),
            Row::Known(_) => self
                .open(config)
                .or_else(|| self.write(config, now))
                .or_else(|| self.open(config)),
        }
    }

    fn clear(&mut self, version: Option<i64>, now: Instant) {
        // Its end ends the pause.
        self.backoff.pause(now, PATIENCE);
        if !self.clearing {
            self.clearing = true;
            self.side.push_back(SideJob::Clear(version));
        }
    }

    /// Which write the row was of, seen while renewing.
    pub(super) fn seen_at(&mut self, at: Option<&RowVersion>) {
        if let Row::Known(cached) = &self.row
            && at != Some(&cached.at)
        {
            self.forget_row();
        }
    }

    pub(super) fn somebody_waits(&self) -> bool {
        let waits = |a: &Asking| !a.abandoned && !a.blocked_by.is_empty();
        self.asking.values().any(waits)
    }

    /// Somebody says that the row is of this version now, and that it freed something.
    pub(super) fn told(&mut self, version: i64, now: Instant) {
        match &self.row {
            Row::Known(cached) if cached.at.version >= version => {}
            // The write that is under way shows it.
            Row::Writing => self.poll.wake(now),
            _ if self.somebody_waits() => self.forget_row(),
            _ => {}
        }
    }

    /// Something may have changed unheard.
    pub(super) fn wake(&mut self, now: Instant) {
        if self.somebody_waits() {
            self.poll.wake(now);
        }
    }

    /// Lets everything go, at the end. What never expires and has no guard stays.
    pub(super) fn close(&mut self, never: bool, now: Instant) {
        for asking in self.asking.values_mut() {
            if let Some(reply) = asking.reply.take() {
                drop(reply.send(Err(LockError::Closed)));
            }
            asking.abandoned = true;
        }
        for pending in std::mem::take(&mut self.chores).into_values() {
            pending.chore.fail(LockError::Closed);
        }
        let stays = |held: &Held| never && held.keeper == Keeper::Detached;
        let going: Vec<_> = self
            .held
            .iter()
            .filter(|(_, held)| !stays(held))
            .map(|(nonce, held)| (*nonce, held.tenure.clone()))
            .collect();
        for (nonce, tenure) in going {
            self.release(nonce, None, None, now);
            tenure.lose("the manager was closed", None);
        }
        self.dirty = true;
    }
}

/// Looking for sessions that dead processes left behind and that hold nothing.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// When to look; `None`: now.
    pub(super) due: Option<Instant>,
    /// The beats that the last look showed, and which look showed each first.
    pub(super) beats: BTreeMap<SessionId, (i64, Instant)>,
}
