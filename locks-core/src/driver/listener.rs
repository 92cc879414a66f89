//! Notifications of other processes, where the engine has them.
//!
//! ```text
//! blocked request ──▶ LISTEN ──▶ probe, on a side connection ──▶ the probe is heard ──▶ trusted
//!                                      ▲                                                 │
//!                                      └──────────────── once a minute ──────────────────┘
//! ```
//!
//! A pooler or a proxy may answer `LISTEN` and deliver nothing. So notifications replace
//! polling only after a probe of this process was heard, and for as long as probes are heard.

use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;

use super::linger::{LINGER, Linger};
use crate::{
    random::unique,
    store::{Change, ChangeSource, Failure, Listener, Reconnecting, Signal},
};

/// The pause before a connection that failed is opened again, or a probe is sent again.
const PAUSE: Duration = Duration::from_secs(1);
/// The time after which the next probe is sent.
const PROVED_FOR: Duration = Duration::from_mins(1);
/// How long a probe may take to be heard.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// The pause after a probe that was not heard. Each attempt to listen may leave a subscription
/// on a connection that is shared.
const UNHEARD_PAUSE: Duration = Duration::from_mins(1);

pub(super) type Heard = Result<(Listener, Signal), Failure>;
pub(super) type Listening = LocalBoxFuture<'static, Heard>;

/// Listens while a request is blocked.
#[derive(Debug)]
pub(super) struct Notifications {
    /// To open connections with; `None` where the server has no notifications.
    source: Option<Reconnecting>,
    state: State,
    /// `None` while no connection listens.
    proof: Option<Proof>,
    /// Whether the last probe was heard.
    trusted: bool,
    linger: Linger,
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

#[derive(Debug)]
enum Proof {
    /// The next probe is to be sent at this time.
    Due(Instant),
    /// The probe with this id has to be heard before this time.
    Sent(String, Instant),
}

/// What is known about the rows after something was heard.
#[derive(Debug, PartialEq)]
pub(super) enum News {
    None,
    Changed(Change),
    /// Any row may have changed.
    MayHaveChanged,
}

impl Notifications {
    pub(super) fn new(rows: &Reconnecting) -> Self {
        let has_them = rows.change_source() == ChangeSource::Notifications;
        Self {
            source: has_them.then(|| rows.sibling(PAUSE, "notifications")),
            state: State::Off,
            proof: None,
            trusted: false,
            linger: Linger::default(),
        }
    }

    /// What to wait for next; and whether listening has stopped.
    pub(super) fn listen(&mut self, blocked: bool, now: Instant) -> (Option<Listening>, bool) {
        let Some(source) = &self.source else {
            return (None, false);
        };
        let goes_on = self.linger.goes_on(blocked, now);
        match std::mem::replace(&mut self.state, State::On) {
            State::On => (None, false),
            State::Failed(until) if now < until => {
                self.state = State::Failed(until);
                (None, false)
            }
            State::Off | State::Failed(_) if !blocked => {
                self.state = State::Off;
                (None, false)
            }
            State::Paused(_) if !goes_on => {
                self.stop(State::Off);
                (None, true)
            }
            State::Off | State::Failed(_) => {
                let target = source.target();
                let open = async { Ok((Listener::open(target).await?, Signal::Nothing)) };
                (Some(Box::pin(open)), false)
            }
            State::Paused(listener) => {
                // A probe that is not heard is noticed after this time.
                let limit = if self.trusted { LINGER } else { PAUSE };
                (Some(Box::pin(listener.next(limit))), false)
            }
        }
    }

    fn stop(&mut self, state: State) {
        self.state = state;
        self.proof = None;
        self.trusted = false;
    }

    /// The id of a probe that is to be sent now.
    pub(super) fn probe(&mut self, now: Instant) -> Option<String> {
        match self.proof {
            Some(Proof::Due(due)) if due <= now => {
                let id = format!("{:016x}", unique());
                self.proof = Some(Proof::Sent(id.clone(), now + PROBE_LIMIT));
                Some(id)
            }
            _ => None,
        }
    }

    /// A probe was sent, or could not be sent.
    pub(super) fn on_probe_sent(&mut self, sent: Result<(), Failure>, now: Instant) {
        let Some(Proof::Sent(_, until)) = &mut self.proof else {
            return;
        };
        match sent {
            Ok(()) => *until = now + PROBE_LIMIT,
            Err(failure) => {
                tracing::debug!(%failure, "no notification can be sent; the row is polled");
                self.proof = Some(Proof::Due(now + PAUSE));
                self.trusted = false;
            }
        }
    }

    /// Takes in what was heard.
    pub(super) fn on_heard(&mut self, heard: Heard, now: Instant) -> News {
        let (listener, signal) = match heard {
            Ok(heard) => heard,
            Err(failure) => {
                tracing::debug!(%failure, "notifications are not heard; the row is polled");
                self.stop(State::Failed(now + PAUSE));
                return News::MayHaveChanged;
            }
        };
        let news = match (signal, &self.proof) {
            (Signal::Probe(heard), Some(Proof::Sent(id, _))) if heard == *id => {
                self.proof = Some(Proof::Due(now + PROVED_FOR));
                // What was written before is not notified.
                let is_new = !std::mem::replace(&mut self.trusted, true);
                if is_new {
                    News::MayHaveChanged
                } else {
                    News::None
                }
            }
            (Signal::Nothing | Signal::Probe(_), _) => News::None,
            (Signal::Changed(change), _) => News::Changed(change),
            (Signal::Unknown, _) => News::MayHaveChanged,
        };
        match self.proof {
            Some(Proof::Sent(_, until)) if until < now => {
                tracing::debug!(
                    "a notification of this process does not arrive; the row is polled"
                );
                self.stop(State::Failed(now + UNHEARD_PAUSE));
                return News::MayHaveChanged;
            }
            None => self.proof = Some(Proof::Due(now)),
            _ => {}
        }
        self.state = State::Paused(listener);
        news
    }

    /// How changes are reported now.
    pub(super) fn change_source(&self) -> ChangeSource {
        if self.trusted {
            ChangeSource::Notifications
        } else {
            ChangeSource::None
        }
    }

    /// When to try again after a failure, or to send the next probe.
    pub(super) fn due(&self) -> Option<Instant> {
        match (&self.state, &self.proof) {
            (State::Failed(until), _) => Some(*until),
            (_, Some(Proof::Due(due))) => Some(*due),
            _ => None,
        }
    }
}
