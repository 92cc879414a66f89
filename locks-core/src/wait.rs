//! The lazy futures that the manager and the guard return. They can also be awaited without
//! a runtime, by blocking the thread.

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
    error::{LockError, Result},
    guard::LockGuard,
};

/// Cancels a request that is dropped before its answer.
pub(crate) type Undo = Box<dyn FnOnce() + Send>;

/// A request to the driver of a manager. It is a lazy future: nothing is sent until the
/// future is polled or [`blocking`](Self::blocking) is called.
#[must_use = "a request does nothing until it is awaited or `.blocking()` is called"]
pub struct Request<T>(State<T>);

/// Where the answer of a request goes. The caller may be gone.
pub(crate) type AnswerSender<T> = oneshot::Sender<Result<T>>;

/// Runs an [`Undo`] when it is dropped.
type UndoOnDrop = ScopeGuard<Undo, fn(Undo)>;

enum State<T> {
    NotSent(Box<dyn FnOnce(AnswerSender<T>) -> Option<Undo> + Send>),
    Failed(LockError),
    Sent {
        answer: oneshot::Receiver<Result<T>>,
        undo: Option<UndoOnDrop>,
    },
    Done,
}

impl<T> Request<T> {
    /// A request that `send` sends. Dropping it cancels nothing.
    pub(crate) fn new(send: impl FnOnce(AnswerSender<T>) + Send + 'static) -> Self {
        Self(State::NotSent(Box::new(move |reply| {
            send(reply);
            None
        })))
    }

    /// A request that `send` sends, and that the returned [`Undo`] cancels.
    pub(crate) fn undoable(send: impl FnOnce(AnswerSender<T>) -> Undo + Send + 'static) -> Self {
        Self(State::NotSent(Box::new(move |reply| Some(send(reply)))))
    }

    /// A request that fails without being sent.
    pub(crate) fn failed(error: LockError) -> Self {
        Self(State::Failed(error))
    }

    /// Sends the request and blocks this thread until the answer arrives. It needs no
    /// runtime.
    ///
    /// # Errors
    ///
    /// The errors of the awaited request.
    ///
    /// # Panics
    ///
    /// If it is called in an asynchronous context. Inside `spawn_blocking` and
    /// `block_in_place` it does not panic.
    #[track_caller]
    pub fn blocking(mut self) -> Result<T> {
        assert_may_block();
        self.send();
        match std::mem::replace(&mut self.0, State::Done) {
            State::Failed(error) => Err(error),
            State::Sent { answer, undo } => {
                let answer = answer.blocking_recv();
                defuse(undo);
                answer.unwrap_or(Err(LockError::Closed))
            }
            State::NotSent(_) | State::Done => unreachable!("BUG: the request was not sent"),
        }
    }

    /// Sends the request, unless it was sent or has failed.
    fn send(&mut self) {
        match std::mem::replace(&mut self.0, State::Done) {
            State::NotSent(send) => {
                let (reply, answer) = oneshot::channel();
                let undo = send(reply);
                let undo = undo.map(|undo| scopeguard::guard(undo, (|undo| undo()) as fn(Undo)));
                self.0 = State::Sent { answer, undo };
            }
            state => self.0 = state,
        }
    }
}

/// Panics in an asynchronous context. It is called before a request is sent, because tokio
/// checks the context only when the thread blocks.
#[track_caller]
pub(crate) fn assert_may_block() {
    let (sender, receiver) = oneshot::channel::<Infallible>();
    drop(sender);
    // It returns at once, because the sender is gone. The check comes first.
    let _closed = receiver.blocking_recv();
}

/// Keeps `undo` from running, because the answer has arrived.
fn defuse(undo: Option<UndoOnDrop>) {
    if let Some(undo) = undo {
        drop(ScopeGuard::into_inner(undo));
    }
}

impl<T> Future for Request<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.send();
        let answer = match &mut self.0 {
            State::Sent { answer, .. } => match Pin::new(answer).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(answer) => answer.unwrap_or(Err(LockError::Closed)),
            },
            State::Failed(error) => Err(error.clone()),
            State::NotSent(_) => unreachable!("BUG: the request was not sent"),
            State::Done => panic!("a request was polled after it returned its answer"),
        };
        if let State::Sent { undo, .. } = std::mem::replace(&mut self.0, State::Done) {
            defuse(undo);
        }
        Poll::Ready(answer)
    }
}

// No field is pinned.
impl<T> Unpin for Request<T> {}

impl<T> fmt::Debug for Request<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::NotSent(_) => "Request(not sent)",
            State::Failed(_) => "Request(failed)",
            State::Sent { .. } => "Request(sent)",
            State::Done => "Request(done)",
        })
    }
}

/// The limits of a request for locks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RequestLimits {
    /// How long it may wait.
    pub(crate) timeout: Option<Duration>,
    /// How long its locks may be held.
    pub(crate) max_hold: Option<Duration>,
}

type MakeRequest = Box<dyn FnOnce(RequestLimits) -> Request<LockGuard> + Send>;

/// A request for locks that is made when it is polled for the first time.
enum Lazy {
    /// The function is taken when the request is made.
    NotStarted(RequestLimits, Option<MakeRequest>),
    Started(Request<LockGuard>),
}

impl Lazy {
    fn new(make: impl FnOnce(RequestLimits) -> Request<LockGuard> + Send + 'static) -> Self {
        Self::NotStarted(RequestLimits::default(), Some(Box::new(make)))
    }

    /// Changes the limits, unless the request was made.
    fn limit(&mut self, change: impl FnOnce(&mut RequestLimits)) {
        if let Self::NotStarted(limits, _) = self {
            change(limits);
        }
    }

    fn start(&mut self) -> &mut Request<LockGuard> {
        if let Self::NotStarted(limits, make) = self
            && let Some(make) = make.take()
        {
            *self = Self::Started(make(*limits));
        }
        match self {
            Self::Started(request) => request,
            Self::NotStarted(..) => unreachable!("BUG: the request was not made"),
        }
    }

    #[track_caller]
    fn blocking(mut self) -> Result<LockGuard> {
        assert_may_block();
        self.start();
        match self {
            Self::Started(request) => request.blocking(),
            Self::NotStarted(..) => unreachable!("BUG: the request was not made"),
        }
    }
}

impl fmt::Debug for Lazy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(..) => f.write_str("Request(not sent)"),
            Self::Started(request) => request.fmt(f),
        }
    }
}

/// A request for locks that does not wait for them. It is a lazy future, as [`Request`] is.
#[must_use = "a request does nothing until it is awaited or `.blocking()` is called"]
pub struct Acquire(Lazy);

impl Acquire {
    pub(crate) fn new(
        make: impl FnOnce(RequestLimits) -> Request<LockGuard> + Send + 'static,
    ) -> Self {
        Self(Lazy::new(make))
    }

    /// Limits how long the locks may be held, as [`Wait::max_hold`] does.
    pub fn max_hold(mut self, limit: Duration) -> Self {
        self.0.limit(|limits| limits.max_hold = Some(limit));
        self
    }

    /// Sends the request and blocks this thread until the answer arrives. It needs no
    /// runtime.
    ///
    /// # Errors
    ///
    /// The errors of [`LockManager::acquire`](crate::LockManager::acquire).
    ///
    /// # Panics
    ///
    /// If it is called in an asynchronous context. Inside `spawn_blocking` and
    /// `block_in_place` it does not panic.
    #[track_caller]
    pub fn blocking(self) -> Result<LockGuard> {
        self.0.blocking()
    }

    /// Does not compile, because `acquire` does not wait. The compiler's message says what to
    /// write instead.
    #[doc(hidden)]
    pub fn timeout<L: TimeoutOfAcquire>(self, limit: L) -> Wait {
        limit.of_wait()
    }
}

/// What [`Acquire::timeout`] takes: nothing.
#[diagnostic::on_unimplemented(
    message = "`acquire` does not wait, so it has no timeout",
    label = "only `wait` can have a timeout",
    note = "write `locks.wait(names).timeout(limit)` to wait for the locks"
)]
pub trait TimeoutOfAcquire {
    #[doc(hidden)]
    fn of_wait(self) -> Wait;
}

impl Future for Acquire {
    type Output = Result<LockGuard>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(self.0.start()).poll(cx)
    }
}

impl fmt::Debug for Acquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Acquire").field(&self.0).finish()
    }
}

/// A request that waits for locks. It is a lazy future, as [`Request`] is, and can have a
/// [`timeout`](Self::timeout).
#[must_use = "a wait does nothing until it is awaited or `.blocking()` is called"]
pub struct Wait(Lazy);

impl Wait {
    pub(crate) fn new(
        make: impl FnOnce(RequestLimits) -> Request<LockGuard> + Send + 'static,
    ) -> Self {
        Self(Lazy::new(make))
    }

    /// Waits for at most `limit`. The default is to wait without end.
    ///
    /// The time counts from the first poll. A second call replaces the limit of the first.
    /// After the first poll a call has no effect.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.0.limit(|limits| limits.timeout = Some(limit));
        self
    }

    /// Limits how long the locks may be held: `limit` after this process has learned of the grant,
    /// by the clock of this machine, the guard is [`Lost`](crate::Lost), and the locks are
    /// released. The default is no limit.
    ///
    /// If a transaction was [fenced](LockGuard::fence) before, the release waits for its end.
    /// Later fences fail. The limit of a guard applies to its locks also after
    /// [`detach`](LockGuard::detach). [`LockGuard::remaining`] tells how much time is left.
    ///
    /// This process keeps the limit, and the database does not know it. If the process dies, its
    /// locks are recovered as all others are; with [`Expiry::Never`](crate::Expiry::Never) they
    /// stay until they are released.
    ///
    /// A limit of zero is [`InvalidConfig`](crate::LockError::InvalidConfig). A second call
    /// replaces the limit of the first. After the first poll a call has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> locks_core::Result<()> {
    /// # let locks = locks_core::LockManager::connect("sqlite::memory:").await?;
    /// use std::time::Duration;
    ///
    /// let guard = locks.wait("mail_restart").max_hold(Duration::from_mins(10)).await?;
    /// assert!(guard.remaining() > Some(Duration::from_mins(9)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_hold(mut self, limit: Duration) -> Self {
        self.0.limit(|limits| limits.max_hold = Some(limit));
        self
    }

    /// Sends the request and blocks this thread until the locks are granted. It needs no
    /// runtime.
    ///
    /// # Errors
    ///
    /// The errors of [`LockManager::wait`](crate::LockManager::wait).
    ///
    /// # Panics
    ///
    /// If it is called in an asynchronous context. Inside `spawn_blocking` and
    /// `block_in_place` it does not panic.
    #[track_caller]
    pub fn blocking(self) -> Result<LockGuard> {
        self.0.blocking()
    }
}

impl Future for Wait {
    type Output = Result<LockGuard>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(self.0.start()).poll(cx)
    }
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wait").field(&self.0).finish()
    }
}
