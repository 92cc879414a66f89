//! Several processes, one lock table: who runs beside whom, and who waits for whom.
//!
//! Six worker processes need one lock each, as on a platform that installs and backs up apps
//! and updates itself now and then. This process directs them, so that the story is the same
//! on a slow machine; who is granted a lock, and when, is decided by the lock table alone.
//!
//! Run it with `cargo run --example quickstart`, or on a database of yours with
//! `cargo run --example quickstart -- URL`.

mod play;
mod timeline;
mod worker;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use locks_examples::{Crew, Database, Result, exit_code, in_a_namespace};

use crate::worker::Worker;

/// The play takes one to two seconds. Whatever happens, it ends.
const LIMIT: Duration = Duration::from_secs(30);

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
    exit_code(&who, outcome)
}

/// Gives the play, and leaves nothing of it behind.
async fn direct(url: Option<String>) -> Result<()> {
    let database = Database::at(url)?;
    in_a_namespace(&database, "quickstart", LIMIT, async |locks| {
        let parts = play::EARLY.iter().chain([&play::UPDATE, &play::LATE]);
        let crew = Crew::start(parts.map(|part| (part.lock, part.args(locks.namespace()))))?;
        let workers = crew.roll().len();
        writeln!(
            io::stdout(),
            "{workers} worker processes share the locks in {database}.\n"
        )?;
        play::give(crew, locks, database.url()).await
    })
    .await
}
