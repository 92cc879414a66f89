//! Renewals: nothing delays them, and they cost what is documented.

use std::time::{Duration, Instant};

use locks_core::{Evidence, Expiry, LockGuard, LockManager};
use locks_tests::{
    engine::{Database, note},
    events::{Events, RENEWAL_FAILS},
    journal::{Journal, Tx},
    on_engine, on_every_engine,
    relay::{How, Relay, When},
    sessions::Session,
    wait,
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_millis(1500);
/// The number of locks that a renewal must cope with.
const MANY: usize = 10_000;

on_every_engine!(
    sync blocked_runtime_loses_no_lock,
    async ten_thousand_locks_are_kept,
    async locks_survive_an_open_fenced_transaction,
);
on_every_engine!(
    servers:
    async blocked_write_delays_no_renewal,
    async locks_survive_an_open_fenced_transaction_at_every_isolation_level,
    async a_silent_connection_is_replaced_in_time,
    async a_failed_renewal_is_repeated,
    async at_half_the_ttl_a_warning_is_logged,
);

async fn connect(url: &str, task: &str, ttl: Duration) -> LockManager {
    // With process evidence, an observer would find the process alive. With time evidence, the
    // session depends on its renewals.
    let builder = LockManager::builder()
        .task_id(task)
        .expiry(Expiry::After(ttl));
    let builder = builder.evidence(Evidence::Time);
    builder.connect(url).await.expect("it connects")
}

/// Requests the lock from another process, which gets it if a renewal is missed.
async fn rival(db: &Database, name: &'static str) -> tokio::task::JoinHandle<LockGuard> {
    let locks = connect(db.url(), "rival", TTL).await;
    let waiting = locks.wait(name);
    let waiting = tokio::spawn(async move { waiting.await.expect("it is granted at last") });
    let queued = async || locks.waiting().await.expect("it answers").len() == 1;
    wait::until(SOON, "the rival waits", queued).await;
    waiting
}

#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn blocked_runtime_loses_no_lock(db: Database) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let locks = connect(db.url(), "holder", TTL).await;
        let guard = locks.acquire("x").await.expect("it is free");
        let rival = rival(&db, "x").await;
        std::thread::sleep(3 * TTL);
        assert!(!guard.is_lost());
        let journal = Journal::open(db.url()).await;
        let tx = journal.begin_entry("held").await.expect("it begins");
        on_engine!(Tx, tx, tx => guard.commit(tx).await).expect("it is held");
        guard.release().await.expect("it is ours");
        drop(rival.await.expect("no panic"));
    });
}

async fn ten_thousand_locks_are_kept(db: Database) {
    // Long enough for a busy machine: each write carries all of them.
    let ttl = 2 * TTL;
    let locks = connect(db.url(), "holder", ttl).await;
    let start = Instant::now();
    let names: Vec<String> = (0..MANY).map(|n| format!("app_task_{n}")).collect();
    let guards: JoinSet<_> = names.iter().map(|name| locks.acquire(name)).collect();
    let guards: Vec<LockGuard> = guards
        .join_all()
        .await
        .into_iter()
        .map(|guard| guard.expect("it is free"))
        .collect();
    let taken = start.elapsed();
    let rival = rival(&db, "app_task_7").await;
    let before = Session::of(&db, "holder").await.expect("it holds").beat;
    tokio::time::sleep(2 * ttl).await;
    let after = Session::of(&db, "holder").await.expect("it holds").beat;
    assert!(guards.iter().all(|guard| !guard.is_lost()));
    assert!(
        after - before >= 4,
        "{} renewals in two ttls",
        after - before
    );
    // While the row, which contains all of them, is written repeatedly.
    let busy = Instant::now();
    let mut writes = 0;
    while busy.elapsed() < ttl {
        locks
            .acquire("y")
            .await
            .expect("it is free")
            .release()
            .await
            .expect("it is ours");
        writes += 2;
    }
    assert!(guards.iter().all(|guard| !guard.is_lost()));
    let start = Instant::now();
    let released: JoinSet<_> = guards.into_iter().map(LockGuard::release).collect();
    assert!(released.join_all().await.iter().all(Result::is_ok));
    note(&format!(
        "{}: {MANY} locks taken in {taken:?}, kept for {:?} with {writes} writes, \
         released in {:?}",
        db.engine(),
        3 * ttl,
        start.elapsed()
    ));
    drop(rival.await.expect("no panic"));
}

/// On SQLite the transaction blocks every write, and therefore renewals too. A third of the ttl is
/// harmless.
async fn locks_survive_an_open_fenced_transaction(db: Database) {
    let ttl = 3 * TTL;
    let locks = connect(db.url(), "holder", ttl).await;
    let guard = locks.acquire("x").await.expect("it is free");
    let journal = Journal::open(db.url()).await;
    let (_, beat) = Session::next_beat(&db, "holder", SOON).await;
    let mut tx = journal.begin_entry("slow").await.expect("it begins");
    on_engine!(Tx, &mut tx, tx => guard.fence(tx).await).expect("it is held");
    tokio::time::sleep_until((beat + ttl / 2).into()).await;
    assert!(!guard.is_lost());
    on_engine!(Tx, tx, tx => guard.commit(tx).await).expect("it is held");
    Session::next_beat(&db, "holder", SOON).await;
    assert!(!guard.is_lost());
    guard.release().await.expect("it is ours");
    assert!(journal.has("slow").await);
}

async fn locks_survive_an_open_fenced_transaction_at_every_isolation_level(db: Database) {
    let locks = connect(db.url(), "holder", TTL).await;
    let guard = locks.acquire("x").await.expect("it is free");
    let rival = rival(&db, "x").await;
    let journal = Journal::open(db.url()).await;
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let mut tx = begin_at(&journal, level).await;
        // From here on the transaction has a snapshot, from before the fence.
        tx.execute("SELECT * FROM journal")
            .await
            .expect("it is there");
        tx.enter(level).await.expect("it can");
        on_engine!(Tx, &mut tx, tx => guard.fence(tx).await).expect("it is held");
        let before = Session::of(&db, "holder").await.expect("it holds").beat;
        tokio::time::sleep(2 * TTL).await;
        let after = Session::of(&db, "holder").await.expect("it holds").beat;
        assert!(
            after - before >= 3,
            "{} renewals in two ttls",
            after - before
        );
        assert!(!guard.is_lost());
        let committed = on_engine!(Tx, tx, tx => guard.commit(tx).await);
        committed.unwrap_or_else(|error| panic!("{level}: {error}"));
    }
    assert_eq!(journal.entries().await.len(), 3);
    guard.release().await.expect("it is ours");
    drop(rival.await.expect("no panic"));
}

async fn begin_at(journal: &Journal, level: &str) -> Tx {
    match journal {
        Journal::Sqlite(_) => panic!("it knows one level"),
        Journal::Postgres(_) => {
            let mut tx = journal.begin().await.expect("it begins");
            let sql = format!("SET TRANSACTION ISOLATION LEVEL {level}");
            tx.execute(&sql).await.expect("it knows the level");
            tx
        }
        Journal::MySql(pool) => {
            let sql = format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}; BEGIN");
            let tx = pool.begin_with(sqlx::AssertSqlSafe(sql)).await;
            Tx::MySql(tx.expect("it knows the level"))
        }
    }
}

/// A write waits for a foreign lock on the row, for longer than a ttl.
async fn blocked_write_delays_no_renewal(db: Database) {
    let locks = connect(db.url(), "holder", TTL).await;
    let guard = locks.acquire("x").await.expect("it is free");
    let rival = rival(&db, "x").await;
    let journal = Journal::open(db.url()).await;
    let mut tx = journal.begin().await.expect("it begins");
    tx.execute("UPDATE locks SET version = version WHERE id = 'platform'")
        .await
        .expect("it can");
    let blocked = locks.acquire("y");
    let blocked = tokio::spawn(blocked);
    let before = Session::of(&db, "holder").await.expect("it holds").beat;
    tokio::time::sleep(2 * TTL).await;
    assert!(!blocked.is_finished());
    let after = Session::of(&db, "holder").await.expect("it holds").beat;
    assert!(
        after - before >= 3,
        "{} renewals in two ttls",
        after - before
    );
    assert!(!guard.is_lost());
    drop(tx);
    drop(blocked.await.expect("no panic").expect("it is free"));
    guard.release().await.expect("it is ours");
    drop(rival.await.expect("no panic"));
}

/// A holder of one lock behind a relay.
async fn behind_relay(db: &Database, ttl: Duration) -> (Relay, LockManager, LockGuard) {
    let relay = Relay::start(db.server_address());
    let locks = connect(&db.url_via(relay.address()), "holder", ttl).await;
    let guard = locks.acquire("x").await.expect("it is free");
    // By then the renewals have a connection.
    Session::next_beat(db, "holder", SOON).await;
    (relay, locks, guard)
}

async fn a_silent_connection_is_replaced_in_time(db: Database) {
    let ttl = 2 * TTL;
    let (relay, _locks, guard) = behind_relay(&db, ttl).await;
    let rival = rival(&db, "x").await;
    relay.arm(When::Next, How::Stall);
    relay
        .wait_for(ttl, "a renewal is swallowed", |counters| {
            counters.stalled == 1
        })
        .await;
    let before = Session::of(&db, "holder").await.expect("it holds").beat;
    tokio::time::sleep(2 * ttl).await;
    let after = Session::of(&db, "holder").await.expect("it holds").beat;
    assert!(
        after - before >= 3,
        "{} renewals in two ttls",
        after - before
    );
    assert!(!guard.is_lost());
    guard.release().await.expect("it is ours");
    drop(rival.await.expect("no panic"));
}

async fn a_failed_renewal_is_repeated(db: Database) {
    let (relay, _locks, guard) = behind_relay(&db, TTL).await;
    let rival = rival(&db, "x").await;
    for how in [How::CutBefore, How::CutAfter, How::CutBefore, How::CutAfter] {
        let cuts = relay.counters().cuts();
        relay.arm(When::Next, how);
        relay
            .wait_for(TTL, "a renewal is cut", |counters| counters.cuts() > cuts)
            .await;
        Session::next_beat(&db, "holder", TTL).await;
        assert!(!guard.is_lost());
    }
    guard.release().await.expect("it is ours");
    drop(rival.await.expect("no panic"));
}

/// No warning while there is time, and one before it is too late.
async fn at_half_the_ttl_a_warning_is_logged(db: Database) {
    let events = Events::keep();
    let ttl = 4 * TTL;
    let task = format!("warned_{}", db.engine());
    let relay = Relay::start(db.server_address());
    let locks = connect(&db.url_via(relay.address()), &task, ttl).await;
    let guard = locks.acquire("x").await.expect("it is free");
    let (renewed, _) = Session::next_beat(&db, &task, SOON).await;
    relay.refuse();
    relay.cut_all();
    let warned = || {
        let of_task = events.with("task", &task);
        of_task.iter().any(|event| {
            event.level == tracing::Level::WARN
                && event
                    .get("message")
                    .is_some_and(|text| text.contains(RENEWAL_FAILS))
        })
    };
    wait::until(ttl, "a warning", async || warned()).await;
    let after = renewed.elapsed();
    assert!(!guard.is_lost(), "it was warned too late, after {after:?}");
    // If the answer to the last renewal was cut off, the process counts from the one before, which
    // was a third of the ttl earlier.
    assert!(after >= ttl / 6, "it was warned too early, after {after:?}");
    relay.heal();
    Session::next_beat(&db, &task, ttl).await;
    assert!(!guard.is_lost());
}
