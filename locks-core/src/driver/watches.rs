//! Callers that wait until what is held or waits has changed. The driver reads the row for them at
//! fixed intervals.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::command::Reply;
use crate::{report::Snapshot, store::RowVersion};

/// How long after an answer the row is read again.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// A call that is answered when the row is not of a version any more.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) namespace: Arc<str>,
    /// The version of the row that the caller knows; `None`: the caller knows none, or there was no
    /// row.
    pub(crate) seen: Option<RowVersion>,
    /// Whether it is answered at once.
    pub(crate) is_first: bool,
    /// Whether the caller is still there.
    pub(crate) caller: Weak<()>,
    pub(crate) reply: Reply<(Snapshot, Option<RowVersion>)>,
}

/// The calls for which the row is read later.
#[derive(Debug, Default)]
pub(super) struct Watches(Vec<(Instant, Watch)>);

impl Watches {
    pub(super) fn add(&mut self, mut watch: Watch, now: Instant) {
        let first = std::mem::take(&mut watch.is_first);
        let due = if first { now } else { now + PAUSE };
        self.0.push((due, watch));
    }

    /// The calls for which the row is read now.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Watch> {
        self.0.retain(|(_, watch)| watch.caller.strong_count() > 0);
        let due = self.0.extract_if(.., |(at, _)| *at <= now);
        due.map(|(_, watch)| watch).collect()
    }

    /// When the row is read next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.iter().map(|(at, _)| *at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_is_read_at_once_and_then_after_each_pause_while_the_caller_is_there() {
        let (mut watches, caller) = (Watches::default(), Arc::new(()));
        let watch = Watch {
            namespace: "n".into(),
            seen: None,
            is_first: true,
            caller: Arc::downgrade(&caller),
            reply: Reply::new(drop),
        };
        let start = Instant::now();
        watches.add(watch, start);
        assert_eq!(watches.due(), Some(start));
        let watch = watches.take_due(start).pop().expect("it is due");
        assert_eq!(watches.due(), None);
        watches.add(watch, start);
        assert!(watches.take_due(start).is_empty());
        assert_eq!(watches.due(), Some(start + PAUSE));
        let watch = watches.take_due(start + PAUSE).pop().expect("it is due");
        watches.add(watch, start + PAUSE);
        drop(caller);
        assert!(watches.take_due(start + 2 * PAUSE).is_empty());
        assert_eq!(watches.due(), None);
    }
}
