//! Worker processes whose tasks are functions under `#[with_lock]`, and a list of jobs.
//!
//! The annotated functions are in `tasks.rs`; what a worker does besides is at the end of this
//! file. The process that starts the workers hands out the jobs (`foreman.rs`), in their
//! order, without a look at what goes with what: that is the lock table's business.
//!
//! Run it with `cargo run --example worker`, or on a database of yours with
//! `cargo run --example worker -- URL`.

mod foreman;
mod tasks;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use locks_core::LockManager;
use locks_examples::{Crew, Database, Orders, Result, exit_code, in_a_namespace, obey, say};

use crate::{
    foreman::Foreman,
    tasks::{Log, MATRIX},
};

/// The jobs take about two seconds. Whatever happens, it ends.
const LIMIT: Duration = Duration::from_secs(30);

/// What a worker says when it has nothing to do.
const IDLE: &str = "is idle";
/// What it is told when there is nothing more to do.
const END: &str = "end";

/// Worker processes install and back up apps and update the platform, each task under the
/// lock that is written above it.
#[derive(Debug, Parser)]
#[command(name = "worker", args_conflicts_with_subcommands = true)]
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
    Worker { name: String, namespace: String },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let (who, outcome) = match cli.role {
        Some(Role::Worker { name, namespace }) => {
            let outcome = obey(async |orders| work(&name, &namespace, orders).await).await;
            (format!("{name}: "), outcome)
        }
        None => (String::new(), employ(cli.url).await),
    };
    exit_code(&who, outcome)
}

/// Starts the workers and has the jobs done.
async fn employ(url: Option<String>) -> Result<()> {
    let database = Database::at(url)?;
    in_a_namespace(&database, "worker", LIMIT, async |locks| {
        let args = |name: &str| ["worker", name, locks.namespace()].map(str::to_owned);
        let crew = Crew::start(foreman::WORKERS.map(|name| (name, args(name))))?;
        println!(
            "{} worker processes share the locks in {database}.\n",
            crew.roll().len()
        );
        let foreman = Foreman::begin(crew, locks, database.url()).await?;
        foreman.hand_out().await
    })
    .await
}

/// A worker: it connects, and does one job after the other.
async fn work(name: &str, namespace: &str, orders: &mut Orders) -> Result<()> {
    // Not among the arguments, which everybody on this machine can read.
    let url = orders.next().await?;
    let locks = LockManager::builder()
        .namespace(namespace)
        .task_id(name)
        .matrix(MATRIX)
        .connect(&url)
        .await?;
    // What the tasks take their locks with.
    let _default = locks.install()?;
    loop {
        say(name, IDLE)?;
        let job = orders.next().await?;
        if job == END {
            break;
        }
        tasks::run(&job, &Log::begin(name)).await?;
    }
    locks.close().await?;
    Ok(())
}
