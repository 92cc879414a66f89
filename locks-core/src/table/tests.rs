//! Tables told as stories: one line each for what somebody holds or waits for.
//!
//! ```text
//! "a holds app_task_1"       outside any scope, under a session and task of its own
//! "a:1.2 waits x y"          in scope 2 inside scope 1, for both together
//! "e! holds x"               under the matrix that has no rules
//! "original holds x"         as the original writes it
//! ```

mod conflict;
mod cycle;
mod json;
mod order;
mod random;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{Entry, LockTable, Nonce, Order, Request, SessionId};
use crate::{matrix::ConflictMatrix, name::LockName, report::Blocker};

/// What a line of a story says.
enum Line {
    Holds,
    Waits,
    Asks,
}

/// The table after a story, with the requests of those who wait, in order.
pub(crate) fn told(story: &[&str]) -> LockTable {
    let mut table = LockTable::default();
    for line in story {
        let (request, says) = parse(line);
        match says {
            Line::Holds if &*request.task == "original" => {
                for name in &*request.names {
                    let (task, grant) = (request.task.clone(), None);
                    table.insert(
                        name.clone(),
                        Entry { task, grant },
                        request.matrix.fingerprint(),
                    );
                }
            }
            Line::Holds => table.grant(&request, 1 + len(&table)),
            Line::Waits => table.enqueue(&request, &request.session, 1 + len(&table)),
            Line::Asks => panic!("who asks is not in the table: {line}"),
        }
    }
    table
}

/// The request in a line.
pub(crate) fn request(line: &str) -> Request {
    parse(line).0
}

fn parse(line: &str) -> (Request, Line) {
    static NONCE: AtomicU64 = AtomicU64::new(1);
    let mut words = line.split(' ');
    let who = words.next().expect("somebody");
    let says = match words.next() {
        Some("holds") => Line::Holds,
        Some("waits") => Line::Waits,
        Some("asks") => Line::Asks,
        other => panic!("{other:?} in {line}"),
    };
    let (who, path) = who.split_once(':').unwrap_or((who, ""));
    let scopes = path.split('.').filter(|scope| !scope.is_empty());
    let path: Vec<u64> = scopes.map(|s| s.parse().expect("a scope")).collect();
    let matrix = if who.ends_with('!') {
        ConflictMatrix::exclusive()
    } else {
        ConflictMatrix::platform()
    };
    let request = Request {
        session: SessionId(format!("ns/{who}").into()),
        nonce: Nonce(NONCE.fetch_add(1, Ordering::Relaxed)),
        task: who.into(),
        names: words.map(|name| LockName::found(name.into())).collect(),
        matrix,
        path: path.into(),
        since: 1_700_000_000_000_000,
    };
    (request, says)
}

fn len(table: &LockTable) -> i64 {
    i64::try_from(table.held.len() + table.queue.len()).expect("a few")
}

/// What refuses somebody who asks last of all, as texts without times.
pub(crate) fn refused(story: &[&str], asks: &str) -> Vec<String> {
    let table = told(story);
    let request = request(asks);
    let order = Order::Behind(table.queue.len());
    let blockers = table.blockers(&request, order);
    assert_eq!(blockers.is_empty(), table.is_free(&request, order));
    texts(&blockers)
}

fn texts(blockers: &[Blocker]) -> Vec<String> {
    let text = |blocker: &Blocker| match blocker {
        Blocker::Holder(holder) => format!("{} holds {}", holder.task_id, holder.name),
        Blocker::Waiter(waiter) => {
            let names: Vec<_> = waiter.names.iter().map(LockName::as_str).collect();
            format!("{} waits {}", waiter.task_id, names.join(" "))
        }
        Blocker::Matrix { task_id } => format!("{task_id} has another matrix"),
    };
    blockers.iter().map(text).collect()
}

fn names(names: &[&str]) -> Arc<[LockName]> {
    names
        .iter()
        .map(|name| LockName::found((*name).into()))
        .collect()
}
