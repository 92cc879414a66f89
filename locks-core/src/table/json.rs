//! The lock table as it stands in the row's two text columns.
//!
//! `dataJson` is the original's: a map of lock name to task id. `metaJson` adds what
//! the original does not know, in short arrays because every write carries it:
//!
//! ```text
//! {"sessions": {"<id>": ["<task id>", <matrix fingerprint>]},
//!  "held":     {"<name>": ["<session>", <nonce>, <token>, <since>, <scope or null>]},
//!  "queue":    [["<session>", <nonce>, <ticket>, <since>, ["<name>"], [<scope>]]]}
//! ```
//!
//! An entry of `held` counts only while `dataJson` says the same task id: else the
//! name is foreign, whatever we once wrote about it.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

use super::{Entry, Grant, LockTable, Nonce, SessionId, Waiting};
use crate::{
    matrix::{ConflictMatrix, Fingerprint},
    name::LockName,
};

/// A row that does not parse. It is reported, never overwritten.
#[derive(Debug, thiserror::Error)]
#[error("{column} of the locks row cannot be read ({reason}); it was left as it is")]
pub(crate) struct Unreadable {
    column: &'static str,
    reason: Cow<'static, str>,
}

/// Session id to task id and matrix fingerprint.
type Sessions = BTreeMap<Arc<str>, (Arc<str>, u64)>;
/// Session, nonce, token, since, scope.
type Held<T> = (T, u64, i64, i64, Option<u64>);
/// Session, nonce, ticket, since, names, scope path.
type Queued = (Arc<str>, u64, i64, i64, Vec<Arc<str>>, Vec<u64>);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Meta {
    sessions: Sessions,
    held: BTreeMap<Arc<str>, Held<Arc<str>>>,
    queue: Vec<Queued>,
}

impl LockTable {
    /// Reads the table from the row's columns; no `metaJson` means that all of it
    /// is foreign.
    pub(crate) fn parse(data: Option<&str>, meta: Option<&str>) -> Result<Self, Unreadable> {
        let unreadable = |column| {
            move |error: serde_json::Error| Unreadable {
                column,
                reason: error.to_string().into(),
            }
        };
        let data = data.ok_or(Unreadable {
            column: "dataJson",
            reason: "it is NULL".into(),
        })?;
        let tasks: BTreeMap<Arc<str>, Arc<str>> =
            serde_json::from_str(data).map_err(unreadable("dataJson"))?;
        let meta: Meta = match meta {
            None => Meta::default(),
            Some(meta) => serde_json::from_str(meta).map_err(unreadable("metaJson"))?,
        };
        let sessions: BTreeMap<_, _> = meta
            .sessions
            .into_iter()
            .map(|(id, (task, matrix))| (SessionId(id), (task, Fingerprint(matrix))))
            .collect();
        let session = |id: Arc<str>| {
            sessions.get_key_value(&SessionId(id)).ok_or(Unreadable {
                column: "metaJson",
                reason: "it names a session that it does not list".into(),
            })
        };

        let mut table = Self::default();
        for (name, (id, nonce, token, since, scope)) in meta.held {
            let (id, (task, matrix)) = session(id)?;
            let grant = Grant {
                session: id.clone(),
                nonce: Nonce(nonce),
                token,
                since,
                scope,
            };
            let ours = tasks.get(&name) == Some(task);
            let name = LockName::found(name);
            if ours {
                let entry = Entry {
                    task: task.clone(),
                    grant: Some(grant),
                };
                table.insert(name, entry, *matrix);
            } else {
                table.disowned.insert(name, (task.clone(), grant, *matrix));
            }
        }
        for (name, task) in tasks {
            if table.held.contains_key(&*name) {
                continue;
            }
            let entry = Entry { task, grant: None };
            let matrix = ConflictMatrix::platform().fingerprint();
            table.insert(LockName::found(name), entry, matrix);
        }
        for (id, nonce, ticket, since, names, path) in meta.queue {
            let (id, (task, matrix)) = session(id)?;
            table.queue.push(Waiting {
                session: id.clone(),
                nonce: Nonce(nonce),
                task: task.clone(),
                names: names.into_iter().map(LockName::found).collect(),
                matrix: *matrix,
                ticket,
                since,
                path: path.into(),
            });
        }
        Ok(table)
    }

    /// The original's column.
    pub(crate) fn data_json(&self) -> String {
        let tasks = AsMap(|| self.held.iter().map(|(name, e)| (name.as_str(), &*e.task)));
        serde_json::to_string(&tasks).expect("BUG: texts always serialise")
    }

    /// Our column.
    pub(crate) fn meta_json(&self) -> String {
        #[derive(Serialize)]
        struct Meta<S, H, Q> {
            sessions: S,
            held: H,
            queue: Q,
        }

        let mut sessions: BTreeMap<&str, (&str, u64)> = BTreeMap::new();
        for (id, used) in &self.sessions {
            sessions.insert(&id.0, (&used.task, used.matrix.0));
        }
        for (task, grant, matrix) in self.disowned.values() {
            sessions.insert(&grant.session.0, (task, matrix.0));
        }
        for w in &self.queue {
            sessions.insert(&w.session.0, (&w.task, w.matrix.0));
        }
        let held = AsMap(|| {
            let held = self.held.iter();
            let ours = held.filter_map(|(name, entry)| Some((name, entry.grant.as_ref()?)));
            let robbed = self
                .disowned
                .iter()
                .map(|(name, (_, grant, _))| (name, grant));
            ours.chain(robbed).map(|(name, g)| {
                let held: Held<&str> = (&g.session.0, g.nonce.0, g.token, g.since, g.scope);
                (name.as_str(), held)
            })
        });
        let queue: Vec<_> = self
            .queue
            .iter()
            .map(|w| {
                let names: Vec<&str> = w.names.iter().map(LockName::as_str).collect();
                (
                    &*w.session.0,
                    w.nonce.0,
                    w.ticket,
                    w.since,
                    names,
                    w.path.ids(),
                )
            })
            .collect();
        serde_json::to_string(&Meta {
            sessions,
            held,
            queue,
        })
        .expect("BUG: texts and numbers always serialise")
    }
}

/// Serialises an iterator of pairs as a map, without collecting it first.
struct AsMap<F>(F);

impl<F, I, K, V> Serialize for AsMap<F>
where
    F: Fn() -> I,
    I: Iterator<Item = (K, V)>,
    K: Serialize,
    V: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map((self.0)())
    }
}
