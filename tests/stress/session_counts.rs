//! The largest supported number of sessions and namespaces of one process: no lock is lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use locks_core::{Expiry, LockGuard, LockManager};
use locks_tests::engine::{Database, Engine, note, run_async};
use tokio::{
    sync::{Mutex, MutexGuard, Semaphore},
    task::JoinSet,
};

/// Long enough for a machine whose disk other tests keep busy.
const TTL: Duration = Duration::from_secs(20);
/// How long the locks are watched once all are held.
const WATCHED: Duration = Duration::from_secs(30);
/// The number of requests that are pending at one time.
const PENDING: usize = 1_000;
/// The limit for the acquisition of all locks.
const ACQUIRED: Duration = Duration::from_secs(110);

/// Held by the test that acquires its locks: keeping them is little work, acquiring them is much.
static ACQUIRING: Mutex<()> = Mutex::const_new(());

/// 20,000 sessions: more than SQLite accepts as parameters of one statement, padded to a power of
/// two.
const MANY_NAMESPACES: Load = Load {
    namespaces: 2_000,
    tasks: 10,
};
/// As many, in fewer namespaces: each namespace costs several commits, which are slow on a server.
const MANY_TASKS: Load = Load {
    namespaces: 400,
    tasks: 50,
};

#[derive(Debug, Clone, Copy)]
struct Load {
    namespaces: usize,
    /// Per namespace; each has a session and holds a lock.
    tasks: usize,
}

fn keeps(engine: Engine, load: Load) {
    let acquiring = ACQUIRING.blocking_lock();
    run_async(engine, async |db| {
        nothing_is_lost(&db, load, acquiring).await;
    });
}

#[test]
fn twenty_thousand_sessions_are_kept_on_sqlite() {
    keeps(Engine::Sqlite, MANY_NAMESPACES);
}

#[test]
fn twenty_thousand_sessions_are_kept_on_mysql() {
    keeps(Engine::MySql, MANY_TASKS);
}

#[test]
fn twenty_thousand_sessions_are_kept_on_postgres() {
    keeps(Engine::Postgres, MANY_TASKS);
}

/// Requests one lock for each task of each namespace.
async fn acquire_all(locks: &LockManager, load: Load) -> Vec<LockGuard> {
    let pending = Arc::new(Semaphore::new(PENDING));
    let mut requests = JoinSet::new();
    for namespace in 0..load.namespaces {
        let namespace = format!("n{namespace}");
        let locks = locks.with_namespace(&namespace).expect("a namespace");
        for n in 0..load.tasks {
            let task = locks.with_task_id(&format!("task-{n}")).expect("an id");
            let pending = Arc::clone(&pending);
            requests.spawn(async move {
                let _permit = pending.acquire().await.expect("it is not closed");
                task.wait(format!("name-{n}")).await.expect("it is free")
            });
        }
    }
    let mut guards = Vec::new();
    let all = async {
        while let Some(guard) = requests.join_next().await {
            guards.push(guard.expect("no request fails"));
        }
    };
    let all = tokio::time::timeout(ACQUIRED, all).await;
    let lost = count_lost(&guards);
    assert!(
        all.is_ok(),
        "{} of {load:?} were granted within {ACQUIRED:?}, and {lost} of these were lost",
        guards.len()
    );
    guards
}

fn count_lost(guards: &[LockGuard]) -> usize {
    guards.iter().filter(|guard| guard.is_lost()).count()
}

async fn nothing_is_lost(db: &Database, load: Load, acquiring: MutexGuard<'static, ()>) {
    let builder = LockManager::builder().expiry(Expiry::After(TTL));
    let locks = builder.queue_limit(2 * PENDING).connect(db.url()).await;
    let locks = locks.expect("it connects");
    let start = Instant::now();
    let guards = acquire_all(&locks, load).await;
    let acquired = start.elapsed();
    drop(acquiring);
    let lost = count_lost(&guards);
    note(&format!(
        "{}: {load:?} acquired in {acquired:?}, {lost} lost by then",
        db.engine()
    ));
    assert_eq!(lost, 0, "locks were lost while others were acquired");
    tokio::time::sleep(WATCHED).await;
    let lost = count_lost(&guards);
    assert_eq!(lost, 0, "locks were lost within {WATCHED:?}");
}
