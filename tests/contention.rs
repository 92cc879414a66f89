//! A process that loses every race for the row: what it only has to read, it knows all the same.

use std::time::Duration;

use locks_core::{Blocker, LockError, LockGuard, LockManager};
use locks_tests::{
    engine::{Database, Engine},
    on_every_engine,
    relay::{How, Relay, When},
    row::wait_until_empty,
};
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(10);
const NAME: &str = "app_task_1";

on_every_engine!(servers:
    async a_refused_acquire_is_busy,
    async a_refused_wait_times_out,
    async a_grant_comes_when_the_race_is_over,
);

/// In the order in which they have to go.
struct Race {
    /// Its writes are slow.
    slow: LockManager,
    other: LockManager,
    /// Somebody who writes all the time.
    writing: JoinHandle<()>,
    relay: Relay,
    db: Database,
}

impl Race {
    async fn start(db: Database) -> (Self, LockGuard) {
        let relay = Relay::start(db.server_address());
        let slow = connect(&db.url_via(relay.address()), "slow").await;
        let other = connect(db.url(), "other").await;
        // Its session is there before.
        let guard = slow.acquire("other").await.expect("nobody holds it");
        guard.release().await.expect("it is held");
        let held = other.acquire(NAME).await.expect("nobody holds it");
        for _ in 0..1000 {
            let pause = How::Delay(Duration::from_millis(50));
            relay.arm(When::Containing(NAME.into()), pause);
        }
        let mut conn = db.connect().await;
        let writing = tokio::spawn(async move {
            let write = "UPDATE locks SET version = version + 1";
            // Until the database goes with a test that failed.
            while conn.execute(write).await.is_ok() {}
        });
        let race = Self {
            slow,
            other,
            writing,
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

async fn a_refused_acquire_is_busy(db: Database) {
    let (race, held) = Race::start(db).await;
    match race.slow.acquire(NAME).await.expect_err("it is held") {
        LockError::Busy { blocked_by, .. } => assert_by_other(&blocked_by),
        error => panic!("it is only busy: {error:?}"),
    }
    race.finish(held).await;
}

async fn a_refused_wait_times_out(db: Database) {
    let (race, held) = Race::start(db).await;
    let limit = Duration::from_secs(1);
    let waited = race.slow.wait(NAME).timeout(limit).await;
    match waited.expect_err("it is held") {
        LockError::Timeout { blocked_by, .. } => assert_by_other(&blocked_by),
        error => panic!("it was seen refused until the end: {error:?}"),
    }
    race.finish(held).await;
}

async fn a_grant_comes_when_the_race_is_over(db: Database) {
    let (race, held) = Race::start(db).await;
    let token = held.token();
    held.release().await.expect("it is held");
    let asking = tokio::spawn(race.slow.acquire(NAME));
    // Where the row's lock can be had in turn, the race need not be over.
    if race.db.engine() == Engine::MySql {
        let what = "some lost races";
        race.relay
            .wait_for(SOON, what, |seen| seen.delayed >= 5)
            .await;
        assert!(!asking.is_finished());
        race.is_over();
    }
    let guard = tokio::time::timeout(SOON, asking).await.expect("in time");
    let guard = guard.expect("no panic").expect("nobody holds it");
    assert!(guard.token() > token);
    let refused = race.other.acquire(NAME).await;
    assert!(refused.is_err_and(|error| error.is_busy()));
    race.finish(guard).await;
}
