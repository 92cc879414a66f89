//! How this process hears that others wrote.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use futures_util::future::LocalBoxFuture;

use super::Config;
use crate::store::{Change, ChangeSource, Failure, Listener, Reconnecting};

/// What tells of changes beside looking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Signal {
    /// Nothing: look.
    #[default]
    None,
    /// A number that is nearly free to ask for.
    DataVersion,
    /// Notifications, while their connection stands.
    Notifications,
}

/// The signal in force, which all namespaces look at.
#[derive(Debug, Default)]
pub(crate) struct Current(Cell<Signal>);

impl Current {
    pub(super) fn get(&self) -> Signal {
        self.0.get()
    }
}

/// How long to go on listening when nobody waits any more.
const LINGER: Duration = Duration::from_secs(10);
/// How long to leave a listening connection alone that failed.
const PAUSE: Duration = Duration::from_secs(1);

type Listening = LocalBoxFuture<'static, Result<(Listener, Option<Change>), Failure>>;

/// Listens while somebody waits, where the engine can tell.
#[derive(Debug)]
pub(super) struct Signals {
    /// For further connections; `None` where the engine tells nothing.
    source: Option<Reconnecting>,
    state: State,
}

#[derive(Debug)]
enum State {
    Off,
    /// A connection is being opened, or stands.
    On,
    /// It ended with what it had; to be listened on again.
    Paused(Listener),
    Failed(Instant),
}

impl Signals {
    pub(super) fn new(link: &Reconnecting, config: &Config) -> Self {
        let tells = link.change_source();
        if tells == ChangeSource::DataVersion {
            config.signal.0.set(Signal::DataVersion);
        }
        let source =
            (tells == ChangeSource::Notifications).then(|| link.sibling(PAUSE, "notifications"));
        Self {
            source,
            state: State::Off,
        }
    }

    /// What to listen to next, when somebody waits and nothing is listened to.
    pub(super) fn listen(
        &mut self,
        waiting: bool,
        config: &Config,
        now: Instant,
    ) -> Option<Listening> {
        let source = self.source.as_ref()?;
        match std::mem::replace(&mut self.state, State::On) {
            State::On => None,
            State::Failed(until) if now < until => {
                self.state = State::Failed(until);
                None
            }
            State::Off | State::Failed(_) | State::Paused(_) if !waiting => {
                self.state = State::Off;
                config.signal.0.set(Signal::None);
                None
            }
            State::Off | State::Failed(_) => Some(Box::pin(Listener::open(source.target()))),
            State::Paused(listener) => Some(Box::pin(listener.next(LINGER))),
        }
    }

    /// Takes in what was heard: what changed, or `None` for perhaps anything.
    pub(super) fn heard(
        &mut self,
        heard: Result<(Listener, Option<Change>), Failure>,
        config: &Config,
        now: Instant,
    ) -> Vec<Option<Change>> {
        match heard {
            Ok((listener, change)) => {
                self.state = State::Paused(listener);
                config.signal.0.set(Signal::Notifications);
                vec![change]
            }
            Err(failure) => {
                tracing::debug!(%failure, "nothing is heard; looking instead");
                self.state = State::Failed(now + PAUSE);
                config.signal.0.set(Signal::None);
                vec![None]
            }
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Failed(until) => Some(until),
            _ => None,
        }
    }
}
