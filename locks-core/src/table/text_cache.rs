//! A cache of the JSON texts of the held locks.
//!
//! A write changes a few locks out of perhaps thousands. The cache keeps the texts in chunks
//! of neighbouring names, and only the chunks with a changed lock are serialised again.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
};

use super::{Holders, SessionId};
use crate::name::LockName;

/// The number of locks in a chunk after a split. A chunk is split when it has at least
/// twice as many.
const CHUNK_LEN: usize = 64;

/// The cache. It is no part of a table's value, so all caches are equal.
#[derive(Clone, Debug, Default)]
pub(super) struct TextCache {
    base: Option<Base>,
    /// The chunks by the first name of their range. The first range starts at the empty
    /// name. `None`: the chunk has to be serialised again.
    chunks: BTreeMap<Box<str>, Option<Chunk>>,
}

/// The values on which the texts of all locks depend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// Tokens and tickets are relative to this one.
    pub(super) token: i64,
    /// Times are relative to this one.
    pub(super) since: i64,
    /// A session is written as its index in this list.
    pub(super) sessions: Vec<SessionId>,
}

/// The entries of neighbouring locks in the two columns, separated by commas.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunk {
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
    /// Marks the chunk of this name as changed.
    pub(super) fn invalidate(&mut self, name: &LockName) {
        let up_to = (Unbounded, Included(name.as_str()));
        if let Some((_, chunk)) = self.chunks.range_mut::<str, _>(up_to).next_back() {
            *chunk = None;
        }
    }

    /// The base of the cached texts; `None` if the cache is empty.
    pub(super) fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// The texts of all locks in `held`. Chunks that are missing or depend on another base
    /// are serialised by `write`.
    pub(super) fn chunks(
        &mut self,
        base: Base,
        held: &BTreeMap<LockName, Holders>,
        write: impl Fn(&mut Chunk, &LockName, &Holders),
    ) -> impl Iterator<Item = &Chunk> {
        if held.is_empty() {
            *self = Self::default();
        } else if self.base.as_ref() != Some(&base) {
            self.chunks = BTreeMap::from([("".into(), None)]);
            self.base = Some(base);
        }
        let missing = self.chunks.iter().filter(|(_, chunk)| chunk.is_none());
        let missing: Vec<_> = missing.map(|(first, _)| first.clone()).collect();
        for first in missing {
            let next = self.chunks.range::<str, _>((Excluded(&*first), Unbounded));
            let next = next.map(|(next, _)| next.clone()).next();
            let end = next.as_deref().map_or(Unbounded, Excluded);
            let locks: Vec<_> = held.range::<str, _>((Included(&*first), end)).collect();
            self.chunks.remove(&first);
            let len = if locks.len() < 2 * CHUNK_LEN {
                2 * CHUNK_LEN
            } else {
                CHUNK_LEN
            };
            let mut first = Some(first);
            for locks in locks.chunks(len) {
                let mut chunk = Chunk::default();
                for (name, holders) in locks {
                    write(&mut chunk, name, holders);
                }
                let first = first.take().unwrap_or_else(|| locks[0].0.as_str().into());
                self.chunks.insert(first, Some(chunk));
            }
            // A lock that is granted later must find a chunk for its name.
            if let Some(first) = first.filter(|first| first.is_empty()) {
                self.chunks.insert(first, Some(Chunk::default()));
            }
        }
        self.chunks.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::table::Entry;

    fn locks(count: usize) -> BTreeMap<LockName, Holders> {
        let lock = |number: usize| {
            let entry = Entry {
                task: "t".into(),
                grant: None,
            };
            (name(number), Holders::new(entry))
        };
        (0..count).map(lock).collect()
    }

    fn name(number: usize) -> LockName {
        LockName::found(format!("n{number:05}").into())
    }

    fn base(token: i64) -> Base {
        Base {
            token,
            since: 0,
            sessions: Vec::new(),
        }
    }

    /// The number of locks in each chunk, and how many of them were serialised.
    fn lens(
        cache: &mut TextCache,
        base: Base,
        held: &BTreeMap<LockName, Holders>,
    ) -> (Vec<usize>, usize) {
        let written = Cell::new(0);
        let write = |chunk: &mut Chunk, _: &LockName, _: &Holders| {
            written.set(written.get() + 1);
            chunk.data.push(b'.');
        };
        let lens = cache.chunks(base, held, write);
        let lens = lens.map(|chunk| chunk.data.len()).collect();
        (lens, written.get())
    }

    #[test]
    fn chunk_is_split_when_it_has_twice_the_length() {
        for (count, expected) in [
            (1, vec![1]),
            (CHUNK_LEN, vec![CHUNK_LEN]),
            (2 * CHUNK_LEN - 1, vec![2 * CHUNK_LEN - 1]),
            (2 * CHUNK_LEN, vec![CHUNK_LEN; 2]),
            (2 * CHUNK_LEN + 1, vec![CHUNK_LEN, CHUNK_LEN, 1]),
        ] {
            let (lens, written) = lens(&mut TextCache::default(), base(0), &locks(count));
            assert_eq!((lens, written), (expected, count));
        }
    }

    #[test]
    fn only_chunks_with_a_changed_lock_are_serialised_again() {
        let mut cache = TextCache::default();
        let mut held = locks(3 * CHUNK_LEN);
        assert_eq!(lens(&mut cache, base(0), &held).1, 3 * CHUNK_LEN);
        assert_eq!(lens(&mut cache, base(0), &held).1, 0);
        assert_eq!(cache.base(), Some(&base(0)));

        // The first lock of the second chunk.
        cache.invalidate(&name(CHUNK_LEN));
        let expected = (vec![CHUNK_LEN; 3], CHUNK_LEN);
        assert_eq!(lens(&mut cache, base(0), &held), expected);

        // The last chunk gets so many locks that it is split.
        for number in 3 * CHUNK_LEN..4 * CHUNK_LEN {
            held.extend(locks(number + 1).pop_last());
            cache.invalidate(&name(number));
        }
        let expected = (vec![CHUNK_LEN; 4], 2 * CHUNK_LEN);
        assert_eq!(lens(&mut cache, base(0), &held), expected);

        // The first chunk becomes empty, and a lower name is added.
        for number in 0..CHUNK_LEN {
            held.remove(&name(number));
            cache.invalidate(&name(number));
        }
        assert_eq!(lens(&mut cache, base(0), &held).1, 0);
        held.extend(locks(1));
        cache.invalidate(&name(0));
        assert_eq!(lens(&mut cache, base(0), &held).1, 1);
    }

    #[test]
    fn another_base_and_an_empty_table_empty_the_cache() {
        let mut cache = TextCache::default();
        let held = locks(2 * CHUNK_LEN);
        lens(&mut cache, base(0), &held);
        assert_eq!(lens(&mut cache, base(1), &held).1, 2 * CHUNK_LEN);
        assert_eq!(cache.base(), Some(&base(1)));
        assert_eq!(lens(&mut cache, base(1), &BTreeMap::new()).0, [0; 0]);
        assert_eq!(cache.base(), None);
    }
}
