//! A row shared by the original and this library, and the steps of a trace.

use std::{collections::BTreeMap, time::Duration};

use locks_core::{Blocker, LockError, LockGuard, LockManager, Result};
use locks_tests::{
    engine::{Database, Engine, run_async},
    original::Original,
    relay::{How, Relay, When},
    row::{LocksRow, wait_until_empty},
};
use tokio::task::JoinHandle;

/// A pending request.
pub(crate) type Asking = JoinHandle<Result<LockGuard>>;

pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Longer than a statement may take, including a new connection and the settling of a write.
pub(crate) const SETTLED: Duration = Duration::from_mins(1);

/// The lock that both request.
pub(crate) const NAME: &str = "app_task_77";

/// Fields are dropped in this order: pending statements are flushed through the relay.
pub(crate) struct Scene {
    pub(crate) ours: LockManager,
    pub(crate) relay: Relay,
    pub(crate) theirs: Original,
    /// The tokens of the lock [`NAME`], in the order of the grants.
    tokens: Vec<i64>,
    pub(crate) db: Database,
}

impl Scene {
    /// Both are connected, and this library has adopted the row.
    pub(crate) async fn set(db: Database) -> Self {
        let mut theirs = Original::connect(db.url(), "foreign")
            .await
            .expect("it connects");
        theirs.create_table().await.expect("an empty database");
        let relay = Relay::start(db.server_address());
        let ours = connect(&db.url_via(relay.address()), "ours").await;
        let mut scene = Self {
            ours,
            relay,
            theirs,
            tokens: Vec::new(),
            db,
        };
        scene.take_and_give_back().await;
        scene
    }

    pub(crate) async fn take_and_give_back(&mut self) {
        let guard = self.ours.acquire(NAME).await.expect("nothing is held");
        self.granted(guard.token());
        guard.release().await.expect("it is held");
    }

    /// Notes a grant of the lock, whose token must be larger than all earlier ones.
    pub(crate) fn granted(&mut self, token: i64) {
        assert!(self.tokens.iter().all(|old| *old < token), "{token}");
        self.tokens.push(token);
    }

    /// Arms the relay for the next write that contains the lock's name.
    pub(crate) fn arm(&self, how: How) {
        self.relay
            .arm(When::Containing(NAME.as_bytes().to_vec()), how);
    }

    /// Requests the lock, and returns when the write is stalled.
    pub(crate) async fn ask_and_stall(&self) -> Asking {
        let stalled = self.relay.counters().stalled;
        let asking = tokio::spawn(self.ours.acquire(NAME));
        let what = "a write that is kept back";
        self.relay
            .wait_for(SOON, what, |seen| seen.stalled == stalled + 1)
            .await;
        asking
    }

    /// Delivers what was kept of a connection that this library has given up, and waits until it
    /// has landed.
    pub(crate) async fn land_late(&self) {
        let open = self.relay.counters().open;
        self.relay.heal();
        let what = "that the late write has landed";
        self.relay
            .wait_for(SOON, what, |seen| seen.open < open)
            .await;
    }

    pub(crate) async fn row(&self) -> LocksRow {
        LocksRow::read(&self.db, "platform")
            .await
            .expect("it is there")
    }

    /// Lock names and task ids in the row.
    pub(crate) async fn held(&self) -> BTreeMap<String, String> {
        self.row().await.held()
    }

    pub(crate) async fn assert_held(&self, expected: &[(&str, &str)]) {
        let expected = expected.iter().map(|(n, t)| (n.to_string(), t.to_string()));
        assert_eq!(self.held().await, expected.collect());
    }

    /// The original holds the lock, after everything that this library still had to do. It releases
    /// the lock; then both work as before, and tokens have grown.
    pub(crate) async fn assert_lock_is_theirs(mut self) {
        self.assert_held(&[(NAME, "foreign")]).await;
        let error = self.ours.acquire(NAME).await.expect_err("it is theirs");
        assert_theirs(&error);
        // Also when this library has written something else.
        let other = self.ours.acquire("other").await.expect("it is free");
        self.assert_held(&[(NAME, "foreign"), ("other", "ours")])
            .await;
        other.release().await.expect("it is held");
        self.theirs.release(NAME).await.expect("it holds it");
        self.assert_both_work().await;
    }

    pub(crate) async fn assert_both_work(mut self) {
        wait_until_empty(&self.db, "platform", SOON).await;
        self.take_and_give_back().await;
        let refused = self.theirs.acquire(NAME).await;
        assert!(refused.is_ok(), "{refused:?}");
        self.theirs.release(NAME).await.expect("it holds it");
        self.take_and_give_back().await;
        wait_until_empty(&self.db, "platform", SOON).await;
    }
}

pub(crate) async fn connect(url: &str, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(url).await.expect("it connects")
}

pub(crate) fn assert_theirs(error: &LockError) {
    let LockError::Busy { blocked_by, .. } = error else {
        panic!("{error}");
    };
    assert!(
        matches!(&blocked_by[..], [Blocker::Holder(h)] if &*h.task_id == "foreign"),
        "{error}"
    );
}

pub(crate) fn trace<F: Future<Output = ()>>(steps: impl FnOnce(Scene) -> F) {
    run_async(Engine::MySql, async |db| steps(Scene::set(db).await).await);
}
