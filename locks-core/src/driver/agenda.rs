//! Which namespaces need attention, and when.
//!
//! A process may lock in thousands of namespaces. Those to which nothing happens cost
//! nothing: not a look at each for every event.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

type Name = Arc<str>;

/// What is to be looked after.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    /// When each namespace is due, and the same by time.
    due: BTreeMap<Name, Instant>,
    by_time: BTreeSet<(Instant, Name)>,
    /// Something happened to these.
    touched: BTreeSet<Name>,
    /// These may want the connection of the rows.
    ready: BTreeSet<Name>,
    /// Which had it last.
    last: Option<Name>,
}

impl Agenda {
    /// Something happened to a namespace.
    pub(super) fn touch(&mut self, name: &Name) {
        if !self.touched.contains(name) {
            self.touched.insert(name.clone());
            self.ready.insert(name.clone());
        }
    }

    pub(super) fn touch_all<'n>(&mut self, names: impl IntoIterator<Item = &'n Name>) {
        for name in names {
            self.touch(name);
        }
    }

    /// The namespaces whose time has come; they count as touched.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Name> {
        while let Some((due, name)) = self.by_time.first().cloned()
            && due <= now
        {
            self.by_time.pop_first();
            self.due.remove(&name);
            self.touch(&name);
        }
        self.touched.iter().cloned().collect()
    }

    /// The namespaces to which something happened; from now on it has not.
    pub(super) fn take_touched(&mut self) -> BTreeSet<Name> {
        std::mem::take(&mut self.touched)
    }

    pub(super) fn touched(&self) -> impl Iterator<Item = &Name> {
        self.touched.iter()
    }

    /// When a namespace is due next, or never.
    pub(super) fn schedule(&mut self, name: &Name, at: Option<Instant>) {
        if self.due.get(name) == at.as_ref() {
            return;
        }
        if let Some(before) = self.due.remove(name) {
            self.by_time.remove(&(before, name.clone()));
        }
        if let Some(at) = at {
            self.due.insert(name.clone(), at);
            self.by_time.insert((at, name.clone()));
        }
    }

    /// When the first of them is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    pub(super) fn ready(&self) -> impl Iterator<Item = &Name> {
        self.ready.iter()
    }

    pub(super) fn is_ready(&self, name: &Name) -> bool {
        self.ready.contains(name)
    }

    /// The namespaces that may want the connection, in the order of their turns: from the
    /// one behind the last, or from the one that `goes_on`.
    pub(super) fn turns(&self, goes_on: impl Fn(&Name) -> bool) -> Vec<Name> {
        let mut names: Vec<_> = self.ready.iter().cloned().collect();
        let last = self.last.as_ref().filter(|last| goes_on(last));
        let start = match last {
            Some(last) => names.partition_point(|name| name < last),
            None => self
                .last
                .as_ref()
                .map_or(0, |last| names.partition_point(|name| name <= last)),
        };
        let start = start % names.len().max(1);
        names.rotate_left(start);
        names
    }

    /// A namespace has the connection now.
    pub(super) fn had_turn(&mut self, name: &Name) {
        self.last = Some(name.clone());
        self.touched.insert(name.clone());
    }

    /// A namespace has no use for the connection now.
    pub(super) fn wants_nothing(&mut self, name: &Name) {
        self.ready.remove(name);
        self.touched.insert(name.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn names(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| Name::from(*name)).collect()
    }

    #[test]
    fn only_what_was_touched_or_is_due_is_taken() {
        let mut agenda = Agenda::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let [a, b, c] = ["a", "b", "c"].map(Name::from);
        agenda.schedule(&a, Some(later));
        agenda.schedule(&b, Some(now));
        agenda.schedule(&c, Some(now));
        agenda.schedule(&c, None);
        assert_eq!(agenda.next(), Some(now));
        assert_eq!(agenda.take_due(now), names(&["b"]));
        assert_eq!(
            agenda.take_touched().into_iter().collect::<Vec<_>>(),
            names(&["b"])
        );
        assert!(agenda.take_due(now).is_empty());
        agenda.touch(&c);
        assert_eq!(agenda.take_due(later), names(&["a", "c"]));
        assert_eq!(agenda.next(), None);
    }

    #[test]
    fn the_connection_goes_round() {
        let mut agenda = Agenda::default();
        for name in ["a", "b", "c"] {
            agenda.touch(&name.into());
        }
        let never = |_: &Name| false;
        assert_eq!(agenda.turns(never), names(&["a", "b", "c"]));
        agenda.had_turn(&"a".into());
        assert_eq!(agenda.turns(never), names(&["b", "c", "a"]));
        assert_eq!(agenda.turns(|name| **name == *"a"), names(&["a", "b", "c"]));
        agenda.had_turn(&"c".into());
        assert_eq!(agenda.turns(never), names(&["a", "b", "c"]));
        agenda.wants_nothing(&"b".into());
        assert_eq!(agenda.turns(never), names(&["a", "c"]));
        agenda.wants_nothing(&"a".into());
        agenda.wants_nothing(&"c".into());
        assert!(agenda.turns(never).is_empty());
    }
}
