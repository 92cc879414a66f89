//! One process's view of all its namespaces. They share the row connection, the connection for
//! renewals, and the shutdown.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    agenda::Agenda,
    call::{Answer, CallId},
    config::{Config, Name},
    group_commit::GroupCommit,
    input::{DriverInput, Input},
    namespace::Namespace,
    output::{DriverOutput, Output},
    query::Completion,
    renewal::Renewal,
    renewals::{Renewals, Way},
    shutdown::{Shutdown, unfinished},
    task::TaskResult,
    time::{Now, Time},
};
use crate::{error::LockError, store::ChangeSource, table::Nonce};

/// One process's view of all its namespaces.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Namespaces {
    config: Arc<Config>,
    rng: fastrand::Rng,
    all: BTreeMap<Name, Namespace>,
    outputs: VecDeque<DriverOutput>,
    agenda: Agenda,
    /// When the query in flight was sent; `None`: no query is in flight.
    in_flight: Option<Now>,
    /// The namespaces that have sessions or hold something.
    renewed: BTreeSet<Name>,
    /// The namespaces in which a request is blocked.
    blocked: BTreeSet<Name>,
    renewals: Renewals,
    group_commit: GroupCommit,
    change_source: ChangeSource,
    shutdown: Option<Shutdown>,
    /// Whether the driver goes on only for detached locks.
    handles_gone: bool,
    flushed: bool,
    ended: bool,
    /// Whether the last write answered a caller with success.
    answered: bool,
}

impl Namespaces {
    /// `rng` must have a seed of its own in each process.
    pub(crate) fn new(config: Config, rng: fastrand::Rng) -> Self {
        Self {
            config: Arc::new(config),
            rng,
            all: BTreeMap::new(),
            outputs: VecDeque::new(),
            agenda: Agenda::default(),
            in_flight: None,
            renewed: BTreeSet::new(),
            blocked: BTreeSet::new(),
            renewals: Renewals::default(),
            group_commit: GroupCommit::default(),
            change_source: ChangeSource::None,
            shutdown: None,
            handles_gone: false,
            flushed: false,
            ended: false,
            answered: false,
        }
    }

    /// Whether a request is blocked, so that changes of other processes matter.
    pub(crate) fn has_blocked_requests(&self) -> bool {
        !self.blocked.is_empty()
    }

    /// Whether the last write answered a caller with success.
    pub(crate) fn last_write_answered(&self) -> bool {
        self.answered
    }

    /// How many requests are served before the first one that is blocked here; at most twenty.
    pub(crate) fn requests_ahead(&self) -> usize {
        let blocked = self.blocked.iter();
        let namespaces = blocked.filter_map(|name| self.all.get(name));
        namespaces.map(Namespace::requests_ahead).min().unwrap_or(0)
    }

    /// Takes in what happened.
    pub(crate) fn handle(&mut self, now: Now, input: DriverInput) {
        match input {
            DriverInput::To(name, input) => self.tell_namespace(&name, input, now),
            DriverInput::Renewed(renewed) => {
                let (config, namespaces) = (&self.config, &mut self.all);
                let concerned = self.renewals.on_renewed(renewed, namespaces, config, now);
                self.agenda.touch_all(&concerned);
            }
            DriverInput::Close { call, fenced } => self.close(call, &fenced, now),
            DriverInput::HandlesGone { fenced } => {
                let expires = self.config.ttl.is_some();
                if expires && self.has_detached() {
                    // Detached locks that expire live as long as they are renewed.
                    self.handles_gone = true;
                } else {
                    self.close(None, &fenced, now);
                }
            }
            DriverInput::MayHaveChanged => self.tell_blocked(now, || Input::MayHaveChanged),
            DriverInput::ChangeSource(source) => {
                self.change_source = source;
                for namespace in self.all.values_mut() {
                    namespace.set_change_source(source);
                }
                self.tell_blocked(now, || Input::ChangeSource(source));
            }
            DriverInput::Timeout => {}
        }
        for name in self.agenda.take_due(now.monotonic) {
            if let Some(namespace) = self.all.get_mut(&name) {
                namespace.handle(now, Input::Timeout);
            }
        }
    }

    /// The next thing to do.
    pub(crate) fn poll(&mut self, now: Now) -> Option<DriverOutput> {
        if self.outputs.is_empty() && !self.ended {
            self.advance(now);
        }
        self.outputs.pop_front()
    }

    /// When [`handle`](Self::handle) has to be called with [`DriverInput::Timeout`] at the
    /// latest, after [`poll`](Self::poll) has returned `None`.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let shutdown = self.shutdown.as_ref().map(Shutdown::poll_timeout);
        let times = [self.agenda.next(), self.renewals.poll_timeout(), shutdown];
        // A renewal on the row connection ends the wait of the next write, too.
        let hold = self.group_commit.poll_timeout();
        let hold = hold.filter(|_| !self.renewals.use_rows());
        times.into_iter().flatten().chain(hold).min()
    }

    fn has_detached(&self) -> bool {
        self.all.values().any(Namespace::has_detached)
    }

    fn is_settled(&self) -> bool {
        self.all.values().all(Namespace::is_settled)
    }

    fn namespace(&mut self, name: &Name) -> &mut Namespace {
        self.agenda.touch(name);
        self.all.entry(name.clone()).or_insert_with(|| {
            let (config, rng) = (self.config.clone(), self.rng.fork());
            let mut new = Namespace::new(name.clone(), config, rng);
            new.set_change_source(self.change_source);
            new
        })
    }

    fn tell_blocked(&mut self, now: Now, input: impl Fn() -> Input) {
        for name in &self.blocked {
            if let Some(namespace) = self.all.get_mut(name) {
                namespace.handle(now, input());
            }
        }
        self.agenda.touch_all(&self.blocked);
    }

    fn tell_namespace(&mut self, name: &Name, input: Input, now: Now) {
        // Every driver of the database is notified of every namespace.
        if matches!(input, Input::Changed(_)) && !self.all.contains_key(name) {
            return;
        }
        // A caller whose guard was dropped may ask for more at once.
        let is_call = match &input {
            Input::Acquire(_) | Input::Inspect(..) | Input::Remove(..) => true,
            Input::Release { call, .. } => call.is_some(),
            _ => false,
        };
        if is_call {
            self.group_commit.on_call();
            if self.shutdown.as_ref().is_some_and(Shutdown::is_closed) {
                self.refuse(name, input);
                return;
            }
        }
        let task = match &input {
            Input::TaskDone(result) | Input::Completed(Completion::TaskDone(result)) => {
                Some(result)
            }
            _ => None,
        };
        if let Some(TaskResult::OwnSessionsDeleted { sessions, result }) = task
            && let Some(shutdown) = &mut self.shutdown
        {
            if let Err(failure) = result {
                tracing::debug!(%failure, "the driver's sessions are not deleted yet");
            }
            let sessions = sessions.clone();
            shutdown.on_deleted(name, sessions, result.is_err(), now.monotonic);
        }
        let completes = matches!(input, Input::Completed(_));
        let wrote = matches!(
            input,
            Input::Completed(Completion::CompareAndSet(_, Ok(true)))
        );
        let namespace = self.namespace(name);
        namespace.handle(now, input);
        if completes {
            let answered = namespace.take_answered();
            let sent = self.in_flight.take().unwrap_or(now);
            self.answered = wrote && answered > 0;
            if self.answered && self.config.mechanisms.group_commit {
                let took = now.monotonic - sent.monotonic;
                self.group_commit.on_answered(answered, took, now.monotonic);
            }
        }
    }

    /// Answers a call that came after the manager was closed.
    fn refuse(&mut self, name: &Name, input: Input) {
        let output = match input {
            Input::Acquire(request) => Output::Failed(request.nonce, LockError::Closed),
            Input::Inspect(call, _)
            | Input::Remove(call, _)
            | Input::Release {
                call: Some(call), ..
            } => Output::Answer(call, Answer::Failed(LockError::Closed)),
            _ => return,
        };
        self.outputs
            .push_back(DriverOutput::From(name.clone(), output));
    }

    fn close(&mut self, call: Option<CallId>, fenced: &BTreeSet<Nonce>, now: Now) {
        if let Some(shutdown) = &mut self.shutdown
            && (shutdown.is_closed() || call.is_none())
        {
            if let Some(call) = call {
                shutdown.add_call(call);
            }
            return;
        }
        if call.is_some() {
            for (name, namespace) in &mut self.all {
                let fenced = fenced.clone();
                namespace.handle(now, Input::Close { fenced });
                self.agenda.touch(name);
            }
        }
        self.shutdown = Some(Shutdown::new(call, now.monotonic));
    }

    /// Finds the next things to do.
    fn advance(&mut self, now: Now) {
        self.next_query(now);
        let renewal = self.next_renewal(Way::Own, now);
        self.outputs.extend(renewal.map(DriverOutput::Renew));
        for name in self.agenda.take_touched() {
            self.settle(&name, now);
        }
        if self.outputs.is_empty() {
            self.advance_shutdown(now);
        }
    }

    fn next_renewal(&mut self, way: Way, now: Now) -> Option<Renewal> {
        let (config, namespaces) = (&self.config, &mut self.all);
        let tick = self.renewals.next_tick();
        let renewal = self
            .renewals
            .next(way, namespaces, &self.renewed, config, now);
        if self.renewals.next_tick() != tick {
            // It may have ended sessions.
            self.agenda.touch_all(&self.renewed);
        }
        renewal
    }

    /// Gives the row connection to the next namespace that has a use for it.
    fn next_query(&mut self, now: Now) {
        if self.in_flight.is_some() || self.renewals.use_rows() {
            return;
        }
        let holds_lock = |name: &Name| self.all.get(name).is_some_and(Namespace::holds_row_lock);
        let mut next = self.agenda.next_turn(holds_lock);
        let locked = next.as_ref().is_some_and(holds_lock);
        if !locked && let Some(renewal) = self.next_renewal(Way::Rows, now) {
            self.outputs.push_back(DriverOutput::RenewOverRows(renewal));
            return;
        }
        while let Some(name) = next {
            if let Some(namespace) = self.all.get_mut(&name) {
                // Other processes wait while this one holds the row's lock. Where processes take
                // turns, callers come while this one waits for its turn.
                let at_once = namespace.holds_row_lock() || namespace.takes_turns();
                if at_once || !namespace.wants_write(now) {
                    self.group_commit.stop_waiting();
                } else if self.group_commit.hold(now.monotonic).is_some() {
                    return;
                }
                if let Some(query) = namespace.poll_query(now) {
                    self.agenda.on_turn(&name);
                    self.in_flight = Some(now);
                    self.outputs.push_back(DriverOutput::Query(name, query));
                    return;
                }
            }
            self.agenda.on_no_turn(&name);
            next = self.agenda.next_turn(|_| false);
        }
        self.group_commit.stop_waiting();
    }

    /// Takes from a namespace what it wants done, and notes when it needs attention next.
    fn settle(&mut self, name: &Name, now: Now) {
        let Some(namespace) = self.all.get_mut(name) else {
            return;
        };
        while let Some(output) = namespace.poll(now) {
            self.outputs
                .push_back(DriverOutput::From(name.clone(), output));
        }
        note(&mut self.renewed, name, namespace.needs_renewal());
        note(&mut self.blocked, name, namespace.has_blocked_requests());
        // A namespace that waits for the row connection gets it in its turn.
        let connected = !self.agenda.is_ready(name);
        let next = namespace.poll_timeout(connected);
        self.agenda.schedule(name, next);
    }

    fn advance_shutdown(&mut self, now: Now) {
        let settled = (self.handles_gone || self.shutdown.is_some()) && self.is_settled();
        if self.handles_gone && self.shutdown.is_none() {
            if settled && !self.flushed {
                self.flushed = true;
                self.outputs.push_back(DriverOutput::Flushed);
            }
            if !self.has_detached() {
                self.shutdown = Some(Shutdown::new(None, now.monotonic));
            }
        }
        let Some(shutdown) = &mut self.shutdown else {
            return;
        };
        if settled && shutdown.needs_sessions() {
            let sessions = self.all.iter_mut();
            let sessions = sessions.map(|(name, n)| (name.clone(), n.take_sessions()));
            shutdown.start_deletion(sessions.collect(), now.monotonic);
        }
        for (name, task) in shutdown.poll_tasks(now.monotonic) {
            let output = DriverOutput::From(name, Output::Task(task));
            self.outputs.push_back(output);
        }
        if shutdown.is_over(now.monotonic) {
            self.end();
        }
    }

    fn end(&mut self) {
        let Some(shutdown) = self.shutdown.take() else {
            return;
        };
        self.ended = true;
        // They are deleted after everything else of this process is done.
        let error = (!shutdown.has_deleted_sessions()).then(|| {
            let namespaces = || self.all.values();
            let names = namespaces().flat_map(Namespace::names_in_release);
            let names: Vec<_> = names.map(|name| name.as_str().to_owned()).collect();
            unfinished(&names, namespaces().find_map(Namespace::last_error))
        });
        let calls = shutdown.into_calls();
        self.outputs.push_back(DriverOutput::Ended { calls, error });
    }
}

fn note(names: &mut BTreeSet<Name>, name: &Name, is_in: bool) {
    if is_in {
        names.insert(name.clone());
    } else {
        names.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        name::LockName,
        protocol::{
            call::{AcquireRequest, Inspection, Removal, WaitPolicy},
            config::tests::config,
            time::tests::at,
        },
        scope::ScopePath,
    };

    fn namespaces() -> Namespaces {
        Namespaces::new(config(), fastrand::Rng::with_seed(1))
    }

    fn outputs(namespaces: &mut Namespaces, now: Now) -> Vec<DriverOutput> {
        std::iter::from_fn(|| namespaces.poll(now)).collect()
    }

    fn close(call: u64) -> DriverInput {
        DriverInput::Close {
            call: Some(CallId(call)),
            fenced: BTreeSet::new(),
        }
    }

    #[test]
    fn calls_after_the_close_are_refused() {
        let mut all = namespaces();
        let name = Name::from("n");
        let request = |nonce| AcquireRequest {
            nonce: Nonce(nonce),
            task: "a".into(),
            names: [LockName::found("x".into())].into(),
            path: ScopePath::default(),
            policy: WaitPolicy::NoWait,
            max_hold: None,
        };
        all.handle(
            at(0),
            DriverInput::To(name.clone(), Input::Acquire(request(9))),
        );
        let asked = outputs(&mut all, at(0));
        assert!(matches!(asked[..], [DriverOutput::Query(..)]), "{asked:?}");
        all.handle(at(1), close(1));
        let release = |call| Input::Release {
            nonce: Nonce(6),
            fenced: false,
            call,
        };
        for input in [
            Input::Acquire(request(5)),
            Input::Inspect(CallId(2), Inspection::Held),
            Input::Remove(CallId(3), Removal::All),
            release(Some(CallId(4))),
            release(None),
        ] {
            all.handle(at(1), DriverInput::To(name.clone(), input));
        }
        let refused: Vec<_> = outputs(&mut all, at(1))
            .into_iter()
            .map(|output| match output {
                DriverOutput::From(_, Output::Failed(nonce, LockError::Closed)) => nonce.0,
                DriverOutput::From(_, Output::Answer(call, Answer::Failed(LockError::Closed))) => {
                    call.0
                }
                output => panic!("{output:?}"),
            })
            .collect();
        assert_eq!(refused, [5, 2, 3, 4, 9]);
    }

    #[test]
    fn every_close_is_answered_at_the_end() {
        let mut all = namespaces();
        all.handle(at(0), close(1));
        all.handle(at(0), close(2));
        let fenced = BTreeSet::new();
        all.handle(at(0), DriverInput::HandlesGone { fenced });
        let outputs = outputs(&mut all, at(0));
        let [DriverOutput::Ended { calls, error: None }] = &outputs[..] else {
            panic!("{outputs:?}");
        };
        assert_eq!(*calls, [CallId(1), CallId(2)]);
        assert!(all.poll(at(0)).is_none(), "it has ended");
    }

    #[test]
    fn nothing_comes_after_the_end() {
        let mut all = namespaces();
        let name = Name::from("n");
        let namespace = |input| DriverInput::To(name.clone(), input);
        all.handle(
            at(0),
            namespace(Input::Inspect(CallId(2), Inspection::Held)),
        );
        let asked = outputs(&mut all, at(0));
        assert!(matches!(asked[..], [DriverOutput::Query(..)]), "{asked:?}");
        all.handle(at(0), close(1));
        all.handle(at(10_000), DriverInput::Timeout);
        let last = outputs(&mut all, at(10_000)).pop();
        assert!(matches!(last, Some(DriverOutput::Ended { .. })), "{last:?}");
        all.handle(
            at(10_001),
            namespace(Input::Completed(Completion::Read(Ok(None)))),
        );
        assert!(outputs(&mut all, at(10_001)).is_empty());
    }

    #[test]
    fn a_close_after_the_last_handle_is_answered() {
        let mut all = namespaces();
        let fenced = BTreeSet::new();
        all.handle(at(0), DriverInput::HandlesGone { fenced });
        all.handle(at(0), close(1));
        let outputs = outputs(&mut all, at(0));
        let [DriverOutput::Ended { calls, error: None }] = &outputs[..] else {
            panic!("{outputs:?}");
        };
        assert_eq!(*calls, [CallId(1)]);
    }

    #[test]
    fn a_notification_of_a_namespace_that_is_not_used_is_left() {
        let mut all = namespaces();
        all.handle(at(0), DriverInput::To("other".into(), Input::Changed(7)));
        assert!(all.all.is_empty());
        assert_eq!(all.poll_timeout(), None);
    }
}
