//! The format of the lock table in the row's two text columns.
//!
//! `dataJson` has the format of the original: a map of lock name to task id. `metaJson` adds
//! what the original does not know. It consists of short arrays, because every write sends
//! it:
//!
//! ```text
//! {"format": 2,
//!  "sessions": [["<id>", "<task id>", <matrix fingerprint>]],
//!  "token": <start>, "since": <start>,
//!  "held":  {"<name>": [<session>, <nonce>, <token>, <since>, <scope, if any>],
//!            "<shared name>": [[<session>, …], [<session>, …]]},
//!  "queue": [[<session>, <nonce>, <token>, <since>, ["<name>", ["<shared name>"]],
//!             [<scope>], if any]]}
//! ```
//!
//! A text without shared names has format 1, which version 0.1 reads.
//!
//! The holders of a shared name are in the order of their grants, and `dataJson` has the task
//! of the first one.
//!
//! A text without `format` was written by version 0.1 and is read as format 1. A higher
//! format and an unknown field are errors: a write would erase the unknown part.
//!
//! A session is written as its index in `sessions`. Tokens, tickets and times are written
//! relative to `token` and `since`, because absolute numbers would be most of the text.
//!
//! An entry of `held` is valid only while `dataJson` has the task id of its (first) session.
//! Otherwise the lock was stolen: the name belongs to the task in `dataJson`, if to any.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, IgnoredAny, SeqAccess, Visitor},
};

use super::{
    Entry, Grant, Holders, LockTable, Nonce, QueuedRequest, SessionId, StolenLock,
    text_cache::{Base, Chunk},
};
use crate::{
    matrix::{ConflictMatrix, Fingerprint},
    name::{LockName, Mode},
};

/// A row that cannot be parsed. It is reported and never overwritten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{column} of the locks row cannot be read ({reason}); it was left as it is")]
pub(crate) struct Unreadable {
    column: &'static str,
    reason: Cow<'static, str>,
}

/// The texts of the two columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    pub(crate) data_json: String,
    pub(crate) meta_json: String,
}

/// The highest format of `metaJson` that is read. It is written if there are shared names.
const FORMAT: u64 = 2;
/// The format that is written if there are none.
const WITHOUT_SHARED: u64 = 1;

/// The part of `metaJson` that is parsed first.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Version {
    format: Option<u64>,
}

/// `metaJson`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Meta {
    #[serde(rename = "format")]
    _format: IgnoredAny,
    sessions: Vec<(Arc<str>, Arc<str>, u64)>,
    token: i64,
    since: i64,
    held: BTreeMap<Arc<str>, HeldBy>,
    queue: Vec<Queued>,
}

/// The holders of a name.
enum HeldBy {
    One(Held),
    Sharing(Vec<Held>),
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
    names: Vec<QueuedName>,
    #[serde(default)]
    path: Vec<u64>,
}

/// A name that a request waits for.
struct QueuedName(Arc<str>, Mode);

impl QueuedName {
    fn into_parts(self) -> (LockName, Mode) {
        (LockName::found(self.0), self.1)
    }
}

impl<'de> Deserialize<'de> for HeldBy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        /// The first element of the array tells which one it is.
        enum First {
            Session(usize),
            Holder(Held),
        }

        impl<'de> Deserialize<'de> for First {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Parser;

                impl<'de> Visitor<'de> for Parser {
                    type Value = First;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a session or a holder")
                    }

                    fn visit_u64<E: serde::de::Error>(self, session: u64) -> Result<First, E> {
                        usize::try_from(session)
                            .map(First::Session)
                            .map_err(E::custom)
                    }

                    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<First, A::Error> {
                        let seq = serde::de::value::SeqAccessDeserializer::new(seq);
                        Held::deserialize(seq).map(First::Holder)
                    }
                }
                from.deserialize_any(Parser)
            }
        }

        struct Parser;

        impl<'de> Visitor<'de> for Parser {
            type Value = HeldBy;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a holder, or an array of them")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<HeldBy, A::Error> {
                let missing = || A::Error::custom("a holder is incomplete");
                match seq.next_element()?.ok_or_else(missing)? {
                    First::Session(session) => {
                        let held = Held {
                            session,
                            nonce: seq.next_element()?.ok_or_else(missing)?,
                            token: seq.next_element()?.ok_or_else(missing)?,
                            since: seq.next_element()?.ok_or_else(missing)?,
                            scope: seq.next_element()?,
                        };
                        Ok(HeldBy::One(held))
                    }
                    First::Holder(first) => {
                        let mut holders = vec![first];
                        while let Some(holder) = seq.next_element()? {
                            holders.push(holder);
                        }
                        Ok(HeldBy::Sharing(holders))
                    }
                }
            }
        }
        from.deserialize_seq(Parser)
    }
}

impl<'de> Deserialize<'de> for QueuedName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Parser;

        impl<'de> Visitor<'de> for Parser {
            type Value = QueuedName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or an array with a shared name")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<QueuedName, E> {
                Ok(QueuedName(name.into(), Mode::Exclusive))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<QueuedName, A::Error> {
                let name = seq.next_element()?;
                let name = name.ok_or_else(|| A::Error::custom("a shared name is missing"))?;
                Ok(QueuedName(name, Mode::Shared))
            }
        }
        from.deserialize_any(Parser)
    }
}

impl LockTable {
    /// Parses the row's columns. Without `metaJson`, every lock is foreign.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] when `dataJson` is NULL, when a column is not of the format above, or
    /// when `metaJson` was written by a newer version.
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
        let session = |index: usize| {
            sessions.get(index).ok_or(Unreadable {
                column: "metaJson",
                reason: "it names a session that it does not list".into(),
            })
        };

        let mut table = Self::default();
        for (name, held) in meta.held {
            let (mode, held) = match held {
                HeldBy::One(held) => (Mode::Exclusive, vec![held]),
                HeldBy::Sharing(held) => (Mode::Shared, held),
            };
            let mut is_valid = None;
            let in_data = tasks.get(&name);
            let name = LockName::found(name);
            for held in held {
                let (id, task, matrix) = session(held.session)?;
                let grant = Grant {
                    session: id.clone(),
                    nonce: Nonce(held.nonce),
                    mode,
                    token: meta.token.wrapping_add(held.token),
                    since: meta.since.wrapping_add(held.since),
                    scope: held.scope,
                };
                let task = task.clone();
                // The first one decides for all that share the name.
                if *is_valid.get_or_insert(in_data == Some(&task)) {
                    let grant = Some(grant);
                    table.insert(name.clone(), Entry { task, grant }, *matrix);
                } else {
                    let matrix = *matrix;
                    let lock = StolenLock {
                        task,
                        grant,
                        matrix,
                    };
                    table.stolen.entry(name.clone()).or_default().push(lock);
                }
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
                names: queued
                    .names
                    .into_iter()
                    .map(QueuedName::into_parts)
                    .collect(),
                matrix: *matrix,
                ticket: meta.token.wrapping_add(queued.ticket),
                since: meta.since.wrapping_add(queued.since),
                path: queued.path.into(),
            });
        }
        Ok(table)
    }

    /// A text that `metaJson` contains exactly while this request is queued or granted: no
    /// other number is as large as a nonce.
    pub(crate) fn marker_of(nonce: Nonce) -> String {
        format!(",{},", nonce.0)
    }

    /// The texts of the two columns. Their unchanged parts are cached for the next call.
    pub(crate) fn columns(&mut self) -> Columns {
        let listed = self.listed_sessions();
        let sessions = listed.iter();
        let sessions: Vec<_> = sessions
            .map(|(id, (task, matrix))| (&*id.0, &***task, matrix.0))
            .collect();
        let mut start = Vec::new();
        write(&mut start, &sessions);
        let base = self.base(listed.into_keys().cloned().collect());
        let indices: BTreeMap<_, _> = base.sessions.iter().cloned().zip(0_usize..).collect();
        let (token, since) = (base.token, base.since);
        let held = |grant: &Grant| {
            let (session, nonce) = (indices[&grant.session], grant.nonce.0);
            let token = grant.token.wrapping_sub(token);
            let since = grant.since.wrapping_sub(since);
            match grant.scope {
                None => Array::Short((session, nonce, token, since)),
                Some(scope) => Array::Long((session, nonce, token, since, scope)),
            }
        };
        let queue = self.queue.iter().map(|queued| {
            let names = queued.names.with_modes().map(|(name, mode)| match mode {
                Mode::Exclusive => WrittenName::Exclusive(name.as_str()),
                Mode::Shared => WrittenName::Shared([name.as_str()]),
            });
            let names: Vec<_> = names.collect();
            let (session, nonce) = (indices[&queued.session], queued.nonce.0);
            let ticket = queued.ticket.wrapping_sub(token);
            let since = queued.since.wrapping_sub(since);
            match queued.path.ids() {
                [] => Array::Short((session, nonce, ticket, since, names)),
                path => Array::Long((session, nonce, ticket, since, names, path)),
            }
        });
        let mut end = Vec::new();
        write(&mut end, &queue.collect::<Vec<_>>());
        let is_shared = self.has_shared_names();
        let mut stolen = Chunk::default();
        let held_by = |mode, grants: Vec<&Grant>| match (mode, &*grants) {
            (Mode::Exclusive, [grant]) => Array::Short(held(grant)),
            _ => Array::Long(grants.into_iter().map(held).collect::<Vec<_>>()),
        };
        for (name, locks) in &self.stolen {
            let grants: Vec<_> = locks.iter().map(|lock| &lock.grant).collect();
            entry(&mut stolen.meta, name, &held_by(grants[0].mode, grants));
        }

        let write_lock = |chunk: &mut Chunk, name: &LockName, holders: &Holders| {
            entry(&mut chunk.data, name, &*holders.first().task);
            let grants = holders.iter().filter_map(|entry| entry.grant.as_ref());
            let grants: Vec<_> = grants.collect();
            if !grants.is_empty() {
                entry(&mut chunk.meta, name, &held_by(holders.mode(), grants));
            }
        };
        let chunks = self.text_cache.chunks(base, &self.held, write_lock);
        let chunks: Vec<_> = chunks.chain([&stolen]).collect();
        let data = chunks.iter().map(|chunk| &*chunk.data);
        let meta = chunks.iter().map(|chunk| &*chunk.meta);
        let format = if is_shared { FORMAT } else { WITHOUT_SHARED };
        let format = format!(r#"{{"format":{format},"sessions":"#);
        let start = [format.as_bytes(), &*start].concat();
        let numbers = format!(r#","token":{token},"since":{since},"held":{{"#);
        let end = [br#"},"queue":"#, &*end, b"}"].concat();
        Columns {
            data_json: joined(&[b"{"], data, b"}"),
            meta_json: joined(&[&start, numbers.as_bytes()], meta, &end),
        }
    }

    fn has_shared_names(&self) -> bool {
        let mut stolen = self.stolen.values().flatten();
        self.shared > 0
            || self
                .queue
                .iter()
                .any(|queued| !queued.names.shared().is_empty())
            || stolen.any(|lock| lock.grant.mode == Mode::Shared)
    }

    /// The base of the texts, with these sessions. The previous base is kept if it has the
    /// sessions, because every lock has to be serialised again when the base changes.
    fn base(&self, sessions: Vec<SessionId>) -> Base {
        if let Some(base) = self
            .text_cache
            .base()
            .filter(|base| base.sessions == sessions)
        {
            return base.clone();
        }
        let entries = || self.held.values().flat_map(Holders::iter);
        let grants = || entries().filter_map(|entry| entry.grant.as_ref());
        let tokens = grants().map(|grant| grant.token);
        let times = grants().map(|grant| grant.since);
        let token = tokens
            .chain(self.queue.iter().map(|queued| queued.ticket))
            .min();
        let since = times
            .chain(self.queue.iter().map(|queued| queued.since))
            .min();
        Base {
            token: token.unwrap_or(0),
            since: since.unwrap_or(0),
            sessions,
        }
    }

    /// Every session of a grant, a stolen lock or a queued request, with its task and
    /// matrix.
    fn listed_sessions(&self) -> BTreeMap<&SessionId, (&Arc<str>, Fingerprint)> {
        let holding = self.sessions.iter();
        let holding = holding.map(|(id, used)| (id, (&used.task, used.matrix)));
        let stolen = self.stolen.values().flatten();
        let stolen = stolen.map(|lock| (&lock.grant.session, (&lock.task, lock.matrix)));
        let queued = self.queue.iter();
        let queued = queued.map(|queued| (&queued.session, (&queued.task, queued.matrix)));
        holding.chain(stolen).chain(queued).collect()
    }
}

/// Appends `value` as JSON.
fn write(text: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(text, value).expect("BUG: texts and numbers always serialise");
}

/// Appends an entry of a map, after a comma unless it is the first one.
fn entry(text: &mut Vec<u8>, name: &LockName, value: &(impl Serialize + ?Sized)) {
    if !text.is_empty() {
        text.push(b',');
    }
    write(text, name.as_str());
    text.push(b':');
    write(text, value);
}

/// Joins `start`, the texts of `entries` and `end`. Empty texts are left out, and the others
/// are separated by commas.
fn joined<'t>(
    start: &[&'t [u8]],
    entries: impl Iterator<Item = &'t [u8]>,
    end: &'t [u8],
) -> String {
    let mut all = start.to_vec();
    for entries in entries.filter(|entries| !entries.is_empty()) {
        if all.len() > start.len() {
            all.push(b",");
        }
        all.push(entries);
    }
    all.push(end);
    // The texts can be long, so they are copied once.
    String::from_utf8(all.concat()).expect("BUG: JSON is UTF-8")
}

/// A name that a request waits for.
#[derive(Serialize)]
#[serde(untagged)]
enum WrittenName<'a> {
    Exclusive(&'a str),
    Shared([&'a str; 1]),
}

/// An array in one of two forms.
#[derive(Serialize)]
#[serde(untagged)]
enum Array<S, L> {
    Short(S),
    Long(L),
}
