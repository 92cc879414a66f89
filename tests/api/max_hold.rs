//! Locks that are held for a limited time.

use std::time::{Duration, Instant};

use locks_core::{LockError, LockGuard, LockManager, with_lock};
use locks_tests::{
    engine::{Database, note},
    fenced_writes::{FencedWrite, FencedWrites},
    journal::Tx,
    on_engine, on_every_engine,
};

const SOON: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_hours(1);
const SHORT: Duration = Duration::from_millis(200);
const REASON: &str = "it was held for longer than its limit";
/// The number of races between a commit and the end of a grant, and the lanes they run in.
const RACES: usize = 500;
const LANES: usize = 5;

on_every_engine!(
    async a_guard_is_lost_and_released_when_its_time_is_over,
    async a_detached_lock_is_released_when_its_time_is_over,
    async an_open_fenced_transaction_is_waited_for,
    async commits_race_with_the_end_of_the_grant,
    async an_annotated_function_ends_when_its_time_is_over,
);

async fn connect(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it connects")
}

async fn a_guard_is_lost_and_released_when_its_time_is_over(db: Database) {
    let (a, b) = (connect(&db, "a").await, connect(&db, "b").await);
    let unlimited = a.acquire("y").await.expect("it is free");
    assert_eq!(unlimited.remaining(), None);
    let start = Instant::now();
    let guard = a.acquire("x").max_hold(SHORT).await.expect("it is free");
    assert!(guard.remaining().is_some_and(|left| left <= SHORT));
    let next = b.wait("x").timeout(SOON).await.expect("it is released");
    assert!(start.elapsed() >= SHORT);
    assert!(guard.is_lost() && !unlimited.is_lost());
    assert_eq!(guard.remaining(), Some(Duration::ZERO));
    let lost = guard.lost().await;
    assert_eq!((lost.reason, lost.by), (REASON, None));
    assert!(next.token() > guard.token());
    let refused = guard.release().await.expect_err("it is lost");
    assert!(
        refused.is_lost() && refused.to_string().contains(REASON),
        "{refused}"
    );
    // The session goes on.
    unlimited.release().await.expect("it is held");
    let zero = a.wait("z").max_hold(Duration::ZERO).await;
    assert!(
        matches!(zero, Err(LockError::InvalidConfig { .. })),
        "{zero:?}"
    );
    let released = a.acquire("z").max_hold(LONG).await.expect("it is free");
    released.release().await.expect("it is held");
}

async fn a_detached_lock_is_released_when_its_time_is_over(db: Database) {
    let (a, b) = (connect(&db, "a").await, connect(&db, "b").await);
    let guard = a.acquire(["x", "y"]).max_hold(SHORT).await.expect("free");
    guard.detach();
    let _next = b.wait(["x", "y"]).timeout(SOON).await.expect("released");
    let refused = a.release("x").await.expect_err("it is the other's");
    assert!(
        matches!(refused, LockError::HeldByOther { .. }),
        "{refused}"
    );
}

async fn an_open_fenced_transaction_is_waited_for(db: Database) {
    FencedWrites::create(&db).await;
    let writes = FencedWrites::open(db.url());
    let (a, b) = (connect(&db, "a").await, connect(&db, "b").await);
    let limit = Duration::from_secs(2);
    let guard = a.acquire("x").max_hold(limit).await.expect("it is free");
    let write = FencedWrite::new(&["x"], guard.token());
    let mut tx = writes.begin(&write).await.expect("it begins");
    on_engine!(Tx, &mut tx, tx => guard.fence(tx).await).expect("it is held");
    let lost = guard.lost().await;
    assert_eq!(lost.reason, REASON);
    let again = on_engine!(Tx, &mut tx, tx => guard.fence(tx).await);
    assert!(again.expect_err("its time is over").is_lost());
    let waiting = tokio::spawn(async move { b.wait("x").timeout(SOON).await });
    tokio::time::sleep(SHORT).await;
    assert!(!waiting.is_finished(), "the transaction is open");
    tx.commit().await.expect("it was fenced in time");
    let next = waiting.await.expect("no panic").expect("it is released");
    let write = FencedWrite::new(&["x"], next.token());
    let tx = writes.begin(&write).await.expect("it begins");
    commit(&next, tx).await.expect("it is held");
    assert_eq!(FencedWrites::judge(&db).await, 2);
}

async fn commit(guard: &LockGuard, tx: Tx) -> Result<(), LockError> {
    on_engine!(Tx, tx, tx => guard.commit(tx).await)
}

/// A commit begins when the time of its grant is over, more or less. The next holder sees it, or
/// it is refused.
async fn commits_race_with_the_end_of_the_grant(db: Database) {
    FencedWrites::create(&db).await;
    let (a, b) = (connect(&db, "a").await, connect(&db, "b").await);
    let lanes = (0..LANES).map(|lane| race(db.url().to_owned(), a.clone(), b.clone(), lane));
    let lanes = lanes.map(tokio::spawn);
    let (mut committed, mut refused) = (0, 0);
    for lane in lanes.collect::<Vec<_>>() {
        let (lane_committed, lane_refused) = lane.await.expect("no panic");
        committed += lane_committed;
        refused += lane_refused;
    }
    note(&format!("{committed} commits in time, {refused} refused"));
    assert_eq!(FencedWrites::judge(&db).await, RACES + committed);
    assert!(
        committed > RACES / 20 && refused > RACES / 20,
        "{committed}, {refused}"
    );
}

/// Returns how many commits came in time, and how many were refused.
async fn race(url: String, a: LockManager, b: LockManager, lane: usize) -> (usize, usize) {
    const LIMIT: Duration = Duration::from_millis(30);
    let writes = FencedWrites::open(&url);
    let name = format!("app_task_{lane}");
    // How long before the end of the grant the transaction begins, in microseconds.
    let mut early_by = 5_000;
    let (mut committed, mut refused) = (0, 0);
    for _ in 0..RACES / LANES {
        let guard = a
            .wait(&name)
            .max_hold(LIMIT)
            .timeout(SOON)
            .await
            .expect("its turn");
        let next = b.wait(&name).timeout(SOON);
        let next = tokio::spawn(next);
        let end = guard.remaining().expect("it has a limit");
        let write = FencedWrite::new(&[&name], guard.token());
        let early = Duration::from_micros(early_by);
        tokio::time::sleep(end.saturating_sub(early)).await;
        let tx = writes.begin(&write).await.expect("it begins");
        let result = commit(&guard, tx).await;
        let in_time = match result {
            Ok(()) => true,
            Err(error) if error.is_lost() => false,
            Err(error) => panic!("{error}"),
        };
        // Otherwise one side would always win.
        early_by = if in_time {
            early_by.saturating_sub(500)
        } else {
            early_by + 500
        };
        *if in_time {
            &mut committed
        } else {
            &mut refused
        } += 1;
        let next = next.await.expect("no panic").expect("its turn comes");
        let write = FencedWrite::new(&[&name], next.token());
        loop {
            // On SQLite another lane may have written since this transaction has read.
            let tx = writes.begin(&write).await;
            let result = match tx {
                Ok(tx) => commit(&next, tx).await,
                Err(error) => panic!("{error}"),
            };
            match result {
                Ok(()) => break,
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
        next.release().await.expect("it is held");
    }
    (committed, refused)
}

#[with_lock("x", locks = locks, max_hold = "200ms")]
async fn works_for(locks: &LockManager, time: Duration) -> Result<(), LockError> {
    tokio::time::sleep(time).await;
    Ok(())
}

async fn an_annotated_function_ends_when_its_time_is_over(db: Database) {
    let locks = connect(&db, "a").await;
    let start = Instant::now();
    let error = works_for(&locks, LONG).await.expect_err("it is too long");
    assert!(
        error.is_lost() && error.to_string().contains(REASON),
        "{error}"
    );
    assert!(start.elapsed() < SOON);
    works_for(&locks, Duration::ZERO).await.expect("in time");
}
