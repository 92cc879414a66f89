//! Waiting for the channel of the session that stands in the way, where the engine has channels.
//!
//! The server does not say whether a channel is waited for or was free at once, so the wait counts
//! only after a moment. A channel that is free at once belongs to no driver: its process has ended,
//! writes to another server of a cluster, or is of an older version.

use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;

use super::linger::Linger;
use crate::store::{ChangeSource, Failure, Reconnecting};

/// A wait that has taken so long is a wait.
const SETTLED: Duration = Duration::from_millis(4);
/// The first and the longest pause before a channel is waited for that was free at once.
const FREE_PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the statement that waits may take, longer than the server waits.
const LIMIT: Duration = Duration::from_secs(20);

pub(super) type Freed = Result<bool, Failure>;
pub(super) type Link = Box<Reconnecting>;
pub(super) type Waiting = LocalBoxFuture<'static, (Link, Freed)>;

/// Waits for one channel while requests are blocked.
#[derive(Debug)]
pub(super) struct ChannelWait {
    state: State,
    /// The channel that was free at once, when to try it again, and the pause until then.
    free: Option<(String, Instant, Duration)>,
    /// No wait begins before.
    failed: Option<Instant>,
    /// Whether what is freed will be reported.
    trusted: bool,
    /// When to ask again what to do.
    due: Option<Instant>,
    linger: Linger,
}

#[derive(Debug)]
enum State {
    /// The engine has no channels.
    Impossible,
    Idle(Link),
    Waiting {
        channel: String,
        since: Instant,
    },
}

/// What to do next.
pub(super) enum Step {
    None,
    Wait(Waiting),
    /// The connection is not needed any more.
    Close(Link),
}

impl ChannelWait {
    pub(super) fn new(rows: &Reconnecting) -> Self {
        let has_them = rows.change_source() == ChangeSource::Channels;
        Self {
            state: if has_them {
                State::Idle(Box::new(rows.sibling(LIMIT, "changes")))
            } else {
                State::Impossible
            },
            free: None,
            failed: None,
            trusted: false,
            due: None,
            linger: Linger::default(),
        }
    }

    pub(super) fn is_possible(&self) -> bool {
        !matches!(self.state, State::Impossible)
    }

    /// Begins to wait for a channel, if there is one.
    pub(super) fn update(&mut self, awaited: Option<&str>, now: Instant) -> Step {
        let goes_on = self.linger.goes_on(awaited.is_some(), now);
        self.due = None;
        let State::Idle(link) = &mut self.state else {
            return Step::None;
        };
        let Some(channel) = awaited else {
            if goes_on || !link.is_open() {
                return Step::None;
            }
            let sibling = Box::new(link.sibling(LIMIT, "changes"));
            return Step::Close(std::mem::replace(link, sibling));
        };
        let free = self.free.as_ref().filter(|(of, ..)| of == channel);
        let pauses = free.map(|(_, until, _)| *until).into_iter();
        let until = pauses.chain(self.failed).max();
        if until.is_some_and(|until| now < until) {
            self.due = until;
            return Step::None;
        }
        self.failed = None;
        let channel = channel.to_owned();
        let waiting = State::Waiting {
            channel: channel.clone(),
            since: now,
        };
        let State::Idle(mut link) = std::mem::replace(&mut self.state, waiting) else {
            return Step::None;
        };
        Step::Wait(Box::pin(async move {
            let freed = link.with(async |c| c.await_channel(&channel).await).await;
            (link, freed)
        }))
    }

    /// Looks whether what is freed will be reported. Returns whether it is so since now.
    pub(super) fn settle(&mut self, awaited: Option<&str>, now: Instant) -> bool {
        let before = self.trusted;
        self.trusted = false;
        if let State::Waiting { channel, since } = &self.state
            && awaited == Some(channel)
        {
            let settled = *since + SETTLED;
            self.trusted = settled <= now;
            self.due = Some(settled).filter(|_| !self.trusted);
        }
        self.trusted && !before
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// A wait has ended. Returns whether the rows are to be looked at.
    pub(super) fn on_end(&mut self, link: Link, freed: Freed, now: Instant) -> bool {
        let State::Waiting { channel, since } =
            std::mem::replace(&mut self.state, State::Idle(link))
        else {
            return true;
        };
        self.trusted = false;
        let [first, longest] = FREE_PAUSES;
        match freed {
            Ok(true) if now < since + SETTLED => {
                let last = self.free.take().filter(|(of, ..)| *of == channel);
                let pause = last.map_or(first, |(_, _, pause)| (pause * 2).min(longest));
                self.free = Some((channel, now + pause, pause));
                true
            }
            Ok(freed) => {
                self.free = None;
                freed
            }
            Err(failure) => {
                tracing::debug!(%failure, "no channel can be waited for; the row is polled");
                self.failed = Some(now + PAUSE);
                true
            }
        }
    }

    /// When to ask again what to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}
