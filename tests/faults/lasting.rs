//! Failures that last: a password that was changed, a server that is full, a server that is
//! read-only. What is held within its ttl stays, waits go on, and neither the log nor the server
//! is flooded.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use locks_core::{Expiry, LockManager};
use locks_tests::{
    engine::{Database, Engine, run_async_on, run_sync},
    events::{Event, Events},
    process::Peer,
    relay::Relay,
    server::Server,
    worker,
    worker::Worker,
};
use tracing::Level;

const SOON: Duration = Duration::from_secs(30);
/// How long the password is another one.
const ROTATED: Duration = Duration::from_secs(5);
const TTL: Duration = Duration::from_millis(1_500);
/// How long a question may take that needs no write.
const AT_ONCE: Duration = Duration::from_millis(2_500);
/// How many connects of a driver may fail before it tries once a second.
const FIRST_CONNECTS: u64 = 10;

/// A private server, and an account on it that is no administrator, behind a relay.
struct Scene {
    db: Database,
    relay: Relay,
    url: String,
    /// It identifies the events of this test.
    namespace: String,
}

impl Scene {
    async fn set(db: Database, namespace: &str) -> Self {
        Events::keep();
        let name = db.url().rsplit('/').next().expect("a path");
        let sql = match db.engine() {
            Engine::MySql => format!(
                "CREATE USER plain@'%' IDENTIFIED BY 'pencil';
                 GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO plain@'%'"
            ),
            _ => "CREATE USER plain PASSWORD 'pencil';
                  ALTER DEFAULT PRIVILEGES IN SCHEMA public
                  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO plain"
                .to_owned(),
        };
        db.execute(&sql).await;
        // The tables, made by the administrator.
        let owner = LockManager::connect(db.url()).await.expect("it connects");
        owner.close().await.expect("it closes");
        let relay = Relay::start(db.server_address());
        let mut url: url::Url = db.url_via(relay.address()).parse().expect("a URL");
        url.set_username("plain").expect("a URL with a host");
        url.set_password(Some("pencil")).expect("a URL with a host");
        Self {
            url: url.into(),
            db,
            relay,
            namespace: format!("{namespace}_{:08x}", fastrand::u32(..)),
        }
    }

    async fn connect(&self, ttl: Duration) -> LockManager {
        let builder = LockManager::builder().namespace(&self.namespace);
        let connected = builder.expiry(Expiry::After(ttl)).connect(&self.url).await;
        connected.expect("it connects")
    }

    async fn set_password(&self, password: &str) {
        let sql = match self.db.engine() {
            Engine::MySql => format!("ALTER USER plain@'%' IDENTIFIED BY '{password}'"),
            _ => format!("ALTER USER plain PASSWORD '{password}'"),
        };
        self.db.execute(&sql).await;
    }

    /// The events of this test that an operator sees.
    fn log(&self) -> Vec<Event> {
        let mut events = Events::keep().with("namespace", &self.namespace);
        events.retain(|event| event.level <= Level::WARN);
        events
    }

    /// Fails if drivers connected more than once a second since the relay had counted `before`.
    fn check_connects(&self, before: u64, since: Instant, drivers: u64) {
        let connects = self.relay.counters().connections - before;
        let allowed = drivers * (since.elapsed().as_secs() + 1 + FIRST_CONNECTS);
        assert!(
            connects <= allowed,
            "{connects} connects, {allowed} allowed"
        );
    }
}

locks_tests::on_every_engine!(sync process_without_file_descriptors);

/// No connection can be opened: those for renewals and for tasks are not there yet.
#[expect(clippy::needless_pass_by_value, reason = "the macro passes a value")]
fn process_without_file_descriptors(db: Database) {
    let ttl = TTL.as_millis().to_string();
    let mut worker = worker!(db.url(), "worker", "--ttl", ttl);
    assert_eq!(worker.ask("descriptors none"), "limited");
    worker.acquire("x");
    for _ in 0..4 {
        std::thread::sleep(TTL / 2);
        assert_eq!(worker.ask("lost"), "false");
    }
    worker.acquire("y");
    assert_eq!(worker.ask("release"), "released");
    assert_eq!(worker.ask("descriptors any"), "limited");
    std::thread::sleep(2 * TTL);
    assert_eq!(worker.ask("lost"), "false");
    assert_eq!(worker.ask("release"), "released");
}

#[test]
fn disk_that_is_full_for_less_and_for_longer_than_the_ttl() {
    run_sync(Engine::Sqlite, |db| {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
        command.args([env!("CARGO_BIN_EXE_peer"), "worker", db.url(), "worker"]);
        command.args(["--ttl", &TTL.as_millis().to_string()]);
        let mut worker = Worker::of(Peer::start(command));
        worker.acquire("x");
        assert_eq!(worker.ask("disk full"), "limited");
        std::thread::sleep(TTL / 2);
        assert_eq!(worker.ask("disk free"), "limited");
        std::thread::sleep(2 * TTL);
        assert_eq!(worker.ask("lost"), "false");
        assert_eq!(worker.ask("disk full"), "limited");
        let loss = worker.ask("loss");
        assert!(loss.contains("not renewed in time"), "{loss}");
        std::thread::sleep(TTL);
        assert_eq!(worker.ask("disk free"), "limited");
        let granted = worker.ask("wait x");
        assert!(granted.starts_with("granted"), "{granted}");
        assert_eq!(worker.ask("release"), "released");
    });
}

fn on_private_servers<F: Future<Output = ()>>(engine: Engine, test: fn(Database) -> F) {
    if let Some(server) = Server::start(engine) {
        run_async_on(Database::create_on(server.url()), test);
    }
}

async fn password_that_is_another_for_a_while(db: Database) {
    let scene = Scene::set(db, "rotated").await;
    let locks = scene.connect(Duration::from_secs(15)).await;
    let rival = scene.connect(Duration::from_secs(15)).await;
    let guard = locks.acquire("x").await.expect("it is free");
    let waiting = tokio::spawn(rival.wait("x").into_future());
    let new = locks.wait("y");
    let before = scene.relay.counters().connections;
    let since = Instant::now();
    scene.set_password("pen").await;
    scene.relay.cut_all();
    let new = tokio::spawn(new.into_future());
    tokio::time::sleep(ROTATED).await;
    assert!(!waiting.is_finished() && !new.is_finished(), "waits go on");
    assert!(!guard.is_lost());
    scene.check_connects(before, since, 2);
    scene.set_password("pencil").await;
    let new = tokio::time::timeout(SOON, new).await.expect("an answer");
    new.expect("no panic")
        .expect("it is free")
        .release()
        .await
        .expect("it is held");
    guard.release().await.expect("it is held");
    let waiting = tokio::time::timeout(SOON, waiting)
        .await
        .expect("an answer");
    drop(waiting.expect("no panic").expect("it is free now"));
    let log = scene.log();
    assert!(log.len() <= 10, "{log:?}");
}

/// For this test a server is full that has no place for another connection.
async fn server_that_is_full_from_the_first_grant_on(db: Database) {
    let scene = Scene::set(db, "full").await;
    let locks = scene.connect(TTL).await;
    let (before, since) = (scene.relay.counters().connections, Instant::now());
    scene.relay.refuse();
    let guard = locks.acquire("x").await.expect("the connection is there");
    while since.elapsed() < 3 * TTL {
        tokio::time::sleep(TTL / 10).await;
        assert!(!guard.is_lost(), "lost after {:?}", since.elapsed());
    }
    locks
        .acquire("y")
        .await
        .expect("it is free")
        .release()
        .await
        .expect("it is held");
    assert_eq!(locks.held().await.expect("an answer").len(), 1);
    scene.check_connects(before, since, 1);
    assert!(scene.log().is_empty(), "{:?}", scene.log());
    scene.relay.heal();
    tokio::time::sleep(2 * TTL).await;
    assert!(!guard.is_lost());
    guard.release().await.expect("it is held");
}

async fn server_that_is_read_only_for_three_ttls(db: Database) {
    let scene = Scene::set(db, "read_only").await;
    let locks = scene.connect(TTL).await;
    let guard = locks.acquire("x").await.expect("it is free");
    for sql in read_only(scene.db.engine(), true) {
        scene.db.execute(&sql).await;
    }
    let (before, since) = (scene.relay.counters().connections, Instant::now());
    let waiting = tokio::spawn(locks.wait("y").into_future());
    // The ttl ends without a renewal, and the guard says so.
    tokio::time::timeout(SOON, guard.lost())
        .await
        .expect("it is told");
    while since.elapsed() < 3 * TTL {
        let asked = Instant::now();
        let held = locks.held().await.expect("a question needs no write");
        assert_eq!(held.len(), 1);
        locks.waiting().await.expect("a question needs no write");
        assert!(
            asked.elapsed() < AT_ONCE,
            "answered after {:?}",
            asked.elapsed()
        );
        tokio::time::sleep(TTL / 5).await;
    }
    assert!(!waiting.is_finished(), "waits go on");
    scene.check_connects(before, since, 1);
    for sql in read_only(scene.db.engine(), false) {
        scene.db.execute(&sql).await;
    }
    let waiting = tokio::time::timeout(SOON, waiting)
        .await
        .expect("an answer");
    waiting
        .expect("no panic")
        .expect("it is free")
        .release()
        .await
        .expect("it is held");
    let log = scene.log();
    assert!(log.len() <= 10, "{log:#?}");
}

/// The statements that make the server refuse writes, or accept them again.
fn read_only(engine: Engine, is_on: bool) -> Vec<String> {
    if engine == Engine::MySql {
        return vec![format!("SET GLOBAL read_only = {}", u8::from(is_on))];
    }
    // The driver overrides `default_transaction_read_only`. A standby, which cannot write at all,
    // answers as these triggers do.
    let tables = ["locks", "lock_sessions", "lock_fences"];
    if !is_on {
        return tables
            .map(|table| format!("DROP TRIGGER refuse ON {table}"))
            .into();
    }
    let function = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                    RAISE EXCEPTION 'cannot write in a read-only transaction' \
                    USING ERRCODE = '25006'; END $$";
    let triggers = tables.map(|table| {
        format!(
            "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON {table} \
             FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
        )
    });
    [vec![function.to_owned()], triggers.into()].concat()
}

macro_rules! on_private_servers {
    ($($name:ident),+ $(,)?) => {
        mod mariadb_server {
            $(#[test] fn $name() {
                super::on_private_servers(locks_tests::engine::Engine::MySql, super::$name);
            })+
        }
        mod postgres_server {
            $(#[test] fn $name() {
                super::on_private_servers(locks_tests::engine::Engine::Postgres, super::$name);
            })+
        }
    };
}

on_private_servers!(
    password_that_is_another_for_a_while,
    server_that_is_full_from_the_first_grant_on,
    server_that_is_read_only_for_three_ttls,
);
