//! The manager of a function with `#[with_lock]` that names none. The installed manager belongs to
//! the process, so this is one test.

use locks_core::{LockError, LockManager, Result, with_lock};
use locks_tests::{
    engine::{Database, Engine, alone},
    wait,
};

#[with_lock("app_task_<id>")]
async fn used(id: &str) -> Result<String> {
    Ok(LockManager::current()?.task_id().to_owned())
}

#[with_lock("app_task_<id>")]
fn used_blocking(id: &str) -> Result<String> {
    Ok(LockManager::current()?.task_id().to_owned())
}

async fn connect(db: &Database, task: &str) -> LockManager {
    let locks = LockManager::builder().task_id(task).connect(db.url());
    locks.await.unwrap()
}

// The guard keeps other tests out, and this task is the only one of its runtime that needs it.
#[allow(clippy::await_holding_lock)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_is_the_scoped_or_the_installed_one() {
    let _alone = alone();
    let db = Database::create(Engine::Sqlite);
    let (one, two) = (connect(&db, "one").await, connect(&db, "two").await);

    // The macro reports what is missing.
    let error = used("1").await.unwrap_err();
    assert!(matches!(error, LockError::NotInstalled), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("install") && text.contains("default_for"),
        "{text}"
    );

    // Scoped: for what is awaited inside, not for what is spawned.
    assert_eq!(one.default_for(used("1")).await.unwrap(), "one");
    let spawning = one.default_for(async { tokio::spawn(used("1")).await.unwrap() });
    assert!(matches!(spawning.await, Err(LockError::NotInstalled)));
    let spawned = tokio::spawn(one.default_for(used("1")));
    assert_eq!(spawned.await.unwrap().unwrap(), "one");
    let nested = one.default_for(two.default_for(used("1")));
    assert_eq!(nested.await.unwrap(), "two");
    let blocking = one.default_for(async { tokio::task::block_in_place(|| used_blocking("1")) });
    assert_eq!(blocking.await.unwrap(), "one");

    // Installed: for the whole process, once, until the installation is dropped.
    let installed = one.install().unwrap();
    let error = two.install().unwrap_err();
    assert!(matches!(error, LockError::AlreadyInstalled), "{error:?}");
    assert_eq!(tokio::spawn(used("1")).await.unwrap().unwrap(), "one");
    assert_eq!(two.default_for(used("1")).await.unwrap(), "two");
    let thread = std::thread::spawn(|| used_blocking("1"));
    assert_eq!(thread.join().unwrap().unwrap(), "one");
    drop(installed);
    assert!(matches!(used("1").await, Err(LockError::NotInstalled)));

    // The installation holds the manager until it is dropped: the last handle flushes.
    let installed = two.install().unwrap();
    two.acquire("mail_restart").await.unwrap().detach();
    drop((one, two));
    assert_eq!(used("1").await.unwrap(), "two");
    wait::block_on_thread(async { drop(installed) });
    assert!(LockManager::current().is_err());
}
