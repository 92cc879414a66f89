//! The loop: what comes in, what is due, and the jobs that are under way.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::sync::mpsc;

use super::{
    Config, Driver, Flushed,
    awake::Awake,
    gather::Gather,
    job::{Done, Job, Outcome, Renewed, SIDE_LIMIT, SideJob, SideOutcome},
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
    store::{Change, Failure, Link, Listener, Target},
    table::SessionId,
};

/// How long a statement may take on the connection that reads and writes the rows.
const LIMIT: Duration = Duration::from_secs(5);
/// How many side jobs may be under way.
const SIDE_JOBS: usize = 8;

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
    /// Whose turn it was.
    last: Option<Arc<str>>,
    /// The connection of the rows, unless a job has it.
    link: Option<Link>,
    renewals: Renewals,
    /// Side connections that are free.
    side: Vec<Link>,
    side_jobs: usize,
    signals: Signals,
    jobs: FuturesUnordered<LocalBoxFuture<'static, Event>>,
    ending: Option<Ending>,
    gather: Gather,
    awake: Awake,
    /// Whether a row can be read under its lock.
    locks_rows: bool,
}

/// The driver is to end once nothing is pending, or at this moment.
struct Ending {
    deadline: Instant,
    replies: Vec<Reply<()>>,
    /// Our sessions are being deleted, as the last thing.
    leaving: usize,
    left: bool,
}

impl Driving {
    fn new(config: Config, link: Link, driver: Weak<Driver>, flushed: Arc<Flushed>) -> Self {
        let limit = (config.beat_ttl() / 3).min(LIMIT);
        Self {
            handles: Handles::There,
            flushed,
            driver,
            namespaces: BTreeMap::new(),
            last: None,
            renewals: Renewals::new(link.another(limit, "renewals")),
            side: Vec::new(),
            side_jobs: 0,
            signals: Signals::new(&link, &config),
            locks_rows: link.locks_rows(),
            link: Some(link),
            jobs: FuturesUnordered::new(),
            ending: None,
            gather: Gather::default(),
            awake: Awake::new(),
            config,
        }
    }

    fn namespace(&mut self, name: &Arc<str>) -> &mut Namespace {
        let locks_rows = self.locks_rows;
        self.namespaces
            .entry(name.clone())
            .or_insert_with(|| Namespace::new(name.clone(), locks_rows))
    }

    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        loop {
            let now = Instant::now();
            for namespace in self.namespaces.values_mut() {
                namespace.alarm(&self.config, now);
            }
            self.start_jobs(now);
            self.deliver();
            if self.handles == Handles::Gone && self.namespaces.values().all(Namespace::is_settled)
            {
                self.flushed.tell();
            }
            if self.is_over(now) {
                break;
            }
            let wake = self.next_alarm(now);
            tokio::select! {
                biased;
                Some(event) = self.jobs.next(), if !self.jobs.is_empty() => {
                    self.event(event);
                    self.deliver();
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
                let namespace = self.namespaces.get_mut(&name).expect("BUG: just made");
                namespace.ask(request, &self.config);
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
                for namespace in self.namespaces.values_mut() {
                    namespace.close(never, now);
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
            leaving: 0,
            left: false,
        });
    }

    fn event(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Done(link, name, done) => {
                self.link = Some(link);
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
                if let (SideOutcome::Left(_), Some(ending)) = (&outcome, &mut self.ending) {
                    ending.leaving = ending.leaving.saturating_sub(1);
                }
                if let Some(namespace) = self.namespaces.get_mut(&name) {
                    namespace.side_done(outcome, now);
                }
            }
            Event::Renewed(link, renewed) => {
                let namespaces = &mut self.namespaces;
                self.renewals
                    .done(link, renewed, namespaces, &self.config, now);
            }
            Event::Heard(heard) => {
                for change in self.signals.heard(heard, &self.config, now) {
                    match change {
                        Some(Change { namespace, version }) => {
                            if let Some(namespace) = self.namespaces.get_mut(&*namespace) {
                                namespace.told(version, now);
                            }
                        }
                        // Something may have been missed.
                        None => {
                            for namespace in self.namespaces.values_mut() {
                                namespace.wake(now);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Hands out the guards of what was granted.
    fn deliver(&mut self) {
        for namespace in self.namespaces.values_mut() {
            for delivery in std::mem::take(&mut namespace.deliveries) {
                // Without a handle there is nobody to hold it: the guard is made
                // before it is sent, so that it releases when nobody takes it.
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
    }

    /// Takes in those who come back at once, where there is something to write.
    fn gather(&mut self, inbox: &mut mpsc::UnboundedReceiver<Command>) {
        let now = Instant::now();
        if self.namespaces.values().any(|n| n.turns.is_ours()) {
            // Others wait for the row's lock.
            return;
        }
        if !self.gather.awaits_any() || !self.namespaces.values().any(|n| n.is_busy(now)) {
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

    fn start_jobs(&mut self, now: Instant) {
        self.start_job(now);
        self.start_side_jobs();
        if let Some(renewal) = self.renewals.start(&self.namespaces, &self.config, now) {
            self.jobs.push(Box::pin(async {
                let (link, renewed) = renewal.await;
                Event::Renewed(link, renewed)
            }));
        }
        let waiting = self.namespaces.values().any(Namespace::somebody_waits);
        if let Some(listening) = self.signals.listen(waiting, &self.config, now) {
            self.jobs
                .push(Box::pin(async { Event::Heard(listening.await) }));
        }
    }

    /// Gives the connection of the rows to the next namespace that has a use for it.
    fn start_job(&mut self, now: Instant) {
        let Some(mut link) = self.link.take() else {
            return;
        };
        let names: Vec<_> = self.namespaces.keys().cloned().collect();
        // Who has its row's lock goes on; else it is the next one's turn.
        let locked = self.namespaces.values().position(|n| n.turns.is_ours());
        let start = self.last.as_ref().map_or(0, |last| {
            names.partition_point(|name| name <= last) % names.len()
        });
        let start = locked.unwrap_or(start);
        for offset in 0..names.len() {
            let name = &names[(start + offset) % names.len()];
            let Some(namespace) = self.namespaces.get_mut(name) else {
                continue;
            };
            if let Some(job) = namespace.job(&self.config, now) {
                self.last = Some(name.clone());
                // What comes before a write, and after one, others wait for as well.
                if matches!(job, Job::Read | Job::Swap { .. } | Job::Notify(_)) {
                    self.awake.working(now);
                }
                let name = name.clone();
                self.jobs.push(Box::pin(async move {
                    let done = job.run(&mut link, &name).await;
                    Event::Done(link, name, done)
                }));
                return;
            }
        }
        self.link = Some(link);
    }

    fn start_side_jobs(&mut self) {
        for namespace in self.namespaces.values_mut() {
            while self.side_jobs < SIDE_JOBS
                && let Some(job) = namespace.side.pop_front()
            {
                let mut link = match (self.side.pop(), self.renewals.link(), &self.link) {
                    (Some(link), ..) => link,
                    (None, Some(link), _) | (None, None, Some(link)) => {
                        link.another(SIDE_LIMIT, "evictions")
                    }
                    // Both are busy: it begins when one of them is back.
                    (None, None, None) => {
                        namespace.side.push_front(job);
                        break;
                    }
                };
                self.side_jobs += 1;
                let name = namespace.name.clone();
                self.jobs.push(Box::pin(async move {
                    let outcome = job.run(&mut link, &name).await;
                    Event::Side(link, name, outcome)
                }));
            }
        }
    }

    fn next_alarm(&self, now: Instant) -> Instant {
        let namespaces = || self.namespaces.values();
        let clocks = namespaces().filter_map(|namespace| namespace.next_alarm(now));
        let jobs = namespaces()
            .filter(|_| self.link.is_some())
            .filter_map(|namespace| namespace.next_job(now));
        let ending = self.ending.as_ref().map(|ending| ending.deadline);
        clocks
            .chain(jobs)
            .chain(self.renewals.due())
            .chain(ending)
            .chain(self.signals.due())
            .min()
            .unwrap_or(now + Duration::from_mins(1))
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
        if !ending.left {
            ending.left = true;
            for namespace in self.namespaces.values_mut() {
                let ids: Vec<SessionId> = namespace.leave();
                if !ids.is_empty() {
                    ending.leaving += 1;
                    namespace.side.push_back(SideJob::Leave(ids));
                }
            }
            self.start_side_jobs();
        }
        self.ending
            .as_ref()
            .is_some_and(|ending| ending.leaving == 0)
    }

    /// Says good-bye to the server and to whoever waits for the end.
    async fn end(mut self) {
        let pending = !self.namespaces.values().all(Namespace::is_settled);
        let trouble = self
            .namespaces
            .values()
            .find_map(|namespace| namespace.trouble.clone());
        for mut link in self.link.take().into_iter().chain(self.side.drain(..)) {
            link.close().await;
        }
        self.renewals.close().await;
        let result = match (pending, trouble) {
            (true, Some(error)) => Err(error),
            _ => Ok(()),
        };
        let ending = self.ending.take();
        for reply in ending.into_iter().flat_map(|ending| ending.replies) {
            drop(reply.send(result.clone()));
        }
    }
}
