//! Scopes: which job asks, and which jobs wait for its end.
//!
//! Every `#[with_lock]` call opens one under the one it runs in. A request carries the
//! whole path, so that the lock table can tell a call that waits for what one of its
//! own callers holds from calls that merely run side by side.

use std::{
    future::Future,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::random::unique;

/// The scopes a request was made in, outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScopePath(Arc<[u64]>);

tokio::task_local! {
    static CURRENT: ScopePath;
}

/// Ids must differ between processes, which know nothing of each other: each counts
/// from a random start.
static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(unique()));

impl ScopePath {
    /// Where the caller runs; empty outside of any scope, also in a task that was
    /// spawned inside one.
    pub(crate) fn current() -> Self {
        CURRENT.try_get().unwrap_or_default()
    }

    /// A new scope inside this one.
    pub(crate) fn child(&self) -> Self {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(self.0.iter().copied().chain([id]).collect())
    }

    /// Runs `future` inside this scope.
    pub(crate) fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// Runs `work` inside this scope.
    pub(crate) fn run_blocking<R>(self, work: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(self, work)
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
    fn siblings_differ() {
        let outer = ScopePath::default().child();
        let (one, two) = (outer.child(), outer.child());
        assert_ne!(one.innermost(), two.innermost());
        assert!(!one.contains(two.innermost().unwrap()));
    }

    #[tokio::test]
    async fn a_spawned_task_is_outside() {
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
