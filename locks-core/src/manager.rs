//! The manager, which acquires locks.

mod changes;

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    builder::Builder,
    driver::{Command, Driver, Grant, Owner, Reply},
    error::{LockError, Result},
    guard::LockGuard,
    matrix::ConflictMatrix,
    name::{self, IntoLockNames, LockName, Names},
    protocol::{Removal, WaitPolicy},
    report::{Holder, Waiter},
    scope::ScopePath,
    store::{IntoConnectOptions, Target, sealed::Connect},
    wait::{Acquire, AnswerSender, Request, Wait},
};

mod holds;

pub use self::changes::Changes;

/// A handle to the locks of one namespace, which acts for one task.
///
/// It is cheap to clone. All handles from one connect, also those of
/// [`with_namespace`](Self::with_namespace) and [`with_task_id`](Self::with_task_id), share a
/// driver: a background thread with one to five database connections of its own, as
/// [`Builder::connect`] describes.
///
/// The drop of the last handle, a manager or a guard, waits up to 2 s for pending releases. A
/// manager in a `static` is never dropped: call [`close`](Self::close).
///
/// After a `fork` the driver exists only in the parent. In the child every call fails; connect
/// again there.
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
    /// Connects with default settings: see [`Builder::connect`].
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

    /// Returns a builder with default settings.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(driver: Arc<Driver>, owner: Owner) -> Self {
        Self {
            driver,
            owner: Arc::new(owner),
        }
    }

    /// Returns a handle to another namespace, with this handle's task and driver.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::LockError::InvalidConfig) if the namespace is not 1–64 characters
    /// of `[a-z0-9._-]`.
    pub fn with_namespace(&self, namespace: &str) -> Result<Self> {
        let owner = Owner {
            namespace: name::namespace(namespace)?,
            task: self.owner.task.clone(),
        };
        Ok(Self::new(self.driver.clone(), owner))
    }

    /// Returns a handle that acts for another task, with this handle's namespace and driver. Each
    /// task has a session of its own.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::LockError::InvalidConfig) if the id breaks the rules of lock
    /// names.
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

    /// The task that this handle acts for.
    #[must_use]
    pub fn task_id(&self) -> &str {
        &self.owner.task
    }

    /// The matrix that says which locks exclude each other.
    #[must_use]
    pub fn matrix(&self) -> ConflictMatrix {
        self.driver.matrix()
    }

    /// Acquires all of these locks without waiting for them, or none. This is tokio's
    /// `try_acquire`. It has no timeout; [`wait`](Self::wait) waits and can have one.
    ///
    /// A lock is refused if it is held, unless both share it; if a held lock or a lock that an
    /// earlier request waits for conflicts with it by the [`ConflictMatrix`]; or if a limit of the
    /// matrix is used up. A refusal rests on a row that was read after the request arrived.
    ///
    /// # Errors
    ///
    /// - [`Busy`](crate::LockError::Busy): a lock is not available; the error names what
    ///   blocks it.
    /// - [`InvalidName`](crate::LockError::InvalidName).
    /// - [`InvalidConfig`](crate::LockError::InvalidConfig): the request names more locks than a
    ///   limit allows, or `max_hold` is zero.
    /// - [`Rejected`](crate::LockError::Rejected): the database cannot store a name.
    /// - [`Database`](crate::LockError::Database): the database did not answer within 10 s.
    /// - [`Schema`](crate::LockError::Schema): the row cannot be used.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before its answer, nothing is held: a grant that is under way is
    /// released.
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
    pub fn acquire(&self, names: impl IntoLockNames) -> Acquire {
        let this = self.clone();
        let names = name::collect(&names);
        Acquire::new(move |limits| this.request(names, WaitPolicy::NoWait, limits.max_hold))
    }

    /// Waits for all of these locks in order of arrival and acquires them together. This is
    /// tokio's `acquire`.
    ///
    /// Without a [`timeout`](Wait::timeout) it waits without end, also while the database is
    /// unreachable.
    ///
    /// # Errors
    ///
    /// - [`Timeout`](crate::LockError::Timeout): the time-out passed while the locks were not
    ///   available. If the database did not answer, the error is the last one of the database.
    /// - [`Deadlock`](crate::LockError::Deadlock): what blocks the request waits for the caller's
    ///   own scope. This is seen within one namespace. With
    ///   [`Fairness::Barging`](crate::Fairness::Barging) requests are in no queue, so it is seen
    ///   only if a lock of the caller's own scopes blocks the request.
    /// - [`QueueFull`](crate::LockError::QueueFull).
    /// - [`InvalidName`](crate::LockError::InvalidName).
    /// - [`InvalidConfig`](crate::LockError::InvalidConfig): the request names more locks than a
    ///   limit allows, or `max_hold` is zero.
    /// - [`Rejected`](crate::LockError::Rejected): the database cannot store a name.
    /// - [`Database`](crate::LockError::Database), [`Schema`](crate::LockError::Schema): the
    ///   database file was replaced, or the row cannot be used.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before its answer, the request leaves the queue and nothing is
    /// held. Its position is lost: in a `select!` loop keep one future instead of making a new
    /// one in each iteration.
    #[doc(alias = "lock")]
    pub fn wait(&self, names: impl IntoLockNames) -> Wait {
        let this = self.clone();
        let names = name::collect(&names);
        Wait::new(move |limits| {
            let timeout = limits.timeout;
            this.request(names, WaitPolicy::Wait { timeout }, limits.max_hold)
        })
    }

    /// A request for locks.
    pub(crate) fn request(
        self,
        names: Result<Names>,
        policy: WaitPolicy,
        max_hold: Option<Duration>,
    ) -> Request<LockGuard> {
        let names = match names {
            Ok(_) if max_hold.is_some_and(|limit| limit.is_zero()) => {
                return Request::failed(LockError::config("max_hold", "it is zero"));
            }
            Ok(names) => names,
            Err(error) => return Request::failed(error),
        };
        let Self { driver, owner } = self;
        Request::undoable(move |answer| {
            let nonce = driver.nonce();
            let namespace = owner.namespace.clone();
            let reply = Reply::new(move |grant: Result<Grant>| {
                // If the caller is gone, the guard is dropped and releases its locks.
                drop(answer.send(grant.map(LockGuard::new)));
            });
            driver.send(Command::Acquire {
                owner,
                nonce,
                names,
                path: ScopePath::current(),
                policy,
                max_hold,
                reply,
            });
            Box::new(move || driver.send(Command::Cancel { namespace, nonce }))
        })
    }

    /// Releases a lock of this task that was [detached](LockGuard::detach) in this process.
    ///
    /// If an earlier process of the task has detached it, which is possible with
    /// [`Expiry::Never`](crate::Expiry::Never), [`release_holder`](Self::release_holder) releases
    /// it.
    ///
    /// # Errors
    ///
    /// - [`NotHeld`](crate::LockError::NotHeld): the lock is not held.
    /// - [`HeldByOther`](crate::LockError::HeldByOther): another task or another process holds
    ///   it.
    /// - [`HeldByGuard`](crate::LockError::HeldByGuard): a guard of this process holds it.
    /// - [`InvalidName`](crate::LockError::InvalidName).
    ///
    /// # Cancel safety
    ///
    /// Once the future was polled, dropping it does not stop the call.
    pub fn release(&self, name: impl AsRef<str>) -> Request<()> {
        let owner = self.owner.clone();
        match LockName::new(name) {
            Ok(name) => self.send(|_, reply| Command::ReleaseName { owner, name, reply }),
            Err(error) => Request::failed(error),
        }
    }

    /// Releases every lock that a task holds, and returns them. A supervisor calls it when a
    /// worker has ended.
    ///
    /// The call means every process that uses the task id. If a new life of a worker uses the id
    /// of the last one, [`release_holder`](Self::release_holder) ends one of them.
    ///
    /// The task's sessions are deleted first, so that a commit which the task has fenced cannot
    /// follow. A commit that is under way delays the call; sessions that are opened meanwhile are
    /// spared. A holder that is alive is told as by [`release_holder`](Self::release_holder). Each lock is
    /// logged as forgotten. If the task holds nothing, the locks row is not written.
    ///
    /// # Errors
    ///
    /// - [`InvalidConfig`](crate::LockError::InvalidConfig): the id breaks the rules of lock
    ///   names.
    /// - [`Database`](crate::LockError::Database).
    ///
    /// # Cancel safety
    ///
    /// Once the future was polled, dropping it does not stop the call.
    pub fn release_task(&self, task_id: impl AsRef<str>) -> Request<Vec<Holder>> {
        match name::task_id(task_id.as_ref()) {
            Ok(task) => self.remove(Removal::Task(task)),
            Err(error) => Request::failed(error),
        }
    }

    /// Takes a lock away from its holder, if it is still the grant that `holder` reports. An
    /// operator ends one life of a worker with it, while another life with the same task id goes on.
    ///
    /// The holder's session is deleted first, so that a commit which it has fenced cannot follow.
    /// So the holder loses everything that its session holds: all locks of its task in its process
    /// and namespace. Each lock is logged.
    ///
    /// A holder that is alive is told at its next renewal, which is a third of its
    /// [expiry](crate::Builder::expiry) later at most: 5 s by default. The next holder may be at work
    /// by then.
    ///
    /// # Errors
    ///
    /// - [`NotHeld`](crate::LockError::NotHeld): the lock is free, or was granted again.
    /// - [`Database`](crate::LockError::Database).
    ///
    /// # Cancel safety
    ///
    /// Once the future was polled, dropping it does not stop the call.
    pub fn release_holder(&self, holder: &Holder) -> Request<()> {
        let Self { driver, owner } = self.clone();
        let what = Removal::Grant(holder.clone());
        let name = holder.name.clone();
        Request::new(move |answer: AnswerSender<()>| {
            let reply = Reply::new(move |removed: Result<Vec<Holder>>| {
                let answered = match removed {
                    Ok(removed) if removed.is_empty() => Err(LockError::NotHeld { name }),
                    other => other.map(drop),
                };
                drop(answer.send(answered));
            });
            let namespace = owner.namespace.clone();
            driver.send(Command::Remove {
                namespace,
                what,
                reply,
            });
        })
    }

    /// Releases every lock of the namespace, of any task, and returns them. A platform calls it
    /// when it starts. Versions and tokens continue to grow. Locks that are acquired after the call
    /// has begun may be spared.
    ///
    /// # Errors
    ///
    /// [`Database`](crate::LockError::Database).
    ///
    /// # Cancel safety
    ///
    /// Once the future was polled, dropping it does not stop the call.
    pub fn release_all(&self) -> Request<Vec<Holder>> {
        self.remove(Removal::All)
    }

    /// Reads the locks that are held in the namespace, by any task.
    ///
    /// If locks are held, a second query reads where their processes run.
    ///
    /// # Errors
    ///
    /// - [`Database`](crate::LockError::Database).
    /// - [`Schema`](crate::LockError::Schema): the row cannot be parsed.
    ///
    /// # Cancel safety
    ///
    /// The call changes nothing.
    pub fn held(&self) -> Request<Vec<Holder>> {
        self.send(|namespace, reply| Command::Held { namespace, reply })
    }

    /// Reads the requests that wait in the namespace, in the order of the queue, each with what
    /// blocks it.
    ///
    /// # Errors
    ///
    /// As [`held`](Self::held).
    ///
    /// # Cancel safety
    ///
    /// The call changes nothing.
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

    /// Releases all locks of the driver and ends it, for all its handles.
    ///
    /// Existing guards become [`Lost`](crate::Lost), and later calls fail with
    /// [`Closed`](crate::LockError::Closed). Detached locks are released too, unless they
    /// [never expire](crate::Expiry::Never).
    ///
    /// # Errors
    ///
    /// [`Database`](crate::LockError::Database) if the locks were not released within 10 s; they
    /// are recovered when their sessions expire.
    ///
    /// # Cancel safety
    ///
    /// Once the future was polled, dropping it does not stop the call.
    pub fn close(&self) -> Request<()> {
        self.send(|_, reply| Command::Close(reply))
    }
}

/// How a builder becomes a manager.
impl Builder {
    /// Connects to a database by its URL: `sqlite:`, `mysql:`, `mariadb:`, `postgres:` or
    /// `postgresql:`. A missing SQLite file is created, unless the URL has a `mode`. Missing
    /// tables are created, unless [`create_tables`](Self::create_tables) is off. A relative path
    /// of a file is resolved in this call, not when the future is polled.
    ///
    /// The oldest versions that work are MySQL 8.0, MariaDB 10.3 and PostgreSQL 12. The
    /// connections override those settings of the server, the role and the URL on which the
    /// meaning, the durability or the answer of a statement depends.
    ///
    /// # Rights
    ///
    /// The connect checks that the account has the first three of these rights. Without the last
    /// one each process writes for itself. An account needs more only to create the tables.
    ///
    /// ```sql
    /// GRANT SELECT, INSERT, UPDATE ON locks TO account;
    /// GRANT SELECT, INSERT, UPDATE, DELETE ON lock_sessions TO account;
    /// GRANT SELECT, INSERT, UPDATE, DELETE ON lock_fences TO account;
    /// GRANT SELECT, INSERT, UPDATE, DELETE ON lock_requests TO account; -- not on SQLite
    /// ```
    ///
    /// An account whose transactions are fenced needs `SELECT` and `UPDATE` on `lock_fences`.
    /// Row-level security of PostgreSQL must not apply to these tables. SQLite has no accounts.
    ///
    /// # Connections
    ///
    /// A manager and its handles use at most five connections at a time: one for the rows, from the
    /// first lock on one for renewals, up to two that delete sessions and check fences, and on
    /// PostgreSQL one that hears notifications while a request waits. The last three are closed after
    /// 10 s without use. The `application_name` on PostgreSQL is `locks`, unless the URL or the
    /// options have one. On MySQL the connections have no name, because sqlx sends no connection
    /// attributes.
    ///
    /// # Poolers
    ///
    /// The connect recognises a pooler of PostgreSQL, such as `PgBouncer`:
    ///
    /// - In session mode it makes no difference. A process needs up to five server connections.
    /// - In transaction mode neither settings nor subscriptions nor prepared statements stay on
    ///   the server connections. Each statement is a transaction and takes four round trips.
    ///   Waiters poll as on MySQL.
    /// - In statement mode there are no transactions, and the connect fails.
    ///
    /// # Errors
    ///
    /// - [`LockError::InvalidConfig`](crate::LockError::InvalidConfig): a setting or the URL is
    ///   invalid; the file is on a network file system; or two connections to an SQLite database
    ///   in memory would be two databases.
    /// - [`LockError::Schema`](crate::LockError::Schema): tables are missing and cannot be created; tables of these names
    ///   are not lock tables, lack a key or a right, or are not durable; or the schema has no
    ///   lock tables and another one that the account can use has.
    /// - [`LockError::Database`](crate::LockError::Database): the server cannot be reached or refuses the connection.
    ///
    /// No error contains the URL. Errors of SQLite name the file.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, nothing but the created tables may remain.
    pub fn connect(self, url: &str) -> Request<LockManager> {
        self.start(Target::parse(url))
    }

    /// Connects with the connect options of an engine, for example those that a pool's
    /// `connect_options()` returns.
    ///
    /// The connections do not belong to the pool. Its hooks, such as `after_connect`, are not
    /// copied, and an in-memory database of the pool is not shared.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Cancel safety
    ///
    /// As [`connect`](Self::connect).
    pub fn connect_with(self, options: impl IntoConnectOptions) -> Request<LockManager> {
        self.start(Ok(Connect::into_target(options)))
    }

    /// Connects with the connect options that a closure returns: for credentials that expire,
    /// and for several hosts.
    ///
    /// The closure is called once for each connect and reconnect of each connection. The first
    /// call also decides the engine. All later calls must return options for the database of
    /// the first one, reached in the same way: directly, or through a pooler in the same mode.
    ///
    /// The closure runs on a thread of its own, in a tokio runtime with one thread. Its time
    /// limit is 10 s, together with the connect. An error or a panic of the closure fails the
    /// first connect. Later it counts as an outage: held locks stay while their session is
    /// renewed over another connection, requests wait until their time-out, and the closure is
    /// called again at most once a second.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect). An error of the closure is the source of a
    /// [`LockError::Database`](crate::LockError::Database), in a `sqlx::Error::Configuration`.
    ///
    /// # Cancel safety
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # #[cfg(feature = "postgres")]
    /// # mod example {
    /// use locks_core::{LockManager, sqlx::postgres::PgConnectOptions};
    ///
    /// async fn read_password() -> std::io::Result<String> {
    ///     tokio::task::spawn_blocking(|| std::fs::read_to_string("/run/secrets/db"))
    ///         .await
    ///         .map_err(std::io::Error::other)?
    /// }
    ///
    /// # async fn example() -> locks_core::Result<()> {
    /// let options = PgConnectOptions::new().host("db.internal").username("app");
    /// let locks = LockManager::builder()
    ///     .connect_by(async move || {
    ///         let password = read_password().await?;
    ///         std::io::Result::Ok(options.clone().password(password.trim()))
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// # }
    /// ```
    pub fn connect_by<F, O, E>(self, options: F) -> Request<LockManager>
    where
        F: AsyncFn() -> Result<O, E> + Send + Sync + 'static,
        O: IntoConnectOptions,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.start(Ok(Target::provided(options)))
    }

    fn start(self, target: Result<Target>) -> Request<LockManager> {
        let target = target.and_then(|target| target.with_tables(self.tables()?));
        match target.and_then(|target| Ok((self.owner()?, self.config()?, target))) {
            Ok((owner, config, target)) => Request::new(move |answer| {
                let target = target.with_durability(config.durability());
                let namespace = owner.namespace.clone();
                let reply = Reply::new(move |driver: Result<_>| {
                    drop(answer.send(driver.map(|driver| LockManager::new(driver, owner))));
                });
                Driver::start(config, namespace, target, reply);
            }),
            Err(error) => Request::failed(error),
        }
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
