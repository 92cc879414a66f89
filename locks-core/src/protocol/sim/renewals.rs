//! How a driver carries out the steps of a renewal.

use std::collections::BTreeSet;

use super::{
    execution::Connection,
    schedule::ProcessId,
    statement::{Reply, Statement},
    world::World,
};
use crate::{
    protocol::{Renewal, Renewed},
    store::{Class, Failure, Kind, Liveness},
    table::SessionId,
};

/// Carries out a step of a renewal.
pub(super) async fn run_renewal(c: Connection, renewal: Renewal) -> Renewed {
    match renewal {
        Renewal::Open => Renewed::Opened(Ok(())),
        Renewal::Sessions(sessions) => {
            let ids: Vec<_> = sessions.iter().map(|session| session.id.clone()).collect();
            let result = renew(&c, &ids).await;
            Renewed::Sessions { sessions, result }
        }
        Renewal::Versions(namespaces) => {
            let statement = Statement::ReadVersions(namespaces.clone());
            let result = match c.ask(statement).await {
                Ok(Reply::Versions(versions)) => Ok(versions),
                Ok(reply) => panic!("no versions: {reply:?}"),
                Err(failure) => Err(failure),
            };
            Renewed::Versions { namespaces, result }
        }
    }
}

/// What a step of a renewal comes to if its connection cannot be opened.
pub(super) fn refuse_renewal(renewal: Renewal) -> Renewed {
    let failure = Failure::simulated(Class::ReadOnly, Kind::Unreachable);
    match renewal {
        Renewal::Open => Renewed::Opened(Err(failure)),
        Renewal::Sessions(sessions) => {
            let result = Err(failure);
            Renewed::Sessions { sessions, result }
        }
        Renewal::Versions(namespaces) => {
            let result = Err(failure);
            Renewed::Versions { namespaces, result }
        }
    }
}

/// Renews sessions. Returns those that do not exist any more.
async fn renew(c: &Connection, ids: &[SessionId]) -> Result<BTreeSet<SessionId>, Failure> {
    let renewed = c.count(Statement::Renew(ids.to_vec())).await?;
    if renewed == ids.len() {
        return Ok(BTreeSet::new());
    }
    let states = c.liveness(ids, None).await?.into_iter();
    let gone = states.filter(|(_, state)| !matches!(state, Liveness::Alive(_)));
    let gone: BTreeSet<_> = gone.map(|(id, _)| id).collect();
    if ids.len() - gone.len() == renewed {
        return Ok(gone);
    }
    let text = "the renewed sessions and those that were found differ in number";
    Err(Failure::inconsistent(Class::NotApplied, text))
}

impl World {
    /// A warning comes when at most half of the ttl is left.
    pub(super) fn check_warning(&mut self, p: ProcessId, session: &SessionId) {
        let process = &self.processes[p];
        let Some(deadline) = process.leases.get(session) else {
            return;
        };
        let left = *deadline - process.now(self.now).boot;
        let ttl = self.setup.ttl.unwrap_or_default();
        self.note(|| format!("  session {} is endangered, {left:?} left", session.0));
        if left > ttl / 2 {
            let text = format!("process {p} was warned with {left:?} left of {ttl:?}");
            self.fail("warnings-have-a-cause", text);
        }
    }
}
