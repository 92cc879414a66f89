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
    job::{Done, Job, Outcome},
    namespace::Namespace,
    renewal::Renewed,
    renewals::Renewals,
    request::{Command, Reply, Seat},
    session::{Keeper, Kind},
    shutdown::Ending,
    side_job::{SIDE_LIMIT, SideJob, SideOutcome},
    signal::Signals,
};
use crate::{
    error::LockError,
    guard::LockGuard,
    manager::LockManager,
    store::{Change, Failure, FenceStatement, Listener, Reconnecting, Target},
};

/// How long a statement may take on the connection that reads and writes the rows.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a side connection stays open without being needed.
const SIDE_IDLE: Duration = Duration::from_secs(10);
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
    let mut link = Reconnecting::new(target, LIMIT, "rows");
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
    Done(Reconnecting, Arc<str>, Done),
    Side(Reconnecting, Arc<str>, SideOutcome),
    Renewed(Reconnecting, Renewed),
    Heard(Result<(Listener, Option<Change>), Failure>),
    /// A side connection was closed.
    Closed,
}

/// Whether anybody can ask for anything.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Handles {
    There,
    /// The driver goes on for detached locks only.
    Gone,
}

pub(super) struct Driving {
    pub(super) config: Config,
    pub(super) handles: Handles,
    pub(super) flushed: Arc<Flushed>,
    driver: Weak<Driver>,
    pub(super) namespaces: BTreeMap<Arc<str>, Namespace>,
    agenda: Agenda,
    /// The namespaces that have sessions or hold something.
    renewed: BTreeSet<Arc<str>>,
    /// The namespaces in which a request waits.
    waiting: BTreeSet<Arc<str>>,
    /// The connection of the rows, unless a job has it.
    pub(super) link: Option<Reconnecting>,
    pub(super) renewals: Renewals,
    /// Side connections that are free, and since when.
    pub(super) side: Vec<(Reconnecting, Instant)>,
    side_jobs: usize,
    /// Side jobs for which no connection is free.
    pub(super) side_queue: VecDeque<(Arc<str>, SideJob)>,
    signals: Signals,
    jobs: FuturesUnordered<LocalBoxFuture<'static, Event>>,
    pub(super) ending: Option<Ending>,
    gather: Gather,
    awake: Awake,
    /// Whether a row can be read under its lock.
    locks_rows: bool,
    fence: FenceStatement,
}

impl Driving {
    fn new(
        config: Config,
        link: Reconnecting,
        driver: Weak<Driver>,
        flushed: Arc<Flushed>,
    ) -> Self {
        let limit = (config.beat_ttl() / 3).min(LIMIT);
        Self {
            handles: Handles::There,
            flushed,
            driver,
            namespaces: BTreeMap::new(),
            agenda: Agenda::default(),
            renewed: BTreeSet::new(),
            waiting: BTreeSet::new(),
            renewals: Renewals::new(link.sibling(limit, "renewals")),
            side: Vec::new(),
            side_jobs: 0,
            side_queue: VecDeque::new(),
            signals: Signals::new(&link, &config),
            locks_rows: link.has_row_lock(),
            fence: link.fence_statement(),
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
        let tick = self.renewals.next_tick();
        let renewal = self
            .renewals
            .start(&mut self.namespaces, &self.renewed, &self.config, now);
        if self.renewals.next_tick() != tick {
            // It may have ended sessions.
            self.agenda.touch_all(&self.renewed);
        }
        if let Some(renewal) = renewal {
            self.jobs.push(Box::pin(async {
                let (link, renewed) = renewal.await;
                Event::Renewed(link, renewed)
            }));
        }
        for name in self.agenda.take_touched() {
            self.settle(&name, now);
        }
        self.start_side_jobs();
        self.close_idle(now);
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

    fn event(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Done(link, name, done) => {
                self.link = Some(link);
                self.agenda.touch(&name);
                if let Some(namespace) = self.namespaces.get_mut(&name) {
                    let took = now.duration_since(done.sent);
                    let wrote = match &done.outcome {
                        Outcome::Swapped(_, result) => Some(matches!(result, Ok(true))),
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
                self.side.push((link, now));
                self.side_jobs -= 1;
                self.agenda.touch(&name);
                if let (SideOutcome::Left(left), Some(ending)) = (&outcome, &mut self.ending) {
                    ending.left(&name, left, now);
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
            Event::Closed => {}
            Event::Heard(heard) => {
                for change in self.signals.heard(heard, &self.config, now) {
                    self.heard(change, now);
                }
            }
        }
    }

    /// Takes in that a row changed, or that something may have been missed.
    fn heard(&mut self, change: Option<Change>, now: Instant) {
        if let Some(Change { namespace, version }) = change {
            let name: Arc<str> = namespace.into();
            if let Some(namespace) = self.namespaces.get_mut(&name) {
                namespace.told(version, now);
                self.agenda.touch(&name);
            }
            return;
        }
        for name in &self.waiting {
            if let Some(namespace) = self.namespaces.get_mut(name) {
                namespace.wake(now);
            }
        }
        self.agenda.touch_all(&self.waiting);
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
                if matches!(job, Job::Read | Job::Swap(_) | Job::Notify(_)) {
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

    pub(super) fn start_side_jobs(&mut self) {
        while self.side_jobs < SIDE_JOBS && !self.side_queue.is_empty() {
            let mut link = match (self.side.pop(), self.renewals.link(), &self.link) {
                (Some((link, _)), ..) => link,
                (None, Some(link), _) | (None, None, Some(link)) => {
                    link.sibling(SIDE_LIMIT, "evictions")
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

    /// Closes side connections that were not needed for some time.
    fn close_idle(&mut self, now: Instant) {
        let idle =
            |(_, since): &mut (Reconnecting, Instant)| now.duration_since(*since) >= SIDE_IDLE;
        for (mut link, _) in self.side.extract_if(.., idle) {
            self.jobs.push(Box::pin(async move {
                link.close().await;
                Event::Closed
            }));
        }
    }

    /// When something is due next.
    fn wake(&self, now: Instant) -> Instant {
        let ending = self.ending.as_ref().map(Ending::due);
        self.agenda
            .next()
            .into_iter()
            .chain(self.renewals.due())
            .chain(ending)
            .chain(self.side.iter().map(|(_, since)| *since + SIDE_IDLE))
            .chain(self.signals.due())
            .min()
            .unwrap_or(now + Duration::from_mins(1))
    }
}
