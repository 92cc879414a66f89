//! Whether a lock is held, as far as this process knows.

use super::LockManager;
use crate::name::LockName;

impl LockManager {
    /// Whether a guard of this handle's task holds this lock, alone or
    /// [shared](crate::Shared), in this handle's namespace and as far as this process knows.
    ///
    /// It is a look at memory: it does not wait, needs no runtime, and asks no database. Guards
    /// count from their grant until they are released, dropped or detached, also the guard of a
    /// running `#[with_lock]` function. A guard that [is lost](crate::LockGuard::is_lost) does not
    /// count. Locks of other processes do not count, and neither do locks that were detached:
    /// [`held`](Self::held) reports these.
    ///
    /// The answer may be out of date when it arrives, because a lock can be lost at any time. What
    /// depends on the lock belongs into a transaction that the guard
    /// [commits](crate::LockGuard::commit).
    ///
    /// # Examples
    ///
    /// ```
    /// use locks_core::LockManager;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> locks_core::Result<()> {
    /// let locks = LockManager::connect("sqlite::memory:").await?;
    /// let guard = locks.acquire("mail_restart").await?;
    /// assert!(locks.is_held("mail_restart"));
    /// drop(guard);
    /// assert!(!locks.is_held("mail_restart"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_held(&self, name: impl AsRef<str>) -> bool {
        self.names_held().iter().any(|held| held == name.as_ref())
    }

    /// Panics unless [`is_held`](Self::is_held): for functions that must be called with a lock,
    /// and for their unit tests.
    ///
    /// # Panics
    ///
    /// If no guard of this handle's task holds the lock. The message names the locks that are
    /// held.
    ///
    /// # Examples
    ///
    /// ```
    /// use locks_core::{LockError, LockManager, with_lock};
    ///
    /// #[with_lock("app_task_<app>")]
    /// async fn install(app: &str) -> Result<(), LockError> {
    ///     write_configuration(app)
    /// }
    ///
    /// /// Its callers hold the lock of the app.
    /// fn write_configuration(app: &str) -> Result<(), LockError> {
    ///     LockManager::current()?.assert_held(format!("app_task_{app}"));
    ///     // …
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> locks_core::Result<()> {
    /// let locks = LockManager::connect("sqlite::memory:").await?;
    /// locks.default_for(install("wiki")).await
    /// # }
    /// ```
    #[track_caller]
    pub fn assert_held(&self, name: impl AsRef<str>) {
        let (name, held) = (name.as_ref(), self.names_held());
        assert!(
            held.iter().any(|held| held == name),
            "task {} does not hold the lock {name} in namespace {} and this process; it holds {}",
            self.task_id(),
            self.namespace(),
            if held.is_empty() {
                "no lock".to_owned()
            } else {
                held.iter()
                    .map(LockName::as_str)
                    .collect::<Vec<_>>()
                    .join(", ")
            },
        );
    }

    fn names_held(&self) -> Vec<LockName> {
        self.driver.names_held(self.namespace(), self.task_id())
    }
}
