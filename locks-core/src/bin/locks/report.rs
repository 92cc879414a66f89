//! Holders and waiters, as tables and as JSON.

use std::{
    convert::Infallible,
    future::pending,
    io::{self, Write},
    time::{Duration, SystemTime},
};

use comfy_table::{Table, presets};
use locks_core::{Blocker, Holder, LockManager, LockName, Mode, Waiter};
use serde::Serialize;
use tokio::time::sleep;

/// How long a command waits for its locks without a word.
const QUIET: Duration = Duration::from_secs(2);

/// A held lock, as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct HeldLock {
    name: String,
    task_id: String,
    token: Option<i64>,
    mode: &'static str,
    since: Option<String>,
    host: Option<String>,
    process: Option<u32>,
    session: Option<String>,
}

/// A request that waits, as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct WaitingRequest {
    names: Vec<String>,
    /// Those of the names that are to be shared.
    shared: Vec<String>,
    task_id: String,
    since: Option<String>,
    host: Option<String>,
    process: Option<u32>,
    session: String,
    blocked_by: Vec<Cause>,
}

/// What blocks a request, as JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Cause {
    Holder(HeldLock),
    Waiter(WaitingRequest),
    Other { text: String },
}

impl From<&Holder> for HeldLock {
    fn from(holder: &Holder) -> Self {
        Self {
            name: holder.name.to_string(),
            task_id: holder.task_id.to_string(),
            token: holder.token,
            mode: mode(holder),
            since: holder.since.map(rfc3339),
            host: holder.host.as_deref().map(str::to_owned),
            process: holder.process,
            session: holder.session.as_deref().map(str::to_owned),
        }
    }
}

impl From<&Waiter> for WaitingRequest {
    fn from(waiter: &Waiter) -> Self {
        Self {
            names: waiter.names.iter().map(LockName::to_string).collect(),
            shared: waiter.shared.iter().map(LockName::to_string).collect(),
            task_id: waiter.task_id.to_string(),
            since: waiter.since.map(rfc3339),
            host: waiter.host.as_deref().map(str::to_owned),
            process: waiter.process,
            session: waiter.session.to_string(),
            blocked_by: waiter.blocked_by.iter().map(Cause::from).collect(),
        }
    }
}

impl From<&Blocker> for Cause {
    fn from(blocker: &Blocker) -> Self {
        match blocker {
            Blocker::Holder(holder) => Self::Holder(holder.into()),
            Blocker::Waiter(waiter) => Self::Waiter(waiter.into()),
            other => Self::Other {
                text: other.to_string(),
            },
        }
    }
}

pub(crate) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// How long ago that was, in whole seconds.
fn age(since: Option<SystemTime>) -> String {
    let age = since.and_then(|since| since.elapsed().ok());
    age.map_or_else(unknown, |age| {
        let whole = Duration::from_secs(age.as_secs());
        humantime::format_duration(whole).to_string()
    })
}

fn unknown() -> String {
    "-".into()
}

fn text(value: Option<impl ToString>) -> String {
    value.map_or_else(unknown, |value| value.to_string())
}

/// What a request asks for, with commas between the names.
pub(crate) fn requested(waiter: &Waiter) -> String {
    let names = waiter.names.iter().map(|name| {
        let shared = waiter.shared.contains(name);
        format!("{name}{}", if shared { " (shared)" } else { "" })
    });
    names.collect::<Vec<_>>().join(", ")
}

/// Says on the standard error what blocks the request of this manager's task, if it waits for long.
pub(crate) async fn tell_of_wait(locks: &LockManager) -> Infallible {
    sleep(QUIET).await;
    // The request goes on, whatever this look finds.
    let waiting = locks.waiting().await.unwrap_or_else(|error| {
        eprintln!("locks: still waiting; {error}");
        Vec::new()
    });
    let own = |waiter: &&Waiter| *waiter.task_id == *locks.task_id();
    if let Some(waiter) = waiting.iter().find(own) {
        let blockers = waiter.blocked_by.iter().map(Blocker::to_string);
        let blockers = blockers.collect::<Vec<_>>().join(", ");
        eprintln!("locks: waiting for {}: {blockers}", requested(waiter));
        tell_of_matrix(&waiter.blocked_by);
    }
    pending().await
}

/// Says what to do if one of these uses another matrix.
pub(crate) fn tell_of_matrix(blockers: &[Blocker]) {
    let is_matrix = |blocker: &Blocker| matches!(blocker, Blocker::Matrix { .. });
    if blockers.iter().any(is_matrix) {
        eprintln!("locks: pass the matrix of that task's program with --matrix or LOCKS_MATRIX");
    }
}

/// How a lock is held.
pub(crate) fn mode(holder: &Holder) -> &'static str {
    match holder.mode {
        Mode::Shared => "shared",
        _ => "exclusive",
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

pub(crate) fn holders(held: &[Holder]) -> String {
    let mut table = table(&["NAME", "TASK", "FOR", "HOST", "PROCESS", "TOKEN", "MODE"]);
    for holder in held {
        table.add_row([
            holder.name.to_string(),
            holder.task_id.to_string(),
            age(holder.since),
            text(holder.host.as_ref()),
            text(holder.process),
            text(holder.token),
            mode(holder).to_owned(),
        ]);
    }
    table.trim_fmt()
}

pub(crate) fn waiters(waiting: &[Waiter]) -> String {
    let mut table = table(&["NAMES", "TASK", "FOR", "HOST", "PROCESS", "BLOCKED BY"]);
    for waiter in waiting {
        let causes: Vec<_> = waiter.blocked_by.iter().map(Blocker::to_string).collect();
        table.add_row([
            requested(waiter),
            waiter.task_id.to_string(),
            age(waiter.since),
            text(waiter.host.as_ref()),
            text(waiter.process),
            causes.join("\n"),
        ]);
    }
    table.trim_fmt()
}

/// Prints a text and a line feed.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}
