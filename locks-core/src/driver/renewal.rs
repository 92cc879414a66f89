//! A renewal of sessions, as it is asked of the database.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{lease::Moment, session::SessionKey};
use crate::{
    store::{Class, Connection, Failure, Liveness, Reconnecting, RowVersion},
    table::SessionId,
};

/// A piece of what the connection that renews does at a tick.
#[derive(Debug)]
pub(super) enum Renewal {
    /// Nothing: it opens the connection, before there is any hurry.
    Open,
    /// Renew these sessions.
    Sessions(Vec<RenewedSession>),
    /// Which writes the rows are of, where something is held.
    Rows(Vec<Arc<str>>),
}

/// A session that is renewed, and where it belongs.
#[derive(Clone, Debug)]
pub(super) struct RenewedSession {
    pub(super) namespace: Arc<str>,
    pub(super) key: SessionKey,
    pub(super) id: SessionId,
}

#[derive(Debug)]
pub(super) enum Renewed {
    Opened(Result<(), Failure>),
    Sessions {
        sessions: Vec<RenewedSession>,
        sent: Moment,
        /// The sessions that are not there any more.
        result: Result<BTreeSet<SessionId>, Failure>,
    },
    Rows {
        namespaces: Vec<Arc<str>>,
        result: Result<BTreeMap<String, RowVersion>, Failure>,
    },
}

impl Renewal {
    pub(super) async fn run(self, link: &mut Reconnecting) -> Renewed {
        match self {
            Self::Open => Renewed::Opened(link.with(async |_| Ok(())).await),
            Self::Sessions(sessions) => {
                let ids: Vec<_> = sessions.iter().map(|session| session.id.clone()).collect();
                let sent = Moment::now();
                let result = link.with(async |c| renew(c, &ids).await).await;
                Renewed::Sessions {
                    sessions,
                    sent,
                    result,
                }
            }
            Self::Rows(namespaces) => {
                let result = link
                    .with(async |c| c.read_versions(&namespaces).await)
                    .await;
                Renewed::Rows {
                    namespaces,
                    result: result.map(|rows| rows.into_iter().collect()),
                }
            }
        }
    }
}

/// Renews sessions; those that are not there any more.
async fn renew(c: &mut Connection, ids: &[SessionId]) -> Result<BTreeSet<SessionId>, Failure> {
    let renewed = c.renew(ids).await?;
    if renewed == ids.len() as u64 {
        return Ok(BTreeSet::new());
    }
    let states = c.liveness(ids, None).await?.into_iter();
    let gone = states.filter(|(_, state)| !matches!(state, Liveness::Alive(_)));
    let gone: BTreeSet<_> = gone.map(|(id, _)| id).collect();
    // Those that the answer does not have are those that were not renewed, or the answer
    // is not believed.
    let found = (ids.len() - gone.len()) as u64;
    if found == renewed {
        return Ok(gone);
    }
    let text = format!("{renewed} sessions were renewed and {found} were found");
    Err(Failure::inconsistent(Class::NotApplied, text))
}
