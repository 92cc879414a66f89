//! What a namespace does with single inputs.

use super::*;
use crate::{
    protocol::{
        call::{CallId, Check, Inspection},
        config::tests::config,
        grants::ActiveGrant,
        query::Completion,
        time::tests::at,
    },
    report::TAKEN,
    store::{Liveness, LocksRow, NewSession, SessionRow},
    table::Nonce,
};

/// A namespace with a session that nothing needs.
fn with_idle_session() -> Namespace {
    let config = Arc::new(config());
    let new = NewSession {
        id: SessionId("s".into()),
        namespace: "n".into(),
        task: "a".into(),
        process: config.process.clone(),
        ttl: config.ttl,
    };
    let mut namespace = Namespace::new("n".into(), config, fastrand::Rng::with_seed(1));
    let opened = Completion::SessionsOpened(vec![new], Ok(()));
    namespace.handle(at(0), Input::Completed(opened));
    namespace.handle(at(0), Input::OwnerGone("a".into()));
    namespace
}

fn empty_row() -> LocksRow {
    LocksRow {
        version: RowVersion {
            version: 7,
            stamp: Some("stamp".into()),
        },
        data_json: Some("{}".into()),
        meta_json: None,
    }
}

#[test]
fn no_session_ends_while_a_write_may_be_under_it() {
    let mut idle = with_idle_session();
    assert!(idle.sessions_to_renew(at(1)).is_empty());
    let mut writing = with_idle_session();
    writing.cycle = Cycle::InFlight {
        sent: at(0),
        writes: true,
    };
    assert_eq!(writing.sessions_to_renew(at(1)).len(), 1);
    let mut unsettled = with_idle_session();
    unsettled.row.on_indeterminate(RowVersion {
        version: 7,
        stamp: None,
    });
    assert_eq!(unsettled.sessions_to_renew(at(1)).len(), 1);
}
#[test]
fn a_dead_session_is_forgotten_once_the_row_has_nothing_of_it() {
    let mut namespace = with_idle_session();
    namespace.dead.insert(SessionId("dead".into()));
    namespace.handle(at(1), Input::Inspect(CallId(1), Inspection::Held));
    let query = namespace.poll_query(at(1));
    assert!(matches!(query, Some(Query::Read)), "{query:?}");
    let read = Completion::Read(Ok(Some(empty_row())));
    namespace.handle(at(2), Input::Completed(read));
    assert!(!namespace.dead.is_empty());
    // The plan needs no write. Then the namespace looks for orphans.
    let query = namespace.poll_query(at(2));
    assert!(matches!(query, Some(Query::ListOrphans)), "{query:?}");
    assert!(namespace.dead.is_empty());
}

/// Answers a check of the session of a grant with this state of its rows.
fn answer_to_check(state: Liveness) -> Option<Output> {
    let mut namespace = with_idle_session();
    let read = Completion::Read(Ok(Some(empty_row())));
    namespace.handle(at(1), Input::Completed(read));
    let (nonce, session) = (Nonce(3), SessionId("s".into()));
    namespace.grants.add(ActiveGrant {
        nonce,
        session: session.clone(),
        task: "a".into(),
        names: [LockName::found("x".into())].into(),
        token: 7,
        ends: None,
        fence_row: "s".into(),
    });
    let what = Inspection::Confirm(nonce, Check::Session);
    namespace.handle(at(2), Input::Inspect(CallId(1), what));
    let query = namespace.poll_query(at(2));
    let Some(Query::CheckOwnSessions(asked)) = query else {
        panic!("{query:?}");
    };
    assert_eq!(asked, std::slice::from_ref(&session));
    let checked = Completion::OwnSessionsChecked(Ok(vec![(session, state)]));
    namespace.handle(at(3), Input::Completed(checked));
    let is_answer = |output: &Output| matches!(output, Output::Answer(CallId(1), _));
    std::iter::from_fn(|| namespace.poll(at(3))).find(is_answer)
}

#[test]
fn a_check_of_a_session_is_answered_by_its_rows() {
    let alive = Liveness::Alive(SessionRow {
        id: SessionId("s".into()),
        task: "a".into(),
        process: config().process,
        ttl: config().ttl,
        heartbeat: 1,
    });
    let answer = answer_to_check(alive);
    assert!(
        matches!(answer, Some(Output::Answer(_, Answer::Done))),
        "{answer:?}"
    );
    for gone in [Liveness::Evicting, Liveness::Dead] {
        let answer = answer_to_check(gone);
        let Some(Output::Answer(_, Answer::Lost(loss))) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(loss.reason, TAKEN, "its lease has not ended");
    }
}
