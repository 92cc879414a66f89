//! No token is granted twice, whatever happens to the row.

mod servers;

use std::{process::Command, time::Duration};

use locks_core::{Expiry, LockError, LockGuard, LockManager};
use locks_tests::{
    engine::{Database, Engine, run_async},
    journal::{Journal, Tx},
    on_engine, on_every_engine,
    original::Original,
    process::Peer,
    row::LocksRow,
    wait::block_on_thread,
    wall_clock::WallClock,
    worker,
    worker::Worker,
};

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_mins(2);
const TABLES: [&str; 3] = ["locks", "lock_sessions", "lock_fences"];

on_every_engine!(
    async connected_drivers_repeat_no_token_after_a_restore,
    async a_new_process_repeats_no_token_after_a_restore,
    async a_grant_that_a_restore_took_back_is_lost,
    async a_grant_that_replaced_a_restored_one_is_lost,
    sync a_process_with_a_slow_clock_repeats_no_token_after_a_restore,
);

/// All granted tokens.
#[derive(Debug, Default)]
struct Tokens(Vec<i64>);

impl Tokens {
    /// Notes a new token, which must be larger than all earlier ones.
    fn add(&mut self, token: i64, what: &str) {
        let largest = self.0.iter().copied().max().unwrap_or(0);
        let again = if self.0.contains(&token) {
            ", which was given before"
        } else {
            ""
        };
        assert!(
            token > largest,
            "{what}: token {token} after {largest}{again}"
        );
        self.0.push(token);
    }

    /// Acquires and releases a lock several times.
    async fn take(&mut self, locks: &LockManager, name: &str, times: usize, what: &str) {
        for _ in 0..times {
            let guard = locks.wait(name).timeout(SOON).await.expect("it is free");
            self.add(guard.token(), what);
            guard.release().await.expect("it is held");
        }
    }
}

async fn connect(url: &str, task: &str) -> LockManager {
    let builder = LockManager::builder()
        .task_id(task)
        .expiry(Expiry::After(LONG));
    builder.connect(url).await.expect("it connects")
}

async fn commit(guard: &LockGuard, tx: Tx) -> Result<(), LockError> {
    on_engine!(Tx, tx, tx => guard.commit(tx).await)
}

/// Copies all three tables, as a dump does.
async fn dump(db: &Database) {
    for table in TABLES {
        db.execute(&format!(
            "CREATE TABLE saved_{table} AS SELECT * FROM {table}"
        ))
        .await;
    }
}

/// Restores the copy, in one transaction.
async fn restore(db: &Database) {
    let begin = match db.engine() {
        Engine::Sqlite => "BEGIN IMMEDIATE",
        Engine::MySql | Engine::Postgres => "BEGIN",
    };
    let mut sql = vec![begin.to_owned()];
    for table in TABLES {
        sql.push(format!("DELETE FROM {table}"));
        sql.push(format!("INSERT INTO {table} SELECT * FROM saved_{table}"));
    }
    sql.push("COMMIT".to_owned());
    db.execute(&sql.join("; ")).await;
}

async fn connected_drivers_repeat_no_token_after_a_restore(db: Database) {
    let mut tokens = Tokens::default();
    let first = connect(db.url(), "first").await;
    let second = connect(db.url(), "second").await;
    tokens.take(&first, "x", 1, "first").await;
    tokens.take(&second, "x", 1, "second").await;
    dump(&db).await;
    // Its session is not in the dump.
    let third = connect(db.url(), "third").await;
    for round in 0..3 {
        for locks in [&first, &second, &third] {
            let task = locks.task_id();
            let what = format!("{task} after {round} restores");
            tokens.take(locks, "x", 5, &what).await;
            tokens.take(locks, "y", 5, &what).await;
        }
        restore(&db).await;
    }
    for locks in [&third, &first, &second] {
        tokens.take(locks, "x", 1, locks.task_id()).await;
    }
}

async fn a_new_process_repeats_no_token_after_a_restore(db: Database) {
    let mut tokens = Tokens::default();
    let locks = connect(db.url(), "a").await;
    tokens.take(&locks, "x", 1, "before the dump").await;
    dump(&db).await;
    tokens.take(&locks, "x", 20, "after the dump").await;
    locks.close().await.expect("nothing is held");
    for number in 0..2 {
        restore(&db).await;
        let mut process = worker!(db.url(), format!("process_{number}"));
        tokens.add(process.acquire("x"), "a new process");
        assert_eq!(process.ask("release"), "released");
        process.finish_well(SOON);
    }
}

/// The dump is older than the grant.
async fn a_grant_that_a_restore_took_back_is_lost(db: Database) {
    let journal = Journal::open(db.url()).await;
    let mut tokens = Tokens::default();
    let locks = connect(db.url(), "holder").await;
    let other = connect(db.url(), "other").await;
    tokens.take(&locks, "x", 1, "before the dump").await;
    dump(&db).await;
    let guard = locks.acquire("x").await.expect("it is free");
    tokens.add(guard.token(), "after the dump");
    restore(&db).await;
    let next = other.wait("x").timeout(SOON).await.expect("it is free");
    assert_only_the_next_commits(&journal, &guard, &next).await;
    tokens.add(next.token(), "the next holder");
}

/// The dump contains an earlier holder, which has released the lock since.
async fn a_grant_that_replaced_a_restored_one_is_lost(db: Database) {
    let journal = Journal::open(db.url()).await;
    let mut tokens = Tokens::default();
    let earlier = connect(db.url(), "earlier").await;
    let locks = connect(db.url(), "holder").await;
    tokens.take(&locks, "y", 1, "before the dump").await;
    let restored = earlier.acquire("x").await.expect("it is free");
    tokens.add(restored.token(), "in the dump");
    dump(&db).await;
    restored.release().await.expect("it is held");
    let guard = locks.acquire("x").await.expect("it is free");
    tokens.add(guard.token(), "after the dump");
    restore(&db).await;
    // The driver finds a grant of its own session that it does not know, and releases it.
    let next = earlier.wait("x").timeout(SOON).await;
    let next = next.expect("the restored grant is released");
    assert_only_the_next_commits(&journal, &guard, &next).await;
    tokens.add(next.token(), "the next holder");
}

/// Of two guards of one name, only the later one commits.
async fn assert_only_the_next_commits(journal: &Journal, guard: &LockGuard, next: &LockGuard) {
    let tx = journal.begin_entry("late").await.expect("it begins");
    let refused = commit(guard, tx).await;
    let refused = refused.expect_err("two holders of one lock can commit");
    assert!(refused.is_lost(), "{refused:?}");
    let reported = tokio::time::timeout(SOON, guard.lost()).await;
    reported.expect("the loss is reported");
    let tx = journal.begin_entry("next").await.expect("it begins");
    commit(next, tx).await.expect("it is held");
    assert_eq!(journal.entries().await, ["next"]);
}

/// The tokens that the process has seen count, not only its clock.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a test that runs on every engine owns its database"
)]
fn a_process_with_a_slow_clock_repeats_no_token_after_a_restore(db: Database) {
    let Some(clock) = WallClock::new() else {
        return;
    };
    clock.set(-3_600);
    let mut tokens = Tokens::default();
    let mut command = Command::new(env!("CARGO_BIN_EXE_peer"));
    clock.rule(command.args(["worker", db.url(), "slow"]));
    let mut slow = Worker::of(Peer::start(command));
    let mut on_time = worker!(db.url(), "on_time");
    let take = |tokens: &mut Tokens, process: &mut Worker, what| {
        tokens.add(process.acquire("x"), what);
        assert_eq!(process.ask("release"), "released");
    };
    take(&mut tokens, &mut on_time, "on_time");
    take(&mut tokens, &mut slow, "slow");
    block_on_thread(dump(&db));
    for _ in 0..3 {
        take(&mut tokens, &mut on_time, "on_time");
        take(&mut tokens, &mut slow, "slow");
    }
    block_on_thread(restore(&db));
    take(&mut tokens, &mut slow, "slow after the restore");
    take(&mut tokens, &mut on_time, "on_time after the restore");
}

/// The original adds 1 to the version, whatever the version is.
#[test]
fn the_original_on_an_older_row_repeats_no_token() {
    run_async(Engine::MySql, async |db| {
        let mut tokens = Tokens::default();
        let pause = Duration::from_millis(3);
        let original = Original::connect(db.url(), "original").await;
        let mut original = original.expect("it connects").with_pauses(pause, pause);
        original.create_table().await.expect("an empty database");
        let locks = connect(db.url(), "ours").await;
        tokens.take(&locks, "x", 1, "before the dump").await;
        dump(&db).await;
        for round in 0..3 {
            let what = format!("after {round} restores");
            tokens.take(&locks, "x", 10, &what).await;
            original.acquire("y").await.expect("it is free");
            tokens.take(&locks, "x", 10, &what).await;
            restore(&db).await;
            let restored = LocksRow::read(&db, "platform").await.expect("it is there");
            original.acquire("y").await.expect("it is free");
            original.release("y").await.expect("it holds it");
            let written = LocksRow::read(&db, "platform").await.expect("it is there");
            assert!(written.version <= restored.version + 3, "{written:?}");
        }
        tokens.take(&locks, "x", 1, "after the original").await;
        original.release_all().await.expect("it can");
        tokens.take(&locks, "x", 1, "after its release_all").await;
    });
}
