//! Finished tasks: their sessions end, and cost nothing afterwards.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use locks_core::{Expiry, LockManager};
use locks_tests::{
    engine::{Database, Engine, note, run_async},
    sessions::{Session, fences},
    wait,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

/// The number of jobs, and how many of them run at one time.
const JOBS: usize = 10_000;
const AT_ONCE: usize = 50;
/// The jobs whose CPU time is measured run one after the other.
const MEASURED: usize = 100;
/// How much more CPU time a late job may use than an early one.
const SLACK: Duration = Duration::from_micros(600);
const TTL: Duration = Duration::from_secs(2);
/// The limit for the end of the sessions of finished jobs: a few ttls.
const ENDED: Duration = Duration::from_secs(10);
/// The number of rows that may be left: that of the manager, and those of the last jobs.
const HANDFUL: usize = 5;
/// The limit for the removal of a session whose process died on another machine.
const REMOVED: Duration = Duration::from_secs(20);
const FORGED_TTL_MS: u64 = 1000;

fn alone<F: Future<Output = ()>>(engine: Engine, test: impl FnOnce(Database) -> F) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    run_async(engine, test);
}

macro_rules! alone_on_every_engine {
    ($($module:ident $engine:ident: $($name:ident),+;)+) => {
        $(mod $module {
            use super::*;
            $(
                #[test]
                fn $name() {
                    alone(Engine::$engine, super::$name);
                }
            )+
        })+
    };
}

alone_on_every_engine! {
    sqlite Sqlite: finished_jobs_cost_nothing_later, dead_sessions_are_removed;
    mysql MySql: finished_jobs_cost_nothing_later, dead_sessions_are_removed;
    postgres Postgres: finished_jobs_cost_nothing_later, dead_sessions_are_removed;
}

async fn connect(db: &Database, task: &str, ttl: Duration) -> LockManager {
    let builder = LockManager::builder()
        .task_id(task)
        .expiry(Expiry::After(ttl));
    builder.connect(db.url()).await.expect("it connects")
}

/// The CPU time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let time = Duration::try_from(time);
    time.expect("a process does not use negative time")
}

/// One job: a new task acquires a lock, releases it, and ends.
async fn job(locks: LockManager, n: usize) {
    let task = locks.with_task_id(&format!("job-{n}")).expect("an id");
    let guard = task.acquire(format!("job_{n}")).await;
    let guard = guard.expect("no other job wants it");
    guard.release().await.expect("it is held");
}

/// Runs the jobs of these numbers one after the other and returns the CPU time per job.
async fn measured(locks: &LockManager, from: usize) -> Duration {
    let before = cpu_time();
    for n in from..from + MEASURED {
        job(locks.clone(), n).await;
    }
    let used = cpu_time().saturating_sub(before);
    used / u32::try_from(MEASURED).expect("few")
}

/// Runs jobs concurrently.
async fn unmeasured(locks: &LockManager, numbers: std::ops::Range<usize>) {
    let mut running = JoinSet::new();
    for n in numbers {
        if running.len() == AT_ONCE {
            running.join_next().await;
        }
        running.spawn(job(locks.clone(), n));
    }
    running.join_all().await;
}

/// Waits until few rows are left, and runs something else in between.
async fn wait_until_few(db: &Database, what: &str, mut meanwhile: impl AsyncFnMut()) {
    let start = Instant::now();
    let mut conn = db.connect().await;
    loop {
        let left = (
            Session::all_on(&mut conn).await.len(),
            fences(db).await.len(),
        );
        if left.0 <= HANDFUL && left.1 <= HANDFUL {
            break;
        }
        assert!(
            start.elapsed() < ENDED,
            "{left:?} sessions and fences are left after {ENDED:?}, {what}"
        );
        meanwhile().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn finished_jobs_cost_nothing_later(db: Database) {
    let locks = connect(&db, "main", TTL).await;
    let start = Instant::now();
    unmeasured(&locks, 0..MEASURED).await;
    let early = measured(&locks, MEASURED).await;
    let last = JOBS - MEASURED;
    unmeasured(&locks, 2 * MEASURED..last).await;
    let late = measured(&locks, last).await;
    note(&format!(
        "{}: {JOBS} jobs took {:?}; CPU time of one: {early:?} of the first, {late:?} of the last",
        db.engine(),
        start.elapsed()
    ));
    assert!(
        late <= early.mul_f64(1.5) + SLACK,
        "the CPU time of a job grows from {early:?} to {late:?}"
    );
    // The manager continues to work, under its own session.
    wait_until_few(&db, "while the manager works", async || {
        let guard = locks.acquire("work").await.expect("it is free");
        guard.release().await.expect("it is held");
    })
    .await;
    unmeasured(&locks, JOBS..JOBS + 10 * MEASURED).await;
    wait_until_few(&db, "while the manager is idle", async || {}).await;
    // A task that is used again has a session again.
    job(locks.clone(), 0).await;
}

/// Inserts the rows of a session of another machine that holds nothing.
async fn forge(db: &Database, task: &str) -> String {
    let id = format!("platform/{:016x}", fastrand::u64(..));
    db.execute(&format!(
        "INSERT INTO lock_sessions (id, namespace, taskId, host, process, ttlMs, beat, seenAt) \
         VALUES ('{id}', 'platform', '{task}', 'elsewhere', '77:77', {FORGED_TTL_MS}, 7, \
         '2020-01-01 00:00:00')"
    ))
    .await;
    db.execute(&format!(
        "INSERT INTO lock_fences (session, touched) VALUES ('{id}', 0)"
    ))
    .await;
    id
}

/// Sessions without a reference in the row: one stands still, one beats, one never expires.
async fn dead_sessions_are_removed(db: Database) {
    let locks = connect(&db, "main", Duration::from_secs(1)).await;
    let guard = locks.acquire("x").await.expect("it is free");
    guard.release().await.expect("it is held");
    let dead = forge(&db, "dead").await;
    let alive = forge(&db, "alive").await;
    let never = forge(&db, "never").await;
    db.execute(&format!(
        "UPDATE lock_sessions SET ttlMs = NULL WHERE id = '{never}'"
    ))
    .await;
    let mut conn = db.connect().await;
    let beat = format!("UPDATE lock_sessions SET beat = beat + 1 WHERE id = '{alive}'");
    let start = Instant::now();
    let is_there = |id: &String, ids: &[String]| ids.contains(id);
    let mut removed = None;
    // The others are watched for some more ttls.
    while removed.is_none_or(|at: Duration| start.elapsed() < at + Duration::from_secs(4)) {
        assert_eq!(
            conn.execute(&beat).await.expect("it may be written"),
            1,
            "a session that beats was removed after {:?}",
            start.elapsed()
        );
        let sessions = Session::all_on(&mut conn).await;
        let ids: Vec<_> = sessions.into_iter().map(|session| session.id).collect();
        assert!(is_there(&never, &ids), "one that never expires was removed");
        if removed.is_none() && !is_there(&dead, &ids) {
            removed = Some(start.elapsed());
        }
        assert!(
            removed.is_some() || start.elapsed() < REMOVED,
            "the session of a dead process is there after {REMOVED:?}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    wait::until(
        TTL,
        "the fence of the dead session is removed",
        async || !is_there(&dead, &fences(&db).await),
    )
    .await;
    let left = fences(&db).await;
    assert!(is_there(&alive, &left) && is_there(&never, &left));
    note(&format!(
        "{}: the session of a dead process was removed after {removed:?}",
        db.engine()
    ));
}
