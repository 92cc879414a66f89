use std::time::Duration;

use super::*;
use crate::{matrix::ConflictMatrix, scope::ScopePath, table::Request};

fn at(millis: u64) -> Time {
    Time::new(Duration::from_millis(millis))
}

fn name(name: &str) -> LockName {
    LockName::found(name.into())
}

fn session(id: &str) -> SessionId {
    SessionId(id.into())
}

/// A grant of task `a` with its nonce as its token and the number of its fence row.
fn grant(nonce: u64, id: &str, names: &[&str]) -> ActiveGrant {
    ActiveGrant {
        nonce: Nonce(nonce),
        session: session(id),
        task: "a".into(),
        names: names.iter().copied().map(name).collect(),
        token: i64::try_from(nonce).unwrap(),
        ends: None,
        fence_row: session(id)
            .fence_row(usize::try_from(nonce).unwrap())
            .into(),
    }
}

/// One with a guard, one detached, one that is being released.
fn three() -> (Grants, ReleaseId) {
    let mut grants = Grants::default();
    assert!(grants.is_empty() && !grants.is_releasing() && !grants.has_detached());
    grants.add(grant(1, "s", &["guarded"]));
    assert!(!grants.is_empty() && !grants.has_detached());
    grants.add(grant(2, "t", &["x", "y"]));
    grants.detach(Nonce(2), false);
    assert!(grants.has_detached());
    grants.add(grant(3, "u", &["released"]));
    let release = grants.start_release(Nonce(3), false, None, at(9));
    (grants, release.expect("it is held"))
}

/// A table with these locks of the grant, and with others' locks.
fn table(grant: &ActiveGrant, names: &[&str], of_others: &[&str]) -> LockTable {
    let mut table = LockTable::default();
    let mut add = |grant: &ActiveGrant, names: &[&str]| {
        let request = Request {
            session: grant.session.clone(),
            nonce: grant.nonce,
            task: grant.task.clone(),
            names: names.iter().copied().map(name).collect(),
            matrix: ConflictMatrix::platform(),
            path: ScopePath::default(),
            since: 0,
        };
        table.grant(&request, grant.token);
    };
    add(grant, names);
    let mut other = self::grant(77, "other", of_others);
    other.task = "other".into();
    add(&other, of_others);
    table
}

#[test]
fn what_is_held_and_what_is_released_is_known_by_nonce_and_session() {
    let (grants, _) = three();
    assert_eq!(grants.nonces(), [1, 2, 3].map(Nonce).into());
    assert_eq!(grants.busy_sessions(), ["s", "t", "u"].map(session).into());
    assert_eq!(grants.holding_sessions(), ["s", "t"].map(session).into());
    assert_eq!(grants.session_of(Nonce(1)), Some(&session("s")));
    assert_eq!(grants.session_of(Nonce(2)), None, "it has no guard");
    for (id, number) in [("s", 1), ("t", 2), ("u", 3)] {
        let row: Arc<str> = session(id).fence_row(number).into();
        assert_eq!(grants.fence_rows_in_use(&session(id)), [row].into());
    }
    let names: Vec<_> = grants.names_in_release().collect();
    assert_eq!(names, [&name("released")]);
}

#[test]
fn a_detached_lock_is_released_by_its_task_and_its_name() {
    let (mut grants, _) = three();
    let mut release = |task, lock, nonce: u64| {
        let nonce = Some(Nonce(nonce));
        grants.release_name(task, &name(lock), nonce.as_slice(), CallId(5), at(3))
    };
    assert_eq!(release("b", "x", 2), (Ownership::Other, None));
    assert_eq!(
        release("a", "x", 4),
        (Ownership::Other, None),
        "a later grant"
    );
    assert_eq!(release("a", "guarded", 1), (Ownership::Guarded, None));
    assert_eq!(release("b", "guarded", 1), (Ownership::Other, None));
    let (ownership, id) = release("a", "x", 2);
    assert_eq!(ownership, Ownership::Releasing);
    assert_eq!(release("a", "x", 2), (Ownership::Other, None), "once");
    let release = grants
        .get_release(id.expect("it began"))
        .expect("it is there");
    assert_eq!(release.names(), [name("x")]);
    assert_eq!(release.id(), (session("t"), Nonce(2)));
    assert!(grants.has_detached(), "y stays");
    assert_eq!(grants.oldest_call(), Some(at(3)));
}

#[test]
fn a_release_is_due_unless_it_awaits_a_fenced_transaction() {
    let mut grants = Grants::default();
    grants.add(grant(1, "s", &["x"]));
    let id = grants
        .start_release(Nonce(1), true, None, at(9))
        .expect("held");
    assert!(grants.is_releasing() && !grants.any_release_due(at(10)));
    assert_eq!(grants.next_release_due(), None);
    grants.on_fence_ended(id);
    assert_eq!(grants.next_release_due(), Some(at(9)));
    assert!(!grants.any_release_due(at(8)) && grants.any_release_due(at(9)));
    assert_eq!(
        grants.releases().map(|(id, _)| *id).collect::<Vec<_>>(),
        [id]
    );
    let release = grants.remove_release(id).expect("it is there");
    assert!(release.into_calls().is_empty());
    assert!(!grants.is_releasing() && grants.start_release(Nonce(1), true, None, at(9)).is_none());
}

#[test]
fn calls_leave_their_releases() {
    let mut grants = Grants::default();
    for nonce in 1..=3 {
        grants.add(grant(nonce, "s", &["x"]));
        let call = (nonce > 1).then_some(CallId(nonce));
        grants.start_release(Nonce(nonce), false, call, at(nonce));
    }
    assert_eq!(
        grants.oldest_call(),
        Some(at(2)),
        "no call waits for the first"
    );
    assert_eq!(grants.take_calls(|due| due <= at(2)), [CallId(2)]);
    assert_eq!(grants.oldest_call(), Some(at(3)));
    assert_eq!(grants.take_calls(|_| true), [CallId(3)]);
    assert_eq!(grants.oldest_call(), None);
    assert_eq!(grants.releases().count(), 3, "they go on");
}

#[test]
fn everything_is_released_except_for_detached_locks_that_never_expire() {
    for (keep_detached, number) in [(true, 1), (false, 3)] {
        let (mut grants, before) = three();
        let fenced = [Nonce(1)].into();
        let (guarded, releases) = grants.release_all(keep_detached, &fenced, at(4));
        assert_eq!(guarded, [Nonce(1)]);
        assert_eq!(releases.len(), number);
        assert!(!releases.contains(&before));
        assert_eq!(grants.has_detached(), keep_detached);
        assert_eq!(grants.releases().count(), number + 1);
        let ready = |id: &ReleaseId| {
            grants
                .get_release(*id)
                .is_some_and(PendingRelease::is_ready)
        };
        assert_eq!(releases.iter().filter(|id| ready(id)).count(), number - 1);
    }
}

#[test]
fn a_grant_is_missing_if_the_row_does_not_show_all_of_it() {
    let held = grant(1, "s", &["x", "y"]);
    let mut grants = Grants::default();
    grants.add(held.clone());
    let (missing, stolen) = grants.missing_in(&table(&held, &["x", "y"], &[]));
    assert!(missing.is_empty() && stolen.is_empty());
    let (missing, _) = grants.missing_in(&table(&held, &["x"], &["y"]));
    let [(held, loss)] = &missing[..] else {
        panic!("{missing:?}");
    };
    assert_eq!(held.nonce, Nonce(1));
    assert!(loss.by.is_some());
    let mut later = grant(1, "s", &["x", "y"]);
    later.token = 9;
    let (missing, _) = grants.missing_in(&table(&later, &["x", "y"], &[]));
    assert_eq!(missing.len(), 1, "another write granted that");
}

#[test]
fn a_release_without_its_locks_shows_that_they_were_stolen_unless_it_was_applied() {
    let (mut grants, id) = three();
    let released = grants.get_release(id).expect("it is there").grant().clone();
    let there = table(&released, &["released"], &[]);
    let gone = table(&released, &[], &[]);
    assert!(grants.missing_in(&there).1.is_empty());
    assert_eq!(grants.missing_in(&gone).1, [session("u")]);
    assert!(!grants.get_release(id).expect("it is there").maybe_applied());
    grants.on_release_indeterminate(id);
    assert!(grants.get_release(id).expect("it is there").maybe_applied());
    assert!(grants.missing_in(&gone).1.is_empty());
}

#[test]
fn what_is_lost_is_no_longer_held() {
    let (mut grants, _) = three();
    grants.add(grant(4, "t", &["z"]));
    grants.detach(Nonce(4), false);
    grants.lose(&grant(2, "t", &["x"]));
    let left = grants.detached.keys().map(|(name, _)| name.clone());
    assert_eq!(left.collect::<Vec<_>>(), ["y", "z"].map(name));
    grants.lose(&grant(1, "s", &["guarded"]));
    assert_eq!(grants.session_of(Nonce(1)), None);
    assert!(!grants.is_empty(), "two detached locks");
}

#[test]
fn a_lost_session_takes_along_what_is_held_under_it() {
    let nonces = |lost: Vec<ActiveGrant>| lost.iter().map(|g| g.nonce.0).collect::<Vec<_>>();
    let (mut grants, _) = three();
    assert_eq!(nonces(grants.lose_all(Some(&session("t")))), [2, 2]);
    assert!(!grants.is_empty());
    assert_eq!(nonces(grants.lose_all(None)), [1]);
    assert!(grants.is_empty() && grants.is_releasing());
}
