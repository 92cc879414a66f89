//! Writes whose answer never came: through a relay that loses them, nobody loses a lock, and
//! nobody holds what they were told they do not.

use std::{
    sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use locks_core::{Expiry, LockError, LockGuard, LockManager};
use locks_tests::{
    engine::Database,
    on_every_engine,
    relay::{How, Relay, When},
    row::{LocksRow, wait_until_empty},
    wait,
};

/// Cuts in a run, over all four workers.
const CUTS: u64 = 200;
/// How long what is in doubt may stay there when the connections are good.
const SETTLED: Duration = Duration::from_secs(10);
/// The same while a connection is silent: a statement has to have had its time.
const GIVEN_UP: Duration = Duration::from_secs(30);

on_every_engine!(
    servers:
    async two_hundred_cuts_are_settled,
    async a_grant_that_lands_late_changes_nothing,
    async a_grant_without_an_answer_is_found,
    async a_release_that_lands_late_frees_nobody_elses,
    async a_release_without_an_answer_is_done,
    async a_caller_who_left_before_the_answer_holds_nothing,
    async a_hole_that_swallows_everything_is_told_and_left_behind,
);

/// A relay to the database, and a manager behind it that time does not evict.
async fn behind_relay(db: &Database, task: &str) -> (Relay, LockManager) {
    let relay = Relay::start(db.server_address());
    let locks = LockManager::builder()
        .task_id(task)
        .expiry(Expiry::After(Duration::from_secs(120)))
        .connect(&db.url_via(relay.address()))
        .await
        .expect("nothing is cut yet");
    (relay, locks)
}

async fn direct(db: &Database) -> LockManager {
    let builder = LockManager::builder().task_id("watcher");
    builder.connect(db.url()).await.expect("it is not cut off")
}

async fn holder_of(db: &Database, name: &str) -> Option<String> {
    let row = LocksRow::read(db, "platform").await?;
    row.held().get(name).cloned()
}

async fn wait_until_free(db: &Database, name: &str, limit: Duration) {
    let what = format!("{name} is free");
    wait::until(limit, &what, async || holder_of(db, name).await.is_none()).await;
}

/// The next write of the row, whatever it is for: it names the stamp that it replaces.
async fn next_write(db: &Database) -> When {
    let row = LocksRow::read(db, "platform").await.expect("it was used");
    When::Containing(row.stamp.expect("it is ours").into_bytes())
}

/// What all workers know of the lock they all want.
#[derive(Debug, Default)]
struct Contested {
    inside: AtomicUsize,
    token: AtomicI64,
}

struct Worker<'t> {
    db: &'t Database,
    relay: Relay,
    locks: LockManager,
    watcher: &'t LockManager,
    contested: &'t Contested,
}

async fn two_hundred_cuts_are_settled(db: Database) {
    let contested = Contested::default();
    let watcher = direct(&db).await;
    let worker = async |number: u64| {
        let (relay, locks) = behind_relay(&db, &format!("worker_{number}")).await;
        let worker = Worker {
            db: &db,
            relay,
            locks,
            watcher: &watcher,
            contested: &contested,
        };
        worker.suffer(CUTS / 4).await
    };
    let failed = tokio::join!(worker(0), worker(1), worker(2), worker(3));
    println!("so many were told that it failed: {failed:?}");
    wait_until_empty(&db, "platform", SETTLED).await;
}

impl Worker<'_> {
    /// Takes and returns locks until so many connections were cut meanwhile; says how often it
    /// was told that this failed.
    async fn suffer(self, cuts: u64) -> u64 {
        let mut failed = 0;
        let mut round = 0;
        while self.relay.counters().cuts() < cuts {
            round += 1;
            assert!(
                round < 10 * cuts,
                "too few cuts: {:?}",
                self.relay.counters()
            );
            let name = format!("{}_{round}", self.locks.task_id());
            let wanted = [&*name, "contested"];
            let wanted = if round % 3 == 0 {
                &wanted[..]
            } else {
                &wanted[..1]
            };
            self.arm_for_grant(round, &name);
            let asked = if wanted.len() == 1 && round % 2 == 0 {
                self.locks.acquire(wanted).await
            } else {
                self.locks
                    .wait(wanted)
                    .timeout(Duration::from_secs(60))
                    .await
            };
            match asked {
                Ok(guard) => self.hold_and_release(guard, &name, round).await,
                Err(error) => {
                    self.relay.disarm();
                    failed += 1;
                    let database = matches!(
                        error,
                        LockError::Database {
                            transient: true,
                            ..
                        }
                    );
                    assert!(database, "{name} is nobody else's: {error:?}");
                }
            }
            // However it went: it is no longer held, without anybody's doing.
            wait_until_free(self.db, &name, SETTLED).await;
            let free = self.watcher.acquire(&name).await.expect("it is free");
            free.release().await.expect("it is the watcher's");
        }
        let counters = self.relay.counters();
        for kind in [counters.cut_before, counters.cut_after, counters.cut_within] {
            assert!(kind >= cuts / 10, "{counters:?}");
        }
        failed
    }

    fn any_cut(round: u64) -> How {
        match round % 3 {
            0 => How::CutBefore,
            1 => How::CutAfter,
            _ => How::CutWithin(fastrand::usize(..40)),
        }
    }

    fn arm_for_grant(&self, round: u64, name: &str) {
        let how = Self::any_cut(round / 4);
        let grant = When::Containing(name.as_bytes().to_vec());
        match round % 4 {
            0 => self.relay.arm(grant, how),
            // The first write, and then something while it is being settled.
            1 => {
                self.relay.arm(grant, how);
                let next = When::After(fastrand::u64(1..12));
                self.relay.arm(next, Self::any_cut(fastrand::u64(..3)));
            }
            2 => self.relay.arm(When::After(fastrand::u64(..4)), how),
            // This one is for the release.
            _ => {}
        }
    }

    async fn hold_and_release(&self, guard: LockGuard, name: &str, round: u64) {
        let contested = guard.names().len() == 2;
        if contested {
            assert_eq!(
                self.contested.inside.fetch_add(1, SeqCst),
                0,
                "two are inside"
            );
            let before = self.contested.token.swap(guard.token(), SeqCst);
            assert!(
                before < guard.token(),
                "{before} and then {}",
                guard.token()
            );
        }
        assert_eq!(
            holder_of(self.db, name).await.as_deref(),
            Some(self.locks.task_id())
        );
        let refused = self.watcher.acquire(name).await.expect_err("it is held");
        assert!(refused.is_busy(), "{refused:?}");
        assert!(!guard.is_lost());
        if contested {
            self.contested.inside.fetch_sub(1, SeqCst);
        }
        if round % 4 == 3 {
            let how = Self::any_cut(round / 4);
            self.relay.arm(When::After(fastrand::u64(..2)), how);
        }
        if round % 5 == 0 {
            drop(guard);
        } else {
            guard
                .release()
                .await
                .expect("a release is tried until it is known");
            assert_eq!(holder_of(self.db, name).await, None);
        }
        self.relay.disarm();
    }
}

/// A manager behind a relay that has used the row, with a lock that must survive everything.
async fn settled(db: &Database) -> (Relay, LockManager, LockGuard) {
    let (relay, locks) = behind_relay(db, "us").await;
    let guard = locks
        .acquire("survivor")
        .await
        .expect("nobody else is here");
    (relay, locks, guard)
}

async fn survives(db: &Database, survivor: &LockGuard) {
    assert!(!survivor.is_lost());
    assert_eq!(holder_of(db, "survivor").await.as_deref(), Some("us"));
}

/// Lets through what was kept, and waits until the server has had it.
async fn let_it_land(relay: &Relay) {
    let open = relay.counters().open;
    relay.heal();
    let landed = "the connection that nobody wants any more is closed";
    relay.wait_for(SETTLED, landed, |c| c.open < open).await;
}

async fn a_grant_that_lands_late_changes_nothing(db: Database) {
    let (relay, locks, survivor) = settled(&db).await;
    relay.arm(When::Containing(b"late".to_vec()), How::Stall);
    let start = Instant::now();
    let guard = tokio::time::timeout(GIVEN_UP, locks.wait("late")).await;
    let guard = guard
        .expect("another connection is there")
        .expect("it is free");
    println!("given up after {:?}", start.elapsed());
    assert_eq!(relay.counters().stalled, 1);
    let row = LocksRow::read(&db, "platform").await.unwrap();
    assert_eq!(row.held().get("late").map(String::as_str), Some("us"));
    let_it_land(&relay).await;
    assert_eq!(LocksRow::read(&db, "platform").await, Some(row));
    assert!(!guard.is_lost());
    guard.release().await.unwrap();
    survives(&db, &survivor).await;
    drop((survivor, locks));
    wait_until_empty(&db, "platform", SETTLED).await;
}

async fn a_grant_without_an_answer_is_found(db: Database) {
    let (relay, locks, survivor) = settled(&db).await;
    let before = LocksRow::read(&db, "platform").await.unwrap().version;
    relay.arm(When::Containing(b"mute".to_vec()), How::StallAnswer);
    let guard = tokio::time::timeout(GIVEN_UP, locks.acquire("mute")).await;
    let guard = guard
        .expect("another connection is there")
        .expect("it is free");
    // Found, not written once more.
    let row = LocksRow::read(&db, "platform").await.unwrap();
    assert_eq!((guard.token(), row.version), (before + 1, before + 1));
    assert_eq!(row.held().get("mute").map(String::as_str), Some("us"));
    let_it_land(&relay).await;
    survives(&db, &survivor).await;
    drop((survivor, guard, locks));
    wait_until_empty(&db, "platform", SETTLED).await;
}

async fn a_release_that_lands_late_frees_nobody_elses(db: Database) {
    let (relay, locks, survivor) = settled(&db).await;
    let watcher = direct(&db).await;
    let guard = locks.acquire("x").await.unwrap();
    relay.arm(next_write(&db).await, How::Stall);
    let released = tokio::time::timeout(GIVEN_UP, guard.release()).await;
    released
        .expect("another connection is there")
        .expect("it is ours");
    assert_eq!(relay.counters().stalled, 1);
    let theirs = watcher.acquire("x").await.expect("it was released");
    let row = LocksRow::read(&db, "platform").await;
    let_it_land(&relay).await;
    assert_eq!(LocksRow::read(&db, "platform").await, row);
    assert!(!theirs.is_lost());
    survives(&db, &survivor).await;
}

async fn a_release_without_an_answer_is_done(db: Database) {
    let (relay, locks, survivor) = settled(&db).await;
    let watcher = direct(&db).await;
    let guard = locks.acquire("x").await.unwrap();
    relay.arm(next_write(&db).await, How::StallAnswer);
    let release = tokio::spawn(async { guard.release().await });
    wait_until_free(&db, "x", SETTLED).await;
    // Somebody else's by the time the release is looked after again, which is no error.
    let theirs = watcher.acquire("x").await.expect("it was released");
    let released = tokio::time::timeout(GIVEN_UP, release).await;
    released
        .expect("another connection is there")
        .unwrap()
        .expect("it was ours");
    assert_eq!(holder_of(&db, "x").await.as_deref(), Some("watcher"));
    assert!(!theirs.is_lost());
    survives(&db, &survivor).await;
}

async fn a_caller_who_left_before_the_answer_holds_nothing(db: Database) {
    let (relay, locks, survivor) = settled(&db).await;
    for (name, how) in [("executed", How::StallAnswer), ("on_its_way", How::Stall)] {
        relay.arm(When::Containing(name.as_bytes().to_vec()), how);
        let request = tokio::spawn({
            let locks = locks.clone();
            async move { locks.acquire(name).await }
        });
        if how == How::StallAnswer {
            let held = async || holder_of(&db, name).await.is_some();
            wait::until(SETTLED, "it is executed", held).await;
        } else {
            let stalled = "it is on its way";
            relay.wait_for(SETTLED, stalled, |c| c.stalled == 2).await;
        }
        request.abort();
        let left = request.await.expect_err("it was dropped in the middle");
        assert!(left.is_cancelled());
        wait_until_free(&db, name, GIVEN_UP).await;
        // The connection is good again, so this is after everything that was in doubt.
        locks
            .acquire("after")
            .await
            .unwrap()
            .release()
            .await
            .unwrap();
        relay.heal();
        wait_until_free(&db, name, GIVEN_UP).await;
    }
    survives(&db, &survivor).await;
    drop((survivor, locks));
    wait_until_empty(&db, "platform", SETTLED).await;
}

async fn a_hole_that_swallows_everything_is_told_and_left_behind(db: Database) {
    let (relay, locks, survivor) = settled(&db).await;
    let watcher = direct(&db).await;
    relay.stall();
    let start = Instant::now();
    let short = locks.wait("short").timeout(Duration::from_secs(2));
    let long = locks.wait("long").timeout(Duration::from_secs(9));
    let asked = tokio::join!(short, long, locks.acquire("at_once"));
    println!("told after {:?}", start.elapsed());
    assert!(start.elapsed() < GIVEN_UP, "{:?}", start.elapsed());
    for (name, answer) in [("short", asked.0), ("long", asked.1), ("at_once", asked.2)] {
        let error = answer.expect_err("nothing gets through");
        // The lock was not seen refused, so this is no time-out of the lock.
        let database = matches!(
            error,
            LockError::Database {
                transient: true,
                ..
            }
        );
        assert!(database, "{name}: {error:?}");
    }
    // Others are not held up by the hole of one.
    watcher
        .acquire("elsewhere")
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    relay.heal();
    let guard = tokio::time::timeout(GIVEN_UP, locks.wait(["short", "long", "at_once"])).await;
    guard
        .expect("it is healed")
        .unwrap()
        .release()
        .await
        .unwrap();
    for name in ["short", "long", "at_once"] {
        let free = watcher
            .acquire(name)
            .await
            .expect("nobody was told that it is theirs");
        free.release().await.unwrap();
    }
    survives(&db, &survivor).await;
    drop((survivor, locks, watcher));
    wait_until_empty(&db, "platform", SETTLED).await;
}
