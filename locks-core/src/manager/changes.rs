//! What is held and what waits, whenever it has changed.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt};

use super::LockManager;
use crate::{
    driver::{Command, Reply, Watch},
    error::{LockError, Result},
    report::Snapshot,
    store::RowVersion,
    wait::{AnswerSender, Request},
};

impl LockManager {
    /// Reports what is held and what waits in the namespace: at first as it is, then whenever it
    /// has changed.
    ///
    /// The driver reads the row twice a second, while the stream is polled. A change is reported
    /// half a second later at most, and changes between two reads together. What was granted and
    /// released between them is not reported.
    ///
    /// # Errors
    ///
    /// The items are those of [`held`](Self::held). After an error the stream goes on, and reports
    /// again when the database answers. Only [`Closed`](crate::LockError::Closed) is the last item.
    ///
    /// # Cancel safety
    ///
    /// If the future of an item is dropped, the next one reports what it would have.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> locks_core::Result<()> {
    /// # let locks = locks_core::LockManager::connect("sqlite::memory:").await?;
    /// let mut changes = locks.changes();
    /// let guard = locks.acquire("mail_restart").await?;
    /// while let Some(snapshot) = changes.next().await {
    ///     let held = snapshot?.held;
    ///     if let Some(holder) = held.first() {
    ///         println!("{holder}"); // mail_restart is held by task …
    ///         break;
    ///     }
    /// }
    /// # guard.release().await
    /// # }
    /// ```
    pub fn changes(&self) -> Changes {
        Changes {
            manager: self.clone(),
            is_alive: Arc::new(()),
            seen: None,
            last: None,
            request: None,
            state: State::Start,
        }
    }

    fn next_change(&self, changes: &Changes) -> Request<Read> {
        let (driver, owner) = (self.driver.clone(), self.owner.clone());
        let seen = changes.seen.clone();
        let is_first = changes.state == State::Start;
        let caller = Arc::downgrade(&changes.is_alive);
        Request::new(move |answer: AnswerSender<Read>| {
            driver.send(Command::Watch(Watch {
                namespace: owner.namespace.clone(),
                seen,
                is_first,
                caller,
                reply: Reply::new(move |result| drop(answer.send(result))),
            }));
        })
    }
}

/// What was read, and the version of the row.
type Read = (Snapshot, Option<RowVersion>);

/// The stream that [`LockManager::changes`] returns.
#[must_use = "a stream does nothing until it is polled"]
pub struct Changes {
    manager: LockManager,
    /// Its end tells the driver that no answer is waited for.
    is_alive: Arc<()>,
    seen: Option<RowVersion>,
    last: Option<Snapshot>,
    request: Option<Request<Read>>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was read yet.
    Start,
    Running,
    Closed,
}

impl Changes {
    /// Waits for the next item; `None` after the manager was closed. This is `StreamExt::next`,
    /// for programs without that trait.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Snapshot>> {
        StreamExt::next(self).await
    }
}

impl Stream for Changes {
    type Item = Result<Snapshot>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while self.state != State::Closed {
            let mut request = match self.request.take() {
                Some(request) => request,
                None => self.manager.next_change(&self),
            };
            let Poll::Ready(read) = Pin::new(&mut request).poll(cx) else {
                self.request = Some(request);
                return Poll::Pending;
            };
            self.state = State::Running;
            match read {
                Ok((snapshot, version)) => {
                    self.seen = version;
                    // A write may change nothing that is reported.
                    if self.last.as_ref() != Some(&snapshot) {
                        self.last = Some(snapshot.clone());
                        return Poll::Ready(Some(Ok(snapshot)));
                    }
                }
                Err(error) => {
                    if matches!(error, LockError::Closed) {
                        self.state = State::Closed;
                    }
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        Poll::Ready(None)
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("manager", &self.manager)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
