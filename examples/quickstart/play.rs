//! The play: what the workers are told to do, and in which order.

use std::time::{Duration, Instant};

use locks_core::{Blocker, LockManager};
use locks_examples::{Crew, Result};
use tokio::time;

use crate::{
    timeline::Timeline,
    worker::{Order, Step},
};

/// How often the lock table is asked who waits.
const LOOK: Duration = Duration::from_millis(5);

/// One worker.
#[derive(Debug)]
pub(crate) struct Part {
    /// What it needs.
    pub(crate) lock: &'static str,
    /// For how long it works, once everybody has asked.
    pub(crate) milliseconds: u64,
}

impl Part {
    /// How this program calls itself to play it.
    pub(crate) fn args(&self, namespace: &str) -> [String; 4] {
        let milliseconds = self.milliseconds.to_string();
        let [worker, lock, namespace] = ["worker", self.lock, namespace].map(str::to_owned);
        [worker, lock, milliseconds, namespace]
    }
}

const fn part(lock: &'static str, milliseconds: u64) -> Part {
    Part { lock, milliseconds }
}

/// Those that come first, and have nothing to do with each other.
pub(crate) const EARLY: [Part; 4] = [
    part("app_task_1", 300),
    part("app_task_2", 450),
    part("app_task_3", 600),
    part("app_backup_1", 400),
];
/// Conflicts with all app tasks and app backups.
pub(crate) const UPDATE: Part = part("box_update", 300);
/// Could run beside the early ones, but comes when the update is waiting already.
pub(crate) const LATE: Part = part("app_task_4", 200);

/// Directs the crew and prints what happens.
pub(crate) async fn give(mut crew: Crew, locks: &LockManager, url: &str) -> Result<()> {
    crew.tell_all(url);
    let workers = crew.roll().len();
    for _ in 0..workers {
        crew.next().await?.ok_or("a worker ended before it began")?;
    }

    let mut timeline = Timeline::begin(crew.roll())?;
    for part in &EARLY {
        crew.tell(part.lock, &Order::Ask.to_string());
    }
    let mut started = 0;
    while started < EARLY.len() {
        let said = crew.next().await?.ok_or("a worker ended before it began")?;
        started += usize::from(timeline.add(&said)? == Step::Starts);
    }

    for part in [&UPDATE, &LATE] {
        crew.tell(part.lock, &Order::Ask.to_string());
        timeline.add(&crew.next().await?.ok_or("a worker ended before it began")?)?;
        let blockers = tokio::select! {
            blockers = blockers_of(part.lock, locks) => blockers?,
            said = crew.next() => {
                return Err(format!("{} was to wait, but a worker said {said:?}", part.lock).into());
            }
        };
        timeline.add_wait(Instant::now(), part.lock, &blockers)?;
    }

    for part in EARLY.iter().chain([&UPDATE, &LATE]) {
        crew.tell(part.lock, &Order::Finish.to_string());
    }
    while let Some(said) = crew.next().await? {
        timeline.add(&said)?;
    }
    timeline.end(locks.held().await?.len())
}

/// Returns when somebody waits for this lock, and says what for.
async fn blockers_of(lock: &str, locks: &LockManager) -> Result<Vec<String>> {
    loop {
        let waiting = locks.waiting().await?;
        let mut waiters = waiting.iter();
        if let Some(waiter) = waiters.find(|waiter| waiter.names.iter().any(|name| name == lock)) {
            return Ok(waiter.blocked_by.iter().flat_map(names).collect());
        }
        time::sleep(LOOK).await;
    }
}

/// The locks that a blocker holds or waits for.
fn names(blocker: &Blocker) -> Vec<String> {
    match blocker {
        Blocker::Holder(holder) => vec![holder.name.to_string()],
        Blocker::Waiter(waiter) => waiter.names.iter().map(ToString::to_string).collect(),
        other => vec![other.to_string()],
    }
}
