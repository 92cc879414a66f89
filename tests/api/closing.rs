//! What remains after `close`, and after the drop of a manager's last handle.

use std::{
    fs,
    time::{Duration, Instant},
};

use locks_core::{Expiry, LockManager};
use locks_tests::{
    engine::{Database, Engine, note},
    journal::{Journal, Tx},
    on_engine, on_every_engine,
    relay::Relay,
    sessions::{Session, fences},
    wait,
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(20);
/// Longer than a renewal, shorter than a test.
const TTL: Duration = Duration::from_secs(1);
/// During a test nothing is renewed, and no session is idle for long enough to end.
const LONG: Duration = Duration::from_mins(10);
const SESSIONS: usize = 2_000;
/// The latency from the process to the server, one way, while the sessions are closed. One
/// statement per session would take longer than `close` may.
const LATENCY: Duration = Duration::from_millis(3);

on_every_engine!(
    async close_reports_a_lock_that_an_open_fenced_transaction_keeps,
    async close_deletes_two_thousand_sessions_or_reports_an_error,
    async driver_ends_after_its_detached_lock_was_released,
    async driver_ends_after_its_detached_lock_was_taken_away,
    async driver_ends_if_its_detached_lock_was_taken_away_before_the_drop,
);

async fn connect(url: &str, task: &str, ttl: Duration) -> LockManager {
    let builder = LockManager::builder()
        .task_id(task)
        .expiry(Expiry::After(ttl));
    builder.connect(url).await.expect("it connects")
}

async fn close_reports_a_lock_that_an_open_fenced_transaction_keeps(db: Database) {
    let locks = connect(db.url(), "holder", 3 * TTL).await;
    let guard = locks.acquire("kept").await.expect("it is free");
    let journal = Journal::open(db.url()).await;
    let mut tx = journal.begin_entry("open").await.expect("it begins");
    on_engine!(Tx, &mut tx, tx => guard.fence(tx).await).expect("it is held");
    let closed = tokio::time::timeout(2 * SOON, locks.close()).await;
    let closed = closed.expect("close() returns although the transaction is open");
    let left = Session::of(&db, "holder").await;
    let Err(error) = closed else {
        panic!("close() answered Ok, and this was left: {left:?}");
    };
    let text = error.to_string();
    assert!(
        text.contains("kept"),
        "the error does not name the lock: {text}"
    );
    assert!(guard.is_lost(), "a guard outlives its manager");
    // The transaction was fenced in time, so its commit is allowed.
    on_engine!(Tx, tx, tx => tx.commit().await).expect("it is not forbidden");
    // The lock becomes free when the session has expired.
    let next = connect(db.url(), "next", TTL).await;
    let next = next.wait("kept").timeout(SOON).await;
    drop(next.expect("the lock is free once the transaction has ended"));
}

async fn close_deletes_two_thousand_sessions_or_reports_an_error(db: Database) {
    let (connections, url) = Connections::of(&db);
    let locks = connect(&url, "main", LONG).await;
    let start = Instant::now();
    let mut requests = JoinSet::new();
    for n in 0..SESSIONS {
        let task = locks.with_task_id(&format!("task-{n}")).expect("an id");
        let request = task.wait(format!("name-{n}"));
        requests.spawn(async move { request.await.expect("the name is free") });
    }
    let guards = requests.join_all().await;
    let acquired = start.elapsed();
    assert_eq!(guards.len(), SESSIONS);
    if let Connections::Relay(relay) = &connections {
        relay.set_latency(LATENCY);
    }
    let start = Instant::now();
    let closed = locks.close().await;
    let took = start.elapsed();
    let (sessions, fences) = (Session::all(&db).await.len(), fences(&db).await.len());
    note(&format!(
        "{}: {SESSIONS} sessions opened in {acquired:?}, closed in {took:?} ({closed:?}), \
         {sessions} session rows and {fences} fence rows left",
        db.engine()
    ));
    match closed {
        Ok(()) => assert_eq!(
            (sessions, fences),
            (0, 0),
            "close() answered Ok, and rows were left"
        ),
        Err(_) => assert_ne!((sessions, fences), (0, 0), "nothing was left"),
    }
    drop(guards);
}

/// The library's connections to the test's database.
enum Connections {
    /// The open file descriptors of this process.
    File(String),
    Relay(Relay),
}

impl Connections {
    fn of(db: &Database) -> (Self, String) {
        if db.engine() == Engine::Sqlite {
            let path = db.url().trim_start_matches("sqlite://");
            let path = path.split('?').next().expect("a path");
            return (Self::File(path.to_owned()), db.url().to_owned());
        }
        let relay = Relay::start(db.server_address());
        let url = db.url_via(relay.address());
        (Self::Relay(relay), url)
    }

    fn open(&self) -> u64 {
        match self {
            Self::File(path) => {
                let open = fs::read_dir("/proc/self/fd").expect("our own");
                let open = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
                let ours = open.filter(|target| target.to_string_lossy().starts_with(path));
                u64::try_from(ours.count()).expect("few")
            }
            Self::Relay(relay) => relay.counters().open,
        }
    }

    /// Waits until the driver has ended and none of its connections is open.
    async fn wait_until_gone(&self) {
        wait::until(SOON, "the driver's connections are closed", async || {
            self.open() == 0
        })
        .await;
    }
}

/// A manager with a detached lock, and its connections.
async fn detached(db: &Database) -> (LockManager, Connections) {
    let (connections, url) = Connections::of(db);
    let locks = connect(&url, "owner", TTL).await;
    locks.acquire("x").await.expect("it is free").detach();
    assert!(connections.open() > 0);
    (locks, connections)
}

async fn take_all_away(db: &Database) {
    // On SQLite, two drivers in one process may not see each other's writes at once.
    let supervisor = connect(db.url(), "supervisor", TTL).await;
    let taken = supervisor.release_all().await.expect("it is done");
    assert_eq!(taken.len(), 1, "{taken:?}");
    supervisor.close().await.expect("it closes");
}

/// The simple case. It also shows that the test counts the connections of a driver.
async fn driver_ends_after_its_detached_lock_was_released(db: Database) {
    let (locks, connections) = detached(&db).await;
    locks.release("x").await.expect("it is detached");
    assert!(connections.open() > 0);
    drop(locks);
    connections.wait_until_gone().await;
}

async fn driver_ends_after_its_detached_lock_was_taken_away(db: Database) {
    let (locks, connections) = detached(&db).await;
    drop(locks);
    // The lock is held until its process ends.
    for _ in 0..3 {
        Session::next_beat(&db, "owner", SOON).await;
    }
    take_all_away(&db).await;
    connections.wait_until_gone().await;
}

async fn driver_ends_if_its_detached_lock_was_taken_away_before_the_drop(db: Database) {
    let (locks, connections) = detached(&db).await;
    take_all_away(&db).await;
    drop(locks);
    connections.wait_until_gone().await;
}
