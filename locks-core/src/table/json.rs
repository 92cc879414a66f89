//! The lock table as it stands in the row's two text columns.
//!
//! `dataJson` is the original's: a map of lock name to task id. `metaJson` adds what
//! the original does not know, in short arrays because every write carries it:
//!
//! ```text
//! {"format": 1,
//!  "sessions": [["<id>", "<task id>", <matrix fingerprint>]],
//!  "token": <start>, "since": <start>,
//!  "held":  {"<name>": [<session>, <nonce>, <token>, <since>, <scope, if any>]},
//!  "queue": [[<session>, <nonce>, <token>, <since>, ["<name>"], [<scope>], if any]]}
//! ```
//!
//! A text without `format` is of version 0.1, and reads as format 1. A higher format, or a
//! field that is not known, is an error: a write would erase what it does not know.
//!
//! A session is its place in `sessions`. Tokens, tickets among them, and times are counted
//! from one of them: in full they would be most of the text.
//!
//! An entry of `held` counts only while `dataJson` says the same task id: else the
//! name is foreign, whatever we once wrote about it.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{
    Entry, Grant, LockTable, Nonce, QueuedRequest, SessionId,
    text_cache::{Base, Part},
};
use crate::{
    matrix::{ConflictMatrix, Fingerprint},
    name::LockName,
};

/// A row that does not parse. It is reported, never overwritten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{column} of the locks row cannot be read ({reason}); it was left as it is")]
pub(crate) struct Unreadable {
    column: &'static str,
    reason: Cow<'static, str>,
}

/// The two columns as they are to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    pub(crate) data_json: String,
    pub(crate) meta_json: String,
}

/// The format of `metaJson` that is written, and the highest that is read.
const FORMAT: u64 = 1;

/// What is read of `metaJson` before anything else.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Version {
    format: Option<u64>,
}

/// What is read of `metaJson`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Meta {
    #[serde(rename = "format")]
    _format: IgnoredAny,
    sessions: Vec<(Arc<str>, Arc<str>, u64)>,
    token: i64,
    since: i64,
    held: BTreeMap<Arc<str>, Held>,
    queue: Vec<Queued>,
}

#[derive(Deserialize)]
struct Held {
    session: usize,
    nonce: u64,
    token: i64,
    since: i64,
    #[serde(default)]
    scope: Option<u64>,
}

#[derive(Deserialize)]
struct Queued {
    session: usize,
    nonce: u64,
    ticket: i64,
    since: i64,
    names: Vec<Arc<str>>,
    #[serde(default)]
    path: Vec<u64>,
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
            Some(meta) => {
                let version: Version =
                    serde_json::from_str(meta).map_err(unreadable("metaJson"))?;
                if let Some(format) = version.format.filter(|format| *format > FORMAT) {
                    return Err(Unreadable {
                        column: "metaJson",
                        reason: format!(
                            "written by a newer version, in format {format}; this version \
                             reads up to format {FORMAT}: update this program"
                        )
                        .into(),
                    });
                }
                serde_json::from_str(meta).map_err(unreadable("metaJson"))?
            }
        };

        let sessions = meta.sessions.into_iter();
        let sessions: Vec<_> = sessions
            .map(|(id, task, matrix)| (SessionId(id), task, Fingerprint(matrix)))
            .collect();
        let session = |place: usize| {
            sessions.get(place).ok_or(Unreadable {
                column: "metaJson",
                reason: "it names a session that it does not list".into(),
            })
        };

        let mut table = Self::default();
        for (name, held) in meta.held {
            let (id, task, matrix) = session(held.session)?;
            let grant = Grant {
                session: id.clone(),
                nonce: Nonce(held.nonce),
                token: meta.token.wrapping_add(held.token),
                since: meta.since.wrapping_add(held.since),
                scope: held.scope,
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
                table.stolen.insert(name, (task.clone(), grant, *matrix));
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
        for queued in meta.queue {
            let (id, task, matrix) = session(queued.session)?;
            table.queue.push(QueuedRequest {
                session: id.clone(),
                nonce: Nonce(queued.nonce),
                task: task.clone(),
                names: queued.names.into_iter().map(LockName::found).collect(),
                matrix: *matrix,
                ticket: meta.token.wrapping_add(queued.ticket),
                since: meta.since.wrapping_add(queued.since),
                path: queued.path.into(),
            });
        }
        Ok(table)
    }

    /// A text that `metaJson` has while this request stands in it, and only then: no other
    /// number is as large as a nonce.
    pub(crate) fn marker_of(nonce: Nonce) -> String {
        format!(",{},", nonce.0)
    }

    /// The two columns of the row.
    pub(crate) fn columns(&mut self) -> Columns {
        let listed = self.listed_sessions();
        let sessions = listed.iter();
        let sessions: Vec<_> = sessions
            .map(|(id, (task, matrix))| (&*id.0, &***task, matrix.0))
            .collect();
        let mut start = Vec::new();
        write(&mut start, &sessions);
        let base = self.base(listed.into_keys().cloned().collect());
        let places: BTreeMap<_, _> = base.sessions.iter().cloned().zip(0_usize..).collect();
        let (token, since) = (base.token, base.since);
        let held = |grant: &Grant| {
            let (session, nonce) = (places[&grant.session], grant.nonce.0);
            let token = grant.token.wrapping_sub(token);
            let since = grant.since.wrapping_sub(since);
            match grant.scope {
                None => Array::Short((session, nonce, token, since)),
                Some(scope) => Array::Long((session, nonce, token, since, scope)),
            }
        };
        let queue = self.queue.iter().map(|w| {
            let names: Vec<_> = w.names.iter().map(LockName::as_str).collect();
            let (session, nonce) = (places[&w.session], w.nonce.0);
            let ticket = w.ticket.wrapping_sub(token);
            let since = w.since.wrapping_sub(since);
            match w.path.ids() {
                [] => Array::Short((session, nonce, ticket, since, names)),
                path => Array::Long((session, nonce, ticket, since, names, path)),
            }
        });
        let mut end = Vec::new();
        write(&mut end, &queue.collect::<Vec<_>>());
        let mut stolen = Part::default();
        for (name, (_, grant, _)) in &self.stolen {
            entry(&mut stolen.meta, name, &held(grant));
        }

        let parts = self.text_cache.all(base, &self.held, |part, name, lock| {
            entry(&mut part.data, name, &*lock.task);
            if let Some(grant) = &lock.grant {
                entry(&mut part.meta, name, &held(grant));
            }
        });
        let parts: Vec<_> = parts.chain([&stolen]).collect();
        let data = parts.iter().map(|part| &*part.data);
        let meta = parts.iter().map(|part| &*part.meta);
        let format = format!(r#"{{"format":{FORMAT},"sessions":"#);
        let start = [format.as_bytes(), &*start].concat();
        let numbers = format!(r#","token":{token},"since":{since},"held":{{"#);
        let end = [br#"},"queue":"#, &*end, b"}"].concat();
        Columns {
            data_json: text(&[b"{"], data, b"}"),
            meta_json: text(&[&start, numbers.as_bytes()], meta, &end),
        }
    }

    /// What numbers are counted from, and the places of these sessions: as before, if it
    /// is still true, since everything has to be written anew when it changes.
    fn base(&self, sessions: Vec<SessionId>) -> Base {
        if let Some(base) = self
            .text_cache
            .base()
            .filter(|base| base.sessions == sessions)
        {
            return base.clone();
        }
        let grants = || self.held.values().filter_map(|entry| entry.grant.as_ref());
        let tokens = grants().map(|grant| grant.token);
        let times = grants().map(|grant| grant.since);
        let token = tokens.chain(self.queue.iter().map(|w| w.ticket)).min();
        let since = times.chain(self.queue.iter().map(|w| w.since)).min();
        Base {
            token: token.unwrap_or(0),
            since: since.unwrap_or(0),
            sessions,
        }
    }

    /// Every session that is named anywhere, with its task and matrix.
    fn listed_sessions(&self) -> BTreeMap<&SessionId, (&Arc<str>, Fingerprint)> {
        let holding = self.sessions.iter();
        let holding = holding.map(|(id, used)| (id, (&used.task, used.matrix)));
        let stolen = self.stolen.values();
        let stolen = stolen.map(|(task, grant, matrix)| (&grant.session, (task, *matrix)));
        let waiting = self.queue.iter().map(|w| (&w.session, (&w.task, w.matrix)));
        holding.chain(stolen).chain(waiting).collect()
    }
}

/// Adds `value` as JSON.
fn write(text: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(text, value).expect("BUG: texts and numbers always serialise");
}

/// Adds an entry of a map, behind a comma if it is not the first.
fn entry(text: &mut Vec<u8>, name: &LockName, value: &(impl Serialize + ?Sized)) {
    if !text.is_empty() {
        text.push(b',');
    }
    write(text, name.as_str());
    text.push(b':');
    write(text, value);
}

/// `start`, then those entries that are not empty, with commas between them, then `end`.
fn text<'t>(start: &[&'t [u8]], entries: impl Iterator<Item = &'t [u8]>, end: &'t [u8]) -> String {
    let mut all = start.to_vec();
    for entries in entries.filter(|entries| !entries.is_empty()) {
        if all.len() > start.len() {
            all.push(b",");
        }
        all.push(entries);
    }
    all.push(end);
    // In one piece: they may be long.
    String::from_utf8(all.concat()).expect("BUG: JSON is UTF-8")
}

/// An array whose last element is left out where it says nothing.
#[derive(Serialize)]
#[serde(untagged)]
enum Array<S, L> {
    Short(S),
    Long(L),
}
