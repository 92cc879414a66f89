//! The guard of held locks.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use sqlx_core::transaction::TransactionManager as _;
use tokio::sync::oneshot;

use crate::{
    driver::{Grant, GrantState, Reply},
    error::{LockError, Result},
    name::LockName,
    protocol::Check,
    report::{Endangered, Lost, NOT_RENEWED_AND_EVICTED, TAKEN},
    store::fence::{
        FenceConnection,
        sealed::{Commit, Touch, Touched, Unfenced, other_database},
    },
    wait::Request,
};

/// One or more held locks, which are released when the guard is dropped.
///
/// A drop sends the release to the driver. Other requests of this process can get the locks at
/// once, other processes after the driver's next write, some milliseconds later.
/// [`release`](Self::release) returns when the release is done.
///
/// A drop never blocks, panics or needs a runtime. One exception: the drop of a driver's last
/// handle waits up to 2 s for pending releases. A destructor does not run after
/// `std::process::exit`, an abort or a kill; then the locks are recovered when the session is
/// found dead.
///
/// # Loss
///
/// A lock is lost when its session is not renewed in time, when it is held for longer than the
/// [limit](crate::Wait::max_hold) of its request, when a supervisor releases it, when
/// the database file is replaced, or when the manager is closed or its driver ends. Then [`lost`](Self::lost) resolves, and [`fence`](Self::fence) and
/// [`commit`](Self::commit) fail.
#[must_use = "a lock is released as soon as its guard is dropped: `let _ = …` releases it at once, \
              `let _guard = …` keeps it to the end of the block"]
pub struct LockGuard(Grant);

impl LockGuard {
    pub(crate) fn new(grant: Grant) -> Self {
        Self(grant)
    }

    fn state(&self) -> &Arc<GrantState> {
        self.0.state()
    }

    /// The names of the locks, sorted, each once.
    #[must_use]
    pub fn names(&self) -> &[LockName] {
        self.state().names()
    }

    /// The fencing token. It is larger than the token of every earlier grant in the namespace
    /// that conflicts with this one. Grants of one write share a token.
    ///
    /// Pass it to other systems that must refuse a holder which was paused for too long. The
    /// database of the locks needs no token: use [`commit`](Self::commit).
    #[must_use]
    pub fn token(&self) -> i64 {
        self.state().token()
    }

    /// Whether the locks are lost, as far as this process can know: the lease of their session has
    /// ended, or the driver has seen that they were taken.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.state().is_lost()
    }

    /// The time until the limit of the request ends: see [`Wait::max_hold`](crate::Wait::max_hold).
    /// `None` if it has no limit. Zero if the limit has ended.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.state().remaining()
    }

    /// Resolves when the locks are lost; if they are not, it never resolves. The future does not
    /// borrow the guard.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing. Further futures report the loss too.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> locks_core::Result<()> {
    /// # let locks = locks_core::LockManager::connect("sqlite::memory:").await?;
    /// # async fn work() {}
    /// let guard = locks.acquire("app_backup_1").await?;
    /// tokio::select! {
    ///     () = work() => {}
    ///     lost = guard.lost() => eprintln!("{lost}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn lost(&self) -> impl Future<Output = Lost> + Send + 'static + use<> {
        let mut lost = self.state().subscribe();
        let state = self.state().clone();
        async move {
            // The sender lives in the state, so this cannot end without a loss.
            let told = lost.wait_for(Option::is_some).await.ok();
            let told = told.and_then(|lost| lost.clone());
            told.unwrap_or_else(|| state.lose("the driver has ended", None))
        }
    }

    /// Resolves when the locks may be lost soon, because the renewals of their session are late: at
    /// most half of the [expiry](crate::Expiry::After) is left, 7.5 s by default. It resolves when
    /// the locks are lost, too. The future does not borrow the guard.
    ///
    /// The driver renews a session when two thirds of the expiry are left. So it warns when an answer
    /// of the database is late by a sixth of the expiry, or when the process was stopped for that
    /// long. A release by a supervisor comes without a warning. Locks that
    /// [never expire](crate::Expiry::Never) are endangered only when they are lost.
    ///
    /// A later renewal ends the danger. Then a new future resolves at the next warning.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    ///
    /// # Examples
    ///
    /// A worker begins nothing new while its lock is endangered:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> locks_core::Result<()> {
    /// # let locks = locks_core::LockManager::connect("sqlite::memory:").await?;
    /// # async fn step() -> bool { false }
    /// let guard = locks.acquire("app_backup_1").await?;
    /// while step().await {
    ///     if guard.is_endangered() {
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn endangered(&self) -> impl Future<Output = Endangered> + Send + 'static + use<> {
        let state = self.state().clone();
        async move {
            let expires_in = state.endangered().await;
            Endangered {
                names: state.shared_names(),
                expires_in,
            }
        }
    }

    /// Whether the locks may be lost soon, or are lost: see [`endangered`](Self::endangered).
    #[must_use]
    pub fn is_endangered(&self) -> bool {
        self.state().is_endangered()
    }

    /// Makes the transaction of `conn` fail unless the locks are still held, and keeps them
    /// from passing on before the transaction has ended.
    ///
    /// Call it as the *last* statement before the commit; [`commit`](Self::commit) does both.
    /// `conn` must be connected to the database of the locks. Outside a transaction, success
    /// only shows that the locks were held at that moment.
    ///
    /// The fence is a shared lock, so that the guards of a process do not conflict. On a
    /// cluster (Galera) it is a write on a row of the guard's own, for up to 64 guards of a task;
    /// if more of their transactions are open at one time, they may fail with a transient
    /// error. On SQLite it is a write too, because a file has one writer.
    ///
    /// Acquire first, then begin. Under REPEATABLE READ and SERIALIZABLE, a transaction that is
    /// older than the lock does not see its fence and fails with a transient
    /// [`Database`](LockError::Database) error; a new transaction may succeed.
    ///
    /// On SQLite, all writers of the file wait for a transaction that has written. A transaction
    /// can therefore be open for longer than the ttl: the fence looks whether the file still
    /// has the grant, and the clock decides nothing. This needs a write before another
    /// connection writes, so begin with `BEGIN IMMEDIATE` or with a write. A transaction that
    /// reads first cannot write any more once another connection has written: SQLite refuses
    /// its writes with `SQLITE_BUSY_SNAPSHOT` (517). If it only reads, it can be committed, as
    /// long as the locks are held by the clock too.
    ///
    /// If a holder is stopped between the fence and the commit, the locks cannot be taken away
    /// while its database session lives. To limit that, set the server's limit for sessions that
    /// are idle in a transaction.
    ///
    /// # Errors
    ///
    /// - [`Lost`](LockError::Lost): the locks are lost. Do not commit.
    /// - [`Database`](LockError::Database): the connection failed, or the transaction is older
    ///   than the lock.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: if the future is dropped early, the transaction may or may not be fenced.
    /// Roll it back.
    // The future of an `async fn` would repeat the bound, and the compiler would report a pool
    // three times.
    pub fn fence<'a, C: FenceConnection + ?Sized>(
        &'a self,
        conn: &'a mut C,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        Box::pin(self.fence_transaction(conn))
    }

    async fn fence_transaction<C: FenceConnection + ?Sized>(&self, conn: &mut C) -> Result<()> {
        let state = self.state();
        // Counted before anything is sent, so that a release waits for the commit from now on.
        state.fence_begins();
        // In the file of the locks, the rows prove more than the clock.
        let rows_decide = C::UNFENCED == Unfenced::None && state.is_expired();
        if !rows_decide {
            self.check()?;
        }
        match conn.touch(state.fence()).await? {
            // All other writers of the file wait for this transaction.
            Touched::Fenced if C::UNFENCED == Unfenced::None && state.is_expired() => {
                return match conn.is_in_file(state.fence()).await? {
                    Some(true) => Ok(()),
                    _ => self.check(),
                };
            }
            Touched::Fenced | Touched::Seen => {}
            Touched::Absent if C::UNFENCED == Unfenced::None => {
                if conn.is_in_file(state.fence()).await? == Some(false) {
                    return Err(other_database());
                }
                let expired = state.is_expired();
                let reason = if expired {
                    NOT_RENEWED_AND_EVICTED
                } else {
                    TAKEN
                };
                return Err(LockError::Lost(state.lose(reason, None)));
            }
            // Either the session is gone, or the transaction's snapshot is older than its row.
            Touched::Absent => {
                self.confirm(Check::Session).await?;
                return Err(LockError::too_old());
            }
            Touched::Conflict(error) => {
                self.confirm(Check::Session).await?;
                return Err(error);
            }
        }
        // The original takes locks without regard to fences; only the locks row shows that.
        if C::UNFENCED == Unfenced::Original {
            self.confirm(Check::Row).await?;
        }
        self.check()
    }

    /// A fenced transaction has ended, so that a release need not wait for it.
    fn fence_ended(&self) {
        self.state().fence_ended();
    }

    /// Fences the transaction and commits it.
    ///
    /// # Errors
    ///
    /// - [`Lost`](LockError::Lost): the transaction was rolled back.
    /// - [`Database`](LockError::Database), transient: the transaction was rolled back, because
    ///   another transaction came first or it is older than the lock.
    /// - [`Database`](LockError::Database), not transient: the transaction may or may not be
    ///   committed, as after every failed commit.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the transaction may or may not be committed, but never
    /// after the lock was granted to the next holder.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(locks: locks_core::LockManager, pool: locks_core::sqlx::SqlitePool)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let guard = locks.wait("app_task_1").await?;
    /// let mut tx = pool.begin().await?;
    /// locks_core::sqlx::query("UPDATE apps SET version = 2").execute(&mut *tx).await?;
    /// guard.commit(tx).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn commit<DB: sqlx::Database>(&self, mut tx: sqlx::Transaction<'_, DB>) -> Result<()>
    where
        for<'t> sqlx::Transaction<'t, DB>: FenceConnection,
    {
        match self.fence(&mut tx).await {
            Ok(()) => {
                // The commit of a nested transaction ends only a savepoint.
                let is_outermost = DB::TransactionManager::get_transaction_depth(&tx) == 1;
                let Err(error) = tx.commit().await else {
                    if is_outermost {
                        self.fence_ended();
                    }
                    return Ok(());
                };
                match <sqlx::Transaction<'_, DB> as Touch>::commit_failed(error) {
                    // Without an answer the transaction may still be open.
                    Commit::Unknown(error) => Err(error),
                    Commit::Refused(error) => {
                        if is_outermost {
                            self.fence_ended();
                        }
                        Err(error)
                    }
                    // On a cluster, an eviction at another node makes the commit fail.
                    Commit::Conflict(error) => {
                        if is_outermost {
                            self.fence_ended();
                        }
                        self.confirm(Check::Session).await?;
                        Err(error)
                    }
                }
            }
            Err(error) => {
                match tx.rollback().await {
                    Ok(()) => self.fence_ended(),
                    Err(rollback) => {
                        tracing::debug!(%rollback, "a refused transaction was not rolled back");
                    }
                }
                Err(error)
            }
        }
    }

    /// Fails if this process knows of the loss.
    fn check(&self) -> Result<()> {
        if self.is_lost() {
            let reason = self.state().reason();
            return Err(LockError::Lost(self.state().lose(reason, None)));
        }
        Ok(())
    }

    /// Asks the driver whether the grant still exists.
    async fn confirm(&self, check: Check) -> Result<()> {
        let (sender, answer) = oneshot::channel();
        let reply = Reply::new(move |result| drop(sender.send(result)));
        self.0.confirm(check, reply);
        answer.await.unwrap_or(Err(LockError::Closed))?;
        self.check()
    }

    /// Releases the locks and returns when the release is done.
    ///
    /// If a transaction was [fenced](Self::fence) with this guard, the release waits for the end
    /// of that transaction. Commit or roll back first, or the caller waits for itself.
    ///
    /// # Errors
    ///
    /// [`Lost`](LockError::Lost) if the locks were no longer held.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, even before it is polled, the locks are released.
    pub fn release(self) -> Request<()> {
        Request::new(move |answer| {
            self.0
                .release(Reply::new(move |result| drop(answer.send(result))));
        })
    }

    /// Keeps the locks without a guard: [`LockManager::release`](crate::LockManager::release)
    /// releases them by name.
    ///
    /// If locks expire, the driver renews the detached locks until they are released or its
    /// process ends, even after the last handle was dropped. If locks
    /// [never expire](crate::Expiry::Never), they stay until they are released.
    pub fn detach(self) {
        self.0.detach();
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("names", &self.names())
            .field("token", &self.token())
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}
