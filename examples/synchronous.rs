//! A program without a runtime: `.blocking()` waits for each call, and `#[with_lock]` works on
//! functions that are not `async`. Threads wait for each other as tasks do.
//!
//! Run it with `cargo run --example synchronous`. Its database is an SQLite file in a temporary
//! directory.

use std::{thread, time::Duration};

use locks_core::{LockError, LockManager, with_lock};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Blocks its thread until the lock is free.
#[with_lock("app_task_<app>")]
fn install(app: &str) -> Result<()> {
    println!("installing {app}");
    thread::sleep(Duration::from_millis(100));
    println!("{app} is installed");
    Ok(())
}

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite://{}", directory.path().join("locks.db").display());
    let locks = LockManager::connect(&url).blocking()?;
    let default = locks.install()?; // The manager that `#[with_lock]` uses.

    // Two threads install one app, one after the other.
    let threads = [(); 2].map(|()| thread::spawn(|| install("wiki")));
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }

    // Guards without the attribute.
    let guard = locks.acquire("box_update").blocking()?;
    match locks.acquire("app_task_wiki").blocking() {
        Ok(_) => return Err("app_task_wiki conflicts with box_update".into()),
        Err(LockError::Busy { blocked_by, .. }) => println!("not now: {}", blocked_by[0]),
        Err(error) => return Err(error.into()),
    }
    guard.release().blocking()?;
    let wait = locks.wait("app_task_wiki").timeout(Duration::from_secs(5));
    drop(wait.blocking()?);

    drop(default);
    Ok(locks.close().blocking()?) // Everything is released.
}
