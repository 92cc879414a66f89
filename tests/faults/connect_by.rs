//! Connect options that a closure returns: credentials that change, several hosts, and closures
//! that fail.

use std::{
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use locks_core::{
    Expiry, IntoConnectOptions, LockManager,
    sqlx::{mysql::MySqlConnectOptions, postgres::PgConnectOptions, sqlite::SqliteConnectOptions},
};
use locks_tests::{
    engine::{Database, Engine},
    on_every_engine,
    relay::Relay,
    wait,
};

const SOON: Duration = Duration::from_secs(20);
const TTL: Duration = Duration::from_secs(2);

on_every_engine!(
    servers:
    async new_password_is_used_at_each_reconnect,
    async next_host_is_tried_when_the_first_is_down,
    async failing_closure_is_an_outage_after_the_first_connect,
    async endless_or_panicking_closure_does_not_stop_the_driver,
);

/// Connects with options for the URL that the closure returns.
async fn connect<E>(
    engine: Engine,
    ttl: Duration,
    url: impl AsyncFn() -> Result<String, E> + Send + Sync + 'static,
) -> locks_core::Result<LockManager>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let builder = LockManager::builder().expiry(Expiry::After(ttl));
    match engine {
        Engine::MySql => {
            builder
                .connect_by(async move || parsed::<MySqlConnectOptions, E>(url().await))
                .await
        }
        Engine::Postgres => {
            builder
                .connect_by(async move || parsed::<PgConnectOptions, E>(url().await))
                .await
        }
        Engine::Sqlite => {
            builder
                .connect_by(async move || parsed::<SqliteConnectOptions, E>(url().await))
                .await
        }
    }
}

fn parsed<O, E>(url: Result<String, E>) -> Result<O, Box<dyn std::error::Error + Send + Sync>>
where
    O: IntoConnectOptions + std::str::FromStr<Err = sqlx::Error>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Ok(url.map_err(Into::into)?.parse()?)
}

/// An account of this test only.
struct Account<'d> {
    db: &'d Database,
    name: String,
}

impl<'d> Account<'d> {
    async fn create(db: &'d Database, password: &str) -> Self {
        let name = format!("u{:08x}", fastrand::u32(..));
        let this = Self { db, name };
        let Self { name, .. } = &this;
        if db.engine() == Engine::MySql {
            let database = db.url().rsplit('/').next().expect("a database");
            db.execute(&format!(
                "CREATE USER '{name}'@'%' IDENTIFIED BY '{password}'; \
                 GRANT ALL ON {database}.* TO '{name}'@'%'"
            ))
            .await;
        } else {
            db.execute(&format!(
                "CREATE ROLE {name} LOGIN PASSWORD '{password}'; \
                 GRANT USAGE, CREATE ON SCHEMA public TO {name}"
            ))
            .await;
        }
        this
    }

    async fn set_password(&self, password: &str) {
        let Self { db, name } = self;
        let sql = match db.engine() {
            Engine::MySql => format!("ALTER USER '{name}'@'%' IDENTIFIED BY '{password}'"),
            _ => format!("ALTER ROLE {name} PASSWORD '{password}'"),
        };
        db.execute(&sql).await;
    }

    async fn drop(self) {
        let Self { db, name } = self;
        let sql = match db.engine() {
            Engine::MySql => format!("DROP USER '{name}'@'%'"),
            _ => format!("DROP OWNED BY {name}; DROP ROLE {name}"),
        };
        db.execute(&sql).await;
    }
}

async fn new_password_is_used_at_each_reconnect(db: Database) {
    let account = Account::create(&db, "first").await;
    let relay = Relay::start(db.server_address());
    let base = db.url_via(relay.address());
    let password = Arc::new(Mutex::new("first".to_owned()));
    let calls = Arc::new(AtomicU64::new(0));
    let (name, current, count) = (account.name.clone(), password.clone(), calls.clone());
    let url = async move || {
        count.fetch_add(1, Relaxed);
        let mut url = url::Url::parse(&base)?;
        let password = current.lock().expect("no panic").clone();
        let changed = url
            .set_username(&name)
            .and(url.set_password(Some(&password)));
        changed.expect("a server has accounts");
        Ok::<_, url::ParseError>(url.to_string())
    };
    let locks = connect(db.engine(), TTL, url).await.expect("it connects");
    let held = locks.acquire("held").await.expect("it is free");
    for round in 0..3 {
        let next = format!("password_{round}");
        account.set_password(&next).await;
        password.lock().expect("no panic").clone_from(&next);
        relay.cut_all();
        let guard = tokio::time::timeout(SOON, locks.wait("other")).await;
        let guard = guard.expect("not endless").expect("it is free");
        guard.release().await.expect("it is held");
        tokio::time::sleep(TTL * 3 / 2).await;
        assert!(!held.is_lost(), "it is renewed with the new password");
    }
    // Only the first connect opens more than one connection, to learn about the server.
    let (calls, connections) = (calls.load(Relaxed), relay.counters().connections);
    assert!(
        (calls..=calls + 2).contains(&connections),
        "{calls} calls, {connections} connections"
    );
    held.release().await.expect("it is held");
    locks.close().await.expect("it answers");
    account.drop().await;
}

async fn next_host_is_tried_when_the_first_is_down(db: Database) {
    let dead = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address")
    };
    let relay = Relay::start(db.server_address());
    let second = Relay::start(db.server_address());
    let hosts = [
        db.url_via(dead),
        db.url_via(relay.address()),
        db.url_via(second.address()),
    ];
    let calls = AtomicU64::new(0);
    let url = async move || {
        let call = usize::try_from(calls.fetch_add(1, Relaxed)).expect("few");
        Ok::<_, sqlx::Error>(hosts[call % hosts.len()].clone())
    };
    let locks = connect(db.engine(), 5 * TTL, url)
        .await
        .expect("the second is up");
    let held = locks.acquire("held").await.expect("it is free");
    for (down, up) in [(&relay, &second), (&second, &relay)] {
        up.heal();
        down.refuse();
        down.cut_all();
        let guard = tokio::time::timeout(SOON, locks.wait("other")).await;
        let guard = guard.expect("not endless").expect("it is free");
        guard.release().await.expect("it is held");
    }
    assert!(!held.is_lost());
}

async fn failing_closure_is_an_outage_after_the_first_connect(db: Database) {
    let relay = Relay::start(db.server_address());
    let base = db.url_via(relay.address());
    let fails = Arc::new(AtomicU64::new(1));
    let calls = Arc::new(AtomicU64::new(0));
    let closure = |count: &Arc<AtomicU64>, fails: &Arc<AtomicU64>| {
        let (count, fails, base) = (count.clone(), fails.clone(), base.clone());
        async move || {
            count.fetch_add(1, Relaxed);
            match fails.load(Relaxed) {
                0 => Ok(base.clone()),
                _ => Err("no token for the database"),
            }
        }
    };
    let ttl = Duration::from_secs(15);
    // At first it is final, and the caller gets the closure's own error.
    let refused = connect(db.engine(), ttl, closure(&calls, &fails)).await;
    let error = refused.expect_err("there are no options");
    assert!(
        error.to_string().contains("no token for the database"),
        "{error}"
    );
    assert!(!error.is_transient(), "{error:?}");
    assert_eq!(calls.load(Relaxed), 1);

    fails.store(0, Relaxed);
    let locks = connect(db.engine(), ttl, closure(&calls, &fails)).await;
    let locks = locks.expect("it connects");
    let held = locks.acquire("held").await.expect("it is free");
    fails.store(1, Relaxed);
    calls.store(0, Relaxed);
    relay.cut_all();
    let waiting = tokio::spawn(locks.wait("other").into_future());
    let refused = locks.wait("third").timeout(Duration::from_secs(1)).await;
    let error = refused.expect_err("the database is not reached");
    assert!(error.is_transient(), "{error:?}");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let during = calls.load(Relaxed);
    // At once, soon again, and then once a second.
    assert!((2..=16).contains(&during), "{during} calls in 5 s");
    assert!(!waiting.is_finished());
    fails.store(0, Relaxed);
    let guard = tokio::time::timeout(SOON, waiting).await.expect("soon");
    let guard = guard.expect("no panic").expect("it waits on");
    assert!(!held.is_lost());
    guard.release().await.expect("it is held");
}

async fn endless_or_panicking_closure_does_not_stop_the_driver(db: Database) {
    let base = db.url().to_owned();
    let relay = Relay::start(db.server_address());
    let via = db.url_via(relay.address());
    let refused = connect(db.engine(), TTL, async || -> Result<String, sqlx::Error> {
        panic!("no options today")
    });
    let error = refused.await.expect_err("there are no options");
    assert!(error.to_string().contains("no options today"), "{error}");

    let calls = AtomicU64::new(0);
    let url = async move || {
        match calls.fetch_add(1, Relaxed) {
            // The connections of the rows and of the renewals.
            0 | 1 => {}
            2 => panic!("once"),
            3 => std::future::pending().await,
            _ => std::thread::sleep(Duration::from_hours(1)),
        }
        Ok::<_, sqlx::Error>(via.clone())
    };
    let locks = connect(db.engine(), TTL, url).await.expect("it connects");
    let guard = locks.acquire("x").await.expect("it is free");
    wait::until(SOON, "two connections", async || relay.counters().open >= 2).await;
    relay.cut_all();
    // The loss does not depend on a connection.
    let lost = tokio::time::timeout(SOON, guard.lost()).await;
    lost.expect("it is told in time");
    let start = Instant::now();
    let closed = tokio::time::timeout(SOON, locks.close()).await;
    // The locks could not be released.
    assert!(closed.is_ok(), "it ends: {:?}", start.elapsed());
    let other = LockManager::connect(&base).await.expect("it is there");
    other.close().await.expect("nothing is held");
}
