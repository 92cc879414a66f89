//! Locks in code that sets something up: several locks at once, what stands in the way, a wait with
//! a limit, a lock without a guard, and a transaction that is committed only while its lock is
//! held. Code without a runtime calls `.blocking()`.
//!
//! Run it with `cargo run --example setup`. Its database is an SQLite file in a temporary directory.

use std::{process, thread, time::Duration};

use locks_core::{
    Blocker, LockError, LockManager,
    sqlx::{self, SqlitePool},
};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

fn main() {
    if let Err(error) = set_up() {
        eprintln!("error: {error}");
        process::exit(1);
    }
}

fn set_up() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite://{}", directory.path().join("locks.db").display());
    let connect = |task: &str| {
        LockManager::builder()
            .task_id(task)
            .connect(&url)
            .blocking()
    };
    let installer = connect("installer")?;
    // This could be another process.
    let updater = connect("updater")?;

    several_at_once(&installer, &updater)?;
    wait_with_limit(&installer, &updater)?;
    without_guard(&installer, &updater)?;
    tokio::runtime::Runtime::new()?.block_on(migrate(&installer, &updater, &url))?;

    updater.close().blocking()?;
    installer.close().blocking()?;
    println!("\nboth have closed");
    Ok(())
}

/// All of the names or none of them, without waiting.
fn several_at_once(installer: &LockManager, updater: &LockManager) -> Result<()> {
    println!("Several at once");
    let names = ["app_task_1", "app_backup_1"];
    let guard = installer.acquire(names).blocking()?;
    println!("  installer holds {}", list(guard.names()));

    match updater.acquire("box_update").blocking() {
        Ok(_) => return Err("box_update conflicts with app_task_1".into()),
        Err(LockError::Busy { blocked_by, .. }) => {
            println!("  updater cannot have box_update now:");
            for blocker in &blocked_by {
                if let Blocker::Holder(holder) = blocker {
                    println!("    {} holds {}", holder.task_id, holder.name);
                }
            }
        }
        Err(error) => return Err(error.into()),
    }

    guard.release().blocking()?;
    let update = updater.acquire("box_update").blocking()?;
    println!("  installer has released them; updater holds box_update");
    // A dropped guard is released some milliseconds later.
    drop(update);
    Ok(())
}

/// In order of arrival, and not for longer than a limit.
fn wait_with_limit(installer: &LockManager, updater: &LockManager) -> Result<()> {
    println!("\nWaiting with a limit");
    let guard = installer.wait("app_task_1").blocking()?;
    let limit = Duration::from_millis(200);
    match updater.wait("box_update").timeout(limit).blocking() {
        Ok(_) => return Err("box_update conflicts with app_task_1".into()),
        Err(error) if error.is_timeout() => println!("  {error}"),
        Err(error) => return Err(error.into()),
    }

    // Now the updater is waiting when the lock is released.
    thread::scope(|scope| {
        let limit = Duration::from_secs(10);
        let update = scope.spawn(move || updater.wait("box_update").timeout(limit).blocking());
        while installer.waiting().blocking()?.is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        println!("  updater waits again; installer releases app_task_1");
        guard.release().blocking()?;
        let update = update.join().map_err(|_| "the waiting thread panicked")??;
        println!("  updater holds {}", list(update.names()));
        update.release().blocking()?;
        Ok(())
    })
}

/// A lock that is held until it is released by name, or until the process ends.
fn without_guard(installer: &LockManager, updater: &LockManager) -> Result<()> {
    println!("\nWithout a guard");
    installer.acquire("mail_restart").blocking()?.detach();
    for holder in updater.held().blocking()? {
        println!("  {holder}, without a guard");
    }
    match updater.release("mail_restart").blocking() {
        Ok(()) => return Err("another task has released the lock".into()),
        Err(error) => println!("  updater tries to release it: {error}"),
    }
    installer.release("mail_restart").blocking()?;
    let held = updater.held().blocking()?.len();
    println!("  installer has released it; {held} locks are held");
    Ok(())
}

/// A transaction that is committed only if the lock is still held.
async fn migrate(installer: &LockManager, updater: &LockManager, url: &str) -> Result<()> {
    println!("\nA migration under a lock");
    let pool = SqlitePool::connect(url).await?;

    let guard = installer.wait("box_update").await?;
    let mut tx = pool.begin().await?;
    let create = "CREATE TABLE settings AS SELECT 1 AS version";
    sqlx::query(create).execute(&mut *tx).await?;
    guard.commit(tx).await?;
    println!("  committed version {}", version(&pool).await?);

    // A supervisor does this when it believes that the installer has ended.
    for holder in updater.release_task(installer.task_id()).await? {
        let (name, task) = (holder.name, holder.task_id);
        println!("  updater takes {name} away from {task}");
    }
    let mut tx = pool.begin().await?;
    let update = "UPDATE settings SET version = 2";
    sqlx::query(update).execute(&mut *tx).await?;
    match guard.commit(tx).await {
        Ok(()) => return Err("the lock was lost, and the transaction committed".into()),
        Err(error) if error.is_lost() => println!("  refused: {error}"),
        Err(error) => return Err(error.into()),
    }
    println!("  it is still version {}", version(&pool).await?);
    pool.close().await;
    Ok(())
}

async fn version(pool: &SqlitePool) -> Result<i64> {
    let query = sqlx::query_scalar("SELECT version FROM settings");
    Ok(query.fetch_one(pool).await?)
}

fn list(names: &[locks_core::LockName]) -> String {
    let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
    names.join(" and ")
}
