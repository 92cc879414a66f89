//! Tables written as scenarios, with one line for each request.
//!
//! ```text
//! "a holds app_task_1"       outside any scope, under a session and task of its own
//! "a:1.2 waits x y"          in scope 2 inside scope 1, for both names together
//! "e! holds x"               under the matrix that has no rules
//! "original holds x"         as the original writes it
//! "a holds shared:x y"       x shared and y exclusively
//! "a# waits b1"              under a matrix with a limit of two names that begin with `b`,
//!                            which refuses `a1` while a name that begins with `c` is held
//! ```

mod conflict;
mod cycle;
mod json;
mod order;
mod random;
mod sharing;
mod values;

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Entry, LockTable, Nonce, Order, Request, SessionId};
use crate::{
    matrix::ConflictMatrix,
    name::{LockName, Mode, Names},
    report::Blocker,
};

/// The verb of a line.
enum Verb {
    Holds,
    Waits,
    Asks,
}

/// The table after a scenario. Tokens and tickets count from 1.
pub(crate) fn table(scenario: &[&str]) -> LockTable {
    let mut table = LockTable::default();
    for line in scenario {
        let (request, verb) = parse(line);
        match verb {
            Verb::Holds if &*request.task == "original" => {
                for name in &*request.names {
                    let (task, grant) = (request.task.clone(), None);
                    table.insert(
                        name.clone(),
                        Entry { task, grant },
                        request.matrix.fingerprint(),
                    );
                }
            }
            Verb::Holds => table.grant(&request, 1 + len(&table)),
            Verb::Waits => table.enqueue(&request, &request.session, 1 + len(&table)),
            Verb::Asks => panic!("the request is not part of the table: {line}"),
        }
    }
    table
}

/// The request of a line.
pub(crate) fn request(line: &str) -> Request {
    parse(line).0
}

fn parse(line: &str) -> (Request, Verb) {
    static NONCE: AtomicU64 = AtomicU64::new(1);
    let mut words = line.split(' ');
    let requester = words.next().expect("a requester");
    let verb = match words.next() {
        Some("holds") => Verb::Holds,
        Some("waits") => Verb::Waits,
        Some("asks") => Verb::Asks,
        other => panic!("{other:?} in {line}"),
    };
    let (task, path) = requester.split_once(':').unwrap_or((requester, ""));
    let scopes = path.split('.').filter(|scope| !scope.is_empty());
    let path: Vec<u64> = scopes.map(|s| s.parse().expect("a scope")).collect();
    let matrix = if task.ends_with('!') {
        ConflictMatrix::exclusive()
    } else if task.ends_with('#') {
        LIMITED
    } else {
        ConflictMatrix::platform()
    };
    let request = Request {
        session: session(task),
        nonce: Nonce(NONCE.fetch_add(1, Ordering::Relaxed)),
        task: task.into(),
        names: words.map(with_mode).collect(),
        matrix,
        path: path.into(),
        since: 1_700_000_000_000_000,
    };
    (request, verb)
}

/// The matrix with a limit.
const LIMITED: ConflictMatrix = ConflictMatrix::new(&[("a1", &["c*"])]).limits(&[("b*", 2)]);

/// The name and the mode of a word.
fn with_mode(word: &str) -> (LockName, Mode) {
    let (name, mode) = match word.strip_prefix("shared:") {
        Some(name) => (name, Mode::Shared),
        None => (word, Mode::Exclusive),
    };
    (LockName::found(name.into()), mode)
}

/// The session of a task.
fn session(task: &str) -> SessionId {
    SessionId(format!("ns/{task}").into())
}

fn len(table: &LockTable) -> i64 {
    i64::try_from(table.held.len() + table.queue.len()).expect("a few")
}

/// The blockers of a request that comes after the scenario, as texts without times.
pub(crate) fn blockers(scenario: &[&str], line: &str) -> Vec<String> {
    let table = table(scenario);
    let request = request(line);
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
        Blocker::Limit { used_by, .. } => format!("used up by {}", texts(used_by).join(", ")),
    };
    blockers.iter().map(text).collect()
}

fn names(names: &[&str]) -> Names {
    names
        .iter()
        .map(|name| LockName::found((*name).into()))
        .collect()
}
