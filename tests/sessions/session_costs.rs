//! What sessions cost: counted by triggers on the tables, and by a relay that sees every request.

use std::{collections::BTreeMap, time::Duration};

use locks_core::{Expiry, LockManager};
use locks_tests::{
    engine::{Database, Engine, note},
    journal::{Journal, Tx},
    on_engine, on_every_engine,
    relay::Relay,
    row::wait_until_queued,
    sessions::Session,
    wait,
};

const SOON: Duration = Duration::from_secs(20);
/// Nothing is renewed while a test counts other statements.
const LONG: Duration = Duration::from_mins(10);
const TTL: Duration = Duration::from_millis(900);

on_every_engine!(
    async two_rows_before_the_first_grant_and_none_later,
    async each_task_and_namespace_has_a_session,
    async a_fence_is_touched_by_fenced_commits_only,
    async what_never_expires_has_a_session_that_does_not_beat,
);
on_every_engine!(servers: async one_statement_renews_all_sessions);

/// The number of writes by kind.
type Writes = BTreeMap<String, usize>;

/// Creates triggers that record every row which is written.
async fn audit(db: &Database) {
    let mut sql = vec!["CREATE TABLE audit (what VARCHAR(80) NOT NULL)".to_owned()];
    if db.engine() == Engine::Postgres {
        let body = "BEGIN INSERT INTO audit VALUES (TG_ARGV[0]); RETURN NULL; END";
        sql.push(format!(
            "CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql AS '{body}'"
        ));
    }
    for table in ["locks", "lock_sessions", "lock_fences"] {
        for event in ["INSERT", "UPDATE", "DELETE"] {
            let what = format!("{event} {table}").to_lowercase();
            let insert = format!("INSERT INTO audit VALUES ('{what}')");
            let action = match db.engine() {
                Engine::Sqlite => format!("BEGIN {insert}; END"),
                Engine::MySql => format!("FOR EACH ROW {insert}"),
                Engine::Postgres => format!("FOR EACH ROW EXECUTE FUNCTION note_it('{what}')"),
            };
            let name = format!("note_{event}_{table}").to_lowercase();
            sql.push(format!(
                "CREATE TRIGGER {name} AFTER {event} ON {table} {action}"
            ));
        }
    }
    for statement in sql {
        db.execute(&statement).await;
    }
}

/// The rows written since the last call.
async fn written(db: &Database) -> Writes {
    let mut conn = db.connect().await;
    let rows = conn
        .rows("SELECT what FROM audit")
        .await
        .expect("it is there");
    let mut writes = Writes::new();
    for row in rows {
        *writes
            .entry(row.get("what").expect("not NULL").to_owned())
            .or_default() += 1;
    }
    conn.execute("DELETE FROM audit")
        .await
        .expect("it is there");
    let _ = conn.close().await;
    writes
}

fn writes<const N: usize>(expected: [(&str, usize); N]) -> Writes {
    expected
        .into_iter()
        .map(|(what, n)| (what.to_owned(), n))
        .collect()
}

/// A manager on an existing row, and triggers that record its writes.
async fn audited(db: &Database, url: &str, expiry: Expiry) -> LockManager {
    let first = LockManager::builder().task_id("first");
    let first = first.connect(db.url()).await.expect("it connects");
    for namespace in ["platform", "other"] {
        let first = first.with_namespace(namespace).expect("a namespace");
        first
            .acquire("x")
            .await
            .expect("it is free")
            .release()
            .await
            .expect("it is ours");
    }
    first.close().await.expect("it closes");
    audit(db).await;
    let builder = LockManager::builder().task_id("a").expiry(expiry);
    builder.connect(url).await.expect("it connects")
}

async fn two_rows_before_the_first_grant_and_none_later(db: Database) {
    let locks = audited(&db, db.url(), Expiry::After(LONG)).await;
    assert_eq!(written(&db).await, Writes::new());
    let guard = locks.acquire("x").await.expect("it is free");
    let expected = [
        ("insert lock_sessions", 1),
        ("insert lock_fences", 1),
        ("update locks", 1),
    ];
    assert_eq!(written(&db).await, writes(expected));
    for _ in 0..5 {
        locks
            .acquire("y")
            .await
            .expect("it is free")
            .release()
            .await
            .expect("it is ours");
    }
    let timeout = Duration::from_millis(50);
    let refused = locks.acquire("x").await.expect_err("it is held");
    assert!(refused.is_busy());
    assert_eq!(written(&db).await, writes([("update locks", 10)]));
    let refused = locks
        .wait("x")
        .timeout(timeout)
        .await
        .expect_err("it is held");
    assert!(refused.is_timeout());
    // Otherwise the release may be written together with the end of the wait.
    wait_until_queued(&db, "platform", 0).await;
    guard.release().await.expect("it is ours");
    assert_eq!(written(&db).await, writes([("update locks", 3)]));
    locks.close().await.expect("it closes");
    let expected = [("delete lock_sessions", 1), ("delete lock_fences", 1)];
    assert_eq!(written(&db).await, writes(expected));
}

async fn each_task_and_namespace_has_a_session(db: Database) {
    let locks = audited(&db, db.url(), Expiry::After(LONG)).await;
    let task = locks.with_task_id("b").expect("an id");
    let other = locks.with_namespace("other").expect("a namespace");
    let managers = [&locks, &task, &other];
    let mut guards = Vec::new();
    for (manager, name) in managers.into_iter().zip(["x", "y", "x"]) {
        guards.push(manager.acquire(name).await.expect("it is free"));
        let expected = [
            ("insert lock_sessions", 1),
            ("insert lock_fences", 1),
            ("update locks", 1),
        ];
        assert_eq!(written(&db).await, writes(expected));
    }
    for manager in managers {
        guards.push(
            manager
                .acquire("z_".to_owned() + manager.task_id())
                .await
                .expect("free"),
        );
    }
    assert_eq!(written(&db).await, writes([("update locks", 3)]));
}

async fn a_fence_is_touched_by_fenced_commits_only(db: Database) {
    let locks = audited(&db, db.url(), Expiry::After(LONG)).await;
    let journal = Journal::open(db.url()).await;
    let guard = locks.acquire("x").await.expect("it is free");
    written(&db).await;
    for _ in 0..3 {
        let tx = journal.begin_entry("entry").await.expect("it begins");
        on_engine!(Tx, tx, tx => guard.commit(tx).await).expect("it is held");
    }
    // A shared lock writes nothing. A file has only one writer.
    let expected = match db.engine() {
        Engine::Sqlite => writes([("update lock_fences", 3)]),
        Engine::MySql | Engine::Postgres => Writes::new(),
    };
    assert_eq!(written(&db).await, expected);
    // Every commit is known to have ended, so the release waits for none.
    guard.release().await.expect("it is ours");
    assert_eq!(written(&db).await, writes([("update locks", 1)]));
}

async fn what_never_expires_has_a_session_that_does_not_beat(db: Database) {
    let locks = audited(&db, db.url(), Expiry::Never).await;
    let guard = locks.acquire("x").await.expect("it is free");
    let expected = [
        ("insert lock_sessions", 1),
        ("insert lock_fences", 1),
        ("update locks", 1),
    ];
    assert_eq!(written(&db).await, writes(expected));
    assert_eq!(Session::of(&db, "a").await.expect("it holds").ttl_ms, None);
    guard.release().await.expect("it is ours");
}

/// In addition, one statement reads the row of each namespace in which something is held.
async fn one_statement_renews_all_sessions(db: Database) {
    let relay = Relay::start(db.server_address());
    let locks = audited(&db, &db.url_via(relay.address()), Expiry::After(TTL)).await;
    let tasks = ["a", "b", "c"].map(|task| locks.with_task_id(task).expect("an id"));
    let mut guards = Vec::new();
    for locks in &tasks {
        guards.push(locks.acquire(locks.task_id()).await.expect("it is free"));
    }
    let holding = ticks(&db, &relay).await;
    for guard in guards {
        guard.release().await.expect("it is ours");
    }
    let idle = ticks(&db, &relay).await;
    note(&format!(
        "{}: {} renewals of 3 sessions took {} requests while something was held, \
         {} took {} afterwards",
        db.engine(),
        holding.0,
        holding.1,
        idle.0,
        idle.1
    ));
    assert!(holding.1 <= 2 * holding.0 + 2, "{holding:?}");
    assert!(idle.1 <= idle.0 + 1, "{idle:?}");
    locks.close().await.expect("it closes");
}

/// The renewals of each of the three sessions in a period, and the driver's requests in that
/// period.
async fn ticks(db: &Database, relay: &Relay) -> (u64, u64) {
    // The connection of the renewals exists, and its statements are prepared.
    for _ in 0..2 {
        Session::next_beat(db, "c", SOON).await;
    }
    // The statements of that renewal come at once. The next ones come after a third of the ttl.
    tokio::time::sleep(TTL / 9).await;
    written(db).await;
    let before = relay.counters().requests;
    wait::until(SOON, "six renewals", async || {
        let mut conn = db.connect().await;
        let rows = conn
            .rows("SELECT what FROM audit")
            .await
            .expect("it is there");
        let _ = conn.close().await;
        rows.len() >= 18
    })
    .await;
    tokio::time::sleep(TTL / 9).await;
    let requests = relay.counters().requests - before;
    let written = written(db).await;
    let [(what, rows)] = &Vec::from_iter(written)[..] else {
        panic!("something else was written");
    };
    assert_eq!((what.as_str(), rows % 3), ("update lock_sessions", 0));
    (u64::try_from(rows / 3).expect("few"), requests)
}
