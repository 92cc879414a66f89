//! Guards by hand, in code that sets something up: several locks at once, who stands in the
//! way, waiting with a limit, locks without a guard, and a transaction under a lock.
//!
//! Run it with `cargo run --example setup`. It needs nothing: its database is an `SQLite`
//! file in a temporary directory.

use std::{process::ExitCode, thread, time::Duration};

use locks_core::{Blocker, LockError, LockManager, sqlx};
use locks_examples::{Database, Result};
use sqlx::SqlitePool;

// Set-up code is often synchronous, and runs before there is a runtime: `.blocking()`.
fn main() -> ExitCode {
    match set_up() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn set_up() -> Result<()> {
    let database = Database::at(None)?;
    let url = database.url();
    println!("connects to {database}");
    let installer = LockManager::builder()
        .task_id("installer")
        .connect(url)
        .blocking()?;
    // Stands for another process: the locks cannot tell the difference.
    let updater = LockManager::builder()
        .task_id("updater")
        .connect(url)
        .blocking()?;

    several_at_once(&installer, &updater)?;
    wait_with_limit(&installer, &updater)?;
    without_guard(&installer, &updater)?;
    tokio::runtime::Runtime::new()?.block_on(migrate(&installer, &updater, url))?;

    // Optional: the last handle's drop would do it, too, but could not tell of an error.
    updater.close().blocking()?;
    installer.close().blocking()?;
    println!("\nboth have closed");
    Ok(())
}

/// All of the names or none of them, now or never.
fn several_at_once(installer: &LockManager, updater: &LockManager) -> Result<()> {
    println!("\nSeveral at once");
    let guard = installer
        .acquire(["app_task_1", "app_backup_1"])
        .blocking()?;
    println!("  installer holds {}", list(guard.names()));

    match updater.acquire("box_update").blocking() {
        Ok(_) => return Err("box_update was granted beside an app task".into()),
        Err(LockError::Busy { blocked_by, .. }) => {
            println!("  updater cannot have box_update now:");
            for blocker in &blocked_by {
                match blocker {
                    Blocker::Holder(holder) => {
                        println!("    {} holds {}", holder.task_id, holder.name);
                    }
                    other => println!("    {other}"),
                }
            }
        }
        Err(error) => return Err(error.into()),
    }

    guard.release().blocking()?;
    let update = updater.acquire("box_update").blocking()?;
    println!("  installer has released them; updater holds box_update");
    // Dropping a guard releases it as well, some milliseconds later.
    drop(update);
    Ok(())
}

/// In turn, but not for ever.
fn wait_with_limit(installer: &LockManager, updater: &LockManager) -> Result<()> {
    println!("\nWaiting with a limit");
    let guard = installer.wait("app_task_1").blocking()?;
    let limit = Duration::from_millis(200);
    match updater.wait("box_update").timeout(limit).blocking() {
        Ok(_) => return Err("box_update was granted beside an app task".into()),
        Err(error) if error.is_timeout() => println!("  {error}"),
        Err(error) => return Err(error.into()),
    }

    // Now somebody is waiting when the lock comes free.
    thread::scope(|scope| {
        let update = scope.spawn(|| {
            let limit = Duration::from_secs(10);
            updater.wait("box_update").timeout(limit).blocking()
        });
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

/// A lock that outlives the code that acquired it, for as long as the process lives.
fn without_guard(installer: &LockManager, updater: &LockManager) -> Result<()> {
    println!("\nWithout a guard");
    installer.acquire("mail_restart").blocking()?.detach();
    for holder in updater.held().blocking()? {
        println!("  {holder}, by no guard");
    }
    match updater.release("mail_restart").blocking() {
        Ok(()) => return Err("a lock was released by somebody else".into()),
        Err(error) => println!("  updater tries to release it: {error}"),
    }
    installer.release("mail_restart").blocking()?;
    let held = updater.held().blocking()?.len();
    println!("  installer has released it; {held} locks are held");
    Ok(())
}

/// A transaction that cannot be committed by somebody who has lost the lock.
async fn migrate(installer: &LockManager, updater: &LockManager, url: &str) -> Result<()> {
    println!("\nA migration under a lock");
    let pool = SqlitePool::connect(url).await?;

    let guard = installer.wait("box_update").await?;
    let mut tx = pool.begin().await?;
    sqlx::query("CREATE TABLE settings (version INTEGER NOT NULL)")
        .execute(&mut *tx)
        .await?;
    sqlx::query("INSERT INTO settings (version) VALUES (1)")
        .execute(&mut *tx)
        .await?;
    guard.commit(tx).await?;
    println!(
        "  committed version {} while holding it",
        version(&pool).await?
    );

    // What a supervisor does who believes that a process has ended.
    for holder in updater.release_task(installer.task_id()).await? {
        println!(
            "  updater takes {} away from {}",
            holder.name, holder.task_id
        );
    }
    let mut tx = pool.begin().await?;
    sqlx::query("UPDATE settings SET version = 2")
        .execute(&mut *tx)
        .await?;
    match guard.commit(tx).await {
        Ok(()) => return Err("a transaction was committed after its lock was lost".into()),
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
