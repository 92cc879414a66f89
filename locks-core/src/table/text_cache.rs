//! The texts of what is held, kept in parts.
//!
//! A write changes a few locks, of perhaps thousands. The texts of the others are as they
//! were, so they are kept, in parts of neighbouring names; only the parts in which
//! something changed are written anew.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
};

use super::{Entry, SessionId};
use crate::name::LockName;

/// How many locks a part has when it is cut off a longer one, which has at least twice as
/// many.
const CHUNK_LEN: usize = 64;

/// What has been written of a table: no part of its value, so all of these are equal.
#[derive(Clone, Debug, Default)]
pub(super) struct TextCache {
    base: Option<Base>,
    /// By the names they begin at, the first one at the least name of all; `None`: to be
    /// written anew.
    parts: BTreeMap<Box<str>, Option<Part>>,
}

/// What the texts of all locks depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// What tokens and times are counted from.
    pub(super) token: i64,
    pub(super) since: i64,
    /// In their places.
    pub(super) sessions: Vec<SessionId>,
}

/// The entries of some locks in the two columns, separated by commas.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) data: Vec<u8>,
    pub(super) meta: Vec<u8>,
}

impl PartialEq for TextCache {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for TextCache {}

impl TextCache {
    /// The lock of this name is another one now, or none.
    pub(super) fn touch(&mut self, name: &LockName) {
        let up_to = (Unbounded, Included(name.as_str()));
        if let Some((_, part)) = self.parts.range_mut::<str, _>(up_to).next_back() {
            *part = None;
        }
    }

    /// What the texts that are there depend on; nothing if there are none.
    pub(super) fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// The texts of all these locks, of which those that are missing are written by
    /// `write`.
    pub(super) fn all(
        &mut self,
        base: Base,
        held: &BTreeMap<LockName, Entry>,
        write: impl Fn(&mut Part, &LockName, &Entry),
    ) -> impl Iterator<Item = &Part> {
        if held.is_empty() {
            *self = Self::default();
        } else if self.base.as_ref() != Some(&base) {
            self.parts = BTreeMap::from([("".into(), None)]);
            self.base = Some(base);
        }
        let missing = self.parts.iter().filter(|(_, part)| part.is_none());
        let missing: Vec<_> = missing.map(|(first, _)| first.clone()).collect();
        for first in missing {
            let next = self.parts.range::<str, _>((Excluded(&*first), Unbounded));
            let next = next.map(|(next, _)| next.clone()).next();
            let end = next.as_deref().map_or(Unbounded, Excluded);
            let locks: Vec<_> = held.range::<str, _>((Included(&*first), end)).collect();
            self.parts.remove(&first);
            let cut = if locks.len() < 2 * CHUNK_LEN {
                2 * CHUNK_LEN
            } else {
                CHUNK_LEN
            };
            let mut first = Some(first);
            for locks in locks.chunks(cut) {
                let mut part = Part::default();
                for (name, entry) in locks {
                    write(&mut part, name, entry);
                }
                let first = first.take().unwrap_or_else(|| locks[0].0.as_str().into());
                self.parts.insert(first, Some(part));
            }
            // Whatever is held later has to find a part that it belongs to.
            if let Some(first) = first.filter(|first| first.is_empty()) {
                self.parts.insert(first, Some(Part::default()));
            }
        }
        self.parts.values().flatten()
    }
}
