//! PostgreSQL behind a pooler, in each of its modes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use locks_core::{LockGuard, LockManager};
use locks_tests::{
    clock::micros,
    engine::{Database, Engine, note, run_async},
    plain::Plain,
    row::wait_until_queued,
    server::Server,
    wait, waiter,
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use url::Url;

const SOON: Duration = Duration::from_secs(20);
/// The number of the pooler's server connections.
const SERVERS: usize = 5;

/// A setting for the other clients, which are connections of sqlx with its own options. The
/// library needs none.
const FOR_OTHERS: &str = "ignore_startup_parameters = extra_float_digits";

/// Runs a test on a database behind a pooler with these settings.
fn run_behind<F: Future<Output = ()>>(settings: &[&str], test: impl FnOnce(Database, Pooled) -> F) {
    run_async(Engine::Postgres, async |db| {
        if let Some(pooler) = Pooled::start(&db, settings) {
            test(db, pooler).await;
        }
    });
}

/// A pooler, and the test's database behind it.
struct Pooled {
    server: Server,
    url: String,
}

impl Pooled {
    fn start(db: &Database, settings: &[&str]) -> Option<Self> {
        let size = format!("default_pool_size = {SERVERS}");
        // The last one counts.
        let settings = [&[&*size], settings].concat();
        let server = Server::start_pooler(db.url(), &settings)?;
        let port = Url::parse(server.url()).ok()?.port()?;
        let url = db.url_via(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Some(Self { server, url })
    }

    async fn manager(&self, task: &str) -> LockManager {
        let locks = LockManager::builder().task_id(task).connect(&self.url);
        locks.await.expect("it connects")
    }

    /// Connections of which each has a server connection to itself.
    async fn all_server_connections(&self) -> Vec<Plain> {
        let mut all = Vec::new();
        for _ in 0..SERVERS {
            let mut conn = Plain::connect(&self.url).await.expect("it connects");
            conn.execute("BEGIN").await.expect("a transaction");
            all.push(conn);
        }
        all
    }
}

/// The number of connections whose last statement was `LISTEN`.
async fn listening(db: &Database) -> usize {
    let mut conn = db.connect().await;
    let sql = "SELECT 1 FROM pg_stat_activity \
               WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    conn.rows(sql).await.expect("it may be asked").len()
}

/// The delays of grants to another process, after waits of this length each. While it waits, so
/// many connections listen.
async fn delays(
    pooled: &Pooled,
    db: &Database,
    waited: Duration,
    listeners: usize,
) -> Vec<Duration> {
    let holder = pooled.manager("holder").await;
    let mut process = waiter!(pooled.url, "waiter");
    let mut delays = Vec::new();
    for round in 0..4 {
        let guard = holder.acquire("x").await.expect("it is free");
        process.tell(&format!("wait job{round} x"));
        wait_until_queued(db, "platform", 1).await;
        tokio::time::sleep(waited).await;
        assert_eq!(listening(db).await, listeners);
        let from = micros();
        guard.release().await.expect("it is held");
        let granted = process.granted(&format!("job{round}"), SOON);
        delays.push(Duration::from_micros(granted.at.saturating_sub(from)));
        process.release(&format!("job{round}"));
    }
    note(&format!("delays after waits of {waited:?}: {delays:?}"));
    delays
}

/// Commits a transaction of the application that is fenced, and then loses the lock.
async fn fence_works(pooled: &Pooled, db: &Database) {
    db.execute("CREATE TABLE IF NOT EXISTS app (n INTEGER)")
        .await;
    let locks = pooled.manager("writer").await;
    let mut conn = PgConnection::connect(&pooled.url)
        .await
        .expect("it connects");
    let insert = async |conn: &mut PgConnection, guard: &LockGuard| {
        let mut tx = conn.begin().await.expect("a transaction");
        let insert = sqlx::raw_sql(AssertSqlSafe("INSERT INTO app VALUES (1)".to_owned()));
        sqlx::Executor::execute(&mut *tx, insert)
            .await
            .expect("a table");
        guard.commit(tx).await
    };
    for _ in 0..3 {
        let guard = locks.acquire("fenced").await.expect("it is free");
        insert(&mut conn, &guard).await.expect("it is held");
        guard.release().await.expect("it is held");
    }
    let guard = locks.acquire("fenced").await.expect("it is free");
    let supervisor = pooled.manager("supervisor").await;
    supervisor.release_task("writer").await.expect("it answers");
    let refused = insert(&mut conn, &guard).await;
    assert!(refused.is_err_and(|error| error.is_lost()));
    let rows = db.connect().await.rows("SELECT n FROM app").await;
    assert_eq!(rows.expect("a table").len(), 3);
}

#[test]
fn session_mode_makes_no_difference() {
    run_behind(
        &["pool_mode = session", "default_pool_size = 60"],
        async |db, pooled| {
            // The connections override this default, which the pooler's connections have.
            let name = db.url().rsplit('/').next().expect("a database").to_owned();
            let hostile = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
            db.execute(&hostile).await;
            let mut delays = delays(&pooled, &db, Duration::from_secs(6), 1).await;
            // The looks of a process without notifications are 300 ms apart by then.
            delays.sort();
            assert!(delays[1] < Duration::from_millis(150), "{delays:?}");
            let back = format!("ALTER DATABASE {name} RESET default_transaction_read_only");
            db.execute(&format!("SET default_transaction_read_only = off; {back}"))
                .await;
        },
    );
}

#[test]
fn fence_works_in_session_mode() {
    run_behind(
        &["pool_mode = session", "default_pool_size = 60", FOR_OTHERS],
        async |db, pooled| {
            fence_works(&pooled, &db).await;
        },
    );
}

#[test]
fn waiters_behind_transaction_mode_are_as_fast_as_by_polling() {
    run_behind(&["pool_mode = transaction"], async |db, pooled| {
        let waited = Duration::from_secs(3);
        let delays = delays(&pooled, &db, waited, 0).await;
        // The looks are a twentieth of the waiting time apart.
        let longest = waited / 20 + Duration::from_millis(400);
        assert!(delays.iter().all(|delay| *delay < longest), "{delays:?}");
    });
}

#[test]
fn transaction_mode_leaves_nothing_on_the_connections_and_disturbs_no_client() {
    run_behind(
        &["pool_mode = transaction", FOR_OTHERS],
        async |db, pooled| {
            const STATE: &str = "SELECT (SELECT count(*) FROM pg_listening_channels())::text || ' ' \
                             || (SELECT count(*) FROM pg_prepared_statements)::text AS state, \
                             current_setting('lock_timeout') || current_setting('row_security') \
                             || current_setting('synchronous_commit') || \
                             current_setting('statement_timeout') AS settings";
            let mut direct = db.connect().await;
            let expected = direct.rows(STATE).await.expect("it answers")[0].clone();
            let end = Arc::new(AtomicBool::new(false));
            let mut others = Vec::new();
            for _ in 0..2 {
                let (url, end) = (pooled.url.clone(), end.clone());
                others.push(tokio::spawn(async move {
                    let mut conn = Plain::connect(&url).await.expect("it connects");
                    let mut queries = 0;
                    while !end.load(Relaxed) {
                        conn.rows("SELECT 1 AS n").await?;
                        conn.execute("BEGIN; SELECT pg_sleep(0.002); COMMIT")
                            .await?;
                        queries += 1;
                    }
                    Ok::<u32, sqlx::Error>(queries)
                }));
            }
            delays(&pooled, &db, Duration::from_millis(500), 0).await;
            fence_works(&pooled, &db).await;
            let locks = pooled.manager("last").await;
            let guard = locks.acquire("x").await.expect("it is free");
            let refused = locks.wait("x").timeout(Duration::from_millis(300)).await;
            assert!(refused.is_err_and(|error| error.is_timeout()));
            guard.release().await.expect("it is held");
            locks.close().await.expect("it answers");
            end.store(true, Relaxed);
            for other in others {
                let queries = other.await.expect("no panic").expect("no query fails");
                assert!(queries > 100, "{queries}");
            }
            for mut conn in pooled.all_server_connections().await {
                let state = conn.rows(STATE).await.expect("it answers");
                assert_eq!(state, std::slice::from_ref(&expected));
            }
        },
    );
}

#[test]
fn statements_of_other_clients_are_not_executed_behind_transaction_mode() {
    run_behind(
        &["pool_mode = transaction", FOR_OTHERS],
        async |_, pooled| {
            // As another client leaves them that uses sqlx as well.
            for mut conn in pooled.all_server_connections().await {
                for number in 1..=40 {
                    let prepare = format!("PREPARE sqlx_s_{number} AS SELECT 'of another client'");
                    conn.execute(&prepare).await.expect("it is new");
                }
                conn.execute("COMMIT").await.expect("a transaction");
            }
            let a = pooled.manager("a").await;
            let b = pooled.manager("b").await;
            for _ in 0..10 {
                let guard = a.acquire("x").await.expect("it is free");
                assert!(b.acquire("x").await.is_err_and(|error| error.is_busy()));
                guard.release().await.expect("it is held");
            }
            a.acquire("y").await.expect("it is free").detach();
            let released = b.release_task("a").await.expect("it answers");
            assert_eq!(released.len(), 1);
        },
    );
}

#[test]
fn pooler_that_gives_connections_by_turns_is_recognised() {
    let settings = [
        "pool_mode = transaction",
        "server_round_robin = 1",
        FOR_OTHERS,
    ];
    run_behind(&settings, async |db, pooled| {
        for _ in 0..3 {
            // All of the server connections exist.
            drop(pooled.all_server_connections().await);
            let locks = pooled.manager("holder").await;
            let guard = locks.acquire("x").await.expect("it is free");
            let waiting = tokio::spawn(locks.wait("x").into_future());
            wait_until_queued(&db, "platform", 1).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(listening(&db).await, 0);
            guard.release().await.expect("it is held");
            let guard = waiting.await.expect("no panic").expect("it is granted");
            guard.release().await.expect("it is held");
            locks.close().await.expect("it answers");
        }
    });
}

#[test]
fn statement_mode_is_refused_at_once() {
    run_behind(&["pool_mode = statement"], async |_, pooled| {
        let start = Instant::now();
        let refused = LockManager::connect(&pooled.url).await;
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        let error = refused.expect_err("there are no transactions");
        let text = error.to_string();
        note(&text);
        assert!(text.contains("a pooler in statement mode"), "{text}");
        assert!(text.contains("`transaction` or `session`"), "{text}");
        assert!(!error.is_transient(), "{error:?}");
    });
}

#[test]
fn pooler_with_one_server_connection_in_session_mode_is_told() {
    run_async(Engine::Postgres, async |db| {
        let settings = ["pool_mode = session", "default_pool_size = 1"];
        let Some(server) = Server::start_pooler(db.url(), &settings) else {
            return;
        };
        let port = Url::parse(server.url()).expect("a URL").port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.expect("a port")));
        let refused = LockManager::connect(&db.url_via(address)).await;
        let error = refused.expect_err("it needs two");
        assert!(error.to_string().contains("at least two"), "{error}");
    });
}

#[test]
fn pooler_that_restarts_is_an_outage() {
    run_behind(&["pool_mode = transaction"], async |_, pooled| {
        let locks = pooled.manager("holder").await;
        let guard = locks.acquire("x").await.expect("it is free");
        pooled.server.kill();
        pooled.server.start_again();
        let other = tokio::time::timeout(SOON, locks.wait("y")).await;
        let other = other.expect("not endless").expect("it is free");
        assert!(!guard.is_lost());
        other.release().await.expect("it is held");
        wait::until(SOON, "the release", async || {
            locks.acquire("y").await.is_ok()
        })
        .await;
    });
}
