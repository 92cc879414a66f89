//! Functions with `#[with_lock]` under real locks: when the body runs, and what the options do.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use locks_core::{Blocker, ConflictMatrix, LockError, LockManager, Result, with_lock};
use locks_tests::{
    engine::Database,
    on_every_engine, peer,
    process::Peer,
    row::{LocksRow, WriteCount, wait_until_empty},
};

const SOON: Duration = Duration::from_secs(10);

on_every_engine!(
    async the_body_runs_under_the_lock_and_the_caller_after_it,
    async synchronous_body_runs_under_the_lock,
    async callers_take_turns,
    async several_names_are_one_grant,
    async acquire_refuses_without_running,
    async only_busy_is_skipped,
    async time_out_is_reported_or_skipped,
    async names_are_computed_once_and_before_the_body,
    async empty_and_impossible_values_are_refused,
    async guard_fences_in_the_body,
    async errors_are_mapped,
    async another_matrix_is_refused,
);

/// Another process, which reports what is held.
struct Watcher(Peer);

impl Watcher {
    fn of(db: &Database) -> Self {
        Self(peer!("watch", db.url(), "platform"))
    }

    fn sees(&mut self) -> String {
        self.0.send("look");
        self.0.expect_line("held", SOON)
    }
}

async fn connect(db: &Database) -> LockManager {
    LockManager::connect(db.url())
        .await
        .expect("the test's database")
}

#[derive(Clone, Copy)]
enum End {
    Value,
    Return,
    Error,
    QuestionMark,
}

const ENDS: [End; 4] = [End::Value, End::Return, End::Error, End::QuestionMark];

#[with_lock("app_task_<id>", locks = locks)]
async fn watched(
    locks: &LockManager,
    id: u32,
    watcher: &mut Watcher,
    end: End,
) -> Result<String, LockError> {
    let seen = watcher.sees();
    tokio::task::yield_now().await;
    assert_eq!(seen, watcher.sees());
    match end {
        End::Value => {}
        End::Return => return Ok(seen),
        End::Error => return Err(LockError::NotInstalled),
        End::QuestionMark => Err(LockError::Closed)?,
    }
    Ok(seen)
}

#[with_lock("app_task_<id>", locks = locks)]
fn watched_blocking(
    locks: &LockManager,
    id: u32,
    watcher: &mut Watcher,
    end: End,
) -> Result<String, LockError> {
    let seen = watcher.sees();
    match end {
        End::Value => {}
        End::Return => return Ok(seen),
        End::Error => return Err(LockError::NotInstalled),
        End::QuestionMark => Err(LockError::Closed)?,
    }
    Ok(seen)
}

async fn the_body_runs_under_the_lock_and_the_caller_after_it(db: Database) {
    let locks = connect(&db).await;
    let mut watcher = Watcher::of(&db);
    for end in ENDS {
        assert_eq!(watcher.sees(), "");
        let outcome = watched(&locks, 7, &mut watcher, end).await;
        assert_eq!(watcher.sees(), "");
        check(outcome, end);
    }
}

async fn synchronous_body_runs_under_the_lock(db: Database) {
    let locks = connect(&db).await;
    let mut watcher = Watcher::of(&db);
    let run = move || {
        for end in ENDS {
            let outcome = watched_blocking(&locks, 7, &mut watcher, end);
            assert_eq!(watcher.sees(), "");
            check(outcome, end);
        }
    };
    tokio::task::spawn_blocking(run).await.unwrap();
}

fn check(outcome: Result<String>, end: End) {
    match (end, outcome) {
        (End::Value | End::Return, Ok(seen)) => assert_eq!(seen, "app_task_7"),
        (End::Error, Err(LockError::NotInstalled))
        | (End::QuestionMark, Err(LockError::Closed)) => {}
        (_, outcome) => panic!("{outcome:?}"),
    }
}

#[with_lock("box_update", locks = locks)]
async fn alone(locks: LockManager, inside: Arc<AtomicU32>) -> Result<u32> {
    let others = inside.fetch_add(1, SeqCst);
    tokio::time::sleep(Duration::from_millis(2)).await;
    inside.fetch_sub(1, SeqCst);
    Ok(others)
}

async fn callers_take_turns(db: Database) {
    let (one, two) = (connect(&db).await, connect(&db).await);
    let inside = Arc::new(AtomicU32::new(0));
    let calls = (0..20).map(|n| {
        let locks = if n % 2 == 0 { &one } else { &two };
        tokio::spawn(alone(locks.clone(), inside.clone()))
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap(), 0);
    }
}

#[with_lock("app_task_<id>", "mail_restart", "app_backup_<id>", locks = locks, guard = guard)]
async fn several(locks: &LockManager, id: &str, watcher: &mut Watcher) -> Result<(usize, String)> {
    Ok((guard.names().len(), watcher.sees()))
}

async fn several_names_are_one_grant(db: Database) {
    let locks = connect(&db).await;
    let mut watcher = Watcher::of(&db);
    locks
        .acquire("first")
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    let writes = WriteCount::start(&db).await;
    let (count, seen) = several(&locks, "x", &mut watcher).await.unwrap();
    assert_eq!((count, &*seen), (3, "app_backup_x app_task_x mail_restart"));
    assert_eq!(
        writes.read().await,
        2,
        "one write for the grant, one for the release"
    );

    let held = locks.acquire("mail_restart").await.unwrap();
    let waiting = several(&locks, "x", &mut watcher);
    assert!(
        tokio::time::timeout(Duration::from_millis(50), waiting)
            .await
            .is_err()
    );
    held.release().await.unwrap();
    wait_until_empty(&db, "platform", SOON).await;
}

#[with_lock("app_task_<id>", acquire, locks = locks)]
async fn at_once(locks: &LockManager, id: u8, ran: &AtomicU32) -> Result<()> {
    ran.fetch_add(1, SeqCst);
    Ok(())
}

async fn acquire_refuses_without_running(db: Database) {
    let (locks, other) = (connect(&db).await, connect(&db).await);
    let ran = AtomicU32::new(0);
    let held = other.acquire("box_update").await.unwrap();
    match at_once(&locks, 1, &ran).await {
        Err(LockError::Busy { blocked_by, .. }) => match &blocked_by[..] {
            [Blocker::Holder(holder)] => assert_eq!(&*holder.task_id, other.task_id()),
            blocked_by => panic!("{blocked_by:?}"),
        },
        outcome => panic!("{outcome:?}"),
    }
    assert_eq!(ran.load(SeqCst), 0);
    held.release().await.unwrap();
    at_once(&locks, 1, &ran).await.unwrap();
    assert_eq!(ran.load(SeqCst), 1);
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Done(String),
    Skipped(String),
}

#[with_lock("app_task_<id>", acquire, busy = Ok(Outcome::Skipped(id)), locks = locks)]
async fn skipping(locks: &LockManager, id: String) -> Result<Outcome> {
    // Both the body and the `busy` expression may use the argument.
    Ok(Outcome::Done(id))
}

#[with_lock("app_task_<id>", acquire, busy = Ok(Outcome::Skipped(id)), locks = locks)]
fn skipping_blocking(locks: &LockManager, id: String) -> Result<Outcome> {
    Ok(Outcome::Done(id))
}

async fn only_busy_is_skipped(db: Database) {
    let locks = connect(&db).await;
    let blocking = |id: &str| {
        let (locks, id) = (locks.clone(), id.to_owned());
        tokio::task::spawn_blocking(move || skipping_blocking(&locks, id))
    };
    let done = |id: &str| Outcome::Done(id.to_owned());
    let skipped = |id: &str| Outcome::Skipped(id.to_owned());

    let held = locks.acquire("app_task_a").await.unwrap();
    assert_eq!(skipping(&locks, "a".into()).await.unwrap(), skipped("a"));
    assert_eq!(blocking("a").await.unwrap().unwrap(), skipped("a"));
    assert_eq!(skipping(&locks, "b".into()).await.unwrap(), done("b"));
    assert_eq!(blocking("b").await.unwrap().unwrap(), done("b"));
    held.release().await.unwrap();

    let error = skipping(&locks, "*".into()).await.unwrap_err();
    assert!(matches!(error, LockError::InvalidName { .. }), "{error:?}");
    locks.close().await.unwrap();
    let error = skipping(&locks, "a".into()).await.unwrap_err();
    assert!(matches!(error, LockError::Closed), "{error:?}");
}

#[with_lock("box_update", wait = "200ms", locks = locks)]
async fn at_most(locks: &LockManager) -> Result<()> {
    Ok(())
}

#[with_lock("box_update", wait = "200ms", busy = Ok(false), locks = locks)]
async fn at_most_or_skip(locks: &LockManager) -> Result<bool> {
    Ok(true)
}

async fn time_out_is_reported_or_skipped(db: Database) {
    let locks = connect(&db).await;
    let held = locks.acquire("app_task_1").await.unwrap();
    let start = Instant::now();
    let error = at_most(&locks).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert!(!at_most_or_skip(&locks).await.unwrap());
    held.release().await.unwrap();
    at_most(&locks).await.unwrap();
    assert!(at_most_or_skip(&locks).await.unwrap());
}

/// Counts how often it is displayed, and changes each time.
#[derive(Default)]
struct Id {
    shown: AtomicU32,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.shown.fetch_add(1, SeqCst))
    }
}

#[with_lock("app_task_<id>", locks = locks)]
async fn displayed(locks: &LockManager, id: Id, watcher: &mut Watcher) -> Result<(u32, String)> {
    let before = id.shown.load(SeqCst);
    id.shown.store(100, SeqCst);
    Ok((before, watcher.sees()))
}

async fn names_are_computed_once_and_before_the_body(db: Database) {
    let locks = connect(&db).await;
    let mut watcher = Watcher::of(&db);
    let id = Id::default();
    let (times, seen) = displayed(&locks, id, &mut watcher).await.unwrap();
    assert_eq!((times, &*seen), (1, "app_task_0"));
}

#[with_lock("app_task_<id>", "app_backup_<id>_x", locks = locks)]
async fn named(locks: &LockManager, id: &str) -> Result<()> {
    Ok(())
}

async fn empty_and_impossible_values_are_refused(db: Database) {
    let locks = connect(&db).await;
    named(&locks, "1").await.unwrap();
    let before = LocksRow::read(&db, "platform").await;
    for (id, shown) in [
        ("", "app_task_<id>"),
        ("*", "app_task_*"),
        ("1\n", "app_task_1\n"),
    ] {
        match named(&locks, id).await {
            Err(LockError::InvalidName { name, .. }) => assert_eq!(&*name, shown),
            outcome => panic!("{id:?}: {outcome:?}"),
        }
    }
    assert_eq!(LocksRow::read(&db, "platform").await, before);
}

#[with_lock("app_task_1", locks = locks, guard = guard)]
async fn guarded(locks: &LockManager, taken: bool, url: &str) -> Result<i64> {
    if taken {
        locks.release_task(locks.task_id()).await?;
    }
    match locks_tests::engine::Engine::of_url(url) {
        locks_tests::engine::Engine::Sqlite => {
            fenced::<locks_core::sqlx::Sqlite>(guard, url).await?;
        }
        locks_tests::engine::Engine::MySql => {
            fenced::<locks_core::sqlx::MySql>(guard, url).await?;
        }
        locks_tests::engine::Engine::Postgres => {
            fenced::<locks_core::sqlx::Postgres>(guard, url).await?;
        }
    }
    Ok(guard.token())
}

async fn fenced<DB: locks_core::sqlx::Database>(
    guard: &locks_core::LockGuard,
    url: &str,
) -> Result<()>
where
    for<'t> locks_core::sqlx::Transaction<'t, DB>: locks_core::FenceConnection,
{
    use locks_core::sqlx::Connection as _;
    let mut conn = DB::Connection::connect(url).await.unwrap();
    let tx = conn.begin().await.unwrap();
    guard.commit(tx).await
}

async fn guard_fences_in_the_body(db: Database) {
    let locks = connect(&db).await;
    let first = guarded(&locks, false, db.url()).await.unwrap();
    let second = guarded(&locks, false, db.url()).await.unwrap();
    assert!(second > first);
    let error = guarded(&locks, true, db.url()).await.unwrap_err();
    assert!(error.is_lost(), "{error}");
}

#[derive(Debug)]
enum TaskError {
    Lock(LockError),
    Other,
}

#[with_lock("app_task_1", acquire, locks = locks, map_err = TaskError::Lock)]
async fn mapped(locks: &LockManager) -> Result<(), TaskError> {
    Err(TaskError::Other)
}

async fn errors_are_mapped(db: Database) {
    let locks = connect(&db).await;
    let error = mapped(&locks).await.unwrap_err();
    assert!(matches!(error, TaskError::Other), "{error:?}");
    let _held = locks.acquire("app_task_1").await.unwrap();
    match mapped(&locks).await.unwrap_err() {
        TaskError::Lock(error) => assert!(error.is_busy()),
        TaskError::Other => panic!("it ran"),
    }
}

const MATRIX: ConflictMatrix = ConflictMatrix::new(&[("app_task_*", &["box_update"])]);

#[with_lock("app_task_1", locks = locks, matrix = MATRIX)]
async fn checked(locks: &LockManager) -> Result<()> {
    Ok(())
}

async fn another_matrix_is_refused(db: Database) {
    let same = LockManager::builder().matrix(MATRIX).connect(db.url());
    let same = same.await.unwrap();
    checked(&same).await.unwrap();
    let error = checked(&connect(&db).await).await.unwrap_err();
    assert!(
        matches!(error, LockError::InvalidConfig { .. }),
        "{error:?}"
    );
}
