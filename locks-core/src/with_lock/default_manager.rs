//! The default manager: for code that has no manager of its own.

use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    error::{LockError, Result},
    manager::LockManager,
};

static INSTALLED: Mutex<Option<LockManager>> = Mutex::new(None);

tokio::task_local! {
    static DEFAULT: LockManager;
}

/// Keeps a manager installed as the default of its process until it is dropped.
///
/// Keep it in a variable of `main`. A manager in a `static` would never be dropped, and the
/// locks that it holds at the end of `main` would stay held until they expire.
#[must_use = "dropping this value uninstalls the manager at once; keep it in a variable of \
              `main`, such as `let _installed = …`"]
#[derive(Debug)]
pub struct Installed {
    _private: (),
}

impl LockManager {
    /// Installs this manager as the default of the process until the returned value is
    /// dropped.
    ///
    /// [`LockManager::current`] returns the default manager. `#[with_lock]` uses it unless
    /// its option `locks` names another one.
    ///
    /// # Errors
    ///
    /// [`LockError::AlreadyInstalled`] if a manager is already installed.
    ///
    /// # Examples
    ///
    /// ```
    /// use locks_core::LockManager;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> locks_core::Result<()> {
    /// let locks = LockManager::connect("sqlite::memory:").await?;
    /// let _installed = locks.install()?;
    ///
    /// let guard = LockManager::current()?.acquire("mail_restart").await?;
    /// # guard.release().await
    /// # }
    /// ```
    pub fn install(&self) -> Result<Installed> {
        let mut installed = installed();
        if installed.is_some() {
            return Err(LockError::AlreadyInstalled);
        }
        *installed = Some(self.clone());
        Ok(Installed { _private: () })
    }

    /// The default manager.
    ///
    /// It is the manager of the innermost [`default_for`](Self::default_for) or
    /// [`default_for_sync`](Self::default_for_sync) around the caller. Outside of them, it is the
    /// [installed](Self::install) one.
    ///
    /// # Errors
    ///
    /// [`LockError::NotInstalled`] if there is neither.
    pub fn current() -> Result<Self> {
        match DEFAULT.try_get() {
            Ok(scoped) => Ok(scoped),
            Err(_) => installed().clone().ok_or(LockError::NotInstalled),
        }
    }

    /// Runs `future` with this manager as the default. Use it in tests, or with several
    /// databases.
    ///
    /// The default applies to the task that polls `future`. **Tasks that `future` spawns do
    /// not inherit it.** Wrap their futures as well:
    ///
    /// ```
    /// use locks_core::LockManager;
    ///
    /// async fn restart() -> locks_core::Result<()> {
    ///     let guard = LockManager::current()?.wait("mail_restart").await?;
    ///     // …
    ///     guard.release().await
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> locks_core::Result<()> {
    /// let locks = LockManager::connect("sqlite::memory:").await?;
    /// locks.default_for(restart()).await?;
    ///
    /// let spawned = tokio::spawn(locks.default_for(restart()));
    /// spawned.await.expect("the task does not panic")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// The returned future is as cancel safe as `future`.
    pub fn default_for<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        DEFAULT.scope(self.clone(), future)
    }

    /// Calls `function` with this manager as the default. Use it in tests of synchronous
    /// functions.
    ///
    /// The default applies to this thread until `function` returns or panics. Calls nest: the
    /// innermost one counts. **Threads that `function` starts do not inherit it.** Call this
    /// method in them as well.
    ///
    /// # Panics
    ///
    /// If `function` panics.
    ///
    /// # Examples
    ///
    /// ```
    /// use locks_core::{LockError, LockManager, with_lock};
    ///
    /// #[with_lock("mail_restart")]
    /// fn restart() -> Result<(), LockError> {
    ///     Ok(())
    /// }
    ///
    /// # fn main() -> locks_core::Result<()> {
    /// let locks = LockManager::connect("sqlite::memory:").blocking()?;
    /// locks.default_for_sync(restart)
    /// # }
    /// ```
    pub fn default_for_sync<R>(&self, function: impl FnOnce() -> R) -> R {
        DEFAULT.sync_scope(self.clone(), function)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let manager = installed().take();
        // The last handle of a driver waits for pending writes, which must not happen under
        // the mutex.
        drop(manager);
    }
}

/// Ignores poisoning: the value is only ever replaced as a whole.
fn installed() -> MutexGuard<'static, Option<LockManager>> {
    INSTALLED.lock().unwrap_or_else(PoisonError::into_inner)
}
