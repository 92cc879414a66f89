//! A supervisor starts workers, one of which is killed and one of which exits without releasing
//! its lock. After each end it calls `release_task` and prints the locks that were left. At the
//! end a worker is killed without that call: the next waiter notices that its process has ended.
//!
//! Run it with `cargo run --example supervisor`, or on a database of yours with
//! `cargo run --example supervisor -- URL`.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    process::{self, Child, Command, Stdio},
    time::{Duration, Instant},
};

use locks_core::LockManager;
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const LIMIT: Duration = Duration::from_mins(1);

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let result = match &args[..] {
        [] => tempfile::tempdir()
            .map_err(Into::into)
            .and_then(|directory| {
                let path = directory.path().join("locks.db");
                run(&format!("sqlite:{}", path.display()))
            }),
        [url] => run(url),
        [namespace, task, names @ ..] => work(namespace, task, names),
    };
    if let Err(error) = result {
        eprintln!("error: {error}");
        process::exit(1);
    }
}

fn connect(url: &str, namespace: &str, task: &str) -> Result<LockManager> {
    let builder = LockManager::builder().namespace(namespace).task_id(task);
    Ok(builder.connect(url).blocking()?)
}

/// A worker process: it takes its locks, prints them, and ends as it is told.
fn work(namespace: &str, task: &str, names: &[String]) -> Result<()> {
    let mut input = io::stdin().lines();
    let url = input.next().ok_or("no URL")??; // Not an argument: it may have a password.
    let locks = connect(&url, namespace, task)?;
    let guard = locks.wait(names).timeout(LIMIT).blocking()?;
    println!("{task} holds {}", names.join(" and "));
    // The input ends when the supervisor ends.
    match input.next().transpose()?.as_deref() {
        Some("exit") => process::exit(0), // This runs no destructor.
        _ => Ok(guard.release().blocking()?),
    }
}

/// Runs both parts in a new namespace, and deletes its row at the end.
fn run(url: &str) -> Result<()> {
    let namespace = format!("supervisor-{}", process::id());
    let locks = connect(url, &namespace, "supervisor")?;
    with_release_task(&locks, url)?;
    without_release_task(&locks, url)?;
    locks.close().blocking()?;
    sqlx::any::install_default_drivers();
    let delete = AssertSqlSafe(format!("DELETE FROM locks WHERE id = '{namespace}'"));
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut connection = AnyConnection::connect(url).await?;
        sqlx::raw_sql(delete).execute(&mut connection).await?;
        Ok(connection.close().await?)
    })
}

/// Each worker ends in another way. The supervisor releases the locks that it has left.
fn with_release_task(locks: &LockManager, url: &str) -> Result<()> {
    println!("With `release_task`");
    let mut first = start(locks, url, "worker-1", &["app_task_1"])?;
    let mut second = start(locks, url, "worker-2", &["app_backup_2", "app_task_2"])?;
    let mut third = start(locks, url, "worker-3", &["app_task_3"])?;
    tell(&mut first, "release")?;
    clear_up(locks, "worker-1", &mut first)?;
    second.kill()?;
    clear_up(locks, "worker-2", &mut second)?;
    tell(&mut third, "exit")?;
    clear_up(locks, "worker-3", &mut third)?;

    // It conflicts with all of their locks.
    let update = locks.acquire("box_update").blocking()?;
    println!("  box_update is free");
    update.release().blocking()?;
    Ok(())
}

/// Waits for the end of a worker and releases its locks. Nothing must be known about them.
fn clear_up(locks: &LockManager, task: &str, worker: &mut Child) -> Result<()> {
    println!("  {task} has ended: {}", worker.wait()?);
    let left = locks.release_task(task).blocking()?;
    if left.is_empty() {
        println!("    it had left nothing");
    }
    for holder in left {
        let token = holder.token.unwrap_or_default();
        println!("    it had left {}, of token {token}", holder.name);
    }
    Ok(())
}

/// A waiter on this machine notices that the process has ended, and evicts its session.
fn without_release_task(locks: &LockManager, url: &str) -> Result<()> {
    println!("\nWithout `release_task`");
    let mut worker = start(locks, url, "worker-4", &["app_task_4"])?;
    match locks.acquire("box_update").blocking() {
        Ok(_) => return Err("box_update conflicts with app_task_4".into()),
        Err(error) => println!("  {error}"),
    }
    worker.kill()?;
    println!("  worker-4 has ended: {}", worker.wait()?);
    let killed = Instant::now();
    let update = locks.wait("box_update").timeout(LIMIT).blocking()?;
    let ms = killed.elapsed().as_millis();
    println!("  its session was evicted, and box_update granted, after {ms} ms");
    println!("  (elsewhere, after the ttl: 15 s by default)");
    update.release().blocking()?;
    Ok(())
}

/// Starts a worker, and returns when it holds its locks.
fn start(locks: &LockManager, url: &str, task: &str, names: &[&str]) -> Result<Child> {
    let mut command = Command::new(env::current_exe()?);
    command.args([locks.namespace(), task]).args(names);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut worker = command.spawn()?;
    tell(&mut worker, url)?;
    let mut line = String::new();
    BufReader::new(worker.stdout.as_mut().ok_or("no output")?).read_line(&mut line)?;
    if line.is_empty() {
        return Err(format!("{task} has ended early").into());
    }
    print!("  {line}");
    Ok(worker)
}

fn tell(worker: &mut Child, line: &str) -> Result<()> {
    // This keeps its input open until `wait`.
    Ok(writeln!(
        worker.stdin.as_mut().ok_or("no input")?,
        "{line}"
    )?)
}
