//! The manager: where locks are asked for.

use std::{fmt, sync::Arc};

use crate::{
    builder::Builder,
    driver::{Command, Driver, Owner, Reply},
    error::Result,
    guard::LockGuard,
    matrix::ConflictMatrix,
    name::{self, IntoLockNames, LockName},
    protocol::{Removal, WaitPolicy},
    report::{Holder, Waiter},
    scope::ScopePath,
    wait::{AnswerSender, Request, Wait},
};

/// A handle to the locks of one namespace, acting for one task.
///
/// It is cheap to clone. All handles that come from one connect, also through
/// [`with_namespace`](Self::with_namespace) and [`with_task_id`](Self::with_task_id),
/// share a background driver: a thread with two database connections of its own. When
/// the last handle goes, be it a manager or a guard, what is pending is flushed for at
/// most 2 s. A manager in a `static` is never dropped: call [`close`](Self::close).
///
/// After a `fork` the driver exists in the parent only: in the child every call
/// fails, and a child that locks must connect by itself.
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
/// assert!(locks.acquire("mail_restart").await.unwrap_err().is_busy());
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LockManager {
    driver: Arc<Driver>,
    owner: Arc<Owner>,
}

impl LockManager {
    /// Connects with all settings at their defaults: see [`Builder::connect`].
    ///
    /// # Errors
    ///
    /// As [`Builder::connect`].
    ///
    /// # Cancel safety
    ///
    /// As [`Builder::connect`].
    pub fn connect(url: &str) -> Request<Self> {
        Self::builder().connect(url)
    }

    /// Settings, to connect with.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(driver: Arc<Driver>, owner: Owner) -> Self {
        Self {
            driver,
            owner: Arc::new(owner),
        }
    }

    /// A handle to another namespace, for the same task, on the same connections.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::LockError::InvalidConfig) for a namespace that is not
    /// 1–64 of `[a-z0-9._-]`.
    pub fn with_namespace(&self, namespace: &str) -> Result<Self> {
        let owner = Owner {
            namespace: name::namespace(namespace)?,
            task: self.owner.task.clone(),
        };
        Ok(Self::new(self.driver.clone(), owner))
    }

    /// A handle that acts for another task, on the same connections, with a session
    /// of its own.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::LockError::InvalidConfig) for an id that breaks the
    /// rules of lock names.
    pub fn with_task_id(&self, id: &str) -> Result<Self> {
        let owner = Owner {
            namespace: self.owner.namespace.clone(),
            task: name::task_id(id)?,
        };
        Ok(Self::new(self.driver.clone(), owner))
    }

    /// The namespace of this handle.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.owner.namespace
    }

    /// The task this handle acts for.
    #[must_use]
    pub fn task_id(&self) -> &str {
        &self.owner.task
    }

    /// Which locks exclude each other.
    #[must_use]
    pub fn matrix(&self) -> ConflictMatrix {
        self.driver.matrix()
    }

    /// Acquires locks at once, all of them or none. What tokio calls `try_acquire`.
    ///
    /// A lock is refused while it is held, while another that conflicts with it by
    /// the [`ConflictMatrix`] is held, and while somebody who came earlier waits for
    /// one that it conflicts with. A refusal rests on the row as read after the
    /// request came.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::LockError::Busy) with what stands in the way,
    /// [`InvalidName`](crate::LockError::InvalidName), or
    /// [`Database`](crate::LockError::Database) when the database could not be asked
    /// for 10 s.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its answer, it takes nothing: a grant under way is undone.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> locks_core::Result<()> {
    /// # let locks = locks_core::LockManager::connect("sqlite::memory:").await?;
    /// let both = locks.acquire(["app_task_1", "app_backup_1"]).await?;
    /// let refused = locks.acquire("box_update").await.unwrap_err();
    /// println!("{refused}"); // … app_backup_1 is held by task …
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "try_lock")]
    #[doc(alias = "try_acquire")]
    pub fn acquire(&self, names: impl IntoLockNames) -> Request<LockGuard> {
        match name::collect(&names) {
            Ok(names) => self.ask(names, WaitPolicy::NoWait),
            Err(error) => Request::failed(error),
        }
    }

    /// Waits for locks in turn, and acquires all of them together. What tokio calls
    /// `acquire`.
    ///
    /// Without a [`timeout`](Wait::timeout) it waits without end, also while the
    /// database is away.
    ///
    /// # Errors
    ///
    /// [`Timeout`](crate::LockError::Timeout) when the lock was seen refused until
    /// the end, or the database's last error when it could not be asked;
    /// [`Deadlock`](crate::LockError::Deadlock) when what blocks waits for the
    /// caller's own scope; [`QueueFull`](crate::LockError::QueueFull);
    /// [`InvalidName`](crate::LockError::InvalidName);
    /// [`Database`](crate::LockError::Database) and
    /// [`Schema`](crate::LockError::Schema) for what cannot heal.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its answer, it leaves the queue and takes nothing. Its place is
    /// lost: a wait in a `select!` loop should be kept, not made anew.
    #[doc(alias = "lock")]
    pub fn wait(&self, names: impl IntoLockNames) -> Wait {
        let this = self.clone();
        let names = name::collect(&names);
        Wait::new(move |timeout| match names {
            Ok(names) => this.ask(names, WaitPolicy::Wait { timeout }),
            Err(error) => Request::failed(error),
        })
    }

    fn ask(&self, names: Arc<[LockName]>, policy: WaitPolicy) -> Request<LockGuard> {
        let Self { driver, owner } = self.clone();
        Request::undoable(move |answer| {
            let nonce = driver.nonce();
            let namespace = owner.namespace.clone();
            let reply = Reply::new(move |grant: Result<_>| {
                // If the caller is gone, the guard is dropped and releases.
                drop(answer.send(grant.map(LockGuard::new)));
            });
            driver.send(Command::Acquire {
                owner,
                nonce,
                names,
                path: ScopePath::current(),
                policy,
                reply,
            });
            Box::new(move || driver.send(Command::Cancel { namespace, nonce }))
        })
    }

    /// Releases a lock of this task that was [detached](LockGuard::detach).
    ///
    /// # Errors
    ///
    /// [`NotHeld`](crate::LockError::NotHeld),
    /// [`HeldByOther`](crate::LockError::HeldByOther), or
    /// [`HeldByGuard`](crate::LockError::HeldByGuard) where a guard of this process
    /// holds it.
    ///
    /// # Cancel safety
    ///
    /// Once polled it is done, whether or not somebody waits for the answer.
    pub fn release(&self, name: impl AsRef<str>) -> Request<()> {
        let owner = self.owner.clone();
        match LockName::new(name) {
            Ok(name) => self.send(|_, reply| Command::ReleaseName { owner, name, reply }),
            Err(error) => Request::failed(error),
        }
    }

    /// Takes away everything that a task holds, and returns it: for a supervisor
    /// whose worker has ended. Each lock is logged as forgotten. The task's sessions
    /// end first, so that a commit it fenced cannot come later.
    ///
    /// Where the task holds nothing, the locks row is not written.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::LockError::InvalidConfig) for an impossible id, or
    /// [`Database`](crate::LockError::Database).
    ///
    /// # Cancel safety
    ///
    /// Once polled it is done, whether or not somebody waits for the answer.
    pub fn release_task(&self, task_id: impl AsRef<str>) -> Request<Vec<Holder>> {
        match name::task_id(task_id.as_ref()) {
            Ok(task) => self.remove(Removal::Task(task)),
            Err(error) => Request::failed(error),
        }
    }

    /// Takes away every lock of the namespace, whoever holds it, and returns them:
    /// for the start of a platform. Versions and tokens go on growing.
    ///
    /// # Errors
    ///
    /// [`Database`](crate::LockError::Database).
    ///
    /// # Cancel safety
    ///
    /// Once polled it is done, whether or not somebody waits for the answer.
    pub fn release_all(&self) -> Request<Vec<Holder>> {
        self.remove(Removal::All)
    }

    /// What is held in the namespace, by whomever, as the row says now.
    ///
    /// # Errors
    ///
    /// [`Database`](crate::LockError::Database), or
    /// [`Schema`](crate::LockError::Schema) where the row cannot be read.
    ///
    /// # Cancel safety
    ///
    /// It changes nothing.
    pub fn held(&self) -> Request<Vec<Holder>> {
        self.send(|namespace, reply| Command::Held { namespace, reply })
    }

    /// Who waits in the namespace, in order, and for what.
    ///
    /// # Errors
    ///
    /// As [`held`](Self::held).
    ///
    /// # Cancel safety
    ///
    /// It changes nothing.
    pub fn waiting(&self) -> Request<Vec<Waiter>> {
        self.send(|namespace, reply| Command::Waiting { namespace, reply })
    }

    fn remove(&self, what: Removal) -> Request<Vec<Holder>> {
        self.send(|namespace, reply| Command::Remove {
            namespace,
            what,
            reply,
        })
    }

    fn send<T: Send + 'static>(
        &self,
        command: impl FnOnce(Arc<str>, Reply<T>) -> Command + Send + 'static,
    ) -> Request<T> {
        let Self { driver, owner } = self.clone();
        Request::new(move |answer: AnswerSender<T>| {
            let reply = Reply::new(move |result| drop(answer.send(result)));
            driver.send(command(owner.namespace.clone(), reply));
        })
    }

    /// Releases what is held and ends the driver, for all handles: guards that are
    /// still alive become [`Lost`](crate::Lost), every later call gets
    /// [`Closed`](crate::LockError::Closed). Detached locks go too, unless they never
    /// expire.
    ///
    /// # Errors
    ///
    /// [`Database`](crate::LockError::Database) when the locks could not be released
    /// within 10 s; they come back when their sessions expire.
    ///
    /// # Cancel safety
    ///
    /// Once polled it is done, whether or not somebody waits for the answer.
    pub fn close(&self) -> Request<()> {
        self.send(|_, reply| Command::Close(reply))
    }
}

impl fmt::Debug for LockManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockManager")
            .field("namespace", &self.namespace())
            .field("task_id", &self.task_id())
            .finish_non_exhaustive()
    }
}
