//! The callers of the processes, their guards and their transactions.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    execution::parse,
    process::Process,
    schedule::{Ask, Patience, ProcessId, RequestNumber, Scope, Step},
    transactions::Phase,
    world::{World, task},
};
use crate::{
    error::LockError,
    name::{LockName, Mode, Names},
    protocol::{
        AcquireRequest, Answer, CallId, DriverInput, Granted, Input, Inspection, Loss, Output,
        Removal, Time, WaitPolicy, config::Name,
    },
    scope::ScopePath,
    table::{Nonce, SessionId},
};

/// What a caller has been told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Told {
    /// Nothing yet.
    Waiting,
    Granted,
    /// The grant is lost.
    Lost,
    Failed,
    /// The caller is gone, or has released what it held, or its process has ended.
    Gone,
}

/// A caller: its request, and what it holds.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) number: RequestNumber,
    pub(super) process: ProcessId,
    pub(super) namespace: Name,
    pub(super) task: Arc<str>,
    pub(super) names: Names,
    pub(super) nonce: Nonce,
    pub(super) patience: Patience,
    path: ScopePath,
    outer: Option<RequestNumber>,
    /// When it came, on the monotonic clock of its process.
    pub(super) since: Time,
    pub(super) told: Told,
    pub(super) grant: Option<Granted>,
    /// How long its machine had slept when it was granted.
    pub(super) slept: Duration,
    pub(super) detached: bool,
    /// Transactions that were fenced and are not known to have ended.
    pub(super) open_fences: u32,
    /// Whether the row has shown a conflict since the request came.
    pub(super) saw_conflict: bool,
}

impl Caller {
    pub(super) fn on_process_ended(&mut self) {
        self.told = Told::Gone;
    }

    pub(super) fn holds(&self) -> bool {
        self.told == Told::Granted
    }

    /// Whether the time of its grant is over.
    pub(super) fn is_over(&self, boot: Time) -> bool {
        let ends = self.grant.as_ref().and_then(|grant| grant.ends);
        ends.is_some_and(|ends| ends <= boot)
    }

    pub(super) fn session(&self) -> Option<&SessionId> {
        self.grant.as_ref().map(|grant| &grant.session)
    }
}

/// A call without answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    Release(RequestNumber),
    ReleaseName(RequestNumber),
    Inspect,
    Remove,
    Confirm(RequestNumber),
    Close,
}

impl World {
    /// Takes a step of a caller, if it is possible.
    pub(super) fn take_caller(&mut self, step: &Step) -> bool {
        match step {
            Step::Ask(ask) => self.ask(ask),
            Step::Cancel(number) => self.cancel(*number),
            Step::Release(number) => self.release(*number, true),
            Step::Drop(number) => self.release(*number, false),
            Step::Detach(number) => self.detach(*number),
            Step::ReleaseByName(number) => self.release_by_name(*number),
            Step::Held(p, space) => {
                let what = match self.setup.seed % 3 {
                    1 => self.checks.reports.snapshot(*p, &self.namespace(*space)),
                    _ => Inspection::Held,
                };
                self.inspect(*p, *space, what)
            }
            Step::Waiting(p, space) => self.inspect(*p, *space, Inspection::Waiting),
            Step::RemoveTask(p, space, of, name) => {
                self.remove(*p, *space, Removal::Task(task(*of, *name)))
            }
            Step::RemoveGrant(p, space, name) => {
                let row = self.db.tables.locks.get(&self.namespace(*space));
                let table = row.and_then(parse);
                let holders = table.map(|table| table.holders()).unwrap_or_default();
                let holder = holders.into_iter().find(|h| h.name.as_str() == *name);
                // A lock of the original is taken away as well.
                self.checks.removed_all |= holder.as_ref().is_some_and(|h| h.session.is_none());
                holder.is_some_and(|holder| self.remove(*p, *space, Removal::Grant(holder)))
            }
            Step::RemoveAll(p, space) => self.remove(*p, *space, Removal::All),
            Step::OwnerGone(p, name) => self.owner_gone(*p, *name),
            Step::Close(p) => self.close(*p),
            Step::HandlesGone(p) => self.drop_handles(*p),
            Step::Fence(number) => self.fence(*number),
            Step::Commit(number) => self.commit(*number),
            Step::RollBack(number) => self.roll_back(*number),
            Step::AbandonCommit(number) => self.abandon_commit(*number),
            Step::ArriveCommit(number) => self.arrive_commit(*number),
            _ => false,
        }
    }

    fn can_call(&self, p: ProcessId) -> bool {
        let process = self.processes.get(p);
        process.is_some_and(|process| process.is_running() && !process.closing)
    }

    pub(super) fn new_call(&mut self, p: ProcessId, call: Call) -> CallId {
        let process = &mut self.processes[p];
        process.next_call += 1;
        let id = CallId(process.next_call);
        self.calls.insert((p, id), call);
        id
    }

    fn ask(&mut self, ask: &Ask) -> bool {
        if !self.can_call(ask.process)
            || self.callers.contains_key(&ask.number)
            || ask.namespace >= self.setup.namespaces
        {
            return false;
        }
        let own = u64::from(ask.number) + 1_000;
        let (path, outer) = match ask.scope {
            Scope::None => (ScopePath::default(), None),
            Scope::Outermost => (vec![own].into(), None),
            Scope::Inside(outer) => {
                let Some(caller) = self.callers.get(&outer) else {
                    return false;
                };
                if !caller.holds() || caller.process != ask.process || caller.path.is_empty() {
                    return false;
                }
                let path: Vec<_> = caller.path.ids().iter().copied().chain([own]).collect();
                (path.into(), Some(outer))
            }
        };
        let now = self.clocks(ask.process);
        let (namespace, task) = (self.namespace(ask.namespace), task(ask.process, ask.task));
        let with_mode = |name: &&str| {
            let mode = if ask.shared.contains(name) {
                Mode::Shared
            } else {
                Mode::Exclusive
            };
            (LockName::found((*name).into()), mode)
        };
        let names: Names = ask.names.iter().map(with_mode).collect();
        let max_hold = ask.max_hold.map(|ms| Duration::from_millis(ms.into()));
        let process = &mut self.processes[ask.process];
        process.next_nonce += 1;
        let nonce = Nonce(process.next_nonce);
        process.owners.insert(task.clone());
        let policy = match ask.patience {
            Patience::NoWait => WaitPolicy::NoWait,
            Patience::Forever => WaitPolicy::Wait { timeout: None },
            Patience::Millis(millis) => WaitPolicy::Wait {
                timeout: Some(Duration::from_millis(millis.into())),
            },
        };
        let saw_conflict = self.shows_conflict(ask.process, &namespace, &names);
        let caller = Caller {
            number: ask.number,
            process: ask.process,
            namespace: namespace.clone(),
            task: task.clone(),
            names: names.clone(),
            nonce,
            patience: ask.patience,
            path: path.clone(),
            outer,
            since: now.monotonic,
            told: Told::Waiting,
            grant: None,
            slept: Duration::ZERO,
            detached: false,
            open_fences: 0,
            saw_conflict,
        };
        self.callers.insert(ask.number, caller);
        let request = AcquireRequest {
            nonce,
            task,
            names,
            path,
            policy,
            max_hold,
        };
        self.to(ask.process, &namespace, Input::Acquire(request));
        true
    }

    /// The running process and the namespace of a caller.
    pub(super) fn running(&self, number: RequestNumber) -> Option<(ProcessId, Name)> {
        let caller = self.callers.get(&number)?;
        let is_running = self.processes[caller.process].is_running();
        is_running.then(|| (caller.process, caller.namespace.clone()))
    }

    /// Whether a caller inside the scope of this one waits or holds something.
    fn has_inner(&self, number: RequestNumber) -> bool {
        let mut callers = self.callers.values();
        callers.any(|caller| {
            caller.outer == Some(number)
                && !caller.detached
                && matches!(caller.told, Told::Waiting | Told::Granted)
        })
    }

    fn cancel(&mut self, number: RequestNumber) -> bool {
        let Some((p, namespace)) = self.running(number) else {
            return false;
        };
        let caller = self.callers.get_mut(&number).expect("it was found");
        if caller.told != Told::Waiting {
            return false;
        }
        caller.told = Told::Gone;
        let nonce = caller.nonce;
        self.to(p, &namespace, Input::Cancel(nonce));
        true
    }

    fn release(&mut self, number: RequestNumber, calls: bool) -> bool {
        let Some((p, namespace)) = self.running(number) else {
            return false;
        };
        if self.has_inner(number) {
            return false;
        }
        let caller = self.callers.get_mut(&number).expect("it was found");
        if !matches!(caller.told, Told::Granted | Told::Lost) || caller.detached {
            return false;
        }
        caller.told = Told::Gone;
        let (nonce, fenced) = (caller.nonce, caller.open_fences > 0);
        if self.phase(number) == Some(Phase::Confirming) {
            // The future that fences is dropped before its guard.
            self.orphan_transaction(number);
        }
        let calls = calls && !self.processes[p].closing;
        let call = calls.then(|| self.new_call(p, Call::Release(number)));
        let release = Input::Release {
            nonce,
            fenced,
            call,
        };
        self.to(p, &namespace, release);
        true
    }

    fn detach(&mut self, number: RequestNumber) -> bool {
        let Some((p, namespace)) = self.running(number) else {
            return false;
        };
        // A release by name that is under way could take this lock.
        let releases_by_name = self.calls.iter().any(|((of, _), call)| {
            let releases = matches!(call, Call::ReleaseName(other)
                if self.callers[other].task == self.callers[&number].task);
            *of == p && releases
        });
        let caller = self.callers.get_mut(&number).expect("it was found");
        if !caller.holds() || caller.detached || releases_by_name {
            return false;
        }
        caller.detached = true;
        let (nonce, fenced) = (caller.nonce, caller.open_fences > 0);
        if self.phase(number) == Some(Phase::Confirming) {
            self.orphan_transaction(number);
        }
        self.to(p, &namespace, Input::Detach { nonce, fenced });
        true
    }

    fn release_by_name(&mut self, number: RequestNumber) -> bool {
        let Some((p, namespace)) = self.running(number) else {
            return false;
        };
        if !self.can_call(p) || self.has_inner(number) {
            return false;
        }
        let caller = &self.callers[&number];
        if !matches!(caller.told, Told::Granted | Told::Lost) || !caller.detached {
            return false;
        }
        // The lock may have been lost, and granted again. Then that grant would be released.
        let is_again = |other: &Caller| {
            let same = (&other.namespace, &other.task) == (&caller.namespace, &caller.task);
            let shares = |name: &LockName| {
                let modes = (caller.names.mode(name), other.names.mode(name));
                modes == (Mode::Shared, Mode::Shared)
            };
            let is_over = other.is_over(self.clocks(other.process).boot);
            same && other.number != number
                && other.holds()
                && !(other.detached && is_over)
                && other
                    .names
                    .iter()
                    .any(|name| caller.names.contains(name) && !shares(name))
        };
        if self.callers.values().any(is_again) || !self.is_next_by_name(caller) {
            return false;
        }
        let caller = self.callers.get_mut(&number).expect("it was found");
        caller.told = Told::Gone;
        let (task, names) = (caller.task.clone(), caller.names.clone());
        for name in &*names {
            let call = self.new_call(p, Call::ReleaseName(number));
            let what = Inspection::ReleaseName(task.clone(), name.clone());
            self.to(p, &namespace, Input::Inspect(call, what));
        }
        true
    }

    /// Whether a release by name releases what this caller holds, and not what its task has
    /// detached before.
    fn is_next_by_name(&self, caller: &Caller) -> bool {
        let row = self.db.tables.locks.get(&caller.namespace);
        let table = row.and_then(parse).unwrap_or_default();
        caller.names.iter().all(|name| {
            let entries = table.entries(name.as_str());
            let mut nonces = entries.filter_map(|entry| entry.grant.as_ref().map(|g| g.nonce));
            let first = nonces.find(|nonce| {
                let mut callers = self.callers.values();
                callers.any(|other| {
                    let detached = other.detached && other.holds() && other.nonce == *nonce;
                    detached && (other.process, &other.task) == (caller.process, &caller.task)
                })
            });
            first.is_none_or(|first| first == caller.nonce)
        })
    }

    fn inspect(&mut self, p: ProcessId, space: usize, what: Inspection) -> bool {
        if !self.can_call(p) || space >= self.setup.namespaces {
            return false;
        }
        let namespace = self.namespace(space);
        let call = self.new_call(p, Call::Inspect);
        self.note_report(p, call, &namespace, &what);
        self.to(p, &namespace, Input::Inspect(call, what));
        true
    }

    fn remove(&mut self, p: ProcessId, space: usize, what: Removal) -> bool {
        if !self.can_call(p) || space >= self.setup.namespaces {
            return false;
        }
        let namespace = self.namespace(space);
        self.checks.removed_all |= what == Removal::All;
        let call = self.new_call(p, Call::Remove);
        self.to(p, &namespace, Input::Remove(call, what));
        true
    }

    fn owner_gone(&mut self, p: ProcessId, name: char) -> bool {
        let task = task(p, name);
        let uses = |caller: &Caller| {
            caller.process == p
                && caller.task == task
                && (caller.told == Told::Waiting || (caller.holds() && !caller.detached))
        };
        if !self.can_call(p)
            || self.callers.values().any(uses)
            || !self.processes[p].owners.remove(&task)
        {
            return false;
        }
        for space in 0..self.setup.namespaces {
            let namespace = self.namespace(space);
            self.to(p, &namespace, Input::OwnerGone(task.clone()));
        }
        true
    }

    /// The grants with a fenced transaction that may be open.
    fn fenced_grants(&self, p: ProcessId) -> BTreeSet<Nonce> {
        let callers = self.callers.values();
        let fenced = callers.filter(|caller| caller.process == p && caller.open_fences > 0);
        fenced.map(|caller| caller.nonce).collect()
    }

    pub(super) fn close(&mut self, p: ProcessId) -> bool {
        if !self.processes.get(p).is_some_and(Process::is_running) || self.processes[p].closing {
            return false;
        }
        self.processes[p].closing = true;
        if self.setup.ttl.is_some() {
            // Detached locks that expire are released.
            let callers = self
                .callers
                .values_mut()
                .filter(|caller| caller.process == p);
            for caller in callers.filter(|caller| caller.holds() && caller.detached) {
                caller.told = Told::Gone;
            }
        }
        let fenced = self.fenced_grants(p);
        let call = Some(self.new_call(p, Call::Close));
        self.input(p, DriverInput::Close { call, fenced });
        true
    }

    /// The last handle is dropped, after all guards and requests.
    fn drop_handles(&mut self, p: ProcessId) -> bool {
        if !self.can_call(p) {
            return false;
        }
        let of_process = self.callers.values().filter(|caller| caller.process == p);
        // Scopes end from the inside.
        let numbers: Vec<_> = of_process.map(|caller| caller.number).rev().collect();
        for number in numbers {
            if !self.cancel(number) {
                self.release(number, false);
            }
        }
        // Calls are dropped, too.
        self.calls.retain(|(of, _), _| *of != p);
        self.processes[p].closing = true;
        let fenced = self.fenced_grants(p);
        self.input(p, DriverInput::HandlesGone { fenced });
        true
    }

    // What callers are told.

    pub(super) fn on_namespace_output(&mut self, p: ProcessId, namespace: &Name, output: Output) {
        match output {
            Output::Granted(granted) => self.on_granted(p, granted),
            Output::Failed(nonce, error) => self.on_failed(p, nonce, &error),
            Output::Answer(call, answer) => self.on_answer(p, call, &answer),
            Output::Lost(nonce, loss) => self.on_lost(p, nonce, &loss),
            Output::HeldTooLong(nonce, loss) => {
                self.on_lost(p, nonce, &loss);
                let number = self.caller_of(p, nonce);
                let fenced = number.is_some_and(|n| self.callers[&n].open_fences > 0);
                let call = None;
                let release = Input::Release {
                    nonce,
                    fenced,
                    call,
                };
                self.to(p, namespace, release);
            }
            Output::LeaseExtended(session, deadline) => {
                if self.processes[p].has_lease(&session, self.now) {
                    self.processes[p].leases.insert(session, deadline);
                    self.check_exclusion();
                } else if self.processes[p].leases.contains_key(&session) {
                    // A guard has looked at the clock a moment later.
                    self.to(p, namespace, Input::LeaseExpired(session));
                }
            }
            Output::LeaseEndangered(session) => self.check_warning(p, &session),
            Output::LeaseEnded(session) => {
                self.processes[p].leases.insert(session, Time::default());
            }
            Output::CheckProcesses(asked) => self.check_processes(p, namespace, &asked),
            Output::Task(_) => unreachable!("tasks are taken before"),
        }
    }

    fn caller_of(&self, p: ProcessId, nonce: Nonce) -> Option<RequestNumber> {
        let mut callers = self.callers.values();
        let of_nonce = |caller: &&Caller| caller.process == p && caller.nonce == nonce;
        callers.find(of_nonce).map(|caller| caller.number)
    }

    fn on_granted(&mut self, p: ProcessId, granted: Granted) {
        let Some(number) = self.caller_of(p, granted.nonce) else {
            return self.fail("one-answer", "a grant without a request");
        };
        self.note(|| format!("  request {number} is granted with token {}", granted.token));
        let never = Time::new(Duration::MAX);
        let deadline = granted.deadline.unwrap_or(never);
        let leases = &mut self.processes[p].leases;
        leases.entry(granted.session.clone()).or_insert(deadline);
        let caller = self.callers.get_mut(&number).expect("it was found");
        if caller.told != Told::Waiting {
            let told = format!("request {number} is granted and was {:?}", caller.told);
            return self.fail("one-answer", told);
        }
        caller.told = Told::Granted;
        caller.slept = self.processes[p].slept;
        caller.grant = Some(granted);
        self.check_grant(number);
        self.check_exclusion();
        self.check_limits();
    }

    fn on_failed(&mut self, p: ProcessId, nonce: Nonce, error: &LockError) {
        let Some(number) = self.caller_of(p, nonce) else {
            return self.fail("one-answer", "a refusal without a request");
        };
        self.note(|| format!("  request {number} is refused: {error}"));
        let caller = self.callers.get_mut(&number).expect("it was found");
        if caller.told != Told::Waiting {
            let told = format!("request {number} is refused and was {:?}", caller.told);
            return self.fail("one-answer", told);
        }
        caller.told = Told::Failed;
        self.check_refusal(number, error);
    }

    fn on_lost(&mut self, p: ProcessId, nonce: Nonce, loss: &Loss) {
        let Some(number) = self.caller_of(p, nonce) else {
            return self.fail("one-answer", "a loss without a grant");
        };
        self.note(|| format!("  grant {number} is lost: {}", loss.reason));
        self.check_loss(number, loss);
        let caller = self.callers.get_mut(&number).expect("it was found");
        match caller.told {
            // A detached lock of several names is lost name by name.
            Told::Granted | Told::Lost => caller.told = Told::Lost,
            Told::Gone => {}
            ref told => {
                let told = format!("grant {number} is lost and was {told:?}");
                self.fail("one-answer", told);
            }
        }
    }

    fn on_answer(&mut self, p: ProcessId, call: CallId, answer: &Answer) {
        let Some(what) = self.calls.remove(&(p, call)) else {
            if !self.processes[p].closing {
                self.fail(
                    "one-answer",
                    format!("an answer without a call: {answer:?}"),
                );
            }
            return;
        };
        self.note(|| format!("  {what:?} is answered: {answer:?}"));
        self.check_report(p, call, answer);
        match (what, answer) {
            (Call::Release(number), Answer::Done) => self.check_release(number),
            (Call::ReleaseName(number), Answer::Failed(LockError::Database { .. })) => {
                // It is as it was. The caller has to call again, and relies on nothing.
                if let Some(caller) = self.callers.get_mut(&number) {
                    caller.told = Told::Lost;
                }
            }
            (Call::Confirm(number), Answer::Done) => {
                let is_lost = self.is_lost(&self.callers[&number]);
                if self.phase(number) == Some(Phase::Confirming) && is_lost {
                    self.end_transaction(number);
                } else if let Some(transaction) = self.transactions.get_mut(&number) {
                    transaction.phase = Phase::Fenced;
                }
            }
            (Call::Confirm(number), _) if self.phase(number) == Some(Phase::Confirming) => {
                // The guard learns that it is lost, or that the driver cannot tell.
                self.end_transaction(number);
            }
            _ => {}
        }
    }

    pub(super) fn on_ended(&mut self, p: ProcessId, calls: Vec<CallId>, error: Option<LockError>) {
        for call in calls {
            self.calls.remove(&(p, call));
        }
        self.check_end(error);
    }
}
