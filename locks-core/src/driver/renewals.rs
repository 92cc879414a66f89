//! Renewing the sessions of the process, in pieces, on a connection of its own.
//!
//! ```text
//!  tick ─▶ sessions, 512 at a time ─▶ rows where something is held, 512 at a time ─▶ sleep
//! ```
//!
//! Each piece has a deadline of its own, and counts when it is answered.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Config,
    job::PIECE,
    namespace::Namespace,
    renewal::{Renewal, Renewed, RenewedSession},
};
use crate::store::Reconnecting;

/// When to renew, and with what.
#[derive(Debug)]
pub(super) struct Renewals {
    /// The connection, unless a renewal is under way.
    link: Option<Reconnecting>,
    due: Option<Instant>,
    /// What is left of this tick.
    pieces: VecDeque<Renewal>,
}

type Namespaces = BTreeMap<Arc<str>, Namespace>;

impl Renewals {
    pub(super) fn new(link: Reconnecting) -> Self {
        Self {
            link: Some(link),
            due: None,
            pieces: VecDeque::new(),
        }
    }

    /// The renewal that is due, if one is: to be run, and handed to [`done`](Self::done).
    /// `concerned` are the namespaces that have sessions or hold something.
    pub(super) fn start(
        &mut self,
        namespaces: &mut Namespaces,
        concerned: &BTreeSet<Arc<str>>,
        config: &Config,
        now: Instant,
    ) -> Option<impl Future<Output = (Reconnecting, Renewed)> + use<>> {
        self.link.as_ref()?;
        if self.pieces.is_empty() {
            if concerned.is_empty() {
                self.due = None;
                return None;
            }
            let pause = config.beat_ttl() / 3;
            match self.due {
                None => {
                    self.due = Some(now + pause);
                    self.pieces.push_back(Renewal::Open);
                }
                Some(due) if due > now => return None,
                Some(_) => {
                    self.due = Some(now + pause);
                    self.tick(namespaces, concerned, now);
                }
            }
        }
        let piece = self.pieces.pop_front()?;
        let mut link = self.link.take()?;
        Some(async move {
            let renewed = piece.run(&mut link).await;
            (link, renewed)
        })
    }

    /// Plans a tick: idle sessions end, the others are renewed, those with the least time
    /// left first.
    fn tick(&mut self, namespaces: &mut Namespaces, concerned: &BTreeSet<Arc<str>>, now: Instant) {
        let (mut sessions, mut rows) = (Vec::new(), Vec::new());
        for name in concerned {
            let Some(namespace) = namespaces.get_mut(name) else {
                continue;
            };
            namespace.end_idle_sessions(now);
            if !namespace.held.is_empty() {
                rows.push(name.clone());
            }
            for (key, session) in namespace.sessions.iter() {
                if session.ttl.is_some() {
                    let renewed = RenewedSession {
                        namespace: name.clone(),
                        key: key.clone(),
                        id: session.id.clone(),
                    };
                    sessions.push((session.lease.deadline(), renewed));
                }
            }
        }
        sessions.sort_by_key(|(deadline, _)| *deadline);
        let sessions: Vec<_> = sessions.into_iter().map(|(_, renewed)| renewed).collect();
        let sessions = sessions.chunks(PIECE).map(<[_]>::to_vec);
        let rows = rows.chunks(PIECE).map(<[_]>::to_vec);
        self.pieces = sessions
            .map(Renewal::Sessions)
            .chain(rows.map(Renewal::Rows))
            .collect();
    }

    /// Takes in what came of a renewal; the namespaces for which something follows.
    pub(super) fn done(
        &mut self,
        link: Reconnecting,
        renewed: Renewed,
        namespaces: &mut Namespaces,
        config: &Config,
        now: Instant,
    ) -> Vec<Arc<str>> {
        self.link = Some(link);
        let ttl = config.beat_ttl();
        let mut concerned = Vec::new();
        match renewed {
            Renewed::Opened(Ok(())) => {}
            Renewed::Opened(Err(failure)) => {
                tracing::debug!(%failure, "the connection that renews could not be opened");
            }
            Renewed::Sessions {
                sessions,
                sent,
                result: Ok(lost),
            } => {
                for RenewedSession { namespace, key, id } in sessions {
                    let deadline = (!lost.contains(&id)).then(|| sent.after(ttl));
                    if let Some(known) = namespaces.get_mut(&namespace) {
                        known.renewed(&key, &id, deadline);
                        if deadline.is_none() {
                            concerned.push(namespace);
                        }
                    }
                }
            }
            Renewed::Sessions {
                sessions,
                result: Err(failure),
                ..
            } => {
                // Those that have the least time left are tried again before the others.
                self.due = Some(now + (ttl / 30).max(Duration::from_millis(20)));
                self.pieces.clear();
                let left = sessions.iter().filter_map(|session| {
                    let namespace = namespaces.get(&session.namespace)?;
                    namespace.sessions.get(&session.key)?.lease.left()
                });
                let left = left.min().unwrap_or(ttl);
                if left < ttl / 2 {
                    tracing::warn!(
                        task = %config.task, %failure, ?left,
                        "sessions cannot be renewed; locks will be lost"
                    );
                } else {
                    tracing::debug!(%failure, "a renewal failed and is tried again");
                }
            }
            Renewed::Rows {
                namespaces: names,
                result: Ok(rows),
            } => {
                for name in names {
                    if let Some(namespace) = namespaces.get_mut(&name) {
                        namespace.seen_at(rows.get(&*name));
                        concerned.push(name);
                    }
                }
            }
            Renewed::Rows {
                result: Err(failure),
                ..
            } => tracing::debug!(%failure, "the rows could not be looked at"),
        }
        concerned
    }

    /// When the next tick is due, if there is anything to renew.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.due
    }

    /// When the next renewal is due, unless one is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.link.is_some())
    }

    /// The connection, to make others like it.
    pub(super) fn link(&self) -> Option<&Reconnecting> {
        self.link.as_ref()
    }

    /// Says good-bye to the server.
    pub(super) async fn close(self) {
        if let Some(mut link) = self.link {
            link.close().await;
        }
    }
}
