//! Tables told as stories: one line each for what somebody holds or waits for.
//!
//! ```text
//! "a holds app_task_1"       outside any scope, under a session and task of its own
//! "a:1.2 waits x y"          in scope 2 inside scope 1, for both together
//! "e! holds x"               under the matrix that has no rules
//! "original holds x"         as the original writes it
//! ```

mod circle;
mod conflict;
mod json;
mod order;
mod random;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{Claim, Entry, LockTable, Nonce, Order, SessionId};
use crate::{matrix::ConflictMatrix, name::LockName, report::Blocker};

/// What a line of a story says.
enum Line {
    Holds,
    Waits,
    Asks,
}

/// The table after a story, with the claims of those who wait, in order.
pub(crate) fn told(story: &[&str]) -> LockTable {
    let mut table = LockTable::default();
    for line in story {
        let (claim, says) = parse(line);
        match says {
            Line::Holds if &*claim.task == "original" => {
                for name in &*claim.names {
                    let (task, grant) = (claim.task.clone(), None);
                    table.insert(
                        name.clone(),
                        Entry { task, grant },
                        claim.matrix.fingerprint(),
                    );
                }
            }
            Line::Holds => table.grant(&claim, 1 + len(&table)),
            Line::Waits => table.enqueue(&claim, &claim.session, 1 + len(&table)),
            Line::Asks => panic!("who asks is not in the table: {line}"),
        }
    }
    table
}

/// The claim in a line.
pub(crate) fn claim(line: &str) -> Claim {
    parse(line).0
}

fn parse(line: &str) -> (Claim, Line) {
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
    let claim = Claim {
        session: SessionId(format!("ns/{who}").into()),
        nonce: Nonce(NONCE.fetch_add(1, Ordering::Relaxed)),
        task: who.into(),
        names: words.map(|name| LockName::found(name.into())).collect(),
        matrix,
        path: path.into(),
        since: 1_700_000_000_000_000,
    };
    (claim, says)
}

fn len(table: &LockTable) -> i64 {
    i64::try_from(table.held.len() + table.queue.len()).expect("a few")
}

/// What refuses somebody who asks last of all, as texts without times.
pub(crate) fn refused(story: &[&str], asks: &str) -> Vec<String> {
    let table = told(story);
    let claim = claim(asks);
    let order = Order::Behind(table.queue.len());
    let blockers = table.blockers(&claim, order);
    assert_eq!(blockers.is_empty(), table.is_free(&claim, order));
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
