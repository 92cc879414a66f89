//! Tasks that are functions under `#[with_lock]`, each in a process of its own. The attributes say
//! what the tasks lock. The process that starts them knows nothing about conflicts: it starts one
//! job after another, and prints which of them wait.
//!
//! Run it with `cargo run --example worker`, or on a database of yours with
//! `cargo run --example worker -- URL`.

use std::{
    env,
    io::{self, Write as _},
    process::{self, Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use locks_core::{Blocker, ConflictMatrix, LockManager, with_lock};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};
use tokio::{runtime::Runtime, time::sleep};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// They are started in this order. The update waits for those before it, and is not overtaken.
const JOBS: &str = "install wiki, install mail, backup blog, backup blog, update 9.1, install chat, \
                    install blog";

/// Which names conflict. A name below that matches none of its patterns does not compile.
const MATRIX: ConflictMatrix = ConflictMatrix::platform();

const SKIPPED: &str = "skipped after 150 ms: another backup of the app is under way";

/// Installs an app, and waits for the lock without a limit.
#[with_lock("app_task_<app>", matrix = MATRIX)]
async fn install(app: &str, log: &Log<'_>) -> Result<()> {
    log.print("starts, with its lock")?;
    sleep(Duration::from_millis(500)).await;
    log.print(&format!("ends: {app} is installed"))
}

/// Backs up an app. If another backup of it takes longer than 150 ms, this one is skipped.
#[with_lock("app_backup_<app>", wait = "150ms", busy = log.print(SKIPPED), matrix = MATRIX)]
async fn back_up(app: &str, log: &Log<'_>) -> Result<()> {
    log.print("starts, with its lock")?;
    sleep(Duration::from_millis(700)).await;
    log.print(&format!("ends: {app} is backed up"))
}

/// Updates the platform. The token is greater than that of every earlier update.
#[with_lock("box_update", wait = "15s", guard = lock, matrix = MATRIX)]
async fn update(version: &str, log: &Log<'_>) -> Result<()> {
    log.print("starts, with its lock")?;
    sleep(Duration::from_millis(300)).await;
    let token = lock.token();
    log.print(&format!("ends: it is version {version}, by token {token}"))
}

/// A task's process: it connects, and calls the function of its job.
async fn work(namespace: &str, worker: &str, job: &str) -> Result<()> {
    let mut input = io::stdin().lines();
    let url = input.next().ok_or("no URL")??; // Not an argument: it may have a password.
    let builder = LockManager::builder().namespace(namespace).task_id(worker);
    let locks = builder.matrix(MATRIX).connect(&url).await?;
    let _default = locks.install()?; // What `#[with_lock]` uses.
    // It is connected before the first job begins, and begins when it is told when that was.
    let begin = input.next().ok_or("no job")??.parse()?;
    let log = Log(worker, job, begin);
    match job.split_once(' ') {
        Some(("install", app)) => install(app, &log).await?,
        Some(("backup", app)) => back_up(app, &log).await?,
        Some(("update", version)) => update(version, &log).await?,
        _ => return Err(format!("unknown job {job:?}").into()),
    }
    Ok(locks.close().await?)
}

/// Prints what happens: the process, the job, and when the first job began.
struct Log<'a>(&'a str, &'a str, u128);

impl Log<'_> {
    fn print(&self, what: &str) -> Result<()> {
        let ms = now()?.saturating_sub(self.2);
        let line = format!("{ms:>6}  {:8}  {:12}  {what}", self.0, self.1);
        Ok(writeln!(io::stdout(), "{line}")?)
    }
}

/// Milliseconds of the clock that all processes share.
fn now() -> Result<u128> {
    Ok(SystemTime::UNIX_EPOCH.elapsed()?.as_millis())
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let runtime = Runtime::new().expect("the system has threads and pipes");
    let result = match &args[..] {
        [] => tempfile::tempdir()
            .map_err(Into::into)
            .and_then(|directory| {
                let path = directory.path().join("locks.db");
                runtime.block_on(run(&format!("sqlite:{}", path.display())))
            }),
        [url] => runtime.block_on(run(url)),
        [namespace, worker, job] => runtime.block_on(work(namespace, worker, job)),
        _ => Err("usage: worker [URL]".into()),
    };
    if let Err(error) = result {
        eprintln!("error: {error}");
        process::exit(1);
    }
}

/// Does all jobs in a new namespace, and deletes its row at the end.
async fn run(url: &str) -> Result<()> {
    let namespace = format!("worker-{}", process::id());
    let builder = LockManager::builder().namespace(&namespace);
    let locks = builder.matrix(MATRIX).connect(url).await?;
    let mut processes = Vec::new();
    for (job, number) in JOBS.split(", ").zip(1..) {
        let worker = format!("worker-{number}");
        let mut command = Command::new(env::current_exe()?);
        command.args([&namespace, &worker, job]);
        let child = command.stdin(Stdio::piped()).spawn()?;
        writeln!(child.stdin.as_ref().ok_or("no input")?, "{url}")?;
        processes.push((worker, job, child));
    }
    println!("    ms  process   job           what happens");
    let begin = now()?;
    for (worker, job, child) in &mut processes {
        writeln!(child.stdin.as_ref().ok_or("no input")?, "{begin}")?;
        let log = Log(worker, job, begin);
        wait_until_requested(&locks, &log, child).await?;
    }
    for (.., mut child) in processes {
        let status = child.wait()?;
        if !status.success() {
            return Err(format!("a task's process ended with {status}").into());
        }
    }
    println!("\n{} locks are held now.", locks.held().await?.len());
    locks.close().await?;
    sqlx::any::install_default_drivers();
    let delete = AssertSqlSafe(format!("DELETE FROM locks WHERE id = '{namespace}'"));
    let mut connection = AnyConnection::connect(url).await?;
    sqlx::raw_sql(delete).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

/// Returns when the task holds its lock or waits for it, so that the next job comes later.
async fn wait_until_requested(locks: &LockManager, log: &Log<'_>, child: &mut Child) -> Result<()> {
    while child.try_wait()?.is_none() {
        let (held, waiting) = (locks.held().await?, locks.waiting().await?);
        if let Some(waiter) = waiting.iter().find(|waiter| *waiter.task_id == *log.0) {
            let blockers: Vec<_> = waiter.blocked_by.iter().map(describe).collect();
            log.print(&format!("waits for {}", blockers.join(", ")))?;
            break;
        }
        if held.iter().any(|holder| *holder.task_id == *log.0) {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// The name that stands in the way, and its task.
fn describe(blocker: &Blocker) -> String {
    match blocker {
        Blocker::Holder(holder) => format!("{} ({})", holder.name, holder.task_id),
        Blocker::Waiter(waiter) => format!("{} ({}, earlier)", waiter.names[0], waiter.task_id),
        other => other.to_string(),
    }
}
