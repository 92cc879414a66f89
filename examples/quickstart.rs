//! Six processes share one lock table. Four of them work at once, because their locks do not
//! conflict. The fifth needs `box_update`, which conflicts with those four, and waits for them.
//! The sixth needs `app_task_4`, which conflicts with `box_update` only. It does not overtake.
//!
//! Run it with `cargo run --example quickstart`. Its database is an SQLite file in a temporary
//! directory. `cargo run --example quickstart -- URL` uses a database of yours.

use std::{
    env,
    io::{self, BufRead as _, BufReader, PipeWriter, Write as _},
    process::{self, Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use locks_core::{Blocker, LockError, LockManager};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// The locks that do not conflict with each other.
const EARLY: [&str; 4] = ["app_task_1", "app_task_2", "app_task_3", "app_backup_1"];

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
        [namespace, lock] => work(namespace, lock).inspect_err(|_| println!("{lock} fails")),
        _ => Err("usage: quickstart [URL]".into()),
    };
    if let Err(error) = result {
        eprintln!("error: {error}");
        process::exit(1);
    }
}

/// A worker process: it takes its lock, works, and releases the lock.
fn work(namespace: &str, lock: &str) -> Result<()> {
    let (send, input) = mpsc::channel();
    thread::spawn(move || {
        let lines = io::stdin().lines().map_while(Result::ok);
        lines.for_each(|line| drop(send.send(line)));
        process::exit(1); // The process that started this one has ended.
    });
    let url = input.recv()?; // Not an argument: it may have a password.
    let builder = LockManager::builder().namespace(namespace);
    let locks = builder.connect(&url).blocking()?;
    let print = |what: &str| println!("{:>7}  {lock:<12}  {what}", process::id());
    let begin = Instant::now();
    let guard = match locks.acquire(lock).blocking() {
        Err(LockError::Busy { blocked_by, .. }) => {
            let names: Vec<_> = blocked_by.iter().map(name).collect();
            print(&format!("waits for {}", names.join(", ")));
            locks.wait(lock).blocking()?
        }
        result => result?,
    };
    let ms = begin.elapsed().as_millis();
    print(&format!("starts, having waited {ms} ms"));
    let milliseconds = input.recv()?.parse()?;
    thread::sleep(Duration::from_millis(milliseconds));
    print("ends"); // Before the release, so that the next `starts` is printed later.
    guard.release().blocking()?;
    Ok(locks.close().blocking()?)
}

/// What stands in the way: the name of a held lock or of an earlier request.
fn name(blocker: &Blocker) -> String {
    match blocker {
        Blocker::Holder(holder) => holder.name.to_string(),
        Blocker::Waiter(waiter) => waiter.names[0].to_string(),
        other => other.to_string(),
    }
}

/// Starts the workers in a new namespace, and deletes its row at the end.
fn run(url: &str) -> Result<()> {
    if url.contains(":memory:") || url.contains("mode=memory") {
        return Err("processes cannot share a database in memory".into());
    }
    let namespace = format!("quickstart-{}", process::id());
    let builder = LockManager::builder().namespace(&namespace);
    let locks = builder.connect(url).blocking()?;
    let mut workers = Vec::new();
    let result = direct(&locks, url, &mut workers);
    for worker in &mut workers {
        let _ = worker.kill(); // It has ended, unless there was an error.
        let _ = worker.wait();
    }
    locks.release_all().blocking()?; // A worker that was killed has not released its lock.
    locks.close().blocking()?;
    sqlx::any::install_default_drivers();
    let delete = AssertSqlSafe(format!("DELETE FROM locks WHERE id = '{namespace}'"));
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut connection = AnyConnection::connect(url).await?;
        sqlx::raw_sql(delete).execute(&mut connection).await?;
        connection.close().await
    })?;
    result
}

/// Tells the workers when to begin and when to end. The lock table decides which one waits.
fn direct(locks: &LockManager, url: &str, workers: &mut Vec<Child>) -> Result<()> {
    // All workers print to one pipe, which keeps their lines in order.
    let (reader, writer) = io::pipe()?;
    let (begin, mut lines) = (Instant::now(), BufReader::new(reader).lines());
    let mut print_until = |end: &str| -> Result<()> {
        for line in lines.by_ref() {
            let (ms, line) = (begin.elapsed().as_millis(), line?);
            println!("{ms:>6}  {line}");
            match line {
                line if line.contains(end) => return Ok(()),
                line if line.contains("fails") => return Err("a worker has failed".into()),
                _ => {}
            }
        }
        Ok(())
    };
    println!("    ms  process  lock");
    for lock in EARLY {
        workers.push(start(lock, locks, url, &writer)?);
    }
    for _ in EARLY {
        print_until("starts")?;
    }
    for (lock, requests) in [("box_update", 1), ("app_task_4", 2)] {
        workers.push(start(lock, locks, url, &writer)?);
        print_until("waits")?;
        while locks.waiting().blocking()?.len() < requests {
            thread::sleep(Duration::from_millis(5));
        }
    }
    drop(writer); // The workers have the other copies.
    for (worker, milliseconds) in workers.iter().zip([300, 450, 600, 400, 300, 200]) {
        // A worker that has ended cannot read it. Its status says why.
        let _ = writeln!(worker.stdin.as_ref().ok_or("no input")?, "{milliseconds}");
    }
    print_until("the end of the pipe")?;
    for worker in workers {
        let (process, status) = (worker.id(), worker.wait()?);
        if !status.success() {
            return Err(format!("process {process} ended with {status}").into());
        }
    }
    println!("\nThe first four ran side by side, and box_update waited for them. app_task_4");
    println!("came while box_update was waiting, and was not let past.");
    println!("{} locks are held now.", locks.held().blocking()?.len());
    Ok(())
}

fn start(lock: &str, locks: &LockManager, url: &str, out: &PipeWriter) -> Result<Child> {
    let mut command = Command::new(env::current_exe()?);
    command.args([locks.namespace(), lock]);
    let command = command.stdin(Stdio::piped()).stdout(out.try_clone()?);
    let worker = command.spawn()?;
    writeln!(worker.stdin.as_ref().ok_or("no input")?, "{url}")?;
    Ok(worker)
}
