//! Waiting for the channel of the session that stands in the way, where the engine has channels.
//!
//! The server does not say whether a channel is waited for or was free at once, so a wait counts
//! only after a moment. A channel that is free at once belongs to no driver: its process has ended,
//! or is of an older version.

use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;

use super::{linger::Linger, listener::News};
use crate::store::{Change, ChangeSource, Failure, Reconnecting};

/// What has taken so long is a wait.
const SETTLED: Duration = Duration::from_millis(4);
/// So often in a row a channel may be free at once, because its driver frees something again.
const REPEATS: u32 = 3;
/// The first and the longest pause before a channel is waited for that was free more often.
const FREE_PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// A row whose version is not known is newer than any that is.
const UNKNOWN: i64 = i64::MAX;
/// How long the statement that waits may take, longer than the server waits.
const LIMIT: Duration = Duration::from_secs(20);

/// Whether the channel came.
pub(super) type Freed = Result<bool, Failure>;
pub(super) type Link = Box<Reconnecting>;
pub(super) type Waiting = LocalBoxFuture<'static, (Link, Freed)>;

/// Waits for one channel while requests are blocked.
#[derive(Debug)]
pub(super) struct ChannelWait {
    /// `None` while a wait is under way, and where the engine has no channels.
    link: Option<Link>,
    is_possible: bool,
    schedule: Schedule,
    linger: Linger,
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
        let is_possible = rows.change_source() == ChangeSource::Channels;
        Self {
            link: is_possible.then(|| Box::new(rows.sibling(LIMIT, "changes"))),
            is_possible,
            schedule: Schedule::default(),
            linger: Linger::default(),
        }
    }

    pub(super) fn is_possible(&self) -> bool {
        self.is_possible
    }

    /// Begins to wait for a channel, if there is one.
    pub(super) fn update(&mut self, awaited: Option<&str>, now: Instant) -> Step {
        let goes_on = self.linger.goes_on(awaited.is_some(), now);
        let begins = self.schedule.update(awaited, now);
        if begins && let (Some(mut link), Some(channel)) = (self.link.take(), awaited) {
            let channel = channel.to_owned();
            return Step::Wait(Box::pin(async move {
                let freed = link.with(async |c| c.await_channel(&channel).await).await;
                (link, freed)
            }));
        }
        match &mut self.link {
            Some(link) if !goes_on && link.is_open() => {
                let sibling = Box::new(link.sibling(LIMIT, "changes"));
                Step::Close(std::mem::replace(link, sibling))
            }
            _ => Step::None,
        }
    }

    /// Whether what is freed will be reported.
    pub(super) fn is_trusted(&self) -> bool {
        self.schedule.trusted
    }

    /// A wait has ended. Returns what is known about the rows.
    pub(super) fn on_end(&mut self, link: Link, freed: Freed, now: Instant) -> News {
        self.link = Some(link);
        if let Err(failure) = &freed {
            tracing::debug!(%failure, "no channel can be waited for; the row is polled");
        }
        match self.schedule.on_end(freed.ok(), now) {
            End::Nothing => News::None,
            End::MayBeFree => News::MayHaveChanged,
            End::Freed(channel) => News::Changed(Change {
                namespace: channel.split('/').next().unwrap_or_default().to_owned(),
                version: UNKNOWN,
            }),
        }
    }

    /// When to ask again what to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.schedule.due
    }
}

/// What the end of a wait means.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Nothing,
    /// The channel was free at once, or cannot be waited for.
    MayBeFree,
    /// The driver of this channel has freed something.
    Freed(String),
}

/// When to wait for which channel.
#[derive(Debug, Default)]
struct Schedule {
    /// The channel that is waited for, and since when.
    waiting: Option<(String, Instant)>,
    /// The channel that was free at once, how often in a row, and when to try it again.
    free: Option<(String, u32, Instant)>,
    /// After a failure, no wait begins before.
    failed: Option<Instant>,
    trusted: bool,
    due: Option<Instant>,
}

impl Schedule {
    /// Returns whether a wait for the channel begins.
    fn update(&mut self, awaited: Option<&str>, now: Instant) -> bool {
        (self.trusted, self.due) = (false, None);
        if let Some((channel, since)) = &self.waiting {
            if awaited == Some(channel) {
                let settled = *since + SETTLED;
                self.trusted = settled <= now;
                self.due = Some(settled).filter(|_| !self.trusted);
            }
            return false;
        }
        let Some(channel) = awaited else {
            return false;
        };
        let free = self.free.iter().filter(|(of, ..)| of == channel);
        let until = free.map(|(.., until)| *until).chain(self.failed).max();
        if until.is_some_and(|until| now < until) {
            self.due = until;
            return false;
        }
        self.failed = None;
        self.waiting = Some((channel.to_owned(), now));
        self.due = Some(now + SETTLED);
        true
    }

    /// The wait has ended: the channel came, or did not come in time, or it failed.
    fn on_end(&mut self, came: Option<bool>, now: Instant) -> End {
        (self.trusted, self.due) = (false, None);
        let Some((channel, since)) = self.waiting.take() else {
            return End::Nothing;
        };
        let last = self.free.take().filter(|(of, ..)| *of == channel);
        match came {
            Some(true) if now < since + SETTLED => {
                let times = last.map_or(0, |(_, times, _)| times) + 1;
                let [first, longest] = FREE_PAUSES;
                let pause = match times.checked_sub(REPEATS) {
                    Some(doublings @ 1..) => (first * (1 << (doublings - 1).min(8))).min(longest),
                    _ => Duration::ZERO,
                };
                self.free = Some((channel, times, now + pause));
                // After that the row is polled.
                if times > 1 {
                    End::Nothing
                } else {
                    End::MayBeFree
                }
            }
            Some(true) => End::Freed(channel),
            Some(false) => End::Nothing,
            None => {
                self.failed = Some(now + PAUSE);
                End::MayBeFree
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_wait_counts_after_a_moment_and_only_for_its_channel() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        assert!(!schedule.update(None, start));
        assert!(schedule.update(Some("n/1"), start));
        assert_eq!(schedule.due, Some(start + SETTLED));
        assert!(!schedule.update(Some("n/1"), start + ms(3)) && !schedule.trusted);
        assert!(!schedule.update(Some("n/1"), start + SETTLED) && schedule.trusted);
        assert_eq!(schedule.due, None);
        for other in [Some("n/2"), None] {
            assert!(!schedule.update(other, start + ms(5)) && !schedule.trusted);
            assert_eq!(schedule.due, None);
        }
        assert!(!schedule.update(Some("n/1"), start + ms(6)) && schedule.trusted);
        let end = schedule.on_end(Some(true), start + ms(7));
        assert_eq!(end, End::Freed("n/1".into()));
        assert!(!schedule.trusted);
        assert!(schedule.update(Some("n/1"), start + ms(7)));
        assert_eq!(schedule.on_end(Some(false), start + ms(99)), End::Nothing);
    }

    #[test]
    fn a_channel_that_belongs_to_no_driver_is_tried_less_often() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let (mut now, mut waits) = (start, 0);
        while now < start + ms(10_000) {
            if schedule.update(Some("n/1"), now) {
                waits += 1;
                now += Duration::from_micros(200);
                let is_first = schedule.on_end(Some(true), now) == End::MayBeFree;
                assert_eq!(is_first, waits == 1);
            } else {
                now = schedule.due.expect("it is tried again");
            }
        }
        // Three at once; after 20, 40, 80, 160, 320, 640 ms; then once a second.
        assert_eq!(waits, 3 + 6 + 9);
        // Another one is waited for at once.
        assert!(schedule.update(Some("n/2"), now));
    }

    #[test]
    fn after_a_failure_no_wait_begins_for_a_second() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        assert!(schedule.update(Some("n/1"), start));
        assert_eq!(schedule.on_end(None, start), End::MayBeFree);
        assert!(!schedule.update(Some("n/2"), start + ms(999)));
        assert_eq!(schedule.due, Some(start + PAUSE));
        assert!(schedule.update(Some("n/2"), start + PAUSE));
    }
}
