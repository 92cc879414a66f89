//! Scopes: which job asks.

use std::sync::Arc;

/// The scopes a request was made in, outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScopePath(Arc<[u64]>);

impl ScopePath {
    pub(crate) fn current() -> Self {
        Self::default()
    }
    pub(crate) fn ids(&self) -> &[u64] {
        &self.0
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub(crate) fn contains(&self, scope: u64) -> bool {
        self.0.contains(&scope)
    }
    pub(crate) fn innermost(&self) -> Option<u64> {
        self.0.last().copied()
    }
}

impl From<Vec<u64>> for ScopePath {
    fn from(ids: Vec<u64>) -> Self {
        Self(ids.into())
    }
}
