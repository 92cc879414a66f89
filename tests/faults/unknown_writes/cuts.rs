//! Connections that are closed before, after and within an answer.

use std::{
    sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use locks_core::{LockError, LockGuard, LockManager};
use locks_tests::{
    engine::Database,
    on_every_engine,
    relay::{How, Relay, When},
    row::{LocksRow, wait_until_empty},
};

use super::{SETTLED, behind_relay, direct, holder_of, wait_until_free};

/// The number of closed connections in a run, over all four workers.
const CUTS: u64 = 100;

on_every_engine!(
    servers:
    async writes_of_cut_connections_are_settled,
    async unwritten_grant_is_never_reported,
);

/// What the workers know of the lock that all of them request.
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

async fn writes_of_cut_connections_are_settled(db: Database) {
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
        worker.run(CUTS / 4).await
    };
    let failed = tokio::join!(worker(0), worker(1), worker(2), worker(3));
    println!("reported failures by worker: {failed:?}");
    wait_until_empty(&db, "platform", SETTLED).await;
}

impl Worker<'_> {
    /// Acquires and releases locks until this many connections were closed. Returns the number of
    /// reported failures.
    async fn run(self, cuts: u64) -> u64 {
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
            let wanted = if round.is_multiple_of(3) {
                &wanted[..]
            } else {
                &wanted[..1]
            };
            self.arm_for_grant(round, &name);
            let asked = if wanted.len() == 1 && round.is_multiple_of(2) {
                self.locks.acquire(wanted).await
            } else {
                self.locks
                    .wait(wanted)
                    .timeout(Duration::from_mins(1))
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
                    assert!(database, "{name} is not contended: {error:?}");
                }
            }
            // In any case the lock becomes free without further requests.
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
            // Closes the connection at the first write, then again while the write is settled.
            1 => {
                self.relay.arm(grant, how);
                let next = When::After(fastrand::u64(1..12));
                self.relay.arm(next, Self::any_cut(fastrand::u64(..3)));
            }
            2 => self.relay.arm(When::After(fastrand::u64(..4)), how),
            // This fault is for the release.
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
        if round.is_multiple_of(5) {
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

async fn unwritten_grant_is_never_reported(db: Database) {
    let (relay, locks) = behind_relay(&db, "us").await;
    let used = locks.acquire("used").await.unwrap();
    // While the answer to the first request is in flight, the second one arrives, and its write is
    // lost.
    relay.arm(When::Next, How::Delay(Duration::from_millis(300)));
    let held = tokio::spawn(locks.held());
    relay
        .wait_for(SETTLED, "it looks", |c| c.delayed == 1)
        .await;
    relay.arm(When::Containing(b"unwritten".to_vec()), How::CutBefore);
    let granted = tokio::spawn(locks.acquire("unwritten"));
    let reported = held.await.unwrap().expect("the row can be read");
    let names: Vec<_> = reported.iter().map(|holder| holder.name.as_str()).collect();
    // Whatever was reported is in the row: the lost write may have been repeated by then.
    let row = LocksRow::read(&db, "platform").await.expect("it is there");
    assert!(names.contains(&"used"), "{names:?}");
    for name in names {
        assert!(row.held().contains_key(name), "{name} was never written");
    }
    let guard = granted.await.unwrap().expect("it is tried again");
    assert_eq!(relay.counters().cut_before, 1);
    drop((used, guard, locks));
    wait_until_empty(&db, "platform", SETTLED).await;
}
