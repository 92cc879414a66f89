//! Evictions that wait for open fenced transactions do not delay other evictions.

use std::time::{Duration, Instant};

use locks_core::{Expiry, LockManager};
use locks_tests::{
    engine::{Database, note},
    journal::{Journal, Tx},
    lock_waits::RowLock,
    on_engine, on_every_engine, peer,
    row::{LocksRow, wait_until_queued},
    sessions::Session,
    wait, worker,
    worker::Worker,
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(20);
/// The limit for a grant of a lock whose holder's process, on this machine, was killed, also when
/// the machine is busy. A blocked eviction lasts until the end of the test.
const AT_ONCE: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_mins(10);
/// The number of open transactions per journal.
const PER_JOURNAL: usize = 4;

on_every_engine!(
    servers:
    async eight_open_fenced_transactions_do_not_delay_an_eviction,
    async thirty_blocked_evictions_do_not_delay_one_of_another_namespace,
);

async fn connect(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder()
        .task_id(task)
        .expiry(Expiry::After(LONG));
    builder.connect(db.url()).await.expect("it connects")
}

fn blocked(n: usize) -> String {
    format!("blocked-{n}")
}

/// Waits until every eviction has begun: the beat rows are deleted, and the fence rows cannot be.
async fn wait_until_evicting(db: &Database) {
    wait::until(SOON, "the beat rows are deleted", async || {
        let sessions = Session::all(db).await;
        !sessions
            .iter()
            .any(|session| session.task.starts_with("blocked-"))
    })
    .await;
}

/// Kills a process that holds a lock, while evictions are blocked. Returns the time until a request
/// that waits for the lock is granted.
async fn kill_a_holder(db: &Database, observer: &LockManager) -> Duration {
    let namespace = observer.namespace();
    let mut victim = worker!(db.url(), "victim", "--namespace", namespace);
    victim.acquire("victim");
    let request = observer.wait("victim").timeout(4 * SOON);
    let waiting = tokio::spawn(request);
    let what = "the request for the victim's lock waits";
    wait::until(SOON, what, async || {
        let row = LocksRow::read(db, namespace).await.expect("it is there");
        row.queue().iter().any(|(_, names)| names == &["victim"])
    })
    .await;
    victim.kill();
    let killed = Instant::now();
    let granted = tokio::time::timeout(SOON, waiting).await;
    let took = killed.elapsed();
    let Ok(granted) = granted else {
        panic!("the killed process is not evicted within {SOON:?}");
    };
    drop(granted.expect("no panic").expect("it is granted"));
    took
}

/// A supervisor releases tasks that are about to commit.
async fn eight_open_fenced_transactions_do_not_delay_an_eviction(db: Database) {
    const BLOCKED: usize = 8;
    let holders = connect(&db, "holders").await;
    let mut journals = Vec::new();
    for _ in 0..BLOCKED / PER_JOURNAL {
        journals.push(Journal::open(db.url()).await);
    }
    let mut open = Vec::new();
    for n in 0..BLOCKED {
        let task = holders.with_task_id(&blocked(n)).expect("an id");
        let guard = task.acquire(blocked(n)).await.expect("it is free");
        let journal = &journals[n / PER_JOURNAL];
        let mut tx = journal.begin_entry(&blocked(n)).await.expect("it begins");
        on_engine!(Tx, &mut tx, tx => guard.fence(tx).await).expect("it is held");
        open.push((guard, tx));
    }
    let observer = connect(&db, "observer").await;
    let mut supervised = JoinSet::new();
    for n in 0..BLOCKED {
        supervised.spawn(observer.release_task(blocked(n)));
    }
    wait_until_evicting(&db).await;
    let took = kill_a_holder(&db, &observer).await;
    note(&format!(
        "{}: a killed process was evicted after {took:?}, during {BLOCKED} blocked evictions",
        db.engine()
    ));
    for (guard, tx) in open {
        on_engine!(Tx, tx, tx => tx.commit().await).expect("it was fenced in time");
        drop(guard);
    }
    let answers = tokio::time::timeout(SOON, supervised.join_all()).await;
    let answers = answers.expect("the tasks are released once their transactions have ended");
    for holders in answers {
        holders.expect("nothing fails");
    }
    assert!(took <= AT_ONCE, "{took:?}");
}

/// Processes are killed, and a foreign connection keeps their fence rows locked.
async fn thirty_blocked_evictions_do_not_delay_one_of_another_namespace(db: Database) {
    const BLOCKED: usize = 30;
    let observer = connect(&db, "observer").await;
    let other = observer.with_namespace("other").expect("a namespace");
    let peers: Vec<_> = (0..BLOCKED)
        .map(|n| peer!("worker", db.url(), blocked(n)))
        .collect();
    let mut workers: Vec<_> = peers.into_iter().map(Worker::of).collect();
    for (n, worker) in workers.iter_mut().enumerate() {
        worker.acquire(&blocked(n));
    }
    let sessions = Session::all(&db).await.into_iter();
    let sessions = sessions.filter(|session| session.task.starts_with("blocked-"));
    let sessions: Vec<_> = sessions
        .map(|session| format!("'{}'", session.id))
        .collect();
    assert_eq!(sessions.len(), BLOCKED);
    let condition = format!("session IN ({})", sessions.join(", "));
    let fences = RowLock::take(&db, "lock_fences", &condition).await;
    let mut requests = JoinSet::new();
    for n in 0..BLOCKED {
        requests.spawn(observer.wait(blocked(n)).timeout(4 * SOON));
    }
    wait_until_queued(&db, "platform", BLOCKED).await;
    for worker in &mut workers {
        worker.kill();
    }
    wait_until_evicting(&db).await;
    let took = kill_a_holder(&db, &other).await;
    note(&format!(
        "{}: a killed process was evicted after {took:?}, during {BLOCKED} blocked evictions",
        db.engine()
    ));
    fences.end().await;
    let granted = tokio::time::timeout(2 * SOON, requests.join_all()).await;
    let granted = granted.expect("the locks are granted once the fences are free");
    for guard in granted {
        drop(guard.expect("it is granted"));
    }
    assert!(took <= AT_ONCE, "{took:?}");
}
