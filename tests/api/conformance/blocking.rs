//! Requests without a runtime, and the traits of the public types.

use std::{
    fmt::Debug,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use locks_core::{
    Acquire, Builder, ConflictMatrix, Holder, LockError, LockGuard, LockManager, LockName, Request,
    Wait,
};
use locks_tests::{engine::Database, on_every_engine, row::wait_until_empty, wait::block_on};

use super::{SOON, held, names, pairs, soon, task};

on_every_engine!(
    sync a_thread_without_a_runtime_can_do_everything,
    async a_blocking_thread_of_a_runtime_may_block,
    async block_in_place_may_block,
    async blocking_calls_panic_in_async_context,
    sync blocking_calls_panic_in_a_single_threaded_runtime,
);

fn is_request<T: Future + Send + Unpin + Debug + 'static>() {}
fn is_shared<T: Send + Sync + Debug + 'static>() {}

fn is_handle<T: Clone>() {}
fn is_data<T: Copy>() {}
fn is_error<T: std::error::Error>() {}

#[test]
fn public_types_are_send_and_sync() {
    is_request::<Acquire>();
    is_request::<Request<LockManager>>();
    is_request::<Request<Vec<Holder>>>();
    is_request::<Request<()>>();
    is_request::<Wait>();
    is_shared::<LockGuard>();
    is_shared::<LockManager>();
    is_shared::<LockName>();
    is_shared::<LockError>();
    is_shared::<Builder>();
    is_shared::<ConflictMatrix>();
    is_handle::<LockManager>();
    is_handle::<LockError>();
    is_data::<ConflictMatrix>();
    is_error::<LockError>();
}

fn a_thread_without_a_runtime_can_do_everything(db: Database) {
    let builder = LockManager::builder().task_id("plain");
    let locks = builder.connect(db.url()).blocking().unwrap();
    let guard = locks.acquire(["x", "y"]).blocking().unwrap();
    let refused = locks
        .wait("x")
        .timeout(Duration::from_millis(50))
        .blocking();
    assert!(refused.unwrap_err().is_timeout());
    assert!(locks.acquire("x").blocking().unwrap_err().is_busy());
    let held = locks.held().blocking().unwrap();
    assert_eq!(names(&held), [("x", "plain"), ("y", "plain")]);
    let waiting = std::thread::spawn({
        let locks = locks.clone();
        move || locks.wait("y").blocking().map(|guard| guard.token())
    });
    let token = guard.token();
    guard.release().blocking().unwrap();
    assert!(waiting.join().unwrap().unwrap() > token);
    locks.wait("x").blocking().unwrap().detach();
    locks.release("x").blocking().unwrap();
    locks.acquire("x").blocking().unwrap().detach();
    assert_eq!(locks.release_task("plain").blocking().unwrap().len(), 1);
    assert_eq!(locks.release_all().blocking().unwrap(), []);
    locks.close().blocking().unwrap();
    assert!(matches!(locks.held().blocking(), Err(LockError::Closed)));
    block_on(async move { wait_until_empty(&db, "platform", SOON).await });
}

async fn a_blocking_thread_of_a_runtime_may_block(db: Database) {
    let url = db.url().to_owned();
    let locks = soon(tokio::task::spawn_blocking(move || {
        let builder = LockManager::builder().task_id("a");
        let locks = builder.connect(&url).blocking().unwrap();
        let guard = locks.acquire("x").blocking().unwrap();
        locks.wait("y").timeout(SOON).blocking().unwrap().detach();
        guard.release().blocking().unwrap();
        locks
    }));
    let locks = locks.await.unwrap();
    assert_eq!(held(&db).await, pairs(&[("y", "a")]));
    locks.release("y").await.unwrap();
}

async fn block_in_place_may_block(db: Database) {
    let a = task(&db, "a").await;
    let guard = soon(tokio::spawn({
        let a = a.clone();
        async move { tokio::task::block_in_place(|| a.wait("x").blocking()) }
    }));
    let guard = guard.await.unwrap().unwrap();
    assert_eq!(held(&db).await, pairs(&[("x", "a")]));
    guard.release().await.unwrap();
}

type Call<'t> = (&'t str, Box<dyn FnOnce() + 't>);

/// Makes every blocking call. Each must panic and give the reason.
fn all_panic(locks: &LockManager, url: &str, guard: LockGuard) {
    let long = Duration::from_mins(1);
    let calls: [Call<'_>; 7] = [
        ("acquire", Box::new(|| drop(locks.acquire("x").blocking()))),
        ("wait", Box::new(|| drop(locks.wait("x").blocking()))),
        (
            "limited",
            Box::new(|| drop(locks.wait("x").timeout(long).blocking())),
        ),
        ("held", Box::new(|| drop(locks.held().blocking()))),
        ("close", Box::new(|| drop(locks.close().blocking()))),
        (
            "connect",
            Box::new(|| drop(LockManager::connect(url).blocking())),
        ),
        ("release", Box::new(|| drop(guard.release().blocking()))),
    ];
    for (name, call) in calls {
        let panic = catch_unwind(AssertUnwindSafe(call)).expect_err(name);
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        let text = text.unwrap_or_default().to_lowercase();
        assert!(
            text.contains("async") || text.contains("block"),
            "{name}: {text}"
        );
    }
}

async fn blocking_calls_panic_in_async_context(db: Database) {
    let a = task(&db, "a").await;
    let guard = a.acquire("g").await.unwrap();
    all_panic(&a, db.url(), guard);
    // The panic comes before the call has any effect: the manager works, no entry remains, nothing
    // is closed.
    let guard = soon(a.acquire(["x", "g"])).await.expect("nothing is held");
    assert_eq!(held(&db).await, pairs(&[("g", "a"), ("x", "a")]));
    guard.release().await.unwrap();
    wait_until_empty(&db, "platform", SOON).await;
}

fn blocking_calls_panic_in_a_single_threaded_runtime(db: Database) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let a = runtime.block_on(async {
        let a = task(&db, "a").await;
        let guard = a.acquire("g").await.unwrap();
        all_panic(&a, db.url(), guard);
        a
    });
    // Outside of the runtime this thread may block, while the runtime exists.
    let guard = a.acquire("x").blocking().unwrap();
    drop(runtime);
    guard.release().blocking().unwrap();
    block_on(async move { wait_until_empty(&db, "platform", SOON).await });
}
