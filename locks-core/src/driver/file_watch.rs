//! A watch on the log of a database file: it tells that a connection has written.
//!
//! The kernel reports a write when it happens. The commit that it belongs to is visible some
//! microseconds later, or after a flush of the disk. So the row is looked at once, and again
//! after some pauses. A report proves nothing, and none may come: a process polls the change
//! counter of the file until a report has come, and while none has come for a time in which the
//! renewals of its sessions must have caused one.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::time;

use super::linger::Linger;
use crate::store::ChangeSource;

/// The pauses between a report and the next looks.
const AGAIN: [Duration; 3] = [
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(16),
];
/// The shortest pause between two looks, for a file that is written all the time.
const LEAST: Duration = Duration::from_millis(1);
/// The least time in which a lock passes from one process to the next. A process looks later for
/// each request that comes before its own: otherwise each write would wake all that wait.
const HAND_OVER: Duration = Duration::from_micros(500);
const FARTHEST: Duration = Duration::from_millis(20);
/// The pause before a watch that could not be made is tried again.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a report counts as proof that reports come, at least.
const PROVED_FOR: Duration = Duration::from_mins(1);

/// Watches the log while a request is blocked.
#[derive(Debug)]
pub(super) struct FileWatch {
    /// The log; `None` if the database is no file, or files cannot be watched here.
    path: Option<PathBuf>,
    watch: Option<sys::Watch>,
    linger: Linger,
    /// When to try again to make a watch.
    retry: Option<Instant>,
    last_report: Option<Instant>,
    proved_for: Duration,
    /// Until when reports stay in the queue of the kernel, because none concerns this process.
    ignored_until: Option<Instant>,
    looks: Looks,
}

/// When to look at the rows.
#[derive(Debug, Default)]
struct Looks {
    last: Option<Instant>,
    /// The next looks, in their order.
    due: Vec<Instant>,
}

impl Looks {
    /// A write was reported, which concerns this process after `delay`.
    fn on_report(&mut self, now: Instant, delay: Duration) {
        if !delay.is_zero() {
            // One look serves all writes until then.
            self.due = vec![now + delay, now + delay + AGAIN[AGAIN.len() - 1]];
            return;
        }
        let first = self.last.map_or(now, |last| now.max(last + LEAST));
        self.due.clear();
        self.due.push(first);
        self.due.extend(AGAIN.map(|pause| first + pause));
    }

    /// Whether a look is due.
    fn take_due(&mut self, now: Instant) -> bool {
        let before = self.due.len();
        self.due.retain(|due| *due > now);
        let is_due = self.due.len() < before;
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

impl FileWatch {
    /// `renewals` is the pause between the writes that a process makes in any case.
    pub(super) fn new(log: Option<PathBuf>, renewals: Duration) -> Self {
        Self {
            path: log.filter(|_| sys::IS_POSSIBLE),
            watch: None,
            linger: Linger::default(),
            retry: None,
            last_report: None,
            proved_for: PROVED_FOR.max(3 * renewals),
            ignored_until: None,
            looks: Looks::default(),
        }
    }

    /// Begins to watch, or ends it. `blocked` says whether a request is blocked.
    pub(super) fn update(&mut self, blocked: bool, now: Instant) {
        let Some(path) = &self.path else {
            return;
        };
        if !self.linger.goes_on(blocked, now) {
            self.stop();
        } else if blocked && self.watch.is_none() && self.retry.is_none_or(|at| at <= now) {
            self.retry = Some(now + PAUSE);
            match sys::Watch::new(path) {
                Ok(watch) => self.watch = Some(watch),
                Err(error) => {
                    tracing::debug!(%error, ?path, "the log of the database is not watched");
                }
            }
        }
    }

    fn stop(&mut self) {
        self.watch = None;
        self.last_report = None;
        self.ignored_until = None;
        self.looks.due.clear();
    }

    /// Waits for a report, and returns whether there is one; otherwise the watch has ended.
    /// Without a watch it waits for ever.
    pub(super) async fn report(&mut self) -> bool {
        let Some(watch) = &mut self.watch else {
            return std::future::pending().await;
        };
        if let Some(until) = self.ignored_until {
            time::sleep_until(until.into()).await;
            self.ignored_until = None;
        }
        let result = watch.report().await;
        if let Err(error) = &result {
            tracing::debug!(%error, "the watch of the database's log has ended");
            self.stop();
        }
        result.is_ok()
    }

    /// A report has come. Before any request of this process, so many others are served.
    pub(super) fn on_report(&mut self, ahead: usize, now: Instant) {
        self.last_report = Some(now);
        let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
        let delay = HAND_OVER.saturating_mul(ahead).min(FARTHEST);
        self.ignored_until = (!delay.is_zero()).then(|| now + delay);
        self.looks.on_report(now, delay);
    }

    /// Whether the rows are to be looked at now.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        self.looks.take_due(now)
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.looks.due.first().copied()
    }

    /// How changes are reported now; `None` if this is not about a file.
    pub(super) fn change_source(&self, now: Instant) -> Option<ChangeSource> {
        self.path.as_ref()?;
        let proved = |report: Instant| now < report + self.proved_for;
        Some(
            if self.watch.is_some() && self.last_report.is_some_and(proved) {
                ChangeSource::Reports
            } else {
                ChangeSource::DataVersion
            },
        )
    }
}

#[cfg(all(target_os = "linux", feature = "sqlite"))]
mod sys {
    use std::{io, path::Path};

    use futures_util::{FutureExt as _, StreamExt as _};
    use inotify::{Event, EventMask, EventStream, Inotify, WatchMask};

    pub(super) const IS_POSSIBLE: bool = true;

    /// A watch of the kernel. It ends with the last name of the file.
    #[derive(Debug)]
    pub(super) struct Watch(EventStream<[u8; 1024]>);

    impl Watch {
        pub(super) fn new(path: &Path) -> io::Result<Self> {
            let inotify = Inotify::init()?;
            let events = WatchMask::MODIFY | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF;
            inotify.watches().add(path, events)?;
            Ok(Self(inotify.into_event_stream([0; 1024])?))
        }

        /// Waits for a report, and takes all that have come. An error ends the watch.
        pub(super) async fn report(&mut self) -> io::Result<()> {
            let mut next = self.0.next().await;
            while let Some(event) = next {
                check(&event?)?;
                match self.0.next().now_or_never() {
                    Some(more) => next = more,
                    None => return Ok(()),
                }
            }
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn check<T>(event: &Event<T>) -> io::Result<()> {
        let ends = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED;
        if event.mask.intersects(ends) {
            return Err(io::Error::other("the file was deleted or renamed"));
        }
        Ok(())
    }
}

#[cfg(not(all(target_os = "linux", feature = "sqlite")))]
mod sys {
    use std::{io, path::Path};

    pub(super) const IS_POSSIBLE: bool = false;

    #[derive(Debug)]
    pub(super) struct Watch;

    impl Watch {
        pub(super) fn new(_: &Path) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) async fn report(&mut self) -> io::Result<()> {
            std::future::pending().await
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
    fn a_report_is_followed_by_looks_and_frequent_ones_by_one_each_millisecond() {
        let (mut looks, start) = (Looks::default(), Instant::now());
        looks.on_report(start, Duration::ZERO);
        assert!(looks.take_due(start) && !looks.take_due(start));
        for (early, pause) in [(0, 1), (3, 4), (15, 16)] {
            assert!(!looks.take_due(start + ms(early)), "{pause}");
            assert!(looks.take_due(start + ms(pause)), "{pause}");
        }
        assert_eq!(looks.due, []);
        let mut taken = 0;
        for step in 0..1000 {
            let now = start + ms(20) + Duration::from_micros(10) * step;
            looks.on_report(now, Duration::ZERO);
            taken += u32::from(looks.take_due(now));
        }
        assert_eq!(taken, 10);
    }

    #[test]
    fn a_process_behind_others_looks_later() {
        let (mut looks, start) = (Looks::default(), Instant::now());
        looks.on_report(start, ms(10));
        assert!(!looks.take_due(start + ms(9)));
        assert!(looks.take_due(start + ms(10)));
        assert!(!looks.take_due(start + ms(25)));
        assert!(
            looks.take_due(start + ms(26)),
            "the commit may have taken longer"
        );
        assert_eq!(looks.due, []);
        looks.on_report(start + ms(50), ms(10));
        looks.on_report(start + ms(51), Duration::ZERO);
        assert!(looks.take_due(start + ms(51)), "it is the next one now");
    }

    #[cfg(all(target_os = "linux", feature = "sqlite"))]
    #[tokio::test]
    async fn a_write_to_the_log_is_reported_until_the_file_is_deleted() {
        use std::fs;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "a").unwrap();
        let mut watch = FileWatch::new(Some(path.clone()), ms(1));
        let start = Instant::now();
        watch.update(true, start);
        assert_eq!(watch.change_source(start), Some(ChangeSource::DataVersion));
        fs::write(&path, "b").unwrap();
        assert!(watch.report().await);
        watch.on_report(0, start);
        assert_eq!(watch.change_source(start), Some(ChangeSource::Reports));
        let twenty_ahead = Instant::now();
        watch.on_report(20, twenty_ahead);
        fs::write(&path, "c").unwrap();
        assert!(watch.report().await);
        assert!(
            twenty_ahead.elapsed() >= 20 * HAND_OVER,
            "twenty requests come first"
        );
        let late = Instant::now() + PROVED_FOR;
        assert_eq!(watch.change_source(late), Some(ChangeSource::DataVersion));
        fs::remove_file(&path).unwrap();
        assert!(!watch.report().await);
        assert_eq!(watch.change_source(start), Some(ChangeSource::DataVersion));
    }

    #[test]
    fn a_server_is_not_watched() {
        let watch = FileWatch::new(None, ms(1));
        assert_eq!(watch.change_source(Instant::now()), None);
    }
}
