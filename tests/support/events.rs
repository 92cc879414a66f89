//! The `tracing` events of this process, kept for the tests.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tracing::{
    Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// A part of the message about a lock that a task has not released.
pub const FORGOTTEN: &str = "forg";
/// A part of the message about a session whose renewals fail.
pub const RENEWAL_FAILS: &str = "cannot be renewed";
/// A part of the field `reason` of an eviction because of an expired heartbeat.
pub const HEARTBEAT_EXPIRED: &str = "HeartbeatExpired";

/// An event, with the fields of the spans it happened in.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its level.
    pub level: Level,
    /// The fields as text, without quotation marks. The message is the field `message`.
    pub fields: BTreeMap<String, String>,
}

/// All events since the first call of [`Events::keep`].
#[derive(Debug, Default)]
pub struct Events {
    kept: Mutex<Vec<Event>>,
}

/// The subscriber that fills [`Events`].
struct Keeper {
    events: &'static Events,
    spans: Mutex<HashMap<u64, Event>>,
    last: AtomicU64,
}

thread_local! {
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

impl Events {
    /// Keeps the events of every thread of this process from now on. The library emits events on
    /// threads of its own, so there is one collection for all tests; each test finds its events by
    /// their fields.
    pub fn keep() -> &'static Self {
        static EVENTS: OnceLock<&'static Events> = OnceLock::new();
        EVENTS.get_or_init(|| {
            let events: &'static Self = Box::leak(Box::default());
            let keeper = Keeper {
                events,
                spans: Mutex::default(),
                last: AtomicU64::new(0),
            };
            tracing::subscriber::set_global_default(keeper).expect("no other subscriber is set");
            events
        })
    }

    /// All events so far.
    pub fn all(&self) -> Vec<Event> {
        locked(&self.kept).clone()
    }

    /// The events with this value of this field.
    pub fn with(&self, field: &str, value: &str) -> Vec<Event> {
        let kept = locked(&self.kept);
        let fits = |event: &&Event| event.get(field) == Some(value);
        kept.iter().filter(fits).cloned().collect()
    }
}

impl Event {
    /// The field, if the event has it.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }

    fn of(metadata: &Metadata<'_>) -> Self {
        Self {
            level: *metadata.level(),
            fields: BTreeMap::new(),
        }
    }
}

impl Visit for Event {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let text = value.trim_matches('"').to_owned();
        self.fields.insert(field.name().to_owned(), text);
    }
}

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("locks_") || metadata.target().contains("events::tests")
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let id = self.last.fetch_add(1, Relaxed) + 1;
        let mut span = Event::of(attributes.metadata());
        attributes.record(&mut span);
        locked(&self.spans).insert(id, span);
        span::Id::from_u64(id)
    }

    fn record(&self, id: &span::Id, values: &span::Record<'_>) {
        if let Some(span) = locked(&self.spans).get_mut(&id.into_u64()) {
            values.record(span);
        }
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut kept = Event::of(event.metadata());
        ENTERED.with_borrow(|entered| {
            let spans = locked(&self.spans);
            for span in entered.iter().filter_map(|id| spans.get(id)) {
                kept.fields.extend(span.fields.clone());
            }
        });
        event.record(&mut kept);
        locked(&self.events.kept).push(kept);
    }

    fn enter(&self, id: &span::Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(id.into_u64()));
    }

    fn exit(&self, id: &span::Id) {
        ENTERED.with_borrow_mut(|entered| {
            if let Some(place) = entered
                .iter()
                .rposition(|entered| *entered == id.into_u64())
            {
                entered.remove(place);
            }
        });
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_event_and_spans_are_kept() {
        let events = Events::keep();
        let span = tracing::info_span!("job", task = "kept", token = tracing::field::Empty);
        span.record("token", 7);
        span.in_scope(|| tracing::warn!(lock = ?"x", namespace = %"n", "said"));
        tracing::warn!("out of it");
        let [event] = &events.with("task", "kept")[..] else {
            panic!("one event: {events:?}");
        };
        assert_eq!(event.level, Level::WARN);
        let fields = ["lock", "namespace", "token", "message"].map(|field| event.get(field));
        assert_eq!(fields, [Some("x"), Some("n"), Some("7"), Some("said")]);
    }
}
