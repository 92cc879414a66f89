//! A process that loses every race for the row: what it only needs to read is answered
//! nevertheless, and it gets its turn to write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use locks_core::{Blocker, LockError, LockGuard, LockManager};
use locks_tests::{
    engine::Database,
    on_every_engine,
    relay::{How, Relay, When},
    row::wait_until_empty,
};
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(10);
const NAME: &str = "app_task_1";

on_every_engine!(servers:
    async refused_acquire_is_busy_under_contention,
    async refused_wait_times_out_under_contention,
    async request_is_granted_under_contention,
    async client_that_stops_with_the_row_lock_does_not_block_others,
    async new_tasks_get_their_sessions_while_the_row_is_contended,
);

/// Fields are dropped in this order.
struct Race {
    /// The writes of this manager are slow.
    slow: LockManager,
    other: LockManager,
    /// A manager that writes all the time, and the number of its writes.
    writing: JoinHandle<()>,
    writes: Arc<AtomicU64>,
    relay: Relay,
    db: Database,
}

impl Race {
    async fn start(db: Database) -> (Self, LockGuard) {
        let relay = Relay::start(db.server_address());
        let slow = connect(&db.url_via(relay.address()), "slow").await;
        let other = connect(db.url(), "other").await;
        // Its session is created before the race.
        let guard = slow.acquire("other").await.expect("it is free");
        guard.release().await.expect("it is held");
        let held = other.acquire(NAME).await.expect("it is free");
        delay_writes(&relay);
        let mut conn = db.connect().await;
        let writes = Arc::new(AtomicU64::new(0));
        let counted = writes.clone();
        let writing = tokio::spawn(async move {
            let write = "UPDATE locks SET version = version + 1";
            // Until a failed test drops the database.
            while conn.execute(write).await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let race = Self {
            slow,
            other,
            writing,
            writes,
            relay,
            db,
        };
        (race, held)
    }

    fn is_over(&self) {
        self.writing.abort();
        self.relay.disarm();
    }

    async fn finish(self, held: LockGuard) {
        self.is_over();
        held.release().await.expect("it is held");
        wait_until_empty(&self.db, "platform", SOON).await;
    }
}

fn delay_writes(relay: &Relay) {
    for _ in 0..1000 {
        let pause = How::Delay(Duration::from_millis(50));
        relay.arm(When::Containing(NAME.into()), pause);
    }
}

async fn connect(url: &str, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(url).await.expect("it connects")
}

fn assert_by_other(blocked_by: &[Blocker]) {
    assert!(
        matches!(blocked_by, [Blocker::Holder(h)] if &*h.task_id == "other" && h.name == NAME),
        "{blocked_by:?}"
    );
}

async fn refused_acquire_is_busy_under_contention(db: Database) {
    let (race, held) = Race::start(db).await;
    match race.slow.acquire(NAME).await.expect_err("it is held") {
        LockError::Busy { blocked_by, .. } => assert_by_other(&blocked_by),
        error => panic!("it is only busy: {error:?}"),
    }
    race.finish(held).await;
}

async fn refused_wait_times_out_under_contention(db: Database) {
    let (race, held) = Race::start(db).await;
    let limit = Duration::from_secs(1);
    let waited = race.slow.wait(NAME).timeout(limit).await;
    match waited.expect_err("it is held") {
        LockError::Timeout { blocked_by, .. } => assert_by_other(&blocked_by),
        error => panic!("it was seen refused until the end: {error:?}"),
    }
    race.finish(held).await;
}

async fn request_is_granted_under_contention(db: Database) {
    let (race, held) = Race::start(db).await;
    let token = held.token();
    held.release().await.expect("it is held");
    let before = race.writes.load(Ordering::Relaxed);
    let guard = race.slow.acquire(NAME).await.expect("it is free");
    assert!(race.relay.counters().delayed > 0, "there was no race");
    assert!(race.writes.load(Ordering::Relaxed) > before, "it was alone");
    assert!(guard.token() > token);
    let refused = race.other.acquire(NAME).await;
    assert!(refused.is_err_and(|error| error.is_busy()));
    race.finish(guard).await;
}

/// The server ends a client that stops while it has the row's lock.
async fn client_that_stops_with_the_row_lock_does_not_block_others(db: Database) {
    // In place of the table of submissions, so that no turns are taken.
    db.execute("CREATE VIEW lock_requests AS SELECT 1 AS n")
        .await;
    let (race, held) = Race::start(db).await;
    held.release().await.expect("it is held");
    // From here on the manager uses the row lock, until it happens to write twice in a row.
    let asking = 'locked: {
        for _ in 0..10 {
            let guard = race.slow.acquire(NAME).await.expect("it is free");
            guard.release().await.expect("it is held");
            race.relay.disarm();
            race.relay.arm(When::Containing(NAME.into()), How::Stall);
            let before = race.relay.counters().stalled;
            let asking = tokio::spawn(race.slow.acquire(NAME));
            let what = "a write that does not come";
            race.relay
                .wait_for(SOON, what, |seen| seen.stalled > before)
                .await;
            let writes = || race.writes.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
            let stopped = writes();
            tokio::time::sleep(Duration::from_millis(300)).await;
            if writes() <= stopped + 1 {
                break 'locked asking;
            }
            race.relay.heal();
            let guard = asking.await.expect("no panic").expect("it is free");
            guard.release().await.expect("it is held");
            delay_writes(&race.relay);
        }
        panic!("it never had the lock");
    };
    let start = Instant::now();
    let other = race.other.acquire("other").await.expect("it is free");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    other.release().await.expect("it is held");
    race.relay.heal();
    let guard = asking.await.expect("no panic").expect("it is free");
    race.finish(guard).await;
}

/// Each job is a task of its own. Some requests therefore always lack a session while others have
/// theirs, and the row lock passes between the managers.
async fn new_tasks_get_their_sessions_while_the_row_is_contended(db: Database) {
    const MANAGERS: usize = 3;
    const WORKERS: usize = 4;
    const JOBS: usize = 40;
    let mut workers = tokio::task::JoinSet::new();
    for m in 0..MANAGERS {
        let manager = connect(db.url(), &format!("manager_{m}")).await;
        for w in 0..WORKERS {
            let manager = manager.clone();
            workers.spawn(async move {
                for n in 0..JOBS {
                    let task = manager.with_task_id(&format!("job_{m}_{w}_{n}"));
                    let task = task.expect("a task id");
                    let guard = task.acquire(format!("app_task_{m}_{w}")).await;
                    let guard = guard.expect("no other task wants it");
                    guard.release().await.expect("it is held");
                }
            });
        }
    }
    let done = tokio::time::timeout(Duration::from_mins(1), workers.join_all()).await;
    assert!(done.is_ok(), "jobs are left after a minute");
}
