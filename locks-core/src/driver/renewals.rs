//! Renewing all sessions of the process in one statement, on a connection of its own.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Config,
    job::{Renewal, Renewed},
    namespace::Namespace,
};
use crate::store::Link;

/// When to renew, and with what.
#[derive(Debug)]
pub(super) struct Renewals {
    /// The connection, unless a renewal is under way.
    link: Option<Link>,
    due: Option<Instant>,
}

type Namespaces = BTreeMap<Arc<str>, Namespace>;

impl Renewals {
    pub(super) fn new(link: Link) -> Self {
        Self {
            link: Some(link),
            due: None,
        }
    }

    /// The renewal that is due, if one is: to be run, and handed to [`done`](Self::done).
    pub(super) fn start(
        &mut self,
        namespaces: &Namespaces,
        config: &Config,
        now: Instant,
    ) -> Option<impl Future<Output = (Link, Renewed)> + use<>> {
        let expiring = || {
            let sessions = namespaces.values().flat_map(|n| n.sessions.values());
            sessions.filter(|session| session.ttl.is_some())
        };
        let holding = || namespaces.values().filter(|n| !n.held.is_empty());
        if expiring().next().is_none() && holding().next().is_none() {
            self.due = None;
            return None;
        }
        let first = self.due.is_none();
        let pause = config.beat_ttl() / 3;
        if *self.due.get_or_insert(now + pause) > now && !first {
            return None;
        }
        let mut link = self.link.take()?;
        let renewal = if first {
            // Of nothing: it opens the connection, before there is any hurry.
            Renewal::default()
        } else {
            self.due = Some(now + pause);
            Renewal {
                sessions: expiring().map(|session| session.id.clone()).collect(),
                namespaces: holding().map(|namespace| namespace.name.clone()).collect(),
            }
        };
        Some(async move {
            let renewed = renewal.run(&mut link).await;
            (link, renewed)
        })
    }

    /// Takes in what came of a renewal.
    pub(super) fn done(
        &mut self,
        link: Link,
        renewed: Renewed,
        namespaces: &mut Namespaces,
        config: &Config,
        now: Instant,
    ) {
        self.link = Some(link);
        let ttl = config.beat_ttl();
        match renewed.result {
            Ok(lost) => {
                let deadline = renewed.sent.after(ttl);
                for namespace in namespaces.values_mut() {
                    namespace.renewed(&renewed.sessions, &lost, deadline);
                }
            }
            Err(failure) => {
                self.due = Some(now + (ttl / 30).max(Duration::from_millis(20)));
                let left = namespaces.values().filter_map(Namespace::least_left);
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
        }
        for (name, at) in renewed.rows {
            if let Some(namespace) = namespaces.get_mut(&name) {
                namespace.seen_at(at.as_ref());
            }
        }
    }

    /// When the next renewal is due, unless one is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.link.is_some())
    }

    /// The connection, to make others like it.
    pub(super) fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// Says good-bye to the server.
    pub(super) async fn close(self) {
        if let Some(mut link) = self.link {
            link.close().await;
        }
    }
}
