//! `wait`: requests are granted in order, and time out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant, SystemTime},
};

use locks_core::{Blocker, LockError};
use locks_tests::{
    engine::Database,
    on_every_engine,
    row::{LocksRow, WriteCount, wait_until_empty},
    wait, worker,
};

use super::{SOON, held, pairs, soon, task};

on_every_engine!(
    async free_lock_is_granted_at_once,
    async time_out_names_the_blockers,
    async zero_time_out_suffices_for_a_free_lock,
    async time_out_starts_with_the_first_poll,
    async released_lock_is_granted_to_the_waiter,
    async holder_is_reported_since_its_grant_and_not_since_it_asked,
    async dropped_lock_is_granted_to_the_waiter,
    async lock_is_handed_over_between_processes,
    async several_names_are_waited_for_together,
    async dropped_wait_leaves_no_entry,
    async sixty_four_tasks_take_turns,
);

async fn free_lock_is_granted_at_once(db: Database) {
    let a = task(&db, "a").await;
    let guard = soon(a.wait("x")).await.unwrap();
    let other = soon(a.wait("y").timeout(SOON)).await.unwrap();
    assert_eq!(held(&db).await, pairs(&[("x", "a"), ("y", "a")]));
    assert!(other.token() > guard.token());
}

async fn holder_is_reported_since_its_grant_and_not_since_it_asked(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    let guard = a.acquire("x").await.unwrap();
    let asked = SystemTime::now();
    let waiting = tokio::spawn(b.wait("x").timeout(SOON));
    let queued = async || a.waiting().await.unwrap().len() == 1;
    wait::until(SOON, "it waits", queued).await;
    let waiter = a.waiting().await.unwrap().remove(0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let released = SystemTime::now();
    guard.release().await.unwrap();
    let guard = soon(waiting).await.unwrap().unwrap();
    let holder = a.held().await.unwrap().remove(0);
    let (asking, granted) = (waiter.since.unwrap(), holder.since.unwrap());
    let clock = Duration::from_millis(1);
    assert!(asked - clock <= asking && asking < released, "{waiter:?}");
    assert!(released - clock <= granted, "{holder:?}");
    guard.release().await.unwrap();
}

async fn time_out_names_the_blockers(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    let guard = a.acquire("box_update").await.unwrap();
    let limit = Duration::from_millis(300);
    let start = Instant::now();
    let refused = soon(b.wait(["app_task_1", "x"]).timeout(limit)).await;
    let elapsed = start.elapsed();
    let error = refused.expect_err("it is held all the time");
    assert!(error.is_timeout() && error.is_transient() && !error.is_busy());
    let text = error.to_string();
    assert!(
        text.contains("box_update") && text.contains("task a"),
        "{text}"
    );
    let LockError::Timeout {
        names,
        waited,
        blocked_by,
        ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(names[..], ["app_task_1", "x"]);
    assert!(
        limit <= waited && waited <= elapsed,
        "{waited:?} in {elapsed:?}"
    );
    assert!(elapsed < limit + Duration::from_secs(3), "{elapsed:?}");
    let [Blocker::Holder(holder)] = &blocked_by[..] else {
        panic!("{blocked_by:?}");
    };
    assert_eq!(
        (holder.name.as_str(), &*holder.task_id),
        ("box_update", "a")
    );
    assert_eq!(holder.token, Some(guard.token()));
    // No entry remains, not even in the queue.
    assert_eq!(held(&db).await, pairs(&[("box_update", "a")]));
    guard.release().await.unwrap();
    wait_until_empty(&db, "platform", SOON).await;
}

async fn zero_time_out_suffices_for_a_free_lock(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    let guard = a.acquire("x").await.unwrap();
    let error = soon(b.wait("x").timeout(Duration::ZERO)).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    guard.release().await.unwrap();
    // A time-out reports that the lock was seen as refused, which cannot be true of these locks.
    for limit in [Duration::ZERO, Duration::from_nanos(1)] {
        drop(soon(b.wait("x").timeout(limit)).await.expect("it is free"));
        soon(b.acquire("y")).await.unwrap().release().await.unwrap();
    }
    let forever = soon(b.wait("x").timeout(Duration::MAX)).await;
    drop(forever.expect("it is free"));
    wait_until_empty(&db, "platform", SOON).await;
}

async fn time_out_starts_with_the_first_poll(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    let guard = a.acquire("x").await.unwrap();
    let limit = Duration::from_millis(200);
    let wait = b.wait("x").timeout(limit);
    tokio::time::sleep(2 * limit).await;
    let start = Instant::now();
    let error = soon(wait).await.unwrap_err();
    assert!(error.is_timeout() && start.elapsed() >= limit, "{error:?}");
    drop(guard);
}

async fn released_lock_is_granted_to_the_waiter(db: Database) {
    let a = task(&db, "a").await;
    let guard = a.acquire("x").await.unwrap();
    let token = guard.token();
    let waiting = tokio::spawn(a.wait("x").timeout(SOON));
    wait::until(SOON, "it waits", async || {
        !a.waiting().await.unwrap().is_empty()
    })
    .await;
    assert!(!waiting.is_finished());
    let start = Instant::now();
    guard.release().await.unwrap();
    let guard = soon(waiting).await.unwrap().expect("it was released");
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    assert!(guard.token() > token);
    assert_eq!(held(&db).await, pairs(&[("x", "a")]));
}

async fn dropped_lock_is_granted_to_the_waiter(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    let guard = a.acquire("app_backup_1").await.unwrap();
    let waiting = tokio::spawn(b.wait("box_update").timeout(SOON));
    wait::until(SOON, "it waits", async || {
        !b.waiting().await.unwrap().is_empty()
    })
    .await;
    let start = Instant::now();
    drop(guard);
    let guard = soon(waiting).await.unwrap().expect("it was released");
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(held(&db).await, pairs(&[("box_update", "b")]));
    drop(guard);
}

async fn lock_is_handed_over_between_processes(db: Database) {
    let a = task(&db, "a").await;
    let mut worker = worker!(db.url(), "worker");
    let token = worker.acquire("x");
    let waiting = tokio::spawn(a.wait("x").timeout(SOON));
    wait::until(SOON, "it waits", async || {
        !a.waiting().await.unwrap().is_empty()
    })
    .await;
    worker.send("release");
    let guard = soon(waiting).await.unwrap().expect("it was released");
    worker.expect_line("released", SOON);
    assert!(guard.token() > token);
    // And in the other direction.
    let refused = worker.ask("acquire x");
    assert!(refused.starts_with("failed: "), "{refused}");
    worker.send("wait x");
    wait::until(SOON, "it waits", async || {
        !a.waiting().await.unwrap().is_empty()
    })
    .await;
    let last = guard.token();
    drop(guard);
    assert!(worker.granted() > last);
    assert_eq!(held(&db).await, pairs(&[("x", "worker")]));
    worker.finish_well(SOON);
    wait_until_empty(&db, "platform", SOON).await;
}

async fn several_names_are_waited_for_together(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    let (x, y) = (a.acquire("x").await.unwrap(), a.acquire("y").await.unwrap());
    let waiting = tokio::spawn(b.wait(["x", "y", "z"]).timeout(SOON));
    wait::until(SOON, "it waits", async || {
        !b.waiting().await.unwrap().is_empty()
    })
    .await;
    x.release().await.unwrap();
    // One of the names is free. That does not suffice, so none is granted.
    assert_eq!(held(&db).await, pairs(&[("y", "a")]));
    assert!(!waiting.is_finished());
    y.release().await.unwrap();
    let all = soon(waiting).await.unwrap().expect("all are free");
    assert_eq!(
        held(&db).await,
        pairs(&[("x", "b"), ("y", "b"), ("z", "b")])
    );
    drop(all);
}

async fn dropped_wait_leaves_no_entry(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    let guard = a.acquire("x").await.unwrap();
    let waiting = tokio::spawn(b.wait(["x", "y"]));
    wait::until(SOON, "it waits", async || {
        !b.waiting().await.unwrap().is_empty()
    })
    .await;
    waiting.abort();
    assert!(waiting.await.is_err());
    wait::until(SOON, "it left", async || {
        b.waiting().await.unwrap().is_empty()
    })
    .await;
    guard.release().await.unwrap();
    soon(a.acquire(["x", "y"]))
        .await
        .expect("they are free")
        .release()
        .await
        .unwrap();
    assert!(LocksRow::read(&db, "platform").await.unwrap().is_empty());
}

async fn sixty_four_tasks_take_turns(db: Database) {
    let a = task(&db, "a").await;
    let inside = Arc::new(AtomicUsize::new(0));
    let count = WriteCount::start(&db).await;
    let turns: Vec<_> = (0..64)
        .map(|_| {
            let (a, inside) = (a.clone(), inside.clone());
            tokio::spawn(async move {
                let guard = a.wait("x").timeout(Duration::from_mins(1)).await.unwrap();
                assert_eq!(inside.fetch_add(1, SeqCst), 0, "two are inside");
                tokio::task::yield_now().await;
                let token = guard.token();
                assert_eq!(inside.fetch_sub(1, SeqCst), 1);
                if token % 2 == 0 {
                    drop(guard);
                } else {
                    guard.release().await.unwrap();
                }
                token
            })
        })
        .collect();
    let mut tokens = Vec::new();
    for turn in turns {
        tokens.push(turn.await.expect("every task is granted"));
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 64, "no two turns share a token");
    wait_until_empty(&db, "platform", SOON).await;
    // Handed over within one write: each wait needs at most three (join the queue, be granted,
    // leave).
    let writes = count.read().await;
    assert!(writes <= 3 * 64, "{writes} writes for 64 turns");
}
