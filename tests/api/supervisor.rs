//! Supervisors: `release_task` and `release_all` release everything, and every former holder learns
//! of it.

use std::time::Duration;

use locks_core::{Expiry, LockError, LockManager};
use locks_tests::{
    engine::Database,
    journal::{Journal, Tx},
    on_engine, on_every_engine,
    row::LocksRow,
    sessions::{Session, wait_until_only},
    wait, worker,
};

const SOON: Duration = Duration::from_secs(20);
/// No renewal, time-out or expiry happens during a test.
const LONG: Duration = Duration::from_mins(2);

on_every_engine!(
    async release_task_releases_and_reports_forgotten_locks,
    async release_of_a_task_without_locks_writes_nothing,
    async release_task_releases_only_this_task,
    async former_holder_learns_of_the_release,
    async released_task_can_acquire_again,
    async grant_to_a_released_idle_task_is_valid,
    async waiters_of_a_released_task_keep_waiting,
    async one_life_of_a_worker_can_be_ended_while_another_goes_on,
    async grant_that_was_released_and_given_again_is_not_taken_away,
    async release_all_releases_every_task,
    async release_all_keeps_versions_and_tokens_growing,
);
on_every_engine!(servers: async release_waits_for_an_open_fenced_transaction);

async fn connect(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder()
        .task_id(task)
        .expiry(Expiry::After(LONG));
    builder.connect(db.url()).await.expect("it connects")
}

async fn release_task_releases_and_reports_forgotten_locks(db: Database) {
    let supervisor = connect(&db, "supervisor").await;
    for never in [false, true] {
        let more: &[&str] = if never { &["--never"] } else { &[] };
        let args = ["worker", db.url(), "worker"]
            .into_iter()
            .chain(more.iter().copied());
        let peer = locks_tests::process::Peer::spawn(env!("CARGO_BIN_EXE_peer"), args);
        let mut worker = locks_tests::worker::Worker::of(peer);
        let both = worker.acquire("app_task_1 app_backup_1");
        let one = worker.acquire("mail_restart");
        worker.acquire("x");
        assert_eq!(worker.ask("release"), "released");
        worker.kill();
        let forgotten = supervisor.release_task("worker").await.expect("it can");
        let mut reported: Vec<_> = forgotten
            .iter()
            .map(|h| (h.name.as_str(), &*h.task_id, h.token))
            .collect();
        reported.sort_unstable();
        let expected = [
            ("app_backup_1", "worker", Some(both)),
            ("app_task_1", "worker", Some(both)),
            ("mail_restart", "worker", Some(one)),
        ];
        assert_eq!(reported, expected);
        assert!(forgotten.iter().all(|holder| holder.since.is_some()));
        wait_until_only(&db, &[], SOON).await;
        let row = LocksRow::read(&db, "platform").await.expect("it is there");
        assert!(row.is_empty(), "{row:?}");
    }
}

async fn release_of_a_task_without_locks_writes_nothing(db: Database) {
    let supervisor = connect(&db, "supervisor").await;
    let locks = connect(&db, "worker").await;
    let guard = locks.acquire("x").await.expect("it is free");
    guard.release().await.expect("it is ours");
    let before = LocksRow::read(&db, "platform").await;
    assert!(
        supervisor
            .release_task("worker")
            .await
            .expect("it can")
            .is_empty()
    );
    assert!(
        supervisor
            .release_task("absent")
            .await
            .expect("it can")
            .is_empty()
    );
    assert_eq!(LocksRow::read(&db, "platform").await, before);
}

async fn release_task_releases_only_this_task(db: Database) {
    let locks = connect(&db, "a").await;
    let (b, other) = (
        locks.with_task_id("b").expect("an id"),
        locks.with_namespace("other").expect("a namespace"),
    );
    let kept = locks.acquire("x").await.expect("it is free");
    let taken = b.acquire("y").await.expect("it is free");
    let elsewhere = other.with_task_id("b").expect("an id");
    let elsewhere = elsewhere.acquire("y").await.expect("it is free");
    let forgotten = locks.release_task("b").await.expect("it can");
    assert_eq!(forgotten.len(), 1);
    assert!(taken.is_lost());
    assert!(!kept.is_lost() && !elsewhere.is_lost());
    kept.release().await.expect("it is ours");
    elsewhere
        .release()
        .await
        .expect("it is another namespace's");
}

/// The lock is released by another process. The holder's process learns of it at its next renewal.
async fn former_holder_learns_of_the_release(db: Database) {
    let supervisor = connect(&db, "supervisor").await;
    let journal = Journal::open(db.url()).await;
    let mut worker = worker!(db.url(), "worker", "--ttl", "1500");
    worker.acquire("x");
    let forgotten = supervisor.release_task("worker").await.expect("it can");
    assert_eq!(forgotten.len(), 1);
    let reported = worker.ask("loss");
    assert!(reported.starts_with("loss: lost x: "), "{reported}");
    assert_eq!(worker.ask("lost"), "true");
    assert_eq!(worker.ask("begin late"), "begun");
    let refused = worker.ask("commit");
    assert!(refused.starts_with("refused: lost x: "), "{refused}");
    assert!(worker.ask("release").starts_with("refused: lost x: "));
    assert_eq!(journal.entries().await, [""; 0]);
}

async fn released_task_can_acquire_again(db: Database) {
    let locks = connect(&db, "worker").await;
    let old = locks.acquire("x").await.expect("it is free");
    let session = Session::of(&db, "worker").await.expect("it holds").id;
    locks.release_task("worker").await.expect("it can");
    assert!(old.is_lost());
    let new = locks.acquire("x").await.expect("it is free");
    assert!(new.token() > old.token());
    let now = Session::of(&db, "worker").await.expect("it holds").id;
    assert_ne!(now, session, "an id is used once");
    // The old guard does not affect the new lock.
    assert!(old.release().await.expect_err("it was lost").is_lost());
    assert!(!new.is_lost());
    new.release().await.expect("it is ours");
}

/// The session held nothing when it was ended, so its driver does not learn of it.
async fn grant_to_a_released_idle_task_is_valid(db: Database) {
    let supervisor = connect(&db, "supervisor").await;
    let locks = connect(&db, "worker").await;
    for all in [false, true] {
        let guard = locks.acquire("x").await.expect("it is free");
        guard.release().await.expect("it is ours");
        let ended = Session::of(&db, "worker").await.expect("it beats").id;
        let taken = if all {
            supervisor.release_all().await
        } else {
            supervisor.release_task("worker").await
        };
        assert!(taken.expect("it can").is_empty());
        let guard = locks.acquire("x").await.expect("it is free");
        let session = Session::of(&db, "worker").await.expect("it holds");
        assert_ne!(session.id, ended);
        let refused = supervisor.wait("x").timeout(Duration::from_millis(500));
        assert!(refused.await.expect_err("it is held").is_timeout());
        let journal = Journal::open(db.url()).await;
        let tx = journal.begin_entry("entry").await.expect("it begins");
        on_engine!(Tx, tx, tx => guard.commit(tx).await).expect("it is held");
        guard.release().await.expect("it is ours");
    }
}

async fn waiters_of_a_released_task_keep_waiting(db: Database) {
    let supervisor = connect(&db, "supervisor").await;
    let holder = supervisor.acquire("x").await.expect("it is free");
    let locks = connect(&db, "worker").await;
    let waiting = locks.wait("x").timeout(SOON);
    let waiting = tokio::spawn(waiting);
    let queued = async || supervisor.waiting().await.expect("it answers").len() == 1;
    wait::until(SOON, "it waits", queued).await;
    let forgotten = supervisor.release_task("worker").await.expect("it can");
    assert!(forgotten.is_empty(), "it holds nothing: {forgotten:?}");
    holder.release().await.expect("it is ours");
    let guard = waiting.await.expect("no panic").expect("it waited on");
    guard.release().await.expect("it is ours");
}

async fn release_all_releases_every_task(db: Database) {
    let locks = connect(&db, "a").await;
    let b = connect(&db, "b").await;
    let never = LockManager::builder().task_id("c").expiry(Expiry::Never);
    let never = never.connect(db.url()).await.expect("it connects");
    let guards = [
        locks.acquire("x").await.expect("it is free"),
        b.acquire("y").await.expect("it is free"),
        never.acquire("z").await.expect("it is free"),
    ];
    let elsewhere = b.with_namespace("other").expect("a namespace");
    let elsewhere = elsewhere.acquire("y").await.expect("it is free");
    let all = locks.release_all().await.expect("it can");
    let mut names: Vec<_> = all.iter().map(|h| (h.name.as_str(), &*h.task_id)).collect();
    names.sort_unstable();
    assert_eq!(names, [("x", "a"), ("y", "b"), ("z", "c")]);
    for guard in guards {
        assert!(guard.release().await.expect_err("it was taken").is_lost());
    }
    elsewhere
        .release()
        .await
        .expect("it is another namespace's");
    assert!(locks.held().await.expect("it answers").is_empty());
}

async fn release_all_keeps_versions_and_tokens_growing(db: Database) {
    let locks = connect(&db, "a").await;
    let guard = locks.acquire("x").await.expect("it is free");
    let version = async || {
        let row = LocksRow::read(&db, "platform").await;
        row.expect("it is there").version
    };
    let before = version().await;
    locks.release_all().await.expect("it can");
    let after = version().await;
    assert!(after > before);
    let next = locks.acquire("x").await.expect("it is free");
    assert!(next.token() > after && next.token() > guard.token());
}

/// The transaction is fenced and not committed. The next holder is granted after its end.
async fn release_waits_for_an_open_fenced_transaction(db: Database) {
    let journal = Journal::open(db.url()).await;
    let supervisor = connect(&db, "supervisor").await;
    let locks = connect(&db, "worker").await;
    let guard = locks.acquire("x").await.expect("it is free");
    let mut tx = journal.begin_entry("fenced").await.expect("it begins");
    on_engine!(Tx, &mut tx, tx => guard.fence(tx).await).expect("it is held");
    let taken = supervisor.release_task("worker");
    let taken = tokio::spawn(taken);
    let next = supervisor.wait("x").timeout(SOON);
    let mut next = tokio::spawn(next);
    // That something does not happen is no condition to wait for.
    let early = tokio::time::timeout(Duration::from_millis(500), &mut next).await;
    assert!(early.is_err(), "granted while a fenced transaction is open");
    assert!(!taken.is_finished());
    tx.commit().await.expect("it was fenced in time");
    let next = next.await.expect("no panic").expect("it is granted");
    assert!(journal.has("fenced").await);
    assert_eq!(taken.await.expect("no panic").expect("it can").len(), 1);
    assert!(!next.is_lost());
}

/// A worker is started again with its task id while its last life is not over.
async fn one_life_of_a_worker_can_be_ended_while_another_goes_on(db: Database) {
    let supervisor = connect(&db, "supervisor").await;
    // A holder learns of its loss when it renews its session.
    let life = async || {
        let builder = LockManager::builder().task_id("worker-0");
        let builder = builder.expiry(Expiry::After(SOON / 4));
        builder.connect(db.url()).await.expect("it connects")
    };
    let (old, new) = (life().await, life().await);
    let lost = old.acquire("app_task_1").await.expect("it is free");
    let also_lost = old.acquire("app_backup_1").await.expect("it is free");
    let kept = new.acquire("mail_restart").await.expect("it is free");
    let held = supervisor.held().await.expect("it answers");
    let holder = |name| {
        held.iter()
            .find(|h| h.name.as_str() == name)
            .expect("it is held")
    };
    let [first, second, other] = ["app_task_1", "app_backup_1", "mail_restart"].map(holder);
    assert!(first.session.is_some() && first.session == second.session);
    assert_ne!(first.session, other.session);
    supervisor.release_holder(first).await.expect("it can");
    for guard in [lost, also_lost] {
        tokio::time::timeout(SOON, guard.lost())
            .await
            .expect("it is told");
    }
    let held = supervisor.held().await.expect("it answers");
    assert_eq!(held.len(), 1, "{held:?}");
    assert!(!kept.is_lost());
    kept.release().await.expect("it is held");
    let again = old.acquire("app_task_1").await.expect("its next life");
    again.release().await.expect("it is held");
}

async fn grant_that_was_released_and_given_again_is_not_taken_away(db: Database) {
    let supervisor = connect(&db, "supervisor").await;
    let worker = connect(&db, "worker").await;
    let guard = worker.acquire("x").await.expect("it is free");
    let [holder] = &supervisor.held().await.expect("it answers")[..] else {
        panic!("one lock is held")
    };
    let holder = holder.clone();
    guard.release().await.expect("it is held");
    let is_not_held = |error: &LockError| matches!(error, LockError::NotHeld { .. });
    let error = supervisor
        .release_holder(&holder)
        .await
        .expect_err("it is free");
    assert!(is_not_held(&error), "{error:?}");
    let guard = worker.acquire("x").await.expect("it is free");
    let error = supervisor
        .release_holder(&holder)
        .await
        .expect_err("it is another grant");
    assert!(is_not_held(&error), "{error:?}");
    assert!(!guard.is_lost());
    guard.release().await.expect("it is held");
}
