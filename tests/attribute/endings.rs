//! The other ends of functions with `#[with_lock]`: panic, cancellation, loss and deadlock, and the
//! order of drops.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use locks_core::{LockError, LockManager, Result, with_lock};
use locks_tests::{
    engine::Database,
    events::Events,
    on_every_engine,
    row::{LocksRow, wait_until_empty},
    wait,
};

const SOON: Duration = Duration::from_secs(10);

on_every_engine!(
    async everything_is_dropped_before_the_guard,
    async a_cancelled_wait_takes_nothing,
    async a_lost_lock_ends_the_body_at_its_next_await,
    async unnoticed_loss_is_reported_after_success,
    async a_nested_call_for_the_same_lock_is_a_deadlock,
    async nested_call_for_another_lock_is_no_deadlock,
    async siblings_wait,
    async a_synchronous_nested_call_is_a_deadlock,
    async close_during_a_call_is_no_warning,
);

async fn connect(db: &Database) -> LockManager {
    LockManager::connect(db.url())
        .await
        .expect("the test's database")
}

/// What was dropped, in order, and whether the lock was held at that time.
#[derive(Clone)]
struct Log(Arc<Mutex<Vec<String>>>, Arc<Database>);

impl Log {
    fn part(&self, name: &'static str) -> Part {
        Part(self.clone(), name)
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

struct Part(Log, &'static str);

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let Self(Log(log, db), name) = self;
        // Read with plain SQL, independently of the library.
        let row = wait::block_on_thread(LocksRow::read(db, "platform"));
        let held = row.is_some_and(|row| !row.held().is_empty());
        let state = if held { "held" } else { "free" };
        log.lock().unwrap().push(format!("{name} {state}"));
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Value,
    Error,
    Panic,
    Never,
}

#[with_lock("app_task_<used>", locks = locks)]
async fn parts(
    locks: &LockManager,
    used: Part,
    _unused: Part,
    _: Part,
    (half, _): (Part, Part),
    end: End,
) -> Result<()> {
    let _ = (&used, &half);
    let _local = used.0.part("local");
    tokio::task::yield_now().await;
    match end {
        End::Value => Ok(()),
        End::Error => Err(LockError::NotInstalled),
        End::Panic => panic!("meant"),
        End::Never => std::future::pending().await,
    }
}

#[with_lock("app_task_<used>", locks = locks)]
fn parts_blocking(
    locks: &LockManager,
    used: Part,
    _unused: Part,
    _: Part,
    (half, _): (Part, Part),
    end: End,
) -> Result<()> {
    let _ = (&used, &half);
    let _local = used.0.part("local");
    match end {
        End::Value => Ok(()),
        End::Error => Err(LockError::NotInstalled),
        End::Panic | End::Never => panic!("meant"),
    }
}

impl Part {
    #[with_lock("app_task_<self>", locks = locks)]
    async fn method(self, locks: &LockManager, end: End) -> Result<()> {
        tokio::task::yield_now().await;
        match end {
            End::Value => Ok(()),
            End::Error => Err(LockError::NotInstalled),
            End::Panic => panic!("meant"),
            End::Never => std::future::pending().await,
        }
    }
}

async fn everything_is_dropped_before_the_guard(db: Database) {
    let locks = connect(&db).await;
    let db = Arc::new(db);
    let log = Log(Arc::default(), db.clone());
    let all = ["local", "half", "unused", "used", "_", "rest"].map(|name| format!("{name} held"));
    let part = |name| log.part(name);
    for end in [End::Value, End::Error, End::Panic, End::Never] {
        let (one, two) = (locks.clone(), locks.clone());
        let (used, unused, pair) = (part("used"), part("unused"), (part("half"), part("rest")));
        let wild = part("_");
        let task = async move { parts(&one, used, unused, wild, pair, end).await };
        ended(tokio::spawn(task), end).await;
        assert_eq!(log.take(), all, "{end:?}");
        wait_until_empty(&db, "platform", SOON).await;

        let this = part("self");
        ended(
            tokio::spawn(async move { this.method(&two, end).await }),
            end,
        )
        .await;
        assert_eq!(log.take(), ["self held"], "{end:?}");
        wait_until_empty(&db, "platform", SOON).await;

        if end != End::Never {
            let locks = locks.clone();
            let (used, unused, pair) = (part("used"), part("unused"), (part("half"), part("rest")));
            let wild = part("_");
            let run = move || parts_blocking(&locks, used, unused, wild, pair, end);
            ended(tokio::task::spawn_blocking(run), end).await;
            assert_eq!(log.take(), all, "{end:?}");
            wait_until_empty(&db, "platform", SOON).await;
        }
    }
}

/// Awaits the task, or aborts one that does not end.
async fn ended(task: tokio::task::JoinHandle<Result<()>>, end: End) {
    let abort = task.abort_handle();
    let outcome = if end == End::Never {
        tokio::time::sleep(Duration::from_millis(100)).await;
        abort.abort();
        task.await
    } else {
        task.await
    };
    match (end, outcome) {
        (End::Value, Ok(Ok(()))) | (End::Error, Ok(Err(LockError::NotInstalled))) => {}
        (End::Panic, Err(error)) if error.is_panic() => {}
        (End::Never, Err(error)) if error.is_cancelled() => {}
        (_, outcome) => panic!("{end:?}: {outcome:?}"),
    }
}

#[with_lock("box_update", locks = locks)]
async fn update(locks: &LockManager) -> Result<()> {
    Ok(())
}

async fn a_cancelled_wait_takes_nothing(db: Database) {
    let locks = connect(&db).await;
    let held = locks.acquire("box_update").await.unwrap();
    let limit = Duration::from_millis(50);
    assert!(tokio::time::timeout(limit, update(&locks)).await.is_err());
    held.release().await.unwrap();
    wait_until_empty(&db, "platform", SOON).await;
    update(&locks).await.unwrap();
}

#[with_lock("app_task_1", locks = locks)]
async fn loses(locks: &LockManager, steps: &Mutex<u32>, end: Result<()>) -> Result<()> {
    *steps.lock().unwrap() += 1;
    locks.release_task(locks.task_id()).await?;
    wait::until(SOON, "never: it is cancelled here", async || false).await;
    *steps.lock().unwrap() += 1;
    end
}

#[with_lock("app_task_1", locks = locks, on_lost = "continue", guard = guard)]
async fn goes_on(locks: &LockManager, end: Result<u32>) -> Result<u32> {
    locks.release_task(locks.task_id()).await?;
    guard.lost().await;
    tokio::task::yield_now().await;
    end
}

async fn a_lost_lock_ends_the_body_at_its_next_await(db: Database) {
    let locks = connect(&db).await;
    let steps = Mutex::new(0);
    let error = loses(&locks, &steps, Ok(())).await.unwrap_err();
    assert!(error.is_lost(), "{error}");
    assert_eq!(*steps.lock().unwrap(), 1);

    assert_eq!(goes_on(&locks, Ok(7)).await.unwrap(), 7);
    let error = goes_on(&locks, Err(LockError::NotInstalled)).await;
    assert!(matches!(error, Err(LockError::NotInstalled)), "{error:?}");
}

/// Blocks the thread while the lock is taken away, so that the loss goes unnoticed.
fn take_away(locks: &LockManager) {
    wait::block_on_thread(async { locks.release_task(locks.task_id()).await.unwrap() });
}

#[with_lock("app_task_1", locks = locks)]
async fn unnoticed(locks: &LockManager, end: Result<u32>) -> Result<u32> {
    take_away(locks);
    end
}

#[with_lock("app_task_1", locks = locks)]
fn unnoticed_blocking(locks: &LockManager, end: Result<u32>) -> Result<u32> {
    take_away(locks);
    end
}

#[with_lock("app_task_1", locks = locks, on_lost = "continue")]
fn unnoticed_unmissed(locks: &LockManager, end: Result<u32>) -> Result<u32> {
    take_away(locks);
    end
}

async fn unnoticed_loss_is_reported_after_success(db: Database) {
    let locks = connect(&db).await;
    let error = unnoticed(&locks, Ok(7)).await.unwrap_err();
    assert!(error.is_lost(), "{error}");
    // The body's error is not hidden.
    let error = unnoticed(&locks, Err(LockError::NotInstalled)).await;
    assert!(matches!(error, Err(LockError::NotInstalled)), "{error:?}");

    let blocking = move || {
        assert!(unnoticed_blocking(&locks, Ok(7)).is_err_and(|error| error.is_lost()));
        let error = unnoticed_blocking(&locks, Err(LockError::NotInstalled));
        assert!(matches!(error, Err(LockError::NotInstalled)), "{error:?}");
        assert_eq!(unnoticed_unmissed(&locks, Ok(7)).unwrap(), 7);
    };
    tokio::task::spawn_blocking(blocking).await.unwrap();
}

#[with_lock("app_task_1", locks = locks)]
async fn outer<F: Future<Output = Result<()>>>(
    locks: &LockManager,
    inner: impl FnOnce(LockManager) -> F,
) -> Result<()> {
    inner(locks.clone()).await
}

#[with_lock("app_task_<id>", locks = locks)]
async fn inner(locks: LockManager, id: u8) -> Result<()> {
    tokio::time::sleep(Duration::from_millis(5)).await;
    Ok(())
}

async fn a_nested_call_for_the_same_lock_is_a_deadlock(db: Database) {
    let locks = connect(&db).await;
    let direct = outer(&locks, |locks| inner(locks, 1));
    let error = tokio::time::timeout(SOON, direct)
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.is_deadlock(), "{error}");

    let between = async |locks: LockManager| {
        let inner = inner(locks.clone(), 1);
        // Neither the manager of the call nor the calls in between matter.
        let other = locks.with_task_id("other").unwrap();
        let error = inner.await.unwrap_err();
        assert!(error.is_deadlock(), "{error}");
        let error = update(&other).await.unwrap_err();
        assert!(error.is_deadlock(), "{error}");
        Ok(())
    };
    let deeper = outer(&locks, between);
    tokio::time::timeout(SOON, deeper).await.unwrap().unwrap();
    wait_until_empty(&db, "platform", SOON).await;
}

async fn nested_call_for_another_lock_is_no_deadlock(db: Database) {
    let locks = connect(&db).await;
    let nested = outer(&locks, |locks| inner(locks, 2));
    tokio::time::timeout(SOON, nested).await.unwrap().unwrap();
}

async fn siblings_wait(db: Database) {
    let locks = connect(&db).await;
    let both = async |locks: LockManager| {
        let (one, two) = tokio::join!(inner(locks.clone(), 2), inner(locks, 2));
        one.and(two)
    };
    let nested = outer(&locks, both);
    tokio::time::timeout(SOON, nested).await.unwrap().unwrap();
}

#[with_lock("app_task_1", locks = locks)]
fn outer_blocking(locks: &LockManager, id: u8) -> Result<()> {
    inner_blocking(locks, id)
}

#[with_lock("app_task_<id>", locks = locks)]
fn inner_blocking(locks: &LockManager, id: u8) -> Result<()> {
    Ok(())
}

async fn a_synchronous_nested_call_is_a_deadlock(db: Database) {
    let locks = connect(&db).await;
    let run = move || {
        assert!(outer_blocking(&locks, 1).is_err_and(|error| error.is_deadlock()));
        outer_blocking(&locks, 2).unwrap();
    };
    let run = tokio::task::spawn_blocking(run);
    tokio::time::timeout(SOON, run).await.unwrap().unwrap();
}

#[with_lock("closing", locks = locks, on_lost = "continue")]
async fn closes(locks: &LockManager) -> Result<()> {
    locks.close().await
}

async fn close_during_a_call_is_no_warning(db: Database) {
    let events = Events::keep();
    let namespace = format!("closing-{:016x}", fastrand::u64(..));
    let builder = LockManager::builder().namespace(&namespace);
    let locks = builder.connect(db.url()).await.expect("it connects");
    closes(&locks).await.expect("the lock is released");
    let of_test = |event: &locks_tests::events::Event| {
        let text = format!("{event:?}");
        text.contains(&namespace) || text.contains("was not released") && text.contains("closed")
    };
    let mut logged = events.all();
    logged.retain(|event| of_test(event) && event.level <= tracing::Level::WARN);
    assert!(logged.is_empty(), "{logged:?}");
}
