//! What `#[with_lock]` costs beside the same by hand: no allocation per poll, and no write.

use std::{
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use allocation_counter::measure;
use locks_core::{LockManager, Result, with_lock};
use locks_tests::{engine::Database, on_every_engine, row::LocksRow};

on_every_engine!(async it_polls_without_allocating, async it_writes_as_often_as_by_hand);

/// Is pending so many times.
async fn steps(count: usize) {
    let mut left = count;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[with_lock("app_task_<id>", locks = locks)]
async fn by_macro(locks: &LockManager, id: u32, count: usize) -> Result<u32> {
    steps(count).await;
    Ok(id)
}

#[with_lock("app_task_<id>", locks = locks, on_lost = "continue")]
async fn unwatched(locks: &LockManager, id: u32, count: usize) -> Result<u32> {
    steps(count).await;
    Ok(id)
}

async fn by_hand(locks: &LockManager, id: u32, count: usize) -> Result<u32> {
    let guard = locks.wait(format!("app_task_{id}")).await?;
    let value = async {
        steps(count).await;
        Ok(id)
    }
    .await;
    guard.release().await?;
    value
}

/// The allocations of `count` polls of the body, of a call that is in it.
async fn allocations<F: Future<Output = Result<u32>>>(call: F, count: usize) -> u64 {
    let mut call = Box::pin(call);
    // Up to the body: the polls before wait for the driver, so they are few.
    let entered = tokio::time::timeout(std::time::Duration::from_millis(300), async {
        poll_fn(|cx| {
            let mut woken = Context::from_waker(cx.waker());
            assert!(call.as_mut().poll(&mut woken).is_pending());
            Poll::<()>::Pending
        })
        .await;
    });
    assert!(entered.await.is_err());
    let polls = measure(|| {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..count {
            assert!(call.as_mut().poll(&mut context).is_pending());
        }
    });
    drop(call);
    polls.count_total
}

async fn it_polls_without_allocating(db: Database) {
    let locks = LockManager::connect(db.url()).await.unwrap();
    let _ = (&allocations::<std::future::Ready<Result<u32>>>, &by_hand);
    const POLLS: usize = 1000;
    for id in 0..3 {
        assert_eq!(allocations(by_hand(&locks, id, usize::MAX), POLLS).await, 0);
        assert_eq!(
            allocations(by_macro(&locks, id, usize::MAX), POLLS).await,
            0
        );
        assert_eq!(
            allocations(unwatched(&locks, id, usize::MAX), POLLS).await,
            0
        );
    }
}

async fn it_writes_as_often_as_by_hand(db: Database) {
    const CALLS: u32 = 20;
    let locks = LockManager::connect(db.url()).await.unwrap();
    by_hand(&locks, 0, 1).await.unwrap();
    let version = async || LocksRow::read(&db, "platform").await.unwrap().version;
    let start = version().await;
    for id in 0..CALLS {
        by_hand(&locks, id, 1).await.unwrap();
    }
    let between = version().await;
    for id in 0..CALLS {
        by_macro(&locks, id, 1).await.unwrap();
    }
    let end = version().await;
    assert_eq!(end - between, between - start);
}
