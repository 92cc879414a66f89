//! What the driver and the guards of a session share.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use super::clock::boot_time;
use crate::{
    name::LockName,
    protocol::{Loss, Time},
    report::{HELD_TOO_LONG, Lost, NOT_RENEWED},
    store::Fence,
};

/// How long the guards of a session may trust it.
///
/// The driver moves the deadline, and the guards look at it themselves: a process that was
/// stopped for long must not have to wait for its driver to learn that it is too late.
pub(super) struct Lease {
    /// Nanoseconds on the boot clock.
    deadline: AtomicU64,
    /// Whether renewals are late, or the lease has ended.
    endangered: watch::Sender<bool>,
}

/// Further than any clock goes.
const NEVER: u64 = u64::MAX;

fn nanos(time: Time) -> u64 {
    u64::try_from(time.since_start().as_nanos()).unwrap_or(NEVER)
}

impl Lease {
    /// `None`: the lease never ends.
    pub(super) fn until(deadline: Option<Time>) -> Self {
        Self {
            deadline: AtomicU64::new(deadline.map_or(NEVER, nanos)),
            endangered: watch::Sender::new(false),
        }
    }

    /// Moves the deadline, unless it has passed: a lease that ended stays so. Returns
    /// whether it was moved.
    pub(super) fn extend(&self, deadline: Time) -> bool {
        let extends = !self.is_over();
        if extends {
            self.deadline.store(nanos(deadline), Ordering::Release);
            self.endangered.send_replace(false);
        }
        extends
    }

    /// Renewals are late.
    pub(super) fn endanger(&self) {
        self.endangered.send_replace(true);
    }

    /// Ends the lease now.
    pub(super) fn end(&self) {
        self.deadline.store(0, Ordering::Release);
        self.endanger();
    }

    /// How long the lease lasts if it is not renewed.
    fn left(&self) -> Duration {
        let deadline = self.deadline.load(Ordering::Acquire);
        Duration::from_nanos(deadline.saturating_sub(nanos(boot_time())))
    }

    fn is_over(&self) -> bool {
        nanos(boot_time()) >= self.deadline.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("left", &self.left())
            .finish_non_exhaustive()
    }
}

/// What a grant is, for its guard and for the driver.
#[derive(Debug)]
pub(crate) struct GrantState {
    lease: Arc<Lease>,
    /// How many transactions were fenced and are not known to have ended. Counted before
    /// the fence is sent.
    open_fences: AtomicU32,
    fence: Fence,
    lost: watch::Sender<Option<Lost>>,
    /// Whether the guard was released, dropped or detached.
    guard_gone: AtomicBool,
    names: Arc<[LockName]>,
    token: i64,
    /// When the locks are released at the latest, on the boot clock.
    ends: Option<Time>,
}

impl GrantState {
    pub(super) fn new(
        lease: Arc<Lease>,
        fence: Fence,
        names: Arc<[LockName]>,
        token: i64,
        ends: Option<Time>,
    ) -> Self {
        Self {
            lease,
            open_fences: AtomicU32::new(0),
            fence,
            lost: watch::Sender::new(None),
            guard_gone: AtomicBool::new(false),
            names,
            token,
            ends,
        }
    }

    pub(crate) fn names(&self) -> &[LockName] {
        &self.names
    }

    pub(crate) fn shared_names(&self) -> Arc<[LockName]> {
        self.names.clone()
    }

    pub(crate) fn token(&self) -> i64 {
        self.token
    }

    pub(crate) fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Whether the locks are held no longer, as far as this process can know.
    pub(crate) fn is_lost(&self) -> bool {
        self.lease.is_over() || self.is_held_too_long() || self.lost.borrow().is_some()
    }

    /// The guard is released, dropped or detached.
    pub(super) fn on_guard_gone(&self) {
        self.guard_gone.store(true, Ordering::Release);
    }

    /// Whether a guard holds the locks, as far as this process can know.
    pub(super) fn is_held(&self) -> bool {
        !self.guard_gone.load(Ordering::Acquire) && !self.is_lost()
    }

    /// Whether the time of the grant is over.
    fn is_held_too_long(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= boot_time())
    }

    /// The time until the locks are released at the latest; `None`: without end.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        self.ends.map(|ends| ends - boot_time())
    }

    /// The reason of a loss by the clock.
    pub(crate) fn reason(&self) -> &'static str {
        if self.is_held_too_long() {
            HELD_TOO_LONG
        } else {
            NOT_RENEWED
        }
    }

    /// Whether the locks are lost by the clock alone: nothing shows that they were taken.
    pub(crate) fn is_expired(&self) -> bool {
        match &*self.lost.borrow() {
            // The limit of a grant is no question of the rows.
            _ if self.is_held_too_long() => false,
            Some(lost) => lost.reason == NOT_RENEWED,
            None => self.lease.is_over(),
        }
    }

    /// Whether renewals are late or the locks are lost.
    pub(crate) fn is_endangered(&self) -> bool {
        *self.lease.endangered.borrow() || self.is_lost()
    }

    /// Waits until renewals are late or the locks are lost. Returns how long they are held if their
    /// session is not renewed.
    pub(crate) async fn endangered(&self) -> Duration {
        let (mut lost, mut late) = (self.lost.subscribe(), self.lease.endangered.subscribe());
        // Neither sender can be gone before this future.
        tokio::select! {
            _ = lost.wait_for(Option::is_some) => Duration::ZERO,
            _ = late.wait_for(|late| *late) => {
                if self.is_lost() { Duration::ZERO } else { self.lease.left() }
            }
        }
    }

    /// Reports whether the locks are lost, now and later.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Lost>> {
        self.lost.subscribe()
    }

    /// A transaction is about to be fenced: a release waits for its end from now on.
    pub(crate) fn fence_begins(&self) {
        self.open_fences.fetch_add(1, Ordering::AcqRel);
        // Either a driver that ends the grant sees the count, or the fence sees the loss.
        fence(Ordering::SeqCst);
    }

    /// A transaction that was fenced has ended.
    pub(crate) fn fence_ended(&self) {
        self.open_fences.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether a transaction that was fenced may be open.
    pub(super) fn is_fenced(&self) -> bool {
        fence(Ordering::SeqCst);
        self.open_fences.load(Ordering::Acquire) > 0
    }

    /// The locks are lost. Returns what the first loss was.
    pub(crate) fn lose(&self, reason: &'static str, by: Option<Arc<str>>) -> Lost {
        let lost = Lost {
            names: self.names.clone(),
            since: SystemTime::now(),
            by,
            reason,
        };
        self.lost.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(lost.clone());
            }
            first
        });
        self.lost.borrow().clone().unwrap_or(lost)
    }

    pub(super) fn on_loss(&self, loss: Loss) -> Lost {
        self.lose(loss.reason, loss.by)
    }
}
