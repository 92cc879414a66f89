//! The guard: a lock that is held.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use sqlx_core::transaction::TransactionManager as _;
use tokio::sync::oneshot;

use crate::{
    driver::{Check, Chore, Command, Driver, Seat, Tenure},
    error::{LockError, Result},
    fence::{
        FenceConnection,
        sealed::{Commit, Touch, Touched, Unfenced},
    },
    name::LockName,
    report::Lost,
    request::Request,
    table::Nonce,
};

/// One or more locks, held until it goes.
///
/// Dropping it releases the locks through the driver: at once for this process, and
/// with the driver's next write, some milliseconds later, for others.
/// [`release`](Self::release) returns when it is done. A drop never blocks, panics or
/// needs a runtime, except that of a driver's last handle, which flushes for at most
/// 2 s. Like every destructor it does not run after `std::process::exit`, an abort or
/// a kill: then others get the lock when the session is found dead.
///
/// # Losing it
///
/// A lock is lost when its session is not renewed in time, when a supervisor releases
/// it, or when the manager is closed. [`lost`](Self::lost) tells; [`fence`](Self::fence)
/// and [`commit`](Self::commit) refuse.
#[must_use = "a lock is released as soon as its guard is dropped: `let _ = …` releases it at once, \
              `let _guard = …` keeps it to the end of the block"]
pub struct LockGuard {
    driver: Arc<Driver>,
    seat: Arc<Seat>,
    nonce: Nonce,
    tenure: Arc<Tenure>,
    end: End,
}

/// What is left to do when the guard goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Release,
    /// It was released or detached by name.
    Nothing,
}

impl LockGuard {
    pub(crate) fn new(
        driver: Arc<Driver>,
        seat: Arc<Seat>,
        nonce: Nonce,
        tenure: Arc<Tenure>,
    ) -> Self {
        Self {
            driver,
            seat,
            nonce,
            tenure,
            end: End::Release,
        }
    }

    /// What it holds, sorted, each name once.
    #[must_use]
    pub fn names(&self) -> &[LockName] {
        &self.tenure.names
    }

    /// The fencing token: larger than that of every earlier grant in the namespace
    /// that this one conflicts with. Grants of one write share it.
    ///
    /// Hand it to whatever else has to refuse a holder that was paused for too long;
    /// a database needs no token, since [`commit`](Self::commit) does it.
    #[must_use]
    pub fn token(&self) -> i64 {
        self.tenure.token
    }

    /// Whether the lock is held no longer, as far as this process can know: its
    /// session's time is over, or the driver has seen it taken.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.tenure.lease.is_over() || self.tenure.lost.borrow().is_some()
    }

    /// Resolves when the lock is lost, and never if it is not. It does not borrow the
    /// guard.
    ///
    /// # Cancel safety
    ///
    /// It only looks: dropping it changes nothing, and another one tells the same.
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
        let mut lost = self.tenure.lost.subscribe();
        let tenure = self.tenure.clone();
        async move {
            // The sender lives in the tenure, so this cannot end without a loss.
            let told = lost.wait_for(Option::is_some).await.ok();
            let told = told.and_then(|lost| lost.clone());
            told.unwrap_or_else(|| tenure.lose("the driver has ended", None))
        }
    }

    /// Makes the transaction that `conn` is in fail unless the lock is still held,
    /// and keeps the lock from passing on before that transaction has ended.
    ///
    /// Call it as the *last* statement before the commit; [`commit`](Self::commit)
    /// does both. `conn` must be of the database that the locks are in. On a
    /// connection outside any transaction it proves no more than that the lock was
    /// held at that moment.
    ///
    /// The fence is a shared lock: the guards of a process do not stand in each other's
    /// way. On a cluster (Galera) it is a write, on a row of the guard's own for up to 64
    /// guards of a task; the transactions of more that are open at one time may fail with a
    /// transient error. On SQLite it is a write too, since a file has one writer anyway.
    ///
    /// Acquire first, then begin: under REPEATABLE READ and SERIALIZABLE a transaction
    /// that is older than the lock does not see its fence, and is refused with
    /// [`Database`](LockError::Database), which is transient: the same work in a new
    /// transaction may pass.
    ///
    /// A holder that is stopped between the fence and the commit keeps the lock from
    /// being taken while its database session lives: set the server's limit for
    /// sessions that are idle in a transaction.
    ///
    /// # Errors
    ///
    /// [`Lost`](LockError::Lost): do not commit. [`Database`](LockError::Database)
    /// when the connection failed.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the fence may or may not be on; the transaction should be
    /// rolled back.
    pub async fn fence<C: FenceConnection + ?Sized>(&self, conn: &mut C) -> Result<()> {
        // Before anything is sent: from now on a release waits for the commit.
        self.tenure.open_fences.fetch_add(1, Ordering::AcqRel);
        self.check()?;
        match conn.touch(&self.tenure.fence).await? {
            Touched::Fenced => {}
            Touched::Absent if C::UNFENCED == Unfenced::None => {
                let reason = "its session was evicted before the fence";
                return Err(LockError::Lost(self.tenure.lose(reason, None)));
            }
            // Either the session is gone, or the transaction cannot see that it is there.
            Touched::Absent => {
                self.confirm(Check::Session).await?;
                return Err(LockError::too_old());
            }
            Touched::Conflict(error) => {
                self.confirm(Check::Session).await?;
                return Err(error);
            }
        }
        // A program that takes locks as the original does asks no fence: the row says.
        if C::UNFENCED == Unfenced::Original {
            self.confirm(Check::Row).await?;
        }
        self.check()
    }

    /// A transaction that was fenced has ended: a release need not wait for it.
    fn fence_ended(&self) {
        self.tenure.open_fences.fetch_sub(1, Ordering::AcqRel);
    }

    /// Fences the transaction and commits it.
    ///
    /// # Errors
    ///
    /// [`Lost`](LockError::Lost): the transaction was rolled back.
    /// [`Database`](LockError::Database), transient: it was rolled back, since another
    /// transaction came first. Not transient: as after every failed commit, it may or may
    /// not have happened.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the transaction may or may not be committed, but never after
    /// the next holder was granted the lock.
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
                // Of a nested transaction only the savepoint ends.
                let is_outermost = DB::TransactionManager::get_transaction_depth(&tx) == 1;
                let Err(error) = tx.commit().await else {
                    if is_outermost {
                        self.fence_ended();
                    }
                    return Ok(());
                };
                match <sqlx::Transaction<'_, DB> as Touch>::commit_failed(error) {
                    // A lost answer is not the end of it.
                    Commit::Unknown(error) => Err(error),
                    Commit::Refused(error) => {
                        if is_outermost {
                            self.fence_ended();
                        }
                        Err(error)
                    }
                    // On a cluster an eviction at another node shows here.
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

    /// Fails when the loss is known here.
    fn check(&self) -> Result<()> {
        if self.is_lost() {
            let reason = "its session was not renewed in time";
            return Err(LockError::Lost(self.tenure.lose(reason, None)));
        }
        Ok(())
    }

    /// Asks the driver whether the grant is still there.
    async fn confirm(&self, check: Check) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let chore = Chore::Confirm(self.nonce, check, reply);
        self.driver
            .send(Command::Chore(self.seat.namespace.clone(), chore));
        answer.await.unwrap_or(Err(LockError::Closed))?;
        self.check()
    }

    /// Releases the locks and returns when it is done.
    ///
    /// A guard that was [fenced](Self::fence) is released only after the transaction has
    /// ended: commit or roll back first, or this waits for the caller itself.
    ///
    /// # Errors
    ///
    /// [`Lost`](LockError::Lost) when there was nothing to release any more.
    ///
    /// # Cancel safety
    ///
    /// Dropped at any time, even before it is polled, the locks are released.
    pub fn release(mut self) -> Request<()> {
        let driver = self.driver.clone();
        Request::new(move |reply| {
            self.end = End::Nothing;
            let (seat, tenure) = (self.seat.clone(), self.tenure.clone());
            driver.send(Command::Release(seat, self.nonce, tenure, Some(reply)));
        })
    }

    /// Keeps the locks without a guard: [`LockManager::release`](crate::LockManager::release)
    /// releases them by name.
    ///
    /// Where locks expire, it goes with its process at the latest; the driver goes on
    /// renewing it, also after the last handle was dropped. Where they never expire,
    /// it stays until it is released.
    pub fn detach(mut self) {
        self.end = End::Nothing;
        self.driver
            .send(Command::Detach(self.seat.clone(), self.nonce));
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if self.end == End::Release {
            let (seat, tenure) = (self.seat.clone(), self.tenure.clone());
            self.driver
                .send(Command::Release(seat, self.nonce, tenure, None));
        }
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
