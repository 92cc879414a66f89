//! `locks watch`.

use std::time::SystemTime;

use locks_core::{Holder, LockError, Snapshot, Waiter};
use serde::Serialize;

use crate::{
    arguments::{Database, Output},
    exit::{FAILED, Outcome},
    report::{self, HeldLock, WaitingRequest, mode, requested, rfc3339},
    run::signals::Signals,
};

/// What has happened.
enum Event<'a> {
    /// The lock was held at the start.
    Held(&'a Holder),
    Granted(&'a Holder),
    Released(&'a Holder),
    /// The request waited at the start.
    Waits(&'a Waiter),
    Queued(&'a Waiter),
    /// The request was granted, or waits no more.
    Left(&'a Waiter),
}

#[derive(Debug, Serialize)]
struct Line {
    time: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<HeldLock>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiter: Option<WaitingRequest>,
}

pub(crate) async fn watch(database: &Database, output: Output) -> Outcome {
    let mut signals = Signals::listen()?;
    let locks = database.connect().await?;
    let mut changes = locks.changes();
    let mut last = None;
    loop {
        let next = tokio::select! {
            next = changes.next() => next,
            _ = signals.next() => return Ok(0),
        };
        match next {
            Some(Ok(snapshot)) => {
                for event in events(last.as_ref(), &snapshot) {
                    report::print(&event.line(output.json)?)?;
                }
                last = Some(snapshot);
            }
            Some(Err(LockError::Closed)) | None => return Ok(FAILED),
            Some(Err(error)) => eprintln!("locks: {error}"),
        }
    }
}

/// What tells two snapshots apart: first what is gone.
fn events<'a>(before: Option<&'a Snapshot>, after: &'a Snapshot) -> Vec<Event<'a>> {
    let Some(before) = before else {
        let held = after.held.iter().map(Event::Held);
        return held.chain(after.waiting.iter().map(Event::Waits)).collect();
    };
    let gone = missing(&before.held, &after.held, is_same_grant);
    let left = missing(&before.waiting, &after.waiting, is_same_request);
    let granted = missing(&after.held, &before.held, is_same_grant);
    let queued = missing(&after.waiting, &before.waiting, is_same_request);
    let gone = gone.map(Event::Released).chain(left.map(Event::Left));
    let new = granted.map(Event::Granted).chain(queued.map(Event::Queued));
    gone.chain(new).collect()
}

/// Those of `all` that are not in `others`.
fn missing<'a, T>(
    all: &'a [T],
    others: &'a [T],
    is_same: fn(&T, &T) -> bool,
) -> impl Iterator<Item = &'a T> {
    all.iter()
        .filter(move |one| !others.iter().any(|other| is_same(one, other)))
}

fn is_same_grant(a: &Holder, b: &Holder) -> bool {
    (&a.name, &a.session, a.token, &a.task_id) == (&b.name, &b.session, b.token, &b.task_id)
}

fn is_same_request(a: &Waiter, b: &Waiter) -> bool {
    (&a.session, &a.names, a.since) == (&b.session, &b.names, b.since)
}

impl Event<'_> {
    fn line(&self, json: bool) -> serde_json::Result<String> {
        let time = rfc3339(SystemTime::now());
        let (event, subject) = match self {
            Self::Held(holder) => ("held", Ok(*holder)),
            Self::Granted(holder) => ("granted", Ok(*holder)),
            Self::Released(holder) => ("released", Ok(*holder)),
            Self::Waits(waiter) => ("waits", Err(*waiter)),
            Self::Queued(waiter) => ("queued", Err(*waiter)),
            Self::Left(waiter) => ("left", Err(*waiter)),
        };
        if json {
            return serde_json::to_string(&Line {
                time,
                event,
                holder: subject.ok().map(HeldLock::from),
                waiter: subject.err().map(WaitingRequest::from),
            });
        }
        let (names, task, host, process) = match subject {
            Ok(one) => (one.name.to_string(), &one.task_id, &one.host, one.process),
            Err(one) => (requested(one), &one.task_id, &one.host, one.process),
        };
        let mut parts = vec![format!("{time} {event} {names} task {task}")];
        parts.extend(host.as_ref().map(|host| format!("host {host}")));
        parts.extend(process.map(|process| format!("process {process}")));
        if let Ok(holder) = subject {
            parts.push(format!("mode {}", mode(holder)));
            parts.extend(holder.token.map(|token| format!("token {token}")));
        }
        Ok(parts.join(" "))
    }
}
