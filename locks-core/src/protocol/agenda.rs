//! Which namespaces need attention, and when.
//!
//! A process may lock in thousands of namespaces. A namespace to which nothing happens costs
//! nothing when something happens to another one.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
};

use super::{config::Name, time::Time};

/// Which namespaces need attention, and when.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    /// When each namespace is due, and the namespaces in order of time.
    due: BTreeMap<Name, Time>,
    by_time: BTreeSet<(Time, Name)>,
    /// Something happened to these.
    touched: BTreeSet<Name>,
    /// These may want the row connection.
    ready: BTreeSet<Name>,
    /// The namespace that had the row connection last.
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

    /// The namespaces whose time has come. They count as touched.
    pub(super) fn take_due(&mut self, now: Time) -> Vec<Name> {
        let mut names = Vec::new();
        while let Some((due, name)) = self.by_time.first().cloned()
            && due <= now
        {
            self.by_time.pop_first();
            self.due.remove(&name);
            self.touch(&name);
            names.push(name);
        }
        names
    }

    /// The namespaces to which something happened since the last call.
    pub(super) fn take_touched(&mut self) -> BTreeSet<Name> {
        std::mem::take(&mut self.touched)
    }

    /// A namespace is due at this time, or not at all.
    pub(super) fn schedule(&mut self, name: &Name, at: Option<Time>) {
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

    /// When the first namespace is due.
    pub(super) fn next(&self) -> Option<Time> {
        self.by_time.first().map(|(at, _)| *at)
    }

    pub(super) fn is_ready(&self, name: &Name) -> bool {
        self.ready.contains(name)
    }

    /// The namespace whose turn it is to use the row connection: the one behind the last, or
    /// the last one if it has to go on.
    pub(super) fn next_turn(&self, must_go_on: impl Fn(&Name) -> bool) -> Option<Name> {
        let Some(last) = &self.last else {
            return self.ready.first().cloned();
        };
        if self.ready.contains(last) && must_go_on(last) {
            return Some(last.clone());
        }
        let behind = (Excluded(last.clone()), Unbounded);
        let next = self.ready.range(behind).next();
        next.or_else(|| self.ready.first()).cloned()
    }

    /// A namespace has the row connection now.
    pub(super) fn on_turn(&mut self, name: &Name) {
        self.last = Some(name.clone());
        self.touched.insert(name.clone());
    }

    /// A namespace has no use for the row connection now.
    pub(super) fn on_no_turn(&mut self, name: &Name) {
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
        let now = Time::default();
        let later = now + Duration::from_secs(1);
        let [a, b, c] = ["a", "b", "c"].map(Name::from);
        agenda.schedule(&a, Some(later));
        agenda.schedule(&b, Some(now));
        agenda.schedule(&c, Some(now));
        agenda.schedule(&c, None);
        assert_eq!(agenda.next(), Some(now));
        assert_eq!(agenda.take_due(now), names(&["b"]));
        assert!(agenda.is_ready(&b) && !agenda.is_ready(&a));
        let touched: Vec<_> = agenda.take_touched().into_iter().collect();
        assert_eq!(touched, names(&["b"]));
        assert!(agenda.take_due(now).is_empty());
        agenda.touch(&c);
        assert_eq!(agenda.take_due(later), names(&["a"]));
        let touched: Vec<_> = agenda.take_touched().into_iter().collect();
        assert_eq!(touched, names(&["a", "c"]));
        assert_eq!(agenda.next(), None);
    }

    #[test]
    fn a_new_time_replaces_the_old_one() {
        let mut agenda = Agenda::default();
        let at = |secs| Time::new(Duration::from_secs(secs));
        let a = Name::from("a");
        agenda.schedule(&a, Some(at(5)));
        agenda.schedule(&a, Some(at(5)));
        agenda.schedule(&a, Some(at(3)));
        assert_eq!(agenda.next(), Some(at(3)));
        assert_eq!(agenda.take_due(at(9)), names(&["a"]));
        assert!(agenda.take_due(at(9)).is_empty());
    }

    #[test]
    fn the_connection_goes_round() {
        let mut agenda = Agenda::default();
        agenda.touch_all(&names(&["a", "b", "c"]));
        let never = |_: &Name| false;
        let next = |agenda: &Agenda| agenda.next_turn(never).expect("one is ready").to_string();
        assert_eq!(next(&agenda), "a");
        agenda.on_turn(&"a".into());
        assert_eq!(next(&agenda), "b");
        let goes_on = agenda.next_turn(|name| **name == *"a");
        assert_eq!(goes_on.as_deref(), Some("a"));
        agenda.on_turn(&"c".into());
        assert_eq!(next(&agenda), "a");
        agenda.take_touched();
        agenda.on_no_turn(&"a".into());
        assert_eq!(next(&agenda), "b");
        agenda.on_no_turn(&"c".into());
        let goes_on = agenda.next_turn(|name| **name == *"c");
        assert_eq!(goes_on.as_deref(), Some("b"), "it is not ready");
        agenda.on_no_turn(&"b".into());
        assert_eq!(agenda.next_turn(never), None);
        assert_eq!(agenda.take_touched().len(), 3);
    }
}
