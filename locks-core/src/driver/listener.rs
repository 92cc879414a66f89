//! Notifications of other processes, where the engine has them.

use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;

use crate::store::{Change, ChangeSource, Failure, Listener, Reconnecting};

/// How long to go on listening when no request is blocked any more.
const LINGER: Duration = Duration::from_secs(10);
/// The pause before a connection that failed is opened again.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) type Heard = Result<(Listener, Option<Change>), Failure>;
pub(super) type Listening = LocalBoxFuture<'static, Heard>;

/// Listens while a request is blocked.
#[derive(Debug)]
pub(super) struct Notifications {
    /// To open connections with; `None` where the engine has no notifications.
    source: Option<Reconnecting>,
    state: State,
}

#[derive(Debug)]
enum State {
    Off,
    /// A connection is being opened or listened on.
    On,
    /// The connection has reported what it had; it is to be listened on again.
    Paused(Listener),
    Failed(Instant),
}

impl Notifications {
    pub(super) fn new(rows: &Reconnecting) -> Self {
        let has_them = rows.change_source() == ChangeSource::Notifications;
        Self {
            source: has_them.then(|| rows.sibling(PAUSE, "notifications")),
            state: State::Off,
        }
    }

    /// What to wait for next; and whether listening has stopped.
    pub(super) fn listen(&mut self, blocked: bool, now: Instant) -> (Option<Listening>, bool) {
        let Some(source) = &self.source else {
            return (None, false);
        };
        match std::mem::replace(&mut self.state, State::On) {
            State::On => (None, false),
            State::Failed(until) if now < until => {
                self.state = State::Failed(until);
                (None, false)
            }
            before @ (State::Off | State::Failed(_) | State::Paused(_)) if !blocked => {
                self.state = State::Off;
                (None, matches!(before, State::Paused(_)))
            }
            State::Off | State::Failed(_) => {
                (Some(Box::pin(Listener::open(source.target()))), false)
            }
            State::Paused(listener) => (Some(Box::pin(listener.next(LINGER))), false),
        }
    }

    /// Takes in what was heard: what changed, or `None` if anything may have.
    pub(super) fn on_heard(
        &mut self,
        heard: Heard,
        now: Instant,
    ) -> (ChangeSource, Option<Change>) {
        match heard {
            Ok((listener, change)) => {
                self.state = State::Paused(listener);
                (ChangeSource::Notifications, change)
            }
            Err(failure) => {
                tracing::debug!(%failure, "notifications are not heard; the row is polled");
                self.state = State::Failed(now + PAUSE);
                (ChangeSource::None, None)
            }
        }
    }

    /// When to try again after a failure.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Failed(until) => Some(until),
            _ => None,
        }
    }
}
