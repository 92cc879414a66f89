//! Wrong wall clocks, also while they change: they neither evict a live session nor keep a dead
//! one.

use std::{
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use locks_core::{Evidence, Expiry, LockManager};
use locks_tests::{
    engine::{Database, Engine},
    on_every_engine,
    process::Peer,
    server::Server,
    sessions::Session,
    wait::block_on_thread,
    wall_clock::WallClock,
    worker,
    worker::Worker,
};

const SOON: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(1);
const MARGIN: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(2);
const HOUR: i64 = 3_600;

on_every_engine!(
    async times_in_the_row_evict_no_live_session,
    async times_in_the_row_keep_no_dead_session,
);

/// The database, the lock's holder and the next holder, each with a wall clock of its own.
struct Scene {
    db: Database,
    server: Option<Server>,
    holder: Worker,
    successor: Worker,
    clocks: [WallClock; 2],
}

impl Scene {
    /// `None` where clocks cannot be wrong or a private server cannot be started.
    fn set(engine: Engine) -> Option<Self> {
        let clocks = [WallClock::new()?, WallClock::new()?];
        let (db, server) = if engine == Engine::Sqlite {
            // An SQLite database has the clock of the process that uses it.
            (Database::create(engine), None)
        } else {
            let server = Server::start_by(engine, Some(WallClock::new()?))?;
            (Database::create_on(server.url()), Some(server))
        };
        let ttl = TTL.as_millis().to_string();
        let worker = |task, clock: &WallClock| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_peer"));
            let args = ["worker", db.url(), task, "--ttl", &*ttl, "--by-time"];
            clock.rule(command.args(args));
            Worker::of(Peer::start(command))
        };
        let holder = worker("holder", &clocks[0]);
        let successor = worker("successor", &clocks[1]);
        Some(Self {
            db,
            server,
            holder,
            successor,
            clocks,
        })
    }

    fn clocks(&self) -> impl Iterator<Item = &WallClock> {
        let database = self.server.as_ref().and_then(Server::clock);
        database.into_iter().chain(&self.clocks)
    }

    fn set_all(&self, seconds: i64) {
        self.clocks().for_each(|clock| clock.set(seconds));
    }

    /// The test shows nothing if the clocks are right.
    fn assert_wrong(&mut self, seconds: i64) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = i64::try_from(now.expect("after 1970").as_secs()).expect("soon");
        let wrong = |clock: i64| (clock - now - seconds).abs() < 300;
        for worker in [&mut self.holder, &mut self.successor] {
            let clock = worker.ask("clock").parse().expect("a number");
            assert!(wrong(clock), "{clock} at {now}");
        }
        let sql = match self.db.engine() {
            Engine::Sqlite => return,
            Engine::MySql => "SELECT FLOOR(UNIX_TIMESTAMP(SYSDATE())) AS clock",
            Engine::Postgres => "SELECT floor(extract(epoch FROM clock_timestamp())) AS clock",
        };
        let rows = block_on_thread(async { self.db.connect().await.rows(sql).await });
        let clock = rows.expect("it knows the time")[0]
            .get("clock")
            .map(str::to_owned);
        let clock = clock.expect("not NULL").parse().expect("a number");
        assert!(wrong(clock), "{clock} at {now}");
    }
}

fn evict_no_live_session(engine: Engine) {
    let Some(mut scene) = Scene::set(engine) else {
        return;
    };
    scene.holder.acquire("x");
    scene.successor.send("wait x");
    // Each clock alone, then all together; each for a while, with renewals in it.
    for seconds in [HOUR, -HOUR] {
        for number in 0..scene.clocks().count() {
            scene.clocks().nth(number).expect("counted").set(seconds);
            scene.successor.expect_silence(TTL / 2);
            assert_eq!(scene.holder.ask("lost"), "false");
        }
    }
    for seconds in [HOUR, 0, -HOUR, HOUR] {
        scene.set_all(seconds);
        scene.successor.expect_silence(TTL);
        assert_eq!(scene.holder.ask("lost"), "false");
    }
    assert_eq!(scene.holder.ask("release"), "released");
    scene.successor.granted();
    scene.assert_wrong(HOUR);
    scene.set_all(-HOUR);
    scene.assert_wrong(-HOUR);
}

fn keep_no_dead_session(engine: Engine) {
    let Some(mut scene) = Scene::set(engine) else {
        return;
    };
    for seconds in [-HOUR, HOUR] {
        scene.set_all(0);
        scene.holder.acquire("x");
        scene.successor.send("wait x");
        let beat = Session::next_beat(&scene.db, "holder", SOON);
        let (before, _) = block_on_thread(beat);
        let stopped = Instant::now();
        scene.holder.stop();
        // While the session's time is running.
        std::thread::sleep(TTL / 3);
        scene.set_all(seconds);
        scene.successor.granted();
        assert!(before.elapsed() >= TTL + MARGIN, "{:?}", before.elapsed());
        assert!(
            stopped.elapsed() < TTL + MARGIN + LATE,
            "{:?}",
            stopped.elapsed()
        );
        scene.holder.cont();
        assert_eq!(scene.holder.ask("lost"), "true");
        assert!(scene.holder.ask("release").starts_with("refused: lost x: "));
        assert_eq!(scene.successor.ask("lost"), "false");
        assert_eq!(scene.successor.ask("release"), "released");
        scene.assert_wrong(seconds);
    }
}

#[test]
fn wrong_clocks_evict_no_live_session_on_sqlite() {
    evict_no_live_session(Engine::Sqlite);
}

#[test]
fn wrong_clocks_evict_no_live_session_on_mariadb() {
    evict_no_live_session(Engine::MySql);
}

#[test]
fn wrong_clocks_evict_no_live_session_on_postgres() {
    evict_no_live_session(Engine::Postgres);
}

#[test]
fn wrong_clocks_keep_no_dead_session_on_sqlite() {
    keep_no_dead_session(Engine::Sqlite);
}

#[test]
fn wrong_clocks_keep_no_dead_session_on_mariadb() {
    keep_no_dead_session(Engine::MySql);
}

#[test]
fn wrong_clocks_keep_no_dead_session_on_postgres() {
    keep_no_dead_session(Engine::Postgres);
}

/// Repeatedly writes a time into the row that is an hour too early or too late.
async fn tamper(db: &Database) {
    let mut conn = db.connect().await;
    let times = match db.engine() {
        Engine::Sqlite => [
            "strftime('%FT%TZ', 'now', '-1 hour')",
            "strftime('%FT%TZ', 'now', '+1 hour')",
        ],
        Engine::MySql => [
            "SYSDATE(6) - INTERVAL 1 HOUR",
            "SYSDATE(6) + INTERVAL 1 HOUR",
        ],
        Engine::Postgres => [
            "clock_timestamp() - interval '1 hour'",
            "clock_timestamp() + interval '1 hour'",
        ],
    };
    for time in times.iter().cycle() {
        let sql = format!("UPDATE lock_sessions SET seenAt = {time}");
        // On SQLite another connection may be writing.
        let _ = conn.execute(&sql).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn successor(db: &Database) -> LockManager {
    let builder = LockManager::builder()
        .task_id("successor")
        .evidence(Evidence::Time);
    let builder = builder.expiry(Expiry::After(TTL));
    builder.connect(db.url()).await.expect("it connects")
}

async fn times_in_the_row_evict_no_live_session(db: Database) {
    let mut holder = worker!(db.url(), "holder", "--ttl", TTL.as_millis().to_string());
    holder.acquire("x");
    let successor = successor(&db).await;
    tokio::select! {
        waited = successor.wait("x").timeout(3 * TTL) => {
            assert!(waited.expect_err("it is held").is_timeout());
        }
        () = tamper(&db) => {}
    }
    assert_eq!(holder.ask("lost"), "false");
}

async fn times_in_the_row_keep_no_dead_session(db: Database) {
    let mut holder = worker!(db.url(), "holder", "--ttl", TTL.as_millis().to_string());
    holder.acquire("x");
    let successor = successor(&db).await;
    let (before, _) = Session::next_beat(&db, "holder", SOON).await;
    holder.stop();
    let stopped = Instant::now();
    let guard = tokio::select! {
        granted = successor.wait("x").timeout(SOON) => granted.expect("it passes on"),
        () = tamper(&db) => panic!("it goes on for ever"),
    };
    assert!(before.elapsed() >= TTL + MARGIN, "{:?}", before.elapsed());
    assert!(
        stopped.elapsed() < TTL + MARGIN + LATE,
        "{:?}",
        stopped.elapsed()
    );
    holder.cont();
    assert_eq!(holder.ask("lost"), "true");
    guard.release().await.expect("it is ours");
}
