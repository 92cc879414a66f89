//! How a query runs: the calls of the store that each makes.

use std::collections::{BTreeMap, BTreeSet};

use super::tasks;
use crate::{
    protocol::{CHUNK, CompareAndSet, Completion, Orphans, Peers, Query, Renewal, Renewed},
    store::{Class, Connection, Failure, Liveness, Reconnecting, RowVersion},
    table::{LockTable, SessionId},
};

/// Runs a query on the connection of the rows.
pub(super) async fn run(query: Query, link: &mut Reconnecting, namespace: &str) -> Completion {
    match query {
        Query::Read => Completion::Read(link.with(async |c| c.read(namespace).await).await),
        Query::ReadLocked => {
            Completion::ReadLocked(link.with(async |c| c.read_locked(namespace).await).await)
        }
        Query::Unlock => Completion::Unlocked(link.with(async |c| c.unlock().await).await),
        Query::TakeTurn(submission) => {
            let take = async |c: &mut Connection| c.take_turn(namespace, &submission).await;
            Completion::TurnTaken(link.with(take).await)
        }
        Query::PassTurn(served) => {
            let pass = async |c: &mut Connection| c.pass_turn(namespace, &served).await;
            Completion::TurnPassed(link.with(pass).await)
        }
        Query::Withdraw(submission) => {
            let submit = async |c: &mut Connection| c.submit(namespace, &submission).await;
            Completion::Withdrawn(link.with(submit).await)
        }
        Query::ReadVersion => {
            Completion::VersionRead(link.with(async |c| c.read_version(namespace).await).await)
        }
        Query::CompareAndSet(mut write) => {
            let columns = write.table.columns();
            let CompareAndSet {
                expected,
                new,
                preconditions,
                durability,
                ..
            } = &*write;
            let work = async |c: &mut Connection| {
                c.survive(*durability).await?;
                c.compare_and_set(namespace, expected, new, &columns, preconditions)
                    .await
            };
            let result = link.with(work).await;
            Completion::CompareAndSet(write, result)
        }
        Query::Adopt {
            version,
            least,
            stamp,
        } => {
            let adopt = async |c: &mut Connection| c.adopt(namespace, version, least, &stamp).await;
            Completion::Adopted(link.with(adopt).await)
        }
        Query::Create { least, stamp } => {
            let create = async |c: &mut Connection| c.create(namespace, least, &stamp).await;
            Completion::Created(link.with(create).await)
        }
        Query::OpenSessions(sessions) => {
            let open = async |c: &mut Connection| c.insert_sessions(&sessions).await;
            let result = link.with(open).await;
            Completion::SessionsOpened(sessions, result)
        }
        Query::CheckPeers {
            at,
            sessions,
            witness,
        } => {
            let check = async |c: &mut Connection| {
                check_peers(c, namespace, &at, &sessions, witness.as_ref()).await
            };
            Completion::PeersChecked(link.with(check).await)
        }
        Query::CheckOwnSessions(sessions) => {
            let check = async |c: &mut Connection| liveness(c, &sessions, None).await;
            Completion::OwnSessionsChecked(link.with(check).await)
        }
        Query::ListOrphans => {
            let list = async |c: &mut Connection| list_orphans(c, namespace).await;
            Completion::OrphansListed(link.with(list).await)
        }
        Query::Notify(version) => {
            let notify = async |c: &mut Connection| c.notify(namespace, version).await;
            Completion::Notified(link.with(notify).await)
        }
        Query::Task(task) => Completion::TaskDone(tasks::run(task, link, namespace).await),
        Query::DataVersion => {
            Completion::DataVersion(link.with(async |c| c.data_version().await).await)
        }
    }
}

/// Looks which sessions are alive. The version of the row is read first, on the same
/// connection: a session that is in the row and has no rows of its own afterwards is dead
/// and not new. If the row is no longer of version `at`, only the sessions that are still in
/// it are looked for.
async fn check_peers(
    c: &mut Connection,
    namespace: &str,
    at: &RowVersion,
    sessions: &[SessionId],
    witness: Option<&SessionId>,
) -> Result<Peers, Failure> {
    if c.read_version(namespace).await?.as_ref() == Some(at) {
        let states = liveness(c, sessions, witness).await?;
        return Ok(Peers { row: None, states });
    }
    let row = c.read(namespace).await?;
    let table = row
        .as_ref()
        .and_then(|row| LockTable::parse(row.data_json.as_deref(), row.meta_json.as_deref()).ok());
    let known = table.map(|table| table.session_ids()).unwrap_or_default();
    let sessions = sessions.iter().filter(|id| known.contains(id)).cloned();
    let sessions: Vec<_> = sessions.collect();
    let states = liveness(c, &sessions, witness).await?;
    Ok(Peers { row, states })
}

async fn liveness(
    c: &mut Connection,
    sessions: &[SessionId],
    witness: Option<&SessionId>,
) -> Result<Vec<(SessionId, Liveness)>, Failure> {
    let mut states = Vec::new();
    for chunk in sessions.chunks(CHUNK) {
        states.extend(c.liveness(chunk, witness).await?);
    }
    Ok(states)
}

async fn list_orphans(c: &mut Connection, namespace: &str) -> Result<Orphans, Failure> {
    // In this order, as for every eviction.
    let mut evicting = c.fences_in(namespace).await?;
    let sessions = c.sessions_in(namespace).await?;
    let ids: BTreeSet<_> = sessions.iter().map(|row| &row.id).collect();
    evicting.retain(|id| !ids.contains(id));
    Ok(Orphans { sessions, evicting })
}

/// Runs a step of a renewal on its connection.
pub(super) async fn renew(renewal: Renewal, link: &mut Reconnecting) -> Renewed {
    match renewal {
        Renewal::Open => Renewed::Opened(link.with(async |_| Ok(())).await),
        Renewal::Sessions(sessions) => {
            let ids: Vec<_> = sessions.iter().map(|session| session.id.clone()).collect();
            let result = link.with(async |c| renew_sessions(c, &ids).await).await;
            Renewed::Sessions { sessions, result }
        }
        Renewal::Versions(namespaces) => {
            let result = link
                .with(async |c| c.read_versions(&namespaces).await)
                .await;
            let result = result.map(|rows| rows.into_iter().collect::<BTreeMap<_, _>>());
            Renewed::Versions { namespaces, result }
        }
    }
}

/// Renews sessions, and returns those that do not exist any more.
async fn renew_sessions(
    c: &mut Connection,
    ids: &[SessionId],
) -> Result<BTreeSet<SessionId>, Failure> {
    let renewed = c.renew(ids).await?;
    if renewed == ids.len() as u64 {
        return Ok(BTreeSet::new());
    }
    let states = c.liveness(ids, None).await?.into_iter();
    let gone = states.filter(|(_, state)| !matches!(state, Liveness::Alive(_)));
    let gone: BTreeSet<_> = gone.map(|(id, _)| id).collect();
    // The sessions that the answer does not have are those that were not renewed, or the
    // answer is not believed.
    let found = (ids.len() - gone.len()) as u64;
    if found == renewed {
        return Ok(gone);
    }
    let text = format!("{renewed} sessions were renewed and {found} were found");
    Err(Failure::inconsistent(Class::NotApplied, text))
}
