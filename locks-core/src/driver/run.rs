//! The loop: what comes in, what is due, and the jobs that are under way.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::sync::mpsc;

use super::{
    Config, Driver, Flushed,
    agenda::Agenda,
    awake::Awake,
    gather::Gather,
    job::{Done, Job, Outcome, PIECE, Renewed, SIDE_LIMIT, SideJob, SideOutcome},
    namespace::{Namespace, PATIENCE},
    renewals::Renewals,
    request::{Command, Reply, Seat},
    session::{Keeper, Kind},
    signal::Signals,
};
use crate::{
    error::LockError,
    guard::LockGuard,
    manager::LockManager,
    store::{Change, Failure, FenceStatement, Link, Listener, Target},
    table::SessionId,
};

/// How long a statement may take on the connection that reads and writes the rows.
const LIMIT: Duration = Duration::from_secs(5);
/// When to try again to delete our own sessions at the end.
const LEAVE_AGAIN: Duration = Duration::from_millis(50);
/// How many side jobs may be under way. None of them waits for another transaction.
const SIDE_JOBS: usize = 2;

/// What a driver's thread does from its start to its end.
pub(super) fn main(
    config: Config,
    target: Target,
    driver: Driver,
    inbox: mpsc::UnboundedReceiver<Command>,
    reply: Reply<LockManager>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(config, target, driver, inbox, reply)),
        Err(error) => {
            let source = Arc::new(sqlx::Error::Io(error));
            let transient = true;
            drop(reply.send(Err(LockError::Database { source, transient })));
        }
    }
}

async fn serve(
    config: Config,
    target: Target,
    driver: Driver,
    inbox: mpsc::UnboundedReceiver<Command>,
    reply: Reply<LockManager>,
) {
    let mut link = Link::new(target, LIMIT, "rows");
    if let Err(error) = link.ensure_tables().await {
        drop(reply.send(Err(error)));
        return;
    }
    let driver = Arc::new(driver);
    let weak = Arc::downgrade(&driver);
    let seat = Seat {
        namespace: config.namespace.clone(),
        task: config.task.clone(),
    };
    let flushed = driver.flushed.clone();
    let mut driving = Driving::new(config, link, weak, flushed);
    driving.namespace(&seat.namespace);
    // If the caller is gone, this drops the last handle.
    drop(reply.send(Ok(LockManager::new(driver, seat))));
    driving.run(inbox).await;
}

/// Something that ended.
enum Event {
    Done(Link, Arc<str>, Done),
    Side(Link, Arc<str>, SideOutcome),
    Renewed(Link, Renewed),
    Heard(Result<(Listener, Option<Change>), Failure>),
}

/// Whether anybody can ask for anything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Handles {
    There,
    /// The driver goes on for detached locks only.
    Gone,
}

struct Driving {
    config: Config,
    handles: Handles,
    flushed: Arc<Flushed>,
    driver: Weak<Driver>,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    agenda: Agenda,
    /// The namespaces that have sessions or hold something.
    renewed: BTreeSet<Arc<str>>,
    /// The namespaces in which a request waits.
    waiting: BTreeSet<Arc<str>>,
    /// The connection of the rows, unless a job has it.
    link: Option<Link>,
    renewals: Renewals,
    /// Side connections that are free.
    side: Vec<Link>,
    side_jobs: usize,
    /// Side jobs for which no connection is free.
    side_queue: VecDeque<(Arc<str>, SideJob)>,
    signals: Signals,
    jobs: FuturesUnordered<LocalBoxFuture<'static, Event>>,
    ending: Option<Ending>,
    gather: Gather,
    awake: Awake,
    /// Whether a row can be read under its lock.
    locks_rows: bool,
    fence: FenceStatement,
}

/// The driver is to end once nothing is pending, or at this moment.
struct Ending {
    deadline: Instant,
    replies: Vec<Reply<()>>,
    leaving: Leaving,
}

/// Deleting our own sessions, as the last thing.
#[derive(Debug, PartialEq)]
enum Leaving {
    NotYet,
    /// So many deletions are under way; these sessions are left to try again.
    Now(usize, Vec<(Arc<str>, Vec<SessionId>)>),
    Done,
}

impl Driving {
    fn new(config: Config, link: Link, driver: Weak<Driver>, flushed: Arc<Flushed>) -> Self {
        let limit = (config.beat_ttl() / 3).min(LIMIT);
        Self {
            handles: Handles::There,
            flushed,
            driver,
            namespaces: BTreeMap::new(),
            agenda: Agenda::default(),
            renewed: BTreeSet::new(),
            waiting: BTreeSet::new(),
            renewals: Renewals::new(link.another(limit, "renewals")),
            side: Vec::new(),
            side_jobs: 0,
            side_queue: VecDeque::new(),
            signals: Signals::new(&link, &config),
            locks_rows: link.locks_rows(),
            fence: link.fence(),
            link: Some(link),
            jobs: FuturesUnordered::new(),
            ending: None,
            gather: Gather::default(),
            awake: Awake::new(),
            config,
        }
    }

    fn namespace(&mut self, name: &Arc<str>) -> &mut Namespace {
        self.agenda.touch(name);
        if !self.namespaces.contains_key(name) {
            let new = Namespace::new(name.clone(), self.locks_rows, self.fence.clone());
            self.namespaces.insert(name.clone(), new);
        }
        self.namespaces.get_mut(name).expect("BUG: just made")
    }

    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        loop {
            let now = Instant::now();
            self.step(now);
            if self.handles == Handles::Gone {
                self.end_without_handles(now);
            }
            if self.is_over(now) {
                break;
            }
            let wake = self.wake(now);
            tokio::select! {
                biased;
                Some(event) = self.jobs.next(), if !self.jobs.is_empty() => {
                    self.event(event);
                    self.gather(&mut inbox);
                }
                Some(command) = inbox.recv() => {
                    self.command(command);
                    // What has arrived meanwhile goes into the next write as well.
                    while let Ok(command) = inbox.try_recv() {
                        self.command(command);
                    }
                    self.gather(&mut inbox);
                }
                () = self.awake.wait(wake) => {}
            }
        }
        inbox.close();
        while let Ok(command) = inbox.try_recv() {
            command.fail(LockError::Closed);
        }
        self.end().await;
    }

    /// Does what is due: for the namespaces to which something happened, or whose time has
    /// come, and for no others.
    fn step(&mut self, now: Instant) {
        for name in self.agenda.take_due(now) {
            if let Some(namespace) = self.namespaces.get_mut(&name) {
                namespace.alarm(&self.config, now);
            }
        }
        self.start_job(now);
        let renewal = self
            .renewals
            .start(&mut self.namespaces, &self.renewed, &self.config, now);
        if let Some(renewal) = renewal {
            // A tick may have ended sessions.
            self.agenda.touch_all(&self.renewed);
            self.jobs.push(Box::pin(async {
                let (link, renewed) = renewal.await;
                Event::Renewed(link, renewed)
            }));
        }
        for name in self.agenda.take_touched() {
            self.settle(&name, now);
        }
        self.start_side_jobs();
        let waiting = !self.waiting.is_empty();
        if let Some(listening) = self.signals.listen(waiting, &self.config, now) {
            self.jobs
                .push(Box::pin(async { Event::Heard(listening.await) }));
        }
    }

    /// Takes from a namespace what it has to hand out, and notes when it needs attention
    /// next.
    fn settle(&mut self, name: &Arc<str>, now: Instant) {
        self.deliver(name);
        let Some(namespace) = self.namespaces.get_mut(name) else {
            return;
        };
        let side = namespace.side.drain(..).map(|job| (name.clone(), job));
        self.side_queue.extend(side);
        let note = |set: &mut BTreeSet<Arc<str>>, is_in| {
            if is_in {
                set.insert(name.clone());
            } else {
                set.remove(name);
            }
        };
        let concerned = !namespace.sessions.is_empty() || !namespace.held.is_empty();
        note(&mut self.renewed, concerned);
        note(&mut self.waiting, namespace.somebody_waits());
        let alarm = namespace.next_alarm(now);
        // One that waits for the connection gets it in its turn.
        let job = namespace
            .next_job(now)
            .filter(|_| !self.agenda.is_ready(name));
        self.agenda
            .schedule(name, alarm.into_iter().chain(job).min());
    }

    fn command(&mut self, command: Command) {
        let now = Instant::now();
        // Who drops a guard may have more to say at once.
        if !matches!(command, Command::Release(.., None)) {
            self.gather.came();
        }
        if self.ending.as_ref().is_some_and(|e| !e.replies.is_empty()) {
            match command {
                Command::Close(reply) => {
                    let ending = self.ending.as_mut().expect("BUG: it is ending");
                    ending.replies.push(reply);
                }
                // Guards that were told of their loss already.
                Command::Release(..) | Command::Abandon(..) | Command::LastHandle => {}
                command => command.fail(LockError::Closed),
            }
            return;
        }
        match command {
            Command::Acquire(request) => {
                let name = request.seat.namespace.clone();
                self.namespace(&name);
                let namespace = self.namespaces.get_mut(&name);
                namespace
                    .expect("BUG: just made")
                    .ask(request, &self.config);
            }
            Command::Abandon(seat, nonce) => self.namespace(&seat.namespace).abandon(nonce),
            Command::Release(seat, nonce, tenure, reply) => {
                let namespace = self.namespace(&seat.namespace);
                namespace.release(nonce, Some(&tenure), reply, now);
            }
            Command::Detach(seat, nonce) => self.namespace(&seat.namespace).detach(nonce),
            Command::Chore(name, chore) => self.namespace(&name).chore(chore, now),
            Command::Close(reply) => {
                let never = self.config.holding() == Kind::Never;
                for (name, namespace) in &mut self.namespaces {
                    namespace.close(never, now);
                    self.agenda.touch(name);
                }
                self.begin_end(Some(reply), now);
            }
            Command::LastHandle => {
                let kept = |n: &Namespace| n.held.values().any(|h| h.keeper == Keeper::Detached);
                // Detached locks that expire live as long as somebody renews them.
                if self.config.holding() == Kind::Expiring && self.namespaces.values().any(kept) {
                    self.handles = Handles::Gone;
                    return;
                }
                self.begin_end(None, now);
            }
        }
    }

    fn begin_end(&mut self, reply: Option<Reply<()>>, now: Instant) {
        self.ending = Some(Ending {
            deadline: now + PATIENCE,
            replies: reply.into_iter().collect(),
            leaving: Leaving::NotYet,
        });
    }

    fn event(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Done(link, name, done) => {
                self.link = Some(link);
                self.agenda.touch(&name);
                if let Some(namespace) = self.namespaces.get_mut(&name) {
                    let took = now.duration_since(done.sent);
                    let wrote = match &done.outcome {
                        Outcome::Swapped { result, .. } => Some(matches!(result, Ok(true))),
                        _ => None,
                    };
                    namespace.done(done, &self.config, now);
                    let answered = std::mem::take(&mut namespace.answered);
                    if answered > 0 {
                        self.gather.answered(answered, took, now);
                    }
                    match wrote {
                        Some(true) => self.awake.wrote(took, answered, now),
                        Some(false) => self.awake.in_vain(),
                        None => {}
                    }
                }
            }
            Event::Side(link, name, outcome) => {
                self.side.push(link);
                self.side_jobs -= 1;
                self.agenda.touch(&name);
                if let (SideOutcome::Left(left), Some(ending)) = (&outcome, &mut self.ending)
                    && let Leaving::Now(under_way, again) = &mut ending.leaving
                {
                    *under_way = under_way.saturating_sub(1);
                    if !left.is_empty() {
                        again.push((name.clone(), left.clone()));
                    }
                }
                if let Some(namespace) = self.namespaces.get_mut(&name) {
                    namespace.side_done(outcome, now);
                }
            }
            Event::Renewed(link, renewed) => {
                let namespaces = &mut self.namespaces;
                let concerned = self
                    .renewals
                    .done(link, renewed, namespaces, &self.config, now);
                self.agenda.touch_all(&concerned);
            }
            Event::Heard(heard) => {
                for change in self.signals.heard(heard, &self.config, now) {
                    match change {
                        Some(Change { namespace, version }) => {
                            let name: Arc<str> = namespace.into();
                            if let Some(namespace) = self.namespaces.get_mut(&name) {
                                namespace.told(version, now);
                                self.agenda.touch(&name);
                            }
                        }
                        // Something may have been missed.
                        None => {
                            for name in &self.waiting {
                                if let Some(namespace) = self.namespaces.get_mut(name) {
                                    namespace.wake(now);
                                }
                            }
                            self.agenda.touch_all(&self.waiting);
                        }
                    }
                }
            }
        }
    }

    /// Hands out the guards of what was granted.
    fn deliver(&mut self, name: &Arc<str>) {
        let Some(namespace) = self.namespaces.get_mut(name) else {
            return;
        };
        for delivery in std::mem::take(&mut namespace.deliveries) {
            // Without a handle nothing can hold it: the guard is made before it is sent,
            // so that it releases when it is not taken.
            match self.driver.upgrade() {
                Some(driver) => {
                    let guard =
                        LockGuard::new(driver, delivery.seat, delivery.nonce, delivery.tenure);
                    drop(delivery.reply.send(Ok(guard)));
                }
                None => namespace.release(delivery.nonce, None, None, Instant::now()),
            }
        }
    }

    /// Takes in those who come back at once, where there is something to write.
    fn gather(&mut self, inbox: &mut mpsc::UnboundedReceiver<Command>) {
        let now = Instant::now();
        if !self.gather.awaits_any() {
            return;
        }
        let ready = || {
            let ready = self.agenda.ready().chain(self.agenda.touched());
            ready.filter_map(|name| self.namespaces.get(name))
        };
        // Other processes wait for the row's lock.
        if ready().any(|n| n.turns.is_ours()) || !ready().any(|n| n.is_busy(now)) {
            return;
        }
        let mut until = self.gather.until(now);
        while until.is_some_and(|until| Instant::now() < until) {
            match inbox.try_recv() {
                Ok(command) => {
                    self.command(command);
                    until = self.gather.until(Instant::now());
                }
                // Shorter than any timer.
                Err(_) => thread::yield_now(),
            }
        }
        self.gather.begins();
    }

    /// Gives the connection of the rows to the next namespace that has a use for it.
    fn start_job(&mut self, now: Instant) {
        let Some(mut link) = self.link.take() else {
            return;
        };
        // The namespace that has its row's lock goes on; else it is the next one's turn.
        let locked = |name: &Arc<str>| {
            let namespace = self.namespaces.get(name);
            namespace.is_some_and(|n| n.turns.is_ours())
        };
        for name in self.agenda.turns(locked) {
            let Some(namespace) = self.namespaces.get_mut(&name) else {
                continue;
            };
            if let Some(job) = namespace.job(&self.config, now) {
                self.agenda.had_turn(&name);
                // What comes before a write, and after one, others wait for as well.
                if matches!(job, Job::Read | Job::Swap { .. } | Job::Notify(_)) {
                    self.awake.working(now);
                }
                self.jobs.push(Box::pin(async move {
                    let done = job.run(&mut link, &name).await;
                    Event::Done(link, name, done)
                }));
                return;
            }
            self.agenda.wants_nothing(&name);
        }
        self.link = Some(link);
    }

    fn start_side_jobs(&mut self) {
        while self.side_jobs < SIDE_JOBS && !self.side_queue.is_empty() {
            let mut link = match (self.side.pop(), self.renewals.link(), &self.link) {
                (Some(link), ..) => link,
                (None, Some(link), _) | (None, None, Some(link)) => {
                    link.another(SIDE_LIMIT, "evictions")
                }
                // Both are busy: it begins when one of them is back.
                (None, None, None) => return,
            };
            let Some((name, job)) = self.side_queue.pop_front() else {
                return;
            };
            self.side_jobs += 1;
            self.jobs.push(Box::pin(async move {
                let outcome = job.run(&mut link, &name).await;
                Event::Side(link, name, outcome)
            }));
        }
    }

    /// When something is due next.
    fn wake(&self, now: Instant) -> Instant {
        let ending = self.ending.as_ref().map(|ending| match &ending.leaving {
            Leaving::Now(0, again) if !again.is_empty() => now + LEAVE_AGAIN,
            _ => ending.deadline,
        });
        self.agenda
            .next()
            .into_iter()
            .chain(self.renewals.due())
            .chain(ending)
            .chain(self.signals.due())
            .min()
            .unwrap_or(now + Duration::from_mins(1))
    }

    /// Without handles the driver goes on for detached locks only.
    fn end_without_handles(&mut self, now: Instant) {
        let namespaces = || self.namespaces.values();
        if namespaces().all(Namespace::is_settled) {
            self.flushed.tell();
        }
        let detached = |n: &Namespace| n.held.values().any(|h| h.keeper == Keeper::Detached);
        if self.ending.is_none() && !namespaces().any(detached) {
            self.begin_end(None, now);
        }
    }

    /// Whether the end has come: nothing is pending, and our sessions are gone.
    fn is_over(&mut self, now: Instant) -> bool {
        let Some(ending) = &mut self.ending else {
            return false;
        };
        if now >= ending.deadline {
            return true;
        }
        if !self.namespaces.values().all(Namespace::is_settled) {
            return false;
        }
        let again = match &mut ending.leaving {
            Leaving::Done => return true,
            Leaving::NotYet => {
                let leave = |(name, n): (&Arc<str>, &mut Namespace)| (name.clone(), n.leave());
                self.namespaces.iter_mut().map(leave).collect()
            }
            Leaving::Now(0, again) => std::mem::take(again),
            Leaving::Now(..) => return false,
        };
        let pieces = again.iter().flat_map(|(name, ids)| {
            let pieces = ids.chunks(PIECE);
            pieces.map(|piece| (name.clone(), SideJob::Leave(piece.to_vec())))
        });
        let before = self.side_queue.len();
        self.side_queue.extend(pieces);
        let under_way = self.side_queue.len() - before;
        ending.leaving = if under_way == 0 {
            Leaving::Done
        } else {
            Leaving::Now(under_way, Vec::new())
        };
        self.start_side_jobs();
        self.ending
            .as_ref()
            .is_some_and(|ending| ending.leaving == Leaving::Done)
    }

    /// Closes the connections, and tells the callers of `close` what is left.
    async fn end(mut self) {
        let pending = self.namespaces.values().any(|n| !n.is_settled());
        let trouble = self.namespaces.values().find_map(|n| n.trouble.clone());
        let ending = self.ending.take();
        let left = ending.as_ref().is_some_and(|e| e.leaving != Leaving::Done);
        let result = match trouble {
            _ if !pending && !left => Ok(()),
            Some(error) if pending => Err(error),
            _ => Err(unfinished(pending)),
        };
        // What is under way may wait for other transactions; its connections are dropped.
        for mut link in self.link.take().into_iter().chain(self.side.drain(..)) {
            link.close().await;
        }
        self.renewals.close().await;
        for reply in ending.into_iter().flat_map(|ending| ending.replies) {
            drop(reply.send(result.clone()));
        }
    }
}

/// What `close` says when its time is over.
fn unfinished(pending: bool) -> LockError {
    let text = if pending {
        "the manager is closed, and locks could not be released within 10 s: a transaction \
         that is fenced with one of them may still be open; they are released when their \
         session expires, after that transaction has ended"
    } else {
        "the manager is closed and all locks are released, but sessions of this process could \
         not be deleted within 10 s; they expire"
    };
    let error = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
    LockError::Database {
        source: Arc::new(sqlx::Error::Io(error)),
        transient: true,
    }
}
