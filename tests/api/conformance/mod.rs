//! One suite for all engines: the public interface does what its documentation says.

mod blocking;
mod events;
mod grants;
mod handles;
mod releases;
mod waits;

use std::{fmt::Debug, time::Duration};

use locks_core::{Blocker, Holder, LockError, LockManager};
use locks_tests::{engine::Database, row::LocksRow};

/// The limit for what happens without delay, also on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A manager for this task.
async fn task(db: &Database, id: &str) -> LockManager {
    let builder = LockManager::builder().task_id(id);
    builder.connect(db.url()).await.expect("it connects")
}

/// The row of the default namespace.
async fn row(db: &Database) -> LocksRow {
    let row = LocksRow::read(db, "platform").await;
    row.expect("the row was used")
}

/// Lock names and task ids in the row, read with plain SQL.
async fn held(db: &Database) -> Vec<(String, String)> {
    let row = LocksRow::read(db, "platform").await;
    row.map(|row| row.held().into_iter().collect())
        .unwrap_or_default()
}

/// The expected pairs, in the form of [`held`].
fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, task): &(&str, &str)| ((*name).to_owned(), (*task).to_owned());
    expected.iter().map(owned).collect()
}

/// The result of a future that completes soon.
async fn soon<T>(future: impl IntoFuture<Output = T>) -> T {
    let answer = tokio::time::timeout(SOON, future).await;
    answer.expect("an answer")
}

/// The blockers of a refused request, which fails without waiting.
fn blockers<T: Debug>(refused: locks_core::Result<T>) -> Vec<Blocker> {
    match refused.expect_err("it is refused") {
        LockError::Busy { blocked_by, .. } => blocked_by,
        error => panic!("{error:?}"),
    }
}

/// The holders among the blockers; there are no other blockers.
fn holders<T: Debug>(refused: locks_core::Result<T>) -> Vec<Holder> {
    let holder = |blocker| match blocker {
        Blocker::Holder(holder) => holder,
        other => panic!("{other:?}"),
    };
    blockers(refused).into_iter().map(holder).collect()
}

/// Lock names and task ids, sorted.
fn names(holders: &[Holder]) -> Vec<(&str, &str)> {
    let mut names: Vec<_> = holders
        .iter()
        .map(|h| (h.name.as_str(), &*h.task_id))
        .collect();
    names.sort_unstable();
    names
}
