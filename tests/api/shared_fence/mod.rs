//! Guards of one session do not conflict with each other at their fences, and each fenced
//! transaction still delays the next holder.

mod application;
mod transactions;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use locks_core::{LockError, LockManager};
use locks_tests::{
    engine::{Database, Engine, note, run_async},
    journal::Tx,
    on_engine,
};
use tokio::task::JoinSet;

use application::{Application, Setting, TASKS, Work, connect};

/// How long the tasks commit, and how many commits must succeed in that time.
const RUN: Duration = Duration::from_secs(4);
const ENOUGH: usize = 40;

/// How a transaction is fenced and committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Commit,
    FenceThenCommit,
}

/// What a task does in one transaction.
type Pattern = (Work, End);

/// The patterns that a task repeats.
const ALL: &[Pattern] = &[
    (Work::ReadAndUpdate, End::Commit),
    (Work::ReadAndUpdate, End::FenceThenCommit),
    (Work::Read, End::Commit),
    (Work::Read, End::FenceThenCommit),
];
const UPDATES: &[Pattern] = ALL.split_at(2).0;

/// How often each pattern succeeded, and the texts of the failures.
#[derive(Debug, Default)]
struct Score {
    succeeded: BTreeMap<Pattern, usize>,
    failed: BTreeMap<Pattern, usize>,
    errors: BTreeMap<String, usize>,
}

impl Score {
    fn count(&mut self, pattern: Pattern, result: Result<(), LockError>) {
        match result {
            Ok(()) => *self.succeeded.entry(pattern).or_default() += 1,
            Err(error) => {
                *self.failed.entry(pattern).or_default() += 1;
                *self.errors.entry(error.to_string()).or_default() += 1;
            }
        }
    }

    fn add(&mut self, other: Self) {
        let pairs = [
            (&mut self.succeeded, other.succeeded),
            (&mut self.failed, other.failed),
        ];
        for (sum, counts) in pairs {
            for (pattern, count) in counts {
                *sum.entry(pattern).or_default() += count;
            }
        }
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }
}

async fn end(guard: &locks_core::LockGuard, mut tx: Tx, end: End) -> Result<(), LockError> {
    if end == End::Commit {
        return on_engine!(Tx, tx, tx => guard.commit(tx).await);
    }
    on_engine!(Tx, &mut tx, tx => guard.fence(tx).await)?;
    tx.commit().await.expect("a fenced transaction commits");
    Ok(())
}

/// One task: acquires its own lock, updates its own row, commits and releases, repeatedly.
async fn work(
    application: Application,
    locks: LockManager,
    task: usize,
    patterns: &'static [Pattern],
) -> Score {
    let mut score = Score::default();
    let start = Instant::now();
    for (round, pattern) in patterns.iter().copied().cycle().enumerate() {
        // A busy machine takes longer.
        if start.elapsed() > RUN && round >= ENOUGH.div_ceil(TASKS) {
            break;
        }
        let name = format!("lock_{task}");
        let guard = locks.acquire(name).await.expect("it is free");
        let tx = application.transaction(task, pattern.0).await;
        let tx = tx.expect("only this task uses its row");
        let result = end(&guard, tx, pattern.1).await;
        score.count(pattern, result);
        guard.release().await.expect("it is held");
    }
    score
}

/// Four tasks of one manager, each with its own lock and its own row.
async fn tasks_of_one_manager_commit(db: Database, setting: Setting, patterns: &'static [Pattern]) {
    let Some(application) = Application::open(&db, setting).await else {
        return;
    };
    let locks = connect(db.url(), "worker").await;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        tasks.spawn(work(application.clone(), locks.clone(), task, patterns));
    }
    let mut score = Score::default();
    while let Some(done) = tasks.join_next().await {
        score.add(done.expect("no panic"));
    }
    let succeeded: usize = score.succeeded.values().sum();
    let failed: usize = score.failed.values().sum();
    let engine = db.engine();
    note(&format!(
        "{engine}, {setting:?}: {succeeded} commits of four tasks succeeded, {failed} failed"
    ));
    assert_eq!(failed, 0, "{engine}, {setting:?}: {score:#?}");
    assert!(succeeded >= ENOUGH, "{engine}, {setting:?}: {score:#?}");
    let mut updates = 0;
    for task in 0..TASKS {
        updates += application.updates(&db, task).await;
    }
    let reported = score.succeeded.iter();
    let reported = reported.filter(|((work, _), _)| *work == Work::ReadAndUpdate);
    assert_eq!(updates, reported.map(|(_, count)| count).sum::<usize>());
}

#[test]
fn tasks_of_one_manager_commit_on_sqlite() {
    run_async(Engine::Sqlite, |db| {
        tasks_of_one_manager_commit(db, Setting::Default, UPDATES)
    });
}

/// Transactions that only read begin without a lock on the file, and others write to it.
#[test]
fn tasks_of_one_manager_commit_what_they_read_on_sqlite() {
    run_async(Engine::Sqlite, |db| {
        tasks_of_one_manager_commit(db, Setting::Default, ALL)
    });
}

#[test]
fn tasks_of_one_manager_commit_on_mysql() {
    run_async(Engine::MySql, |db| {
        tasks_of_one_manager_commit(db, Setting::Default, ALL)
    });
}

#[test]
fn tasks_of_one_manager_commit_on_mariadb_with_snapshot_isolation() {
    run_async(Engine::MySql, |db| {
        tasks_of_one_manager_commit(db, Setting::SnapshotIsolation, ALL)
    });
}

#[test]
fn tasks_of_one_manager_commit_on_postgres() {
    run_async(Engine::Postgres, |db| {
        tasks_of_one_manager_commit(db, Setting::Default, ALL)
    });
}

#[test]
fn tasks_of_one_manager_commit_on_postgres_at_repeatable_read() {
    run_async(Engine::Postgres, |db| {
        tasks_of_one_manager_commit(db, Setting::RepeatableRead, ALL)
    });
}

#[test]
fn tasks_of_one_manager_commit_on_postgres_at_serializable() {
    run_async(Engine::Postgres, |db| {
        tasks_of_one_manager_commit(db, Setting::Serializable, ALL)
    });
}
