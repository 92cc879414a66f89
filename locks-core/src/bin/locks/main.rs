//! The command `locks`: runs commands under locks, and shows and breaks locks.

#![allow(
    clippy::disallowed_methods,
    reason = "a program reads clocks and files itself"
)]

mod arguments;
mod exit;
mod inspect;
mod matrix;
mod migrate;
mod release;
mod report;
mod run;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use self::{
    arguments::{Action, Arguments},
    exit::{FAILED, Outcome},
};

fn main() -> ExitCode {
    if let Some(code) = run::command::become_command() {
        return code.into();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { FAILED } else { 0 };
            // Without a terminal there is nothing to tell.
            drop(error.print());
            return code.into();
        }
    };
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    match perform(arguments) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("locks: {error}");
            FAILED.into()
        }
    }
}

fn perform(arguments: Arguments) -> Outcome {
    // On one thread, which must be the main thread: Linux sends the signal of a parent's death when
    // the thread ends that has started the child.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let Arguments { database, action } = arguments;
    runtime.block_on(async {
        match action {
            Action::Run(run) => run::run(&database, run).await,
            Action::List(output) => inspect::list(&database, output).await,
            Action::Waiting(output) => inspect::waiting(&database, output).await,
            Action::Watch(output) => watch::watch(&database, output).await,
            Action::Release(release) => release::release(&database, &release).await,
            Action::ReleaseTask { id } => release::release_task(&database, &id).await,
            Action::Migrate { print } => migrate::migrate(&database, print).await,
        }
    })
}
