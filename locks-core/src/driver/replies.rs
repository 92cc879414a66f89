//! Which callers wait for which answer, and what their guards share with the driver.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    command::Reply,
    grant::Grant,
    held::HeldGrants,
    lease::{GrantState, Lease},
    watches::Watch,
};
use crate::{
    error::LockError,
    protocol::{Answer, CallId, Granted, Loss, Name, Time},
    report::{Holder, Waiter},
    store::{Fence, FenceStatement},
    table::{LockTable, Nonce, SessionId},
};

/// A caller that waits for an answer.
#[derive(Debug)]
pub(super) enum Caller {
    Done(Reply<()>),
    /// The call is about this grant.
    About(Arc<GrantState>, Reply<()>),
    Holders(Reply<Vec<Holder>>),
    Waiters(Reply<Vec<Waiter>>),
    Watch(Watch),
}

impl Caller {
    pub(super) fn answer(self, answer: Answer) {
        match (self, answer) {
            (Self::Done(reply) | Self::About(_, reply), Answer::Done) => reply.send(Ok(())),
            (Self::Holders(reply), Answer::Holders(holders)) => reply.send(Ok(holders)),
            (Self::Waiters(reply), Answer::Waiters(waiters)) => reply.send(Ok(waiters)),
            (Self::Watch(watch), Answer::Snapshot(snapshot, version)) => {
                watch.reply.send(Ok((snapshot, version)));
            }
            (Self::About(state, reply), Answer::Lost(loss)) => {
                reply.send(Err(LockError::Lost(state.on_loss(loss))));
            }
            (caller, Answer::Failed(error)) => caller.fail(error),
            // A detached lock has no guard to lose it.
            (caller, _) => caller.fail(LockError::Closed),
        }
    }

    fn fail(self, error: LockError) {
        match self {
            Self::Done(reply) | Self::About(_, reply) => reply.send(Err(error)),
            Self::Holders(reply) => reply.send(Err(error)),
            Self::Waiters(reply) => reply.send(Err(error)),
            Self::Watch(watch) => watch.reply.send(Err(error)),
        }
    }
}

/// The callers that wait, the grants that have guards, and the leases of sessions.
#[derive(Debug)]
pub(super) struct Replies {
    fence: FenceStatement,
    requests: BTreeMap<Nonce, Reply<Grant>>,
    callers: BTreeMap<CallId, Caller>,
    next_call: u64,
    grants: HeldGrants,
    leases: BTreeMap<SessionId, Arc<Lease>>,
}

impl Replies {
    pub(super) fn new(fence: FenceStatement, grants: HeldGrants) -> Self {
        Self {
            fence,
            requests: BTreeMap::new(),
            callers: BTreeMap::new(),
            next_call: 0,
            grants,
            leases: BTreeMap::new(),
        }
    }

    pub(super) fn add_request(&mut self, nonce: Nonce, reply: Reply<Grant>) {
        self.requests.insert(nonce, reply);
    }

    /// The caller of a request is gone.
    pub(super) fn cancel_request(&mut self, nonce: Nonce) {
        self.requests.remove(&nonce);
    }

    pub(super) fn add_call(&mut self, caller: Caller) -> CallId {
        let id = CallId(self.next_call);
        self.next_call += 1;
        self.callers.insert(id, caller);
        id
    }

    /// Answers a call. Returns it if there is no answer yet, because nothing has changed.
    pub(super) fn answer(&mut self, call: CallId, answer: Answer) -> Option<Watch> {
        match (self.callers.remove(&call)?, answer) {
            (Caller::Watch(watch), Answer::Unchanged) => return Some(watch),
            (caller, answer) => caller.answer(answer),
        }
        None
    }

    pub(super) fn fail_request(&mut self, nonce: Nonce, error: LockError) {
        if let Some(reply) = self.requests.remove(&nonce) {
            reply.send(Err(error));
        }
    }

    /// A request is granted. Returns the state of its grant, and the caller that gets it.
    pub(super) fn on_granted(
        &mut self,
        namespace: &Name,
        granted: Granted,
    ) -> (Arc<GrantState>, Option<Reply<Grant>>) {
        let deadline = granted.deadline;
        let lease = self
            .leases
            .entry(granted.session)
            .or_insert_with(|| Arc::new(Lease::until(deadline)))
            .clone();
        let nonce = granted.nonce;
        let marker = LockTable::marker_of(nonce).into();
        let fence = Fence::new(
            self.fence.clone(),
            granted.fence_row,
            namespace.clone(),
            marker,
        );
        let (names, token, ends) = (granted.names, granted.token, granted.ends);
        let state = GrantState::new(lease, fence, names, token, ends);
        let state = Arc::new(state);
        let (namespace, task) = (namespace.clone(), granted.task);
        self.grants.add(nonce, namespace, task, state.clone());
        (state, self.requests.remove(&nonce))
    }

    /// The guard of a grant is gone.
    pub(super) fn on_guard_gone(&mut self, nonce: Nonce) {
        drop(self.grants.remove(nonce));
    }

    /// A grant is lost. Returns its state, unless its guard is gone.
    pub(super) fn on_lost(&mut self, nonce: Nonce, loss: Loss) -> Option<Arc<GrantState>> {
        let state = self.grants.remove(nonce)?;
        state.on_loss(loss);
        Some(state)
    }

    /// The lease of a session is extended. Returns whether that came in time.
    pub(super) fn extend_lease(&mut self, session: &SessionId, deadline: Time) -> bool {
        let lease = self.leases.get(session);
        lease.is_none_or(|lease| lease.extend(deadline))
    }

    /// Renewals of a session are late.
    pub(super) fn endanger_lease(&self, session: &SessionId) {
        if let Some(lease) = self.leases.get(session) {
            lease.endanger();
        }
    }

    pub(super) fn end_lease(&mut self, session: &SessionId) {
        if let Some(lease) = self.leases.remove(session) {
            lease.end();
        }
    }

    /// Reports every grant that is left as lost. A driver that ends in order has none.
    fn lose_all(&mut self) {
        for state in self.grants.remove_all() {
            state.lose("its driver has ended", None);
        }
        for lease in std::mem::take(&mut self.leases).into_values() {
            lease.end();
        }
    }

    /// The grants with a transaction that was fenced and may be open.
    pub(super) fn fenced(&self) -> BTreeSet<Nonce> {
        self.grants.fenced()
    }
}

/// A driver can also end by a panic.
impl Drop for Replies {
    fn drop(&mut self) {
        self.lose_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::name::LockName;

    #[test]
    fn guards_of_a_driver_that_panics_are_lost() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let ended = std::thread::spawn(move || {
            let fence = FenceStatement::for_test();
            let mut replies = Replies::new(fence, HeldGrants::default());
            let granted = Granted {
                nonce: Nonce(1),
                task: "a".into(),
                names: [LockName::new("x").unwrap()].into(),
                token: 1,
                session: SessionId("n/1".into()),
                deadline: Some(Time::new(Duration::from_secs(u32::MAX.into()))),
                ends: None,
                fence_row: "n/1".into(),
            };
            let (state, _) = replies.on_granted(&"n".into(), granted);
            assert!(!state.is_lost());
            sender.send(state).unwrap();
            panic!("the driver has a bug");
        });
        let state = receiver.recv().unwrap();
        ended.join().unwrap_err();
        assert!(state.is_lost() && !state.is_expired());
        let told = state.subscribe().borrow().clone();
        assert_eq!(told.unwrap().reason, "its driver has ended");
    }
}
