//! A supervisor: worker processes with a task id each, one of which is killed.
//!
//! When a worker has ended, the supervisor calls `release_task` and prints what it had
//! forgotten. Then the same without a supervisor: whoever waits for the locks of a killed
//! worker sees that its process is gone, and evicts its session.
//!
//! Run it with `cargo run --example supervisor`, or on a database of yours with
//! `cargo run --example supervisor -- URL`.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand, ValueEnum};
use locks_core::{Expiry, Holder, LockManager};
use locks_examples::{Database, Result, exit_code};

/// Far longer than it takes: nobody is given up for being slow here.
const TTL: Duration = Duration::from_secs(15);
/// Nobody has to wait longer, whatever happens.
const LIMIT: Duration = Duration::from_mins(1);

/// Worker processes that end well, forget something or are killed, with and without a
/// supervisor who clears up after them.
#[derive(Debug, Parser)]
#[command(name = "supervisor", args_conflicts_with_subcommands = true)]
#[command(disable_help_subcommand = true)]
struct Cli {
    /// The database to use instead of an SQLite file in a temporary directory.
    url: Option<String>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program calls itself as.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Worker {
        namespace: String,
        task: String,
        end: End,
        locks: Vec<String>,
    },
}

/// How a worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum End {
    /// It releases its locks.
    Well,
    /// It ends without a word: `std::process::exit` runs no destructor.
    Exit,
    /// It goes on until it is killed.
    Never,
}

fn main() -> ExitCode {
    let done = match Cli::parse().role {
        None => supervise(),
        Some(Role::Worker {
            namespace,
            task,
            end,
            locks,
        }) => work(&namespace, &task, end, &locks),
    };
    exit_code("", done)
}

fn connect(url: &str, namespace: &str, task: &str) -> Result<LockManager> {
    let builder = LockManager::builder().namespace(namespace).task_id(task);
    let builder = builder.expiry(Expiry::After(TTL));
    Ok(builder.connect(url).blocking()?)
}

/// A worker: it takes its locks, says so, and ends when it is told to.
fn work(namespace: &str, task: &str, end: End, names: &[String]) -> Result<()> {
    let mut input = std::io::stdin().lines();
    // Not among the arguments, which everybody on this machine can read.
    let url = input.next().ok_or("no URL")??;
    let locks = connect(&url, namespace, task)?;
    let guard = locks.wait(names).timeout(LIMIT).blocking()?;
    println!("{task} holds {}", list(guard.names()));
    // Until the supervisor says something, or is gone itself.
    input.next();
    match end {
        End::Well => Ok(guard.release().blocking()?),
        End::Exit => std::process::exit(0),
        End::Never => loop {
            std::thread::park();
        },
    }
}

/// A worker process, as its supervisor has it. It is killed when this is dropped.
struct Worker {
    task: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts it, and returns when it holds its locks.
    fn start(
        url: &str,
        namespace: &str,
        task: &'static str,
        end: End,
        locks: &[&str],
    ) -> Result<Self> {
        let end = end.to_possible_value().ok_or("no such end")?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["worker", namespace, task, end.get_name()])
            .args(locks)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut worker = Self {
            task,
            input: child.stdin.take().ok_or("it has an input")?,
            output: BufReader::new(child.stdout.take().ok_or("it has an output")?),
            child,
        };
        writeln!(worker.input, "{url}")?;
        let mut line = String::new();
        worker.output.read_line(&mut line)?;
        if line.is_empty() {
            return Err(format!("{task} ended early").into());
        }
        print!("  {line}");
        Ok(worker)
    }

    /// Lets it end, or makes it, and says how it did.
    fn end(&mut self, end: End) -> Result<()> {
        if end == End::Never {
            self.child.kill()?;
        } else {
            writeln!(self.input, "end")?;
        }
        let status = self.child.wait()?;
        println!("  {} has ended: {status}", self.task);
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, which is all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn supervise() -> Result<()> {
    let database = Database::at(Cli::parse().url)?;
    println!("connects to {database}");
    // Of its own, so that a database that is in use is none the wiser.
    let namespace = format!("supervisor-{}", std::process::id());
    let locks = connect(database.url(), &namespace, "supervisor")?;
    let done = with_supervisor(&locks, database.url())
        .and_then(|()| without_supervisor(&locks, database.url()));
    locks.close().blocking()?;
    tokio::runtime::Runtime::new()?.block_on(database.forget(&namespace))?;
    done
}

/// Each worker ends in its own way, and the supervisor clears up after it.
fn with_supervisor(locks: &LockManager, url: &str) -> Result<()> {
    println!("\nWith a supervisor");
    let parts: [(_, _, &[&str]); 3] = [
        ("worker-1", End::Well, &["app_task_1"]),
        ("worker-2", End::Never, &["app_task_2", "app_backup_2"]),
        ("worker-3", End::Exit, &["app_task_3"]),
    ];
    let mut workers = Vec::new();
    for (task, end, names) in parts {
        let worker = Worker::start(url, locks.namespace(), task, end, names)?;
        workers.push((worker, end));
    }
    for (worker, end) in &mut workers {
        worker.end(*end)?;
        // Nobody has to know what it held, nor whether it held anything.
        let forgotten = locks.release_task(worker.task).blocking()?;
        match &forgotten[..] {
            [] => println!("    it had forgotten nothing"),
            forgotten => {
                for Holder { name, token, .. } in forgotten {
                    println!(
                        "    it had forgotten {name}, of token {}",
                        token.unwrap_or(0)
                    );
                }
            }
        }
    }
    // It conflicts with all of their locks.
    let update = locks.acquire("box_update").blocking()?;
    println!("  {} can be had at once", list(update.names()));
    update.release().blocking()?;
    Ok(())
}

/// Nobody says that the worker is gone; whoever waits for its lock finds out.
fn without_supervisor(locks: &LockManager, url: &str) -> Result<()> {
    println!("\nWithout a supervisor");
    let mut worker = Worker::start(
        url,
        locks.namespace(),
        "worker-4",
        End::Never,
        &["app_task_4"],
    )?;
    let refused = locks.acquire("box_update").blocking();
    if let Err(error) = refused {
        println!("  {error}");
    }
    worker.end(End::Never)?;
    let killed = Instant::now();
    let update = locks.wait("box_update").timeout(LIMIT).blocking()?;
    println!(
        "  its session was evicted, and {} granted, after {} ms, with a ttl of {TTL:?}",
        list(update.names()),
        killed.elapsed().as_millis()
    );
    update.release().blocking()?;
    Ok(())
}

fn list(names: &[locks_core::LockName]) -> String {
    let names: Vec<_> = names.iter().map(locks_core::LockName::as_str).collect();
    names.join(" and ")
}
