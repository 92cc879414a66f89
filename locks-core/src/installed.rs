//! The manager that code uses which was handed none.

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

/// Keeps a manager the default of its process; dropping it takes the default back.
///
/// It exists because a manager in a `static` is never dropped, so what it holds at the
/// end of `main` would stay held until it expires. Keep it in a variable of `main`.
#[must_use = "dropping this takes the default back at once; keep it in a variable of `main`, \
              such as `let _installed = …`"]
#[derive(Debug)]
pub struct Installed {
    _private: (),
}

impl LockManager {
    /// Makes this manager the default of the process, until the returned value is dropped.
    ///
    /// The default is what [`LockManager::current`] returns and what `#[with_lock]` uses
    /// where it is not given another.
    ///
    /// # Errors
    ///
    /// [`LockError::AlreadyInstalled`] while another one is installed.
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

    /// The default manager: that of the innermost [`default_for`](Self::default_for)
    /// around the caller, or else the [installed](Self::install) one.
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

    /// Makes this manager the default for `future` and all it awaits: in a test, or for
    /// one of several databases.
    ///
    /// It is bound to the task: **what `future` spawns does not see it.** Wrap what you
    /// spawn as well:
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
    /// spawned.await.expect("it did not panic")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// That of `future`.
    pub fn default_for<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        DEFAULT.scope(self.clone(), future)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let manager = installed().take();
        // Outside of the mutex: the last handle waits for what it has to write.
        drop(manager);
    }
}

/// A panic elsewhere leaves nothing half done in there.
fn installed() -> MutexGuard<'static, Option<LockManager>> {
    INSTALLED.lock().unwrap_or_else(PoisonError::into_inner)
}
