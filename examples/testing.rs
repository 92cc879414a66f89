//! Unit tests of annotated functions. They need no server and no file: each test has a database in
//! memory, and its manager is the default of that test alone, so that tests run side by side.
//!
//! A function that its callers must call with a lock says so by `assert_held`. A test then shows
//! that it panics without the lock.
//!
//! Run the tests with `cargo test -p locks-examples --example testing`.

use locks_core::{LockError, LockManager, with_lock};

/// Installs an app, unless it is being installed already.
#[with_lock("app_task_<app>", acquire, busy = Ok(false))]
async fn install(app: &str) -> Result<bool, LockError> {
    write_configuration(app)?;
    Ok(true)
}

/// Restarts the mail server.
#[with_lock("mail_restart")]
fn restart_mail() -> Result<(), LockError> {
    Ok(())
}

/// Its callers hold the lock of the app.
fn write_configuration(app: &str) -> Result<(), LockError> {
    LockManager::current()?.assert_held(format!("app_task_{app}"));
    // …
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let locks = LockManager::connect("sqlite::memory:").await?;
    let _default = locks.install()?;
    println!("installed: {}", install("wiki").await?);
    tokio::task::spawn_blocking(restart_mail)
        .await
        .expect("it does not panic")?;
    println!("run the tests: cargo test -p locks-examples --example testing");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Locks that no other test has.
    async fn locks() -> LockManager {
        let connect = LockManager::connect("sqlite::memory:");
        connect.await.expect("a database in memory")
    }

    #[tokio::test]
    async fn an_app_is_installed() {
        let locks = locks().await;
        let installed = locks.default_for(install("wiki")).await;
        assert!(installed.unwrap());
        assert_eq!(locks.held().await.unwrap(), [], "its lock is released");
    }

    #[tokio::test]
    async fn an_app_that_is_being_installed_is_skipped() {
        let locks = locks().await;
        // What another process would hold.
        let _guard = locks.acquire("app_task_wiki").await.unwrap();
        let installed = locks.default_for(install("wiki")).await;
        assert!(!installed.unwrap());
    }

    #[test]
    fn a_synchronous_function_gets_its_default_for_one_call() {
        let locks = LockManager::connect("sqlite::memory:").blocking().unwrap();
        locks.default_for_sync(restart_mail).unwrap();
    }

    #[tokio::test]
    async fn configuration_is_written_with_the_lock() {
        let locks = locks().await;
        let _guard = locks.acquire("app_task_wiki").await.unwrap();
        let written = locks.default_for(async { write_configuration("wiki") });
        written.await.unwrap();
    }

    #[tokio::test]
    #[should_panic(expected = "does not hold the lock app_task_wiki")]
    async fn configuration_is_not_written_with_the_lock_of_another_app() {
        let locks = locks().await;
        let _guard = locks.acquire("app_task_mail").await.unwrap();
        let written = locks.default_for(async { write_configuration("wiki") });
        written.await.unwrap();
    }
}
