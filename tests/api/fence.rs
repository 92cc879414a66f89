//! The fence: what it accepts, and that no commit succeeds after an eviction.

use std::time::{Duration, Instant};

use locks_core::{Expiry, LockError, LockGuard, LockManager};
use locks_tests::{
    engine::{Database, Engine, note},
    hostile::{own_settings, pool_options},
    journal::{Journal, Tx},
    on_engine, on_every_engine,
    race::Race,
};
use sqlx::{
    Connection as _, MySql, MySqlConnection, PgConnection, Pool, Postgres, Sqlite, SqliteConnection,
};

const SOON: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_mins(2);
/// The number of races between a commit and an eviction, and the number of lanes they run in.
const RACES: usize = 500;
const LANES: usize = 5;

on_every_engine!(
    async fence_and_commit_accept_every_connection_type,
    async commit_under_a_lost_lock_is_refused_and_rolled_back,
    async commit_and_fence_may_be_repeated,
    async commit_never_succeeds_after_an_eviction,
    async failed_transaction_is_not_reported_as_a_loss,
    async other_requests_do_not_delay_a_commit,
    async loss_names_the_locks_and_the_reason,
    async commit_on_another_database_is_told_as_such,
);
on_every_engine!(servers: async a_release_waits_for_the_transaction_around_a_nested_one);

async fn connect(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder()
        .task_id(task)
        .expiry(Expiry::After(LONG));
    builder.connect(db.url()).await.expect("it connects")
}

async fn commit(guard: &LockGuard, tx: Tx) -> Result<(), LockError> {
    on_engine!(Tx, tx, tx => guard.commit(tx).await)
}

/// Everything that `fence` and `commit` accept, on one engine.
macro_rules! takes {
    ($engine:ty, $connection:ty, $guard:expr, $url:expr) => {{
        let pool: Pool<$engine> = pool_options(Engine::of_url($url))
            .connect($url)
            .await
            .expect("it connects");
        let mut tx = pool.begin().await.expect("it begins");
        $guard.fence(&mut tx).await.expect("a transaction");
        $guard
            .fence(&mut *tx)
            .await
            .expect("what is in a transaction");
        let borrowed = &mut tx;
        $guard
            .fence(borrowed)
            .await
            .expect("a borrowed transaction");
        $guard.commit(tx).await.expect("a transaction by value");
        let mut pooled = pool.acquire().await.expect("it connects");
        $guard
            .fence(&mut pooled)
            .await
            .expect("a pooled connection");
        $guard
            .fence(&mut *pooled)
            .await
            .expect("what is in a pooled connection");
        let tx = pooled.begin().await.expect("it begins");
        $guard
            .commit(tx)
            .await
            .expect("a transaction of a pooled connection");
        drop(pooled);
        pool.close().await;
        let mut plain = <$connection>::connect($url).await.expect("it connects");
        let settings = sqlx::raw_sql(own_settings(Engine::of_url($url)));
        settings.execute(&mut plain).await.expect("it takes them");
        $guard.fence(&mut plain).await.expect("a plain connection");
        let tx = plain.begin().await.expect("it begins");
        $guard
            .commit(tx)
            .await
            .expect("a transaction of a plain connection");
        let mut boxed = Box::new(plain);
        $guard
            .fence(&mut *boxed)
            .await
            .expect("a plain connection in a box");
        boxed.close().await.expect("it closes");
    }};
}

async fn fence_and_commit_accept_every_connection_type(db: Database) {
    let locks = connect(&db, "a").await;
    let guard = locks.acquire("x").await.expect("it is free");
    match db.engine() {
        Engine::Sqlite => takes!(Sqlite, SqliteConnection, guard, db.url()),
        Engine::MySql => takes!(MySql, MySqlConnection, guard, db.url()),
        Engine::Postgres => takes!(Postgres, PgConnection, guard, db.url()),
    }
    guard.release().await.expect("it is ours");
}

async fn commit_under_a_lost_lock_is_refused_and_rolled_back(db: Database) {
    let journal = Journal::open(db.url()).await;
    let locks = connect(&db, "a").await;
    let guard = locks.acquire("x").await.expect("it is free");
    let other = connect(&db, "b").await;
    other.release_task("a").await.expect("it can");
    // The holder's driver has not read the row since.
    assert!(!guard.is_lost());
    let tx = journal.begin_entry("late").await.expect("it begins");
    let refused = commit(&guard, tx).await.expect_err("it was taken");
    assert!(refused.is_lost(), "{refused}");
    assert!(guard.is_lost());
    let mut tx = journal
        .begin_entry("later")
        .await
        .expect("the other one is rolled back");
    let refused = on_engine!(Tx, &mut tx, tx => guard.fence(tx).await);
    assert!(refused.expect_err("it was taken").is_lost());
    drop(tx);
    assert_eq!(journal.entries().await, [""; 0]);
}

async fn commit_and_fence_may_be_repeated(db: Database) {
    let journal = Journal::open(db.url()).await;
    let locks = connect(&db, "a").await;
    let guard = locks.acquire("x").await.expect("it is free");
    let second = locks.acquire("y").await.expect("it is free");
    for round in 0..5 {
        for guard in [&guard, &second] {
            let entry = format!("{round} {}", guard.names()[0]);
            let mut tx = journal.begin_entry(&entry).await.expect("it begins");
            on_engine!(Tx, &mut tx, tx => guard.fence(tx).await).expect("it is held");
            commit(guard, tx).await.expect("it is held");
        }
    }
    assert_eq!(journal.entries().await.len(), 10);
    guard.release().await.expect("it is ours");
    let tx = journal.begin_entry("last").await.expect("it begins");
    commit(&second, tx).await.expect("it is held");
}

/// A holder and a supervisor, alone in a namespace.
struct Lane {
    holder: LockManager,
    supervisor: LockManager,
    journal: Journal,
    number: usize,
    race: Race,
    committed: usize,
    refused: usize,
}

async fn commit_never_succeeds_after_an_eviction(db: Database) {
    let journal = Journal::open(db.url()).await;
    let lane = async |number: usize| {
        let namespace = format!("lane_{number}");
        let connect = async |task| {
            let builder = LockManager::builder().namespace(&namespace).task_id(task);
            let builder = builder.expiry(Expiry::After(LONG));
            builder.connect(db.url()).await.expect("it connects")
        };
        let mut lane = Lane {
            holder: connect("holder").await,
            supervisor: connect("supervisor").await,
            journal: journal.clone(),
            number,
            race: Race::default(),
            committed: 0,
            refused: 0,
        };
        for race in 0..RACES / LANES {
            Box::pin(lane.race(race)).await;
        }
        (lane.committed, lane.refused)
    };
    let scores = tokio::join!(lane(0), lane(1), lane(2), lane(3), lane(4));
    let scores: [_; LANES] = scores.into();
    let committed: usize = scores.iter().map(|(committed, _)| committed).sum();
    let refused: usize = scores.iter().map(|(_, refused)| refused).sum();
    note(&format!(
        "{}: of {RACES} commits that raced with an eviction, {committed} came before it and \
         {refused} were refused",
        db.engine()
    ));
    assert_eq!(committed + refused, RACES);
    // A race with only one outcome shows nothing.
    assert!(committed > RACES / 10 && refused > RACES / 10);
}

impl Lane {
    async fn race(&mut self, race: usize) {
        let entry = format!("{}_{race}", self.number);
        let guard = self.holder.acquire("x").await.expect("it is free");
        let evicting = async {
            let taken = self
                .supervisor
                .release_task("holder")
                .await
                .expect("it can");
            assert_eq!(taken.len(), 1);
            // From here on, another task holds the lock.
            let next = self.supervisor.acquire("x").await.expect("it is free");
            (self.journal.has(&entry).await, next)
        };
        let committing = async {
            let tx = self.journal.begin_entry(&entry).await.expect("it begins");
            commit(&guard, tx).await
        };
        let (committed, (there, next)) = self.race.run(committing, evicting).await;
        self.race.note(committed.is_ok());
        match &committed {
            Ok(()) => self.committed += 1,
            Err(error) if error.is_lost() => self.refused += 1,
            Err(error) => panic!("{error}"),
        }
        assert_eq!(committed.is_ok(), self.journal.has(&entry).await);
        assert_eq!(committed.is_ok(), there, "committed after the eviction");
        assert!(guard.release().await.expect_err("it was taken").is_lost());
        next.release().await.expect("it is ours");
    }
}

/// A transaction that cannot be committed, for a reason that has nothing to do with the lock.
async fn failed_transaction_is_not_reported_as_a_loss(db: Database) {
    let journal = Journal::open(db.url()).await;
    let locks = connect(&db, "a").await;
    let guard = locks.acquire("x").await.expect("it is free");
    let mut tx = journal.begin_entry("broken").await.expect("it begins");
    tx.execute("SELECT * FROM there_is_no_such_table")
        .await
        .expect_err("there is none");
    match commit(&guard, tx).await {
        // PostgreSQL accepts no statement after a failed one.
        Err(error) => {
            assert!(matches!(error, LockError::Database { .. }), "{error:?}");
            assert_eq!(db.engine(), Engine::Postgres);
        }
        Ok(()) => assert_ne!(db.engine(), Engine::Postgres),
    }
    assert!(!guard.is_lost());
    let tx = journal.begin_entry("whole").await.expect("it begins");
    commit(&guard, tx).await.expect("it is held");
    assert!(journal.has("whole").await);
    guard.release().await.expect("it is ours");
}

/// On SQLite the open transaction blocks every write, and therefore these requests too.
async fn other_requests_do_not_delay_a_commit(db: Database) {
    let journal = Journal::open(db.url()).await;
    let locks = connect(&db, "a").await;
    let guard = locks.acquire("x").await.expect("it is free");
    for round in 0..5 {
        let tx = journal.begin_entry("entry").await.expect("it begins");
        let other = locks.acquire(format!("other_{round}"));
        let other = tokio::spawn(other);
        // Long enough for the write to be in flight.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let start = Instant::now();
        commit(&guard, tx).await.expect("it is held");
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
        drop(other.await.expect("no panic").expect("it is free"));
    }
    guard.release().await.expect("it is ours");
}

async fn loss_names_the_locks_and_the_reason(db: Database) {
    let locks = connect(&db, "a").await;
    let guard = locks.acquire(["x", "y"]).await.expect("they are free");
    let reported = guard.lost();
    let before = std::time::SystemTime::now();
    let other = connect(&db, "b").await;
    other.release_task("a").await.expect("it can");
    let next = other.acquire("y").await.expect("it is free");
    let journal = Journal::open(db.url()).await;
    let tx = journal.begin().await.expect("it begins");
    let Err(LockError::Lost(lost)) = commit(&guard, tx).await else {
        panic!("it was taken");
    };
    let names: Vec<_> = lost
        .names
        .iter()
        .map(locks_core::LockName::as_str)
        .collect();
    assert_eq!(names, ["x", "y"]);
    assert!(lost.since >= before && lost.since <= std::time::SystemTime::now());
    assert!(lost.reason.contains("release_task"), "{}", lost.reason);
    let reported = tokio::time::timeout(SOON, reported)
        .await
        .expect("the loss is reported");
    assert_eq!((reported.since, reported.reason), (lost.since, lost.reason));
    let text = LockError::Lost(lost).to_string();
    assert!(text.starts_with("lost x, y: "), "{text}");
    drop(next);
}

async fn commit_on_another_database_is_told_as_such(db: Database) {
    let locks = connect(&db, "a").await;
    let guard = locks.acquire("x").await.expect("it is free");
    let other = Database::create(db.engine());
    let journal = Journal::open(other.url()).await;
    let tx = journal.begin_entry("lost").await.expect("it begins");
    let error = commit(&guard, tx).await.expect_err("it has no lock tables");
    assert!(
        matches!(error, LockError::InvalidConfig { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("another database"), "{error}");
    // It has lock tables of its own.
    drop(connect(&other, "b").await);
    let tx = journal.begin_entry("lost").await.expect("it begins");
    let error = commit(&guard, tx).await.expect_err("it has other locks");
    assert!(error.to_string().contains("another database"), "{error}");
    assert!(!guard.is_lost(), "the lock has nothing to do with it");
    assert_eq!(journal.entries().await, [""; 0]);
    guard.release().await.expect("it is ours");
}

/// Commits a nested transaction through the guard. The release waits for the outer transaction.
macro_rules! nested {
    ($engine:ty, $guard:expr, $other:expr, $url:expr) => {{
        let pool: Pool<$engine> = pool_options(Engine::of_url($url))
            .connect($url)
            .await
            .expect("it connects");
        let mut outer = pool.begin().await.expect("it begins");
        let inner = outer.begin().await.expect("a savepoint");
        $guard.commit(inner).await.expect("it is held");
        let release = tokio::spawn($guard.release());
        let refused = $other.wait("x").timeout(Duration::from_secs(1)).await;
        let refused = refused.expect_err("the outer transaction is open");
        assert!(refused.is_timeout(), "{refused}");
        assert!(!release.is_finished());
        outer.commit().await.expect("it was fenced in time");
        let released = tokio::time::timeout(SOON, release).await.expect("in time");
        released.expect("no panic").expect("it was held");
        pool.close().await;
    }};
}

async fn a_release_waits_for_the_transaction_around_a_nested_one(db: Database) {
    let locks = connect(&db, "a").await;
    let other = connect(&db, "b").await;
    let guard = locks.acquire("x").await.expect("it is free");
    if db.engine() == Engine::MySql {
        nested!(MySql, guard, other, db.url());
    } else {
        nested!(Postgres, guard, other, db.url());
    }
}
