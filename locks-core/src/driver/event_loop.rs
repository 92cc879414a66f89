//! The loop: what comes in goes to the protocol, what comes out is done.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    clock::Clock,
    command::{Command, Owner, Reply},
    connections::{Connections, Event, ROW_LIMIT},
    file_watch::FileWatch,
    grant::Grant,
    handle::{Driver, Flushed},
    listener::{News, Notifications},
    meters::Meters,
    replies::{Caller, Replies},
    spin::Spin,
    watches::Watches,
};
use crate::{
    error::LockError,
    process::Identity,
    protocol::{
        AcquireRequest, Answer, CallId, Completion, Config, DriverInput, DriverOutput, Input,
        Inspection, Name, Namespaces, Output, Query,
    },
    random::unique,
    store::{Change, ChangeSource, Reconnecting, Target},
};

/// What a driver's thread does from its start to its end.
pub(super) fn run(
    config: Config,
    namespace: Name,
    target: Target,
    driver: Driver,
    inbox: mpsc::UnboundedReceiver<Command>,
    reply: Reply<Arc<Driver>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(config, namespace, target, driver, inbox, reply)),
        Err(error) => reply.send(Err(LockError::Database {
            source: Arc::new(sqlx::Error::Io(error)),
            transient: true,
        })),
    }
}

async fn serve(
    mut config: Config,
    namespace: Name,
    target: Target,
    driver: Driver,
    inbox: mpsc::UnboundedReceiver<Command>,
    reply: Reply<Arc<Driver>>,
) {
    let mut rows = Reconnecting::new(target, ROW_LIMIT, "rows");
    if let Err(error) = rows.ensure_tables().await {
        reply.send(Err(error));
        return;
    }
    let fence = rows.fence_statement();
    config.row_lock = rows.has_row_lock();
    config.turns = rows.has_turns();
    config.fence_rows = fence.rows;
    config.boot = config.boot.filter(|_| rows.boot_matters());
    config.reads_durable = rows.are_reads_durable(config.durability());
    let driver = Arc::new(driver);
    let mut this = EventLoop::new(config, rows, &driver);
    this.to(namespace, Input::Timeout);
    // If the caller is gone, this drops the last handle.
    reply.send(Ok(driver));
    this.run(inbox).await;
}

struct EventLoop {
    clock: Clock,
    protocol: Namespaces,
    process: Identity,
    connections: Connections,
    notifications: Notifications,
    watch: FileWatch,
    change_source: ChangeSource,
    replies: Replies,
    meters: Meters,
    watches: Watches,
    spin: Spin,
    driver: Weak<Driver>,
    flushed: Arc<Flushed>,
    /// The handles that act for each task.
    owners: BTreeMap<(Name, Arc<str>), Weak<Owner>>,
    /// How often to look for owners that are gone, and when next.
    owners_pause: Duration,
    owners_due: Instant,
    /// When the query in flight was sent, if the thread may spin for it.
    query_sent: Instant,
    /// How the driver ended: the calls that wait for it, and the error.
    ended: Option<(Vec<CallId>, Option<LockError>)>,
}

impl EventLoop {
    fn new(mut config: Config, rows: Reconnecting, driver: &Arc<Driver>) -> Self {
        let clock = Clock::start();
        let pause = config.renewal_pause();
        // Processes that start at one moment must draw different numbers.
        let rng = fastrand::Rng::with_seed(unique());
        let change_source = match rows.change_source() {
            ChangeSource::Notifications => ChangeSource::None,
            source => source,
        };
        let now = Instant::now();
        let spin = Spin::new(config.mechanisms.spin);
        // Its waits are shorter than any timer.
        config.mechanisms.group_commit &= spin.is_possible();
        let mut this = Self {
            clock,
            process: config.process.clone(),
            notifications: Notifications::new(&rows),
            watch: FileWatch::new(rows.log_file(), pause),
            replies: Replies::new(rows.fence_statement(), driver.held()),
            meters: Meters::new(&config),
            watches: Watches::default(),
            connections: Connections::new(rows, pause.min(ROW_LIMIT)),
            spin,
            protocol: Namespaces::new(config, rng),
            change_source,
            driver: Arc::downgrade(driver),
            flushed: driver.flushed(),
            owners: BTreeMap::new(),
            owners_pause: pause,
            owners_due: now + pause,
            query_sent: now,
            ended: None,
        };
        this.handle(DriverInput::ChangeSource(change_source));
        this
    }

    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        while self.ended.is_none() {
            self.drain();
            self.housekeep();
            if self.ended.is_some() {
                break;
            }
            let wake = self.wake();
            tokio::select! {
                biased;
                event = self.connections.next() => self.on_event(event),
                Some(command) = inbox.recv() => self.on_command(command),
                reported = self.watch.report() => self.on_file_report(reported),
                () = self.spin.wait(wake) => self.handle(DriverInput::Timeout),
            }
            // Commands that have arrived join the next write.
            while let Ok(command) = inbox.try_recv() {
                self.on_command(command);
            }
        }
        inbox.close();
        while let Ok(command) = inbox.try_recv() {
            command.fail(LockError::Closed);
        }
        self.connections.close().await;
        let (calls, error) = self.ended.unwrap_or_default();
        for call in calls {
            let answer = match &error {
                Some(error) => Answer::Failed(error.clone()),
                None => Answer::Done,
            };
            self.replies.answer(call, answer);
        }
    }

    fn handle(&mut self, input: DriverInput) {
        self.protocol.handle(self.clock.now(), input);
    }

    fn to(&mut self, namespace: Name, input: Input) {
        self.handle(DriverInput::To(namespace, input));
    }

    /// Does what the protocol says until it has nothing more to say.
    fn drain(&mut self) {
        while let Some(output) = self.protocol.poll(self.clock.now()) {
            self.perform(output);
        }
    }

    /// What the thread does for itself.
    fn housekeep(&mut self) {
        let now = Instant::now();
        self.connections.close_idle(now);
        let blocked = self.protocol.has_blocked_requests();
        let (listening, stopped) = self.notifications.listen(blocked, now);
        if stopped {
            self.set_change_source(ChangeSource::None);
        }
        if let Some(listening) = listening {
            self.connections.listen(listening);
        }
        if let Some(id) = self.notifications.probe(now) {
            self.connections.probe(id);
        }
        self.watch.update(blocked, now);
        if let Some(source) = self.watch.change_source(now) {
            self.set_change_source(source);
        }
        if self.watch.take_due(now) {
            self.handle(DriverInput::MayHaveChanged);
        }
        for watch in self.watches.take_due(now) {
            let (namespace, seen) = (watch.namespace.clone(), watch.seen.clone());
            self.inspect(namespace, Inspection::Snapshot(seen), Caller::Watch(watch));
        }
        if self.owners_due <= now {
            self.owners_due = now + self.owners_pause;
            let gone = self
                .owners
                .extract_if(.., |_, owner| owner.strong_count() == 0);
            let gone: Vec<_> = gone.map(|(key, _)| key).collect();
            for (namespace, task) in gone {
                self.to(namespace, Input::OwnerGone(task));
            }
        }
        self.drain();
    }

    /// When the thread has to wake up.
    fn wake(&self) -> Instant {
        let protocol = self.protocol.poll_timeout();
        let protocol = protocol.map(|time| self.clock.instant(time));
        let owners = (!self.owners.is_empty()).then_some(self.owners_due);
        let times = [protocol, self.connections.idle_due(), owners];
        let times = times.into_iter().flatten();
        let far = Instant::now() + Duration::from_mins(1);
        let times = times.chain(self.watch.due()).chain(self.watches.due());
        times.chain(self.notifications.due()).min().unwrap_or(far)
    }

    fn perform(&mut self, output: DriverOutput) {
        match output {
            DriverOutput::Query(namespace, query) => {
                self.query_sent = Instant::now();
                if matches!(
                    query,
                    Query::Read | Query::CompareAndSet(_) | Query::Notify(_)
                ) {
                    self.spin.on_sent(self.query_sent);
                }
                self.connections.query(namespace, query);
            }
            DriverOutput::Renew(renewal) => self.connections.renew(renewal),
            DriverOutput::RenewOverRows(renewal) => self.connections.renew_over_rows(renewal),
            DriverOutput::From(namespace, output) => self.perform_for(namespace, output),
            DriverOutput::Flushed => self.flushed.report(),
            DriverOutput::Ended { calls, error } => self.ended = Some((calls, error)),
        }
    }

    fn perform_for(&mut self, namespace: Name, output: Output) {
        match output {
            Output::Task(task) => self.connections.task(namespace, task),
            Output::CheckProcesses(sessions) => {
                let exited = sessions.into_iter();
                let exited = exited.filter(|(_, process)| process.is_gone(&self.process));
                let exited: Vec<_> = exited.map(|(id, _)| id).collect();
                if !exited.is_empty() {
                    self.to(namespace, Input::ProcessesExited(exited));
                }
            }
            Output::Granted(granted) => {
                let nonce = granted.nonce;
                self.meters.on_granted(&granted);
                let (state, reply) = self.replies.on_granted(&namespace, granted);
                match (self.driver.upgrade(), reply) {
                    (Some(driver), Some(reply)) => {
                        reply.send(Ok(Grant::new(driver, namespace, nonce, state)));
                    }
                    // Without a handle or a caller nothing can hold it.
                    _ => self.release(namespace, nonce, false, None),
                }
            }
            Output::Failed(nonce, error) => {
                self.meters.on_failed(nonce, &error);
                self.replies.fail_request(nonce, error);
            }
            Output::Answer(call, answer) => {
                if let Some(unchanged) = self.replies.answer(call, answer) {
                    self.watches.add(unchanged, Instant::now());
                }
            }
            Output::Lost(nonce, loss) => {
                self.meters.on_lost(nonce);
                drop(self.replies.on_lost(nonce, loss));
            }
            Output::HeldTooLong(nonce, loss) => {
                self.meters.on_lost(nonce);
                // No transaction is fenced with the guard any more once it is lost.
                let state = self.replies.on_lost(nonce, loss);
                let fenced = state.is_some_and(|state| state.is_fenced());
                self.release(namespace, nonce, fenced, None);
            }
            Output::LeaseExtended(session, deadline) => {
                self.meters.on_lease_extended(&session, deadline);
                if !self.replies.extend_lease(&session, deadline) {
                    self.to(namespace, Input::LeaseExpired(session));
                }
            }
            Output::LeaseEndangered(session) => self.replies.endanger_lease(&session),
            Output::LeaseEnded(session) => {
                self.meters.on_lease_ended(&session);
                self.replies.end_lease(&session);
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        self.meters
            .on_reconnects(self.connections.take_reconnects());
        match event {
            Event::Completed(namespace, completion) => {
                self.meters.on_completed(&completion);
                let wrote = match &completion {
                    Completion::CompareAndSet(_, result) => Some(matches!(result, Ok(true))),
                    _ => None,
                };
                self.to(namespace, Input::Completed(completion));
                let answered = self.protocol.last_write_answered();
                let now = Instant::now();
                match wrote {
                    Some(true) => {
                        let took = now - self.query_sent;
                        self.spin.on_written(took, answered, now);
                    }
                    Some(false) => self.spin.on_conflict(),
                    None => {}
                }
            }
            Event::TaskDone(namespace, result) => self.to(namespace, Input::TaskDone(result)),
            Event::NoConnection(namespace, task) => self.to(namespace, Input::NoConnection(task)),
            Event::Renewed(renewed) => {
                self.meters.on_renewed(&renewed);
                self.handle(DriverInput::Renewed(renewed));
            }
            Event::Heard(heard) => {
                let news = self.notifications.on_heard(heard, Instant::now());
                self.set_change_source(self.notifications.change_source());
                match news {
                    News::Changed(Change { namespace, version }) => {
                        self.to(namespace.into(), Input::Changed(version));
                    }
                    News::MayHaveChanged => self.handle(DriverInput::MayHaveChanged),
                    News::None => {}
                }
            }
            Event::ProbeSent(sent) => {
                self.notifications.on_probe_sent(sent, Instant::now());
                self.set_change_source(self.notifications.change_source());
            }
            Event::Closed => {}
        }
    }

    /// The file of the database was written, or the watch on it has ended.
    fn on_file_report(&mut self, reported: bool) {
        if reported {
            let ahead = self.protocol.requests_ahead();
            self.watch.on_report(ahead, Instant::now());
        }
    }

    fn set_change_source(&mut self, source: ChangeSource) {
        if self.change_source != source {
            self.change_source = source;
            self.handle(DriverInput::ChangeSource(source));
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Acquire {
                owner,
                nonce,
                names,
                path,
                policy,
                max_hold,
                reply,
            } => {
                self.replies.add_request(nonce, reply);
                self.meters.on_request(nonce, &names, policy);
                let namespace = owner.namespace.clone();
                let task = owner.task.clone();
                self.note_owner(&owner);
                let request = AcquireRequest {
                    nonce,
                    task,
                    names,
                    path,
                    policy,
                    max_hold,
                };
                self.to(namespace, Input::Acquire(request));
            }
            Command::Cancel { namespace, nonce } => {
                self.replies.cancel_request(nonce);
                self.meters.on_cancelled(nonce);
                self.to(namespace, Input::Cancel(nonce));
            }
            Command::Release {
                namespace,
                nonce,
                state,
                reply,
            } => {
                let fenced = state.is_fenced();
                let caller = reply.map(|reply| Caller::About(state, reply));
                self.release(namespace, nonce, fenced, caller);
            }
            Command::Detach {
                namespace,
                nonce,
                state,
            } => {
                self.replies.on_guard_gone(nonce);
                self.meters.on_guard_gone(nonce);
                let fenced = state.is_fenced();
                self.to(namespace, Input::Detach { nonce, fenced });
            }
            Command::Confirm {
                namespace,
                nonce,
                check,
                state,
                reply,
            } => {
                let what = Inspection::Confirm(nonce, check);
                self.inspect(namespace, what, Caller::About(state, reply));
            }
            Command::ReleaseName { owner, name, reply } => {
                let what = Inspection::ReleaseName(owner.task.clone(), name);
                self.inspect(owner.namespace.clone(), what, Caller::Done(reply));
            }
            Command::Remove {
                namespace,
                what,
                reply,
            } => {
                let call = self.replies.add_call(Caller::Holders(reply));
                self.to(namespace, Input::Remove(call, what));
            }
            Command::Held { namespace, reply } => {
                self.inspect(namespace, Inspection::Held, Caller::Holders(reply));
            }
            Command::Waiting { namespace, reply } => {
                self.inspect(namespace, Inspection::Waiting, Caller::Waiters(reply));
            }
            Command::Watch(watch) => self.watches.add(watch, Instant::now()),
            Command::Close(reply) => {
                let call = Some(self.replies.add_call(Caller::Done(reply)));
                let fenced = self.replies.fenced();
                self.handle(DriverInput::Close { call, fenced });
            }
            Command::HandlesGone => {
                let fenced = self.replies.fenced();
                self.handle(DriverInput::HandlesGone { fenced });
            }
        }
    }

    fn release(
        &mut self,
        namespace: Name,
        nonce: crate::table::Nonce,
        fenced: bool,
        caller: Option<Caller>,
    ) {
        self.replies.on_guard_gone(nonce);
        self.meters.on_guard_gone(nonce);
        let call = caller.map(|caller| self.replies.add_call(caller));
        let input = Input::Release {
            nonce,
            fenced,
            call,
        };
        self.to(namespace, input);
    }

    fn inspect(&mut self, namespace: Name, what: Inspection, caller: Caller) {
        let call = self.replies.add_call(caller);
        self.to(namespace, Input::Inspect(call, what));
    }

    /// Remembers a handle that acts for its task.
    fn note_owner(&mut self, owner: &Arc<Owner>) {
        let key = (owner.namespace.clone(), owner.task.clone());
        let known = self.owners.entry(key).or_default();
        if known.strong_count() == 0 {
            *known = Arc::downgrade(owner);
        }
    }
}
