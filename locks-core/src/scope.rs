//! Scopes: one per running `#[with_lock]` call.
//!
//! A call opens its scope inside the scope that it was made in. A request carries the path
//! of scopes from the outermost to its own. The lock table compares paths: it thereby tells
//! a call that waits for a lock of its own caller from calls that only run at one time.

use std::{future::Future, sync::Arc};

use crate::random::unique;

/// The ids of the scopes in which a request was made, outermost first. It is empty for a
/// request outside any scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScopePath(Arc<[u64]>);

tokio::task_local! {
    static CURRENT: ScopePath;
}

impl ScopePath {
    /// The path of the running task. A spawned task starts outside any scope.
    pub(crate) fn current() -> Self {
        CURRENT.try_get().unwrap_or_default()
    }

    /// The path of a new scope inside this one.
    pub(crate) fn child(&self) -> Self {
        // The ids of all processes differ. A counter would go on equally in a forked child.
        let id = unique();
        Self(self.0.iter().copied().chain([id]).collect())
    }

    /// Runs `future` in this scope.
    pub(crate) fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// Runs `work` in this scope.
    pub(crate) fn run_blocking<R>(self, work: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(self, work)
    }

    /// The ids, outermost first.
    pub(crate) fn ids(&self) -> &[u64] {
        &self.0
    }

    /// Whether the request was made outside any scope.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `scope` is this scope or encloses it.
    pub(crate) fn contains(&self, scope: u64) -> bool {
        self.0.contains(&scope)
    }

    /// The scope of the call that made the request.
    pub(crate) fn innermost(&self) -> Option<u64> {
        self.0.last().copied()
    }
}

impl From<Vec<u64>> for ScopePath {
    fn from(ids: Vec<u64>) -> Self {
        Self(ids.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_nest_and_end() {
        assert!(ScopePath::current().is_empty());
        let outer = ScopePath::current().child();
        outer.clone().run_blocking(|| {
            assert_eq!(ScopePath::current(), outer);
            let inner = ScopePath::current().child();
            assert_eq!(inner.ids()[..1], outer.ids()[..]);
            inner
                .clone()
                .run_blocking(|| assert_eq!(ScopePath::current(), inner));
            assert_eq!(ScopePath::current(), outer);
        });
        assert!(ScopePath::current().is_empty());
    }

    #[test]
    fn scopes_with_one_parent_differ() {
        let outer = ScopePath::default().child();
        let (one, two) = (outer.child(), outer.child());
        let [one_id, two_id] = [&one, &two].map(|path| path.innermost().unwrap());
        assert!(one_id.abs_diff(two_id) > 1, "they are counted");
        assert!(!one.contains(two.innermost().unwrap()));
    }

    #[tokio::test]
    async fn spawned_task_is_outside_the_scope() {
        let scope = ScopePath::default().child();
        scope
            .run(async {
                tokio::task::yield_now().await;
                assert!(!ScopePath::current().is_empty());
                let spawned = tokio::spawn(async { ScopePath::current() });
                assert!(spawned.await.unwrap().is_empty());
            })
            .await;
    }
}
