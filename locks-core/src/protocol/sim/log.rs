//! The events that a test logs.

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
    sync::Once,
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::{Interest, set_global_default},
};

thread_local! {
    /// What the test of this thread logs, at this level and above.
    static LOG: RefCell<Option<(Level, Vec<String>)>> = const { RefCell::new(None) };
}

/// Runs `work`, and returns its events of this level and above, as text.
pub(super) fn logged(level: Level, work: impl FnOnce()) -> Vec<String> {
    static GLOBAL: Once = Once::new();
    // A subscriber of this thread alone would miss events whose first occurrence is on another.
    GLOBAL.call_once(|| set_global_default(Log).expect("it is the only one"));
    LOG.set(Some((level, Vec::new())));
    work();
    LOG.take().map(|(_, events)| events).unwrap_or_default()
}

/// Keeps the events of threads that ask for them.
struct Log;

impl Subscriber for Log {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        LOG.with_borrow(|log| {
            log.as_ref()
                .is_some_and(|(level, _)| metadata.level() <= level)
        })
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(event.metadata().level().to_string());
        event.record(&mut text);
        LOG.with_borrow_mut(|log| {
            if let Some((_, events)) = log {
                events.push(text.0);
            }
        });
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// An event as text.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = write!(self.0, " {field}={value:?}");
        written.expect("a text takes everything");
    }
}
