//! The write that releases a lock grants it to the next process in the queue.

use std::time::Duration;

use locks_core::{Durability, LockGuard, LockManager, Shared};
use locks_tests::{
    engine::{Database, Engine, run_async},
    on_every_engine,
    row::{LocksRow, wait_until_empty, wait_until_queued},
    worker,
    worker::Worker,
};

const SOON: Duration = Duration::from_secs(20);

on_every_engine!(
    async lock_is_granted_to_a_process_that_stands_still,
    async lock_is_passed_on_by_a_process_that_is_gone_when_it_is_granted,
);

async fn manager(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it is there")
}

/// `x` is held, and a process that stands still waits for it.
async fn stopped_waiter(db: &Database, mut waiter: Worker) -> (LockGuard, Worker) {
    let locks = manager(db, "holder").await;
    let guard = locks.acquire("x").await.expect("it is free");
    waiter.send("wait x");
    wait_until_queued(db, "platform", 1).await;
    waiter.stop();
    (guard, waiter)
}

async fn holder_in_the_row(db: &Database) -> Option<String> {
    let row = LocksRow::read(db, "platform").await.expect("it is there");
    row.held().remove("x")
}

async fn lock_is_granted_to_a_process_that_stands_still(db: Database) {
    let (guard, mut waiter) = stopped_waiter(&db, worker!(db.url(), "waiter")).await;
    guard.release().await.expect("it is held");
    let row = LocksRow::read(&db, "platform").await.expect("it is there");
    let (held, version) = (row.held().remove("x"), row.version);
    if db.engine() == Engine::MySql {
        // There the grant might not be on the disk.
        assert_eq!(held, None);
        waiter.cont();
        waiter.granted();
    } else {
        assert_eq!(held.as_deref(), Some("waiter"));
        waiter.cont();
        assert_eq!(waiter.granted(), version);
    }
    assert_eq!(waiter.ask("release"), "released");
    wait_until_empty(&db, "platform", SOON).await;
}

async fn lock_is_passed_on_by_a_process_that_is_gone_when_it_is_granted(db: Database) {
    let waiter = worker!(db.url(), "waiter", "--ttl", "1000");
    let (guard, mut waiter) = stopped_waiter(&db, waiter).await;
    waiter.kill();
    guard.release().await.expect("it is held");
    let next = manager(&db, "next").await.wait("x").timeout(SOON);
    drop(next.await.expect("it is evicted"));
}

#[test]
fn lock_that_never_expires_is_granted_by_its_own_process() {
    for engine in [Engine::Postgres, Engine::Sqlite] {
        run_async(engine, async |db| {
            let waiter = worker!(db.url(), "waiter", "--never");
            let (guard, mut waiter) = stopped_waiter(&db, waiter).await;
            guard.release().await.expect("it is held");
            assert_eq!(holder_in_the_row(&db).await, None, "{engine}");
            waiter.cont();
            waiter.granted();
        });
    }
}

#[test]
fn lock_that_has_to_be_on_the_disk_is_granted_by_its_own_process() {
    run_async(Engine::Sqlite, async |db| {
        let locks = manager(&db, "holder").await;
        let guard = locks.acquire("x").await.expect("it is free");
        let durable = LockManager::builder().durability(Durability::Full);
        let durable = durable.connect(db.url()).await.expect("it is there");
        let waiting = tokio::spawn(durable.wait("x").timeout(SOON));
        let row = wait_until_queued(&db, "platform", 1).await;
        let (session, _) = &row.queue()[0];
        assert!(!session.ends_with('+'), "{session}");
        guard.release().await.expect("it is held");
        drop(waiting.await.expect("no panic").expect("it is free"));
    });
}

#[test]
fn readers_of_several_processes_are_granted_by_one_write() {
    for engine in [Engine::Postgres, Engine::Sqlite] {
        run_async(engine, async |db| {
            let holder = manager(&db, "holder").await;
            let guard = holder.acquire("x").await.expect("it is free");
            let mut readers = Vec::new();
            for n in 1..=3 {
                // Each manager has a driver of its own.
                let locks = manager(&db, &format!("reader{n}")).await;
                readers.push(tokio::spawn(locks.wait(Shared("x")).timeout(SOON)));
                wait_until_queued(&db, "platform", n).await;
            }
            guard.release().await.expect("it is held");
            let mut guards = Vec::new();
            for reader in readers {
                guards.push(reader.await.expect("no panic").expect("it is free"));
            }
            let tokens: Vec<_> = guards.iter().map(LockGuard::token).collect();
            assert_eq!(tokens, [tokens[0]; 3], "{engine}");
        });
    }
}
