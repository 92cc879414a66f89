//! Several processes, one lock table: who runs beside whom, and who waits for whom.
//!
//! Six worker processes need one lock each, as on a platform that installs and backs up apps
//! and updates itself now and then. This process directs them, so that the story is the same
//! on a slow machine; who is granted a lock, and when, is decided by the lock table alone.
//!
//! Run it with `cargo run --example quickstart`, or on a database of yours with
//! `cargo run --example quickstart -- URL`.

mod crew;
mod play;
mod timeline;
mod worker;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use locks_core::LockManager;
use locks_examples::{Database, Result};
use tokio::{signal, time};

use crate::{crew::Crew, worker::Worker};

/// The play takes one to two seconds. Whatever happens, it ends.
const LIMIT: Duration = Duration::from_secs(30);
/// How long tidying up may take when the database does not answer any more.
const TIDY_LIMIT: Duration = Duration::from_secs(5);

const URL_HELP: &str = "\
The database to use instead of an SQLite file in a temporary directory, such as
  sqlite://locks.db
  mysql://user:password@host/database
  postgres://user:password@host/database
Tables are made where they are missing, and stay; what is written to them is
deleted at the end.";

/// Several worker processes share one lock table: app tasks side by side, a backup, and an
/// update that has to wait for them.
#[derive(Debug, Parser)]
#[command(name = "quickstart", args_conflicts_with_subcommands = true)]
#[command(disable_help_subcommand = true, verbatim_doc_comment)]
struct Cli {
    #[arg(help = URL_HELP)]
    url: Option<String>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program calls itself as.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Worker(Worker),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let (who, outcome) = match cli.role {
        Some(Role::Worker(worker)) => (format!("worker {}: ", worker.lock), worker.run().await),
        None => (String::new(), direct(cli.url).await),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{who}error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Gives the play, and leaves nothing of it behind.
async fn direct(url: Option<String>) -> Result<()> {
    let database = Database::at(url)?;
    let namespace = format!("quickstart-{:08x}", fastrand::u32(..));
    let connecting = LockManager::builder()
        .namespace(&namespace)
        .task_id(format!("director-{}", std::process::id()))
        .connect(database.url());
    let locks = within(LIMIT, async { Ok(connecting.await?) }).await?;
    let outcome = tokio::select! {
        outcome = within(LIMIT, give(&database, &locks)) => outcome,
        outcome = interruption() => outcome,
    };
    // No worker is left, but one that was killed has left its locks.
    let tidied = within(TIDY_LIMIT, async {
        locks.release_all().await?;
        locks.close().await?;
        database.forget(&namespace).await
    });
    let tidied = tidied.await;
    outcome?;
    tidied.map_err(|error| format!("namespace {namespace} was not tidied up: {error}").into())
}

async fn within<T>(limit: Duration, future: impl Future<Output = Result<T>>) -> Result<T> {
    let outcome = time::timeout(limit, future).await;
    outcome.unwrap_or_else(|_| Err(format!("not done after {limit:?}").into()))
}

async fn give(database: &Database, locks: &LockManager) -> Result<()> {
    let parts = play::EARLY.iter().chain([&play::UPDATE, &play::LATE]);
    let crew = Crew::start(parts, locks.namespace())?;
    let workers = crew.len();
    writeln!(
        io::stdout(),
        "{workers} worker processes share the locks in {database}.\n"
    )?;
    play::give(crew, locks, database.url()).await
}

/// Ends in an error when somebody asks this process to end.
async fn interruption() -> Result<()> {
    let mut termination = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    tokio::select! {
        pressed = signal::ctrl_c() => pressed?,
        _ = termination.recv() => {}
    }
    Err("interrupted".into())
}
