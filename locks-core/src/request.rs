//! Requests: lazy futures that can also be waited for without a runtime.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use scopeguard::ScopeGuard;
use tokio::sync::oneshot;

use crate::{
    driver::Reply,
    error::{LockError, Result},
    guard::LockGuard,
};

/// What is done when a request is dropped before its answer.
pub(crate) type Undo = Box<dyn FnOnce() + Send>;

/// Something asked of the database: a lazy future, which does nothing until it is
/// polled, or waited for with [`blocking`](Self::blocking).
#[must_use = "a request does nothing until it is awaited, or `.blocking()` is called"]
pub struct Request<T>(State<T>);

/// Undoes a request when it is dropped.
type Undoing = ScopeGuard<(), Box<dyn FnOnce(()) + Send>>;

enum State<T> {
    Lazy(Box<dyn FnOnce(Reply<T>) -> Option<Undo> + Send>),
    Failed(LockError),
    Running {
        answer: oneshot::Receiver<Result<T>>,
        undo: Option<Undoing>,
    },
    Over,
}

impl<T> Request<T> {
    /// A request that `start` sends off. Nothing has to be undone when it is dropped.
    pub(crate) fn new(start: impl FnOnce(Reply<T>) + Send + 'static) -> Self {
        Self(State::Lazy(Box::new(move |reply| {
            start(reply);
            None
        })))
    }

    /// A request that `start` sends off, and that what it returns takes back.
    pub(crate) fn undoable(start: impl FnOnce(Reply<T>) -> Undo + Send + 'static) -> Self {
        Self(State::Lazy(Box::new(move |reply| Some(start(reply)))))
    }

    /// A request that has failed before it began.
    pub(crate) fn failed(error: LockError) -> Self {
        Self(State::Failed(error))
    }

    /// Waits for the answer, blocking this thread. No runtime is needed.
    ///
    /// # Errors
    ///
    /// Those of the awaited request.
    ///
    /// # Panics
    ///
    /// In an asynchronous context, whose thread must not be blocked;
    /// `spawn_blocking` and `block_in_place` are fine.
    #[track_caller]
    pub fn blocking(mut self) -> Result<T> {
        assert_may_block();
        self.start();
        match std::mem::replace(&mut self.0, State::Over) {
            State::Failed(error) => Err(error),
            State::Running { answer, undo } => {
                let answer = answer.blocking_recv();
                settle(undo);
                answer.unwrap_or(Err(LockError::Closed))
            }
            State::Lazy(_) | State::Over => unreachable!("BUG: a request that was not started"),
        }
    }

    fn start(&mut self) {
        if let State::Lazy(_) = self.0
            && let State::Lazy(start) = std::mem::replace(&mut self.0, State::Over)
        {
            let (reply, answer) = oneshot::channel();
            let undo = start(reply).map(|undo| {
                let undo: Box<dyn FnOnce(()) + Send> = Box::new(move |()| undo());
                scopeguard::guard((), undo)
            });
            self.0 = State::Running { answer, undo };
        }
    }
}

/// Panics in an asynchronous context, before anything was asked for: tokio's own check
/// is in the waiting itself.
#[track_caller]
fn assert_may_block() {
    let (sender, receiver) = oneshot::channel::<Infallible>();
    drop(sender);
    // Nothing comes, as everybody knows; but it must not be waited for everywhere.
    let _closed = receiver.blocking_recv();
}

/// There was an answer: nothing is to be undone any more.
fn settle(undo: Option<Undoing>) {
    if let Some(undo) = undo {
        ScopeGuard::into_inner(undo);
    }
}

impl<T> Future for Request<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.start();
        let answer = match &mut self.0 {
            State::Running { answer, .. } => match Pin::new(answer).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(answer) => answer.unwrap_or(Err(LockError::Closed)),
            },
            State::Failed(error) => Err(error.clone()),
            State::Lazy(_) => unreachable!("BUG: a request that was not started"),
            State::Over => panic!("a request was polled after it had its answer"),
        };
        if let State::Running { undo, .. } = std::mem::replace(&mut self.0, State::Over) {
            settle(undo);
        }
        Poll::Ready(answer)
    }
}

// Nothing in it is pinned: the answer comes through a channel.
impl<T> Unpin for Request<T> {}

impl<T> fmt::Debug for Request<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Lazy(_) => "Request(not sent)",
            State::Failed(_) => "Request(failed)",
            State::Running { .. } => "Request(under way)",
            State::Over => "Request(over)",
        })
    }
}

/// A wait for a lock: a lazy future, like [`Request`], that can be given a limit.
#[must_use = "a wait does nothing until it is awaited, or `.blocking()` is called"]
pub struct Wait {
    state: WaitState,
}

type Asker = Box<dyn FnOnce(Option<Duration>) -> Request<LockGuard> + Send>;

enum WaitState {
    Lazy(Asker, Option<Duration>),
    Running(Request<LockGuard>),
    Over,
}

impl Wait {
    pub(crate) fn new(
        ask: impl FnOnce(Option<Duration>) -> Request<LockGuard> + Send + 'static,
    ) -> Self {
        Self {
            state: WaitState::Lazy(Box::new(ask), None),
        }
    }

    /// Waits for at most `limit`, counted from when the wait begins, which is when it
    /// is first polled. A second call replaces the first; without one the wait has no
    /// end.
    pub fn timeout(self, limit: Duration) -> Self {
        match self.state {
            WaitState::Lazy(ask, _) => Self {
                state: WaitState::Lazy(ask, Some(limit)),
            },
            state => Self { state },
        }
    }

    /// Waits for the lock, blocking this thread. No runtime is needed.
    ///
    /// # Errors
    ///
    /// Those of [`LockManager::wait`](crate::LockManager::wait).
    ///
    /// # Panics
    ///
    /// In an asynchronous context, whose thread must not be blocked;
    /// `spawn_blocking` and `block_in_place` are fine.
    #[track_caller]
    pub fn blocking(mut self) -> Result<LockGuard> {
        assert_may_block();
        self.start();
        match self.state {
            WaitState::Running(request) => request.blocking(),
            WaitState::Lazy(..) | WaitState::Over => unreachable!("BUG: a wait that did not start"),
        }
    }

    fn start(&mut self) {
        match std::mem::replace(&mut self.state, WaitState::Over) {
            WaitState::Lazy(ask, limit) => self.state = WaitState::Running(ask(limit)),
            state => self.state = state,
        }
    }
}

impl Future for Wait {
    type Output = Result<LockGuard>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.start();
        match &mut self.state {
            WaitState::Running(request) => Pin::new(request).poll(cx),
            WaitState::Lazy(..) | WaitState::Over => unreachable!("BUG: a wait that did not start"),
        }
    }
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            WaitState::Lazy(..) => "Wait(not begun)",
            WaitState::Running(_) => "Wait(under way)",
            WaitState::Over => "Wait(over)",
        })
    }
}
