//! The holders of one name.

use super::{Entry, Nonce};
use crate::name::Mode;

/// The holders of one name, in the order of their grants: one that holds it exclusively, or
/// any number that share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holders {
    first: Entry,
    /// Mostly none, which needs no memory.
    others: Vec<Entry>,
}

impl Holders {
    pub(super) fn new(first: Entry) -> Self {
        let others = Vec::new();
        Self { first, others }
    }

    /// The one that has held the name for the longest time.
    pub(super) fn first(&self) -> &Entry {
        &self.first
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// How the name is held.
    pub(super) fn mode(&self) -> Mode {
        self.first.mode()
    }

    /// Whether the name can be granted to a request in this mode too. A request that was granted
    /// it before, under a session that was lost, waits for the end of that session.
    pub(super) fn admit(&self, mode: Mode, nonce: Nonce) -> bool {
        let shares = mode == Mode::Shared && self.mode() == Mode::Shared;
        let mut grants = self.iter().filter_map(|entry| entry.grant.as_ref());
        shares && grants.all(|grant| grant.nonce != nonce)
    }

    /// Adds a holder that shares the name.
    pub(super) fn push(&mut self, entry: Entry) {
        self.others.push(entry);
    }

    /// Takes out the holders for which `is_taken` returns true. Returns those, and the others
    /// if any are left.
    pub(super) fn partition(self, is_taken: impl Fn(&Entry) -> bool) -> (Vec<Entry>, Option<Self>) {
        if self.others.is_empty() {
            return if is_taken(&self.first) {
                (vec![self.first], None)
            } else {
                (Vec::new(), Some(self))
            };
        }
        let all = std::iter::once(self.first).chain(self.others);
        let (taken, left): (Vec<_>, Vec<_>) = all.partition(is_taken);
        let mut left = left.into_iter();
        let left = left.next().map(|first| Self {
            first,
            others: left.collect(),
        });
        (taken, left)
    }
}
