//! What is told about the locks of all processes: where their holders run, and what changes.

use std::time::Duration;

use locks_core::{Blocker, LockError, LockManager, Snapshot};
use locks_tests::{engine::Database, on_every_engine, wait, worker};

const SOON: Duration = Duration::from_secs(20);

on_every_engine!(
    async holders_and_waiters_have_their_hosts_and_processes,
    async errors_have_the_session_alone,
    async process_of_an_earlier_version_has_no_host,
    async changes_are_reported,
    async closed_manager_ends_its_changes,
);

async fn connect(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it connects")
}

async fn until_waiting(locks: &LockManager, count: usize) {
    wait::until(SOON, "the queue has this length", async || {
        locks.waiting().await.expect("it answers").len() == count
    })
    .await;
}

async fn holders_and_waiters_have_their_hosts_and_processes(db: Database) {
    let locks = connect(&db, "here").await;
    let mut worker = worker!(db.url(), "there");
    worker.acquire("x");
    let guard = locks.acquire("y").await.expect("it is free");
    let waiting = tokio::spawn(locks.wait("x").timeout(SOON));
    until_waiting(&locks, 1).await;
    let held = locks.held().await.expect("it answers");
    let processes: Vec<_> = held.iter().map(|holder| holder.process).collect();
    assert_eq!(processes, [Some(worker.pid()), Some(std::process::id())]);
    let host = held[0].host.clone().expect("this version has one");
    assert!(
        !host.is_empty() && held[1].host.as_ref() == Some(&host),
        "{held:?}"
    );
    assert_ne!(held[0].session, held[1].session);

    let requests = locks.waiting().await.expect("it answers");
    let [request] = &requests[..] else {
        panic!("{requests:?}");
    };
    assert_eq!(request.process, Some(std::process::id()));
    assert_eq!(request.host.as_ref(), Some(&host));
    assert_eq!(Some(&request.session), held[1].session.as_ref());
    let [Blocker::Holder(blocker)] = &request.blocked_by[..] else {
        panic!("{request:?}");
    };
    assert_eq!(blocker, &held[0]);
    worker.ask("release");
    drop(waiting.await);
    guard.release().await.expect("it is held");
}

async fn errors_have_the_session_alone(db: Database) {
    let (locks, other) = (connect(&db, "a").await, connect(&db, "b").await);
    let _guard = locks.acquire("x").await.expect("it is free");
    let error = other.acquire("x").await.expect_err("it is held");
    let LockError::Busy { blocked_by, .. } = &error else {
        panic!("{error:?}");
    };
    let [Blocker::Holder(holder)] = &blocked_by[..] else {
        panic!("{error:?}");
    };
    assert!(holder.session.is_some());
    assert_eq!((&holder.host, holder.process), (&None, None));
}

async fn process_of_an_earlier_version_has_no_host(db: Database) {
    let locks = connect(&db, "a").await;
    let _guard = locks.acquire("x").await.expect("it is free");
    db.execute("UPDATE lock_sessions SET host = 'boot/cards/pid:[1]/time:[1]', process = '7:1'")
        .await;
    let held = locks.held().await.expect("it answers");
    assert_eq!((&held[0].host, held[0].process), (&None, Some(7)));
}

fn names(snapshot: &Snapshot) -> (Vec<&str>, Vec<&str>) {
    let held = snapshot.held.iter().map(|holder| holder.name.as_str());
    let waiting = snapshot.waiting.iter().map(|waiter| &*waiter.task_id);
    (held.collect(), waiting.collect())
}

async fn changes_are_reported(db: Database) {
    let (locks, other) = (connect(&db, "a").await, connect(&db, "b").await);
    let mut changes = locks.changes();
    let mut next = async || {
        let next = tokio::time::timeout(SOON, changes.next())
            .await
            .expect("it changed");
        next.expect("it goes on").expect("the database answers")
    };
    assert_eq!(names(&next().await), (vec![], vec![]));
    let guard = other.acquire("x").await.expect("it is free");
    let snapshot = next().await;
    assert_eq!(names(&snapshot), (vec!["x"], vec![]));
    assert_eq!(snapshot.held[0].token, Some(guard.token()));
    assert_eq!(snapshot.held[0].process, Some(std::process::id()));
    let waiting = tokio::spawn(locks.wait("x").timeout(SOON));
    let snapshot = next().await;
    assert_eq!(names(&snapshot), (vec!["x"], vec!["a"]));
    guard.release().await.expect("it is held");
    let guard = waiting.await.expect("no panic").expect("it is granted");
    let snapshot = next().await;
    assert_eq!(names(&snapshot), (vec!["x"], vec![]));
    assert_eq!(snapshot.held[0].token, Some(guard.token()));
    // What changes nothing is not reported: a grant and its release between two reads at most.
    drop(guard);
    assert_eq!(names(&next().await), (vec![], vec![]));
}

async fn closed_manager_ends_its_changes(db: Database) {
    let locks = connect(&db, "a").await;
    let mut changes = locks.changes();
    changes
        .next()
        .await
        .expect("it begins")
        .expect("the database answers");
    locks.close().await.expect("nothing is held");
    let last = changes.next().await.expect("it tells the end");
    assert!(matches!(last, Err(LockError::Closed)), "{last:?}");
    assert!(changes.next().await.is_none());
}
