//! The tasks of a platform that installs and backs up apps, and updates itself.
//!
//! What each of them may run beside is said above it, and nowhere else. The work is a pause.

use std::{
    io,
    time::{Duration, Instant},
};

use locks_core::{ConflictMatrix, with_lock};
use locks_examples::{Result, say};
use tokio::time;

/// Who excludes whom. A name below that fits none of its patterns does not compile.
pub(crate) const MATRIX: ConflictMatrix = ConflictMatrix::platform();

/// How a worker begins a line when a task has its lock.
pub(crate) const STARTS: &str = "starts";

/// Installs an app, however long the queue is: somebody has asked for it.
#[with_lock("app_task_<app>", matrix = MATRIX)]
async fn install(app: &str, log: &Log<'_>) -> Result<()> {
    log.starts()?;
    time::sleep(Duration::from_millis(500)).await;
    log.ends(&format!("{app} is installed"))
}

/// Backs up an app, unless that is being done already and not nearly finished.
#[with_lock("app_backup_<app>", wait = "150ms", busy = log.skipped(app), matrix = MATRIX)]
async fn back_up(app: &str, log: &Log<'_>) -> Result<()> {
    log.starts()?;
    time::sleep(Duration::from_millis(700)).await;
    log.ends(&format!("{app} is backed up"))
}

/// Updates the platform. Whoever comes later waits behind it, so it does not wait for ever
/// for those who came before.
#[with_lock("box_update", wait = "15s", guard = lock, matrix = MATRIX)]
async fn update(version: &str, log: &Log<'_>) -> Result<()> {
    log.starts()?;
    time::sleep(Duration::from_millis(300)).await;
    // Whatever is written with it can tell this update from all that went before.
    let token = lock.token();
    log.ends(&format!("the platform is at {version}, by token {token}"))
}

/// Does a job, such as `install wiki`.
pub(crate) async fn run(job: &str, log: &Log<'_>) -> Result<()> {
    match job.split_once(' ') {
        Some(("install", app)) => install(app, log).await,
        Some(("backup", app)) => back_up(app, log).await,
        Some(("update", version)) => update(version, log).await,
        _ => Err(format!("there is no such job as {job:?}").into()),
    }
}

/// Says how a job goes.
#[derive(Debug)]
pub(crate) struct Log<'a> {
    worker: &'a str,
    asked: Instant,
}

impl<'a> Log<'a> {
    /// Begins when the job does, before it has its lock.
    pub(crate) fn begin(worker: &'a str) -> Self {
        let asked = Instant::now();
        Self { worker, asked }
    }

    fn starts(&self) -> io::Result<()> {
        let ms = self.asked.elapsed().as_millis();
        say(
            self.worker,
            &format!("{STARTS}, its lock granted after {ms} ms"),
        )
    }

    // Said before the lock is released, so that whoever is granted it next says so later.
    fn ends(&self, how: &str) -> Result<()> {
        Ok(say(self.worker, &format!("ends: {how}"))?)
    }

    fn skipped(&self, app: &str) -> Result<()> {
        let ms = self.asked.elapsed().as_millis();
        let why = format!("skipped after {ms} ms: a backup of {app} is being made");
        Ok(say(self.worker, &why)?)
    }
}
