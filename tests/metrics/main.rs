//! The metrics of the feature `metrics`, as a recorder gets them.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use locks_core::{ConflictMatrix, Expiry, LockError, LockManager, with_lock};
use locks_tests::{engine::Database, on_every_engine, relay::Relay, wait};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

const SOON: Duration = Duration::from_secs(30);
const MATRIX: ConflictMatrix =
    ConflictMatrix::new(&[("job_*", &["upgrade"]), ("job_special_*", &[])]);

on_every_engine!(
    async_alone requests_grants_and_losses_are_counted,
    async_alone deadlocks_are_counted,
    async_alone the_end_of_a_limited_grant_is_a_loss,
    async_alone writes_and_their_conflicts_are_counted,
    async_alone guards_and_requests_of_a_closed_driver_do_not_count_any_more,
);
on_every_engine!(
    servers: async_alone late_renewals_and_reconnects_are_counted,
);

/// What was recorded in this process since the test began.
struct Recorded {
    snapshotter: MutexGuard<'static, Snapshotter>,
    /// The sums of counters and gauges, and the number of values of histograms, by the name and
    /// the labels.
    sums: BTreeMap<String, f64>,
}

impl Recorded {
    fn start() -> Self {
        static SNAPSHOTTER: OnceLock<Mutex<Snapshotter>> = OnceLock::new();
        let snapshotter = SNAPSHOTTER.get_or_init(|| {
            let recorder = DebuggingRecorder::new();
            let snapshotter = recorder.snapshotter();
            recorder
                .install()
                .expect("it is the only one of this process");
            Mutex::new(snapshotter)
        });
        let snapshotter = snapshotter.lock().unwrap_or_else(PoisonError::into_inner);
        let mut this = Self {
            snapshotter,
            sums: BTreeMap::new(),
        };
        this.take();
        this.sums.clear();
        this
    }

    /// A snapshot sets all values to zero.
    fn take(&mut self) {
        for (key, _, _, value) in self.snapshotter.snapshot().into_vec() {
            let key = key.key();
            let labels = key.labels().map(|label| format!(" {}", label.value()));
            let name = format!("{}{}", key.name(), labels.collect::<String>());
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let value = match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Gauge(change) => change.into_inner(),
                DebugValue::Histogram(values) => values.len() as f64,
            };
            *self.sums.entry(name).or_default() += value;
        }
    }

    fn sum(&mut self, name: &str) -> f64 {
        self.take();
        self.sums.get(name).copied().unwrap_or_default()
    }

    #[track_caller]
    fn expect(&mut self, expected: &[(&str, f64)]) {
        self.take();
        for (name, expected) in expected {
            let sum = self.sums.get(*name).copied().unwrap_or_default();
            assert!(
                (sum - expected).abs() < 0.5,
                "{name} is {sum} and not {expected}: {:#?}",
                self.sums
            );
        }
    }

    async fn until_some(&mut self, name: &str) {
        wait::until(SOON, name, async || self.sum(name) >= 1.0).await;
    }

    async fn until(&mut self, name: &str, expected: f64) {
        wait::until(SOON, &format!("{name} is {expected}"), async || {
            (self.sum(name) - expected).abs() < 0.5
        })
        .await;
    }
}

async fn connect(url: &str, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task).matrix(MATRIX);
    builder.connect(url).await.expect("it connects")
}

async fn requests_grants_and_losses_are_counted(db: Database) {
    let mut recorded = Recorded::start();
    let (a, b) = (connect(db.url(), "a").await, connect(db.url(), "b").await);

    // Five grants, each released.
    for _ in 0..5 {
        let guard = a.acquire("job_1").await.unwrap();
        guard.release().await.unwrap();
    }
    // One grant, and three refusals and a time-out because of it.
    let guard = a.acquire("job_1").await.unwrap();
    for _ in 0..3 {
        b.acquire("job_1").await.expect_err("it is held");
    }
    let limit = Duration::from_millis(50);
    let error = b.wait("job_1").timeout(limit).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    recorded.expect(&[
        ("locks_granted_total job_*", 6.0),
        ("locks_time_to_grant_seconds job_*", 6.0),
        ("locks_time_held_seconds job_*", 5.0),
        ("locks_held job_*", 1.0),
        ("locks_refused_total job_* busy", 3.0),
        ("locks_refused_total job_* timeout", 1.0),
        ("locks_waiting job_*", 0.0),
    ]);

    // Two requests wait. One is given up, and the other one is granted.
    let given_up = tokio::spawn(b.wait("job_1"));
    let waiting = tokio::spawn(b.wait("job_1"));
    recorded.until("locks_waiting job_*", 2.0).await;
    given_up.abort();
    recorded
        .until("locks_refused_total job_* cancelled", 1.0)
        .await;
    guard.release().await.unwrap();
    let guard = waiting.await.unwrap().unwrap();
    recorded.expect(&[
        ("locks_granted_total job_*", 7.0),
        ("locks_waiting job_*", 0.0),
        ("locks_held job_*", 1.0),
    ]);
    drop(guard);

    // A request counts once for each pattern, and each name for the longest that it fits.
    let names = ["job_2", "job_3", "job_special_1", "another", "upgrade"];
    let guard = a.wait(names).await.unwrap();
    recorded.expect(&[
        ("locks_granted_total job_*", 8.0),
        ("locks_granted_total job_special_*", 1.0),
        ("locks_granted_total upgrade", 1.0),
        ("locks_granted_total other", 1.0),
        ("locks_held other", 1.0),
    ]);

    // A loss.
    b.release_task("a").await.unwrap();
    guard.lost().await;
    recorded.expect(&[
        ("locks_lost_total job_*", 1.0),
        ("locks_lost_total job_special_*", 1.0),
        ("locks_lost_total other", 1.0),
        ("locks_held job_*", 0.0),
        ("locks_held other", 0.0),
    ]);
    // The end of its guard counts no second time.
    drop(guard);
    a.close().await.unwrap();
    b.close().await.unwrap();
    recorded.expect(&[
        ("locks_lost_total job_*", 1.0),
        ("locks_time_held_seconds job_*", 8.0),
        ("locks_held job_*", 0.0),
    ]);
    let names: Vec<_> = recorded.sums.keys().cloned().collect();
    let by_name = |name: &&String| name.contains("job_1") || name.contains("another");
    assert_eq!(names.iter().find(by_name), None, "no label is a lock name");
}

#[with_lock("job_1", locks = locks)]
async fn waits_for_its_own_lock(locks: &LockManager) -> Result<(), LockError> {
    locks.wait("job_1").await.map(drop)
}

async fn deadlocks_are_counted(db: Database) {
    let mut recorded = Recorded::start();
    let locks = connect(db.url(), "a").await;
    let error = waits_for_its_own_lock(&locks).await.unwrap_err();
    assert!(error.is_deadlock(), "{error}");
    recorded.expect(&[
        ("locks_refused_total job_* deadlock", 1.0),
        ("locks_granted_total job_*", 1.0),
        ("locks_time_held_seconds job_*", 1.0),
        ("locks_waiting job_*", 0.0),
        ("locks_held job_*", 0.0),
    ]);
    locks.close().await.unwrap();
}

async fn the_end_of_a_limited_grant_is_a_loss(db: Database) {
    let mut recorded = Recorded::start();
    let locks = connect(db.url(), "a").await;
    let limit = Duration::from_millis(100);
    let guard = locks.acquire("upgrade").max_hold(limit).await.unwrap();
    guard.lost().await;
    recorded.until("locks_lost_total upgrade", 1.0).await;
    drop(guard);
    locks.close().await.unwrap();
    recorded.expect(&[
        ("locks_lost_total upgrade", 1.0),
        ("locks_time_held_seconds upgrade", 1.0),
        ("locks_held upgrade", 0.0),
    ]);
}

async fn writes_and_their_conflicts_are_counted(db: Database) {
    let mut recorded = Recorded::start();
    let (a, b) = (connect(db.url(), "a").await, connect(db.url(), "b").await);
    let guard = a.acquire("job_1").await.unwrap();
    guard.release().await.unwrap();
    let writes = recorded.sum("locks_writes_total");
    assert!(writes >= 2.0, "a grant and a release: {writes}");
    recorded.expect(&[("locks_write_conflicts_total", 0.0)]);
    // Each finds that the other one has written since it wrote.
    wait::until(SOON, "a write conflict", async || {
        for locks in [&a, &b] {
            let guard = locks.acquire("job_1").await.unwrap();
            guard.release().await.unwrap();
        }
        recorded.sum("locks_write_conflicts_total") >= 1.0
    })
    .await;
}

async fn guards_and_requests_of_a_closed_driver_do_not_count_any_more(db: Database) {
    let mut recorded = Recorded::start();
    let (a, b) = (connect(db.url(), "a").await, connect(db.url(), "b").await);
    let _guard = a.acquire("job_1").await.unwrap();
    let waiting = tokio::spawn(b.wait("job_1"));
    recorded.until("locks_waiting job_*", 1.0).await;
    b.close().await.unwrap();
    waiting.await.unwrap().expect_err("its driver has ended");
    recorded.expect(&[
        ("locks_waiting job_*", 0.0),
        ("locks_refused_total job_* closed", 1.0),
        ("locks_held job_*", 1.0),
    ]);
    a.close().await.unwrap();
    recorded.until("locks_held job_*", 0.0).await;
}

async fn late_renewals_and_reconnects_are_counted(db: Database) {
    const TTL: Duration = Duration::from_secs(6);
    let relay = Relay::start(db.server_address());
    let mut recorded = Recorded::start();
    let builder = LockManager::builder().expiry(Expiry::After(TTL));
    let locks = builder.connect(&db.url_via(relay.address())).await.unwrap();
    let guard = locks.acquire("job_1").await.unwrap();
    recorded.expect(&[
        ("locks_renewals_late_total", 0.0),
        ("locks_renewals_failed_total", 0.0),
        ("locks_reconnects_total", 0.0),
    ]);
    // The connection of the renewals is open once one of them has come.
    let beat = async || {
        let mut connection = db.connect().await;
        let rows = connection.rows("SELECT beat FROM lock_sessions").await;
        format!("{rows:?}")
    };
    let first = beat().await;
    wait::until(SOON, "a renewal", async || beat().await != first).await;
    relay.stall();
    recorded.until_some("locks_renewals_failed_total").await;
    relay.heal();
    recorded.until_some("locks_renewals_late_total").await;
    let reconnects = recorded.sum("locks_reconnects_total");
    assert!(reconnects >= 1.0, "{reconnects}");
    recorded.expect(&[("locks_lost_total other", 0.0)]);
    guard.release().await.unwrap();
    locks.close().await.unwrap();
}

/// The names in single back quotes that begin with `locks_`.
fn metrics_in(text: &str, quote: char) -> Vec<String> {
    let mut names: Vec<_> = text
        .split(quote)
        .filter(|word| word.starts_with("locks_"))
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[test]
fn the_documentation_lists_every_metric() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../locks-core/src");
    let read = |path: &str| fs::read_to_string(sources.join(path)).expect("it is there");
    let recorded = metrics_in(&read("driver/meters.rs"), '"');
    let page = read("_documentation/operations.md");
    let table = page.split("\n# Metrics\n").nth(1).expect("a section");
    let table = table.split("\n# ").next().expect("its text");
    assert_eq!(metrics_in(table, '`'), recorded);
    assert!(recorded.len() > 10);
}
