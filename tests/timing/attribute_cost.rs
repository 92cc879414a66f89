//! The cost of `#[with_lock]` compared with code by hand: no allocation per poll, and no further
//! write.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::pin,
    task::{Context, Poll, Waker},
};

use allocation_counter::measure;
use locks_core::{LockManager, Result, with_lock};
use locks_tests::{engine::Database, on_every_engine, row::WriteCount};

on_every_engine!(async_alone it_polls_without_allocating, async_alone it_writes_as_often_as_by_hand);

/// A body that never completes, and counts its polls.
async fn endless(asked: &Cell<usize>) -> Result<u32> {
    poll_fn(|_| {
        asked.set(asked.get() + 1);
        Poll::Pending
    })
    .await
}

#[with_lock("app_task_<id>", locks = locks)]
async fn by_macro(locks: &LockManager, id: u32, asked: &Cell<usize>) -> Result<u32> {
    endless(asked).await
}

#[with_lock("app_task_<id>", locks = locks, on_lost = "continue")]
async fn unwatched(locks: &LockManager, id: u32, asked: &Cell<usize>) -> Result<u32> {
    endless(asked).await
}

async fn by_hand(locks: &LockManager, id: u32, asked: &Cell<usize>) -> Result<u32> {
    let guard = locks.wait(format!("app_task_{id}")).await?;
    let value = endless(asked).await;
    guard.release().await?;
    value
}

/// The allocations of a thousand polls of a call that has reached its body.
async fn allocations<F: Future<Output = Result<u32>>>(call: F, asked: &Cell<usize>) -> u64 {
    const POLLS: usize = 1000;
    let mut call = pin!(call);
    poll_fn(|cx| {
        assert!(call.as_mut().poll(cx).is_pending());
        if asked.get() == 0 {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    let before = asked.get();
    let polls = measure(|| {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..POLLS {
            assert!(call.as_mut().poll(&mut context).is_pending());
        }
    });
    assert_eq!(asked.replace(0) - before, POLLS);
    polls.count_total
}

async fn it_polls_without_allocating(db: Database) {
    let locks = LockManager::connect(db.url()).await.unwrap();
    let asked = Cell::new(0);
    for id in 0..3 {
        assert_eq!(allocations(by_hand(&locks, id, &asked), &asked).await, 0);
        assert_eq!(allocations(by_macro(&locks, id, &asked), &asked).await, 0);
        assert_eq!(allocations(unwatched(&locks, id, &asked), &asked).await, 0);
    }
}

#[with_lock("app_task_<id>", locks = locks)]
async fn short(locks: &LockManager, id: u32) -> Result<u32> {
    tokio::task::yield_now().await;
    Ok(id)
}

async fn short_by_hand(locks: &LockManager, id: u32) -> Result<u32> {
    let guard = locks.wait(format!("app_task_{id}")).await?;
    tokio::task::yield_now().await;
    guard.release().await?;
    Ok(id)
}

async fn it_writes_as_often_as_by_hand(db: Database) {
    const CALLS: u32 = 20;
    let locks = LockManager::connect(db.url()).await.unwrap();
    short_by_hand(&locks, 0).await.unwrap();
    let writes = WriteCount::start(&db).await;
    for id in 0..CALLS {
        short_by_hand(&locks, id).await.unwrap();
    }
    let by_hand = writes.read().await;
    for id in 0..CALLS {
        short(&locks, id).await.unwrap();
    }
    assert_eq!(writes.read().await, 2 * by_hand);
}
