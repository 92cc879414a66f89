//! Databases that are unavailable for longer than the ttl, and for less: when they return, no
//! session is evicted that still had time, and every lost lock is reported.

use std::time::{Duration, Instant};

use locks_core::{Evidence, Expiry, LockGuard, LockManager};
use locks_tests::{
    engine::{Database, Engine, run_async},
    events::{Events, HEARTBEAT_EXPIRED},
    journal::{Journal, Tx},
    on_engine, on_every_engine,
    relay::Relay,
    server::Server,
    sessions::Session,
    wait, worker,
    worker::Worker,
};
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(40);
const TTL: Duration = Duration::from_millis(1_200);
/// A part of the reason of a loss.
const NOT_RENEWED: &str = "not renewed in time";
/// The ttl of sessions that survive an outage which is too long for the others.
const LONG: Duration = Duration::from_secs(9);

on_every_engine!(
    servers:
    async short_outage_loses_no_lock,
    async short_silence_loses_no_lock,
    async long_outage_reports_losses_and_evicts_no_session,
);

/// Several holders, and a task that waits for all of their locks, all behind one relay.
struct Scene {
    relay: Relay,
    namespace: String,
    holders: Vec<Worker>,
    rival: LockManager,
    waiting: Vec<JoinHandle<LockGuard>>,
}

impl Scene {
    async fn set(db: &Database, ttls: &[Duration]) -> Self {
        let relay = Relay::start(db.server_address());
        let url = db.url_via(relay.address());
        // The namespace identifies the events of this test.
        let namespace = format!("outage_{:08x}", fastrand::u32(..));
        let rival = LockManager::builder()
            .task_id("rival")
            .namespace(&namespace);
        let rival = rival.expiry(Expiry::After(TTL)).evidence(Evidence::Time);
        let rival = rival.connect(&url).await.expect("it connects");
        let mut holders = Vec::new();
        let mut waiting = Vec::new();
        for (number, ttl) in ttls.iter().enumerate() {
            let task = format!("holder_{number}");
            let ttl = ttl.as_millis().to_string();
            let mut holder = worker!(url, task, "--ttl", ttl, "--namespace", namespace);
            let name = format!("lock_{number}");
            holder.acquire(&name);
            holders.push(holder);
            let asked = rival.wait(name);
            waiting.push(tokio::spawn(
                async move { asked.await.expect("it waits on") },
            ));
        }
        wait::until(SOON, "the rival waits", async || {
            rival.waiting().await.expect("it answers").len() == ttls.len()
        })
        .await;
        Self {
            relay,
            namespace,
            holders,
            rival,
            waiting,
        }
    }

    /// Evictions by this process of sessions whose heartbeat expired.
    fn evictions(&self) -> usize {
        let events = Events::keep().with("namespace", &self.namespace);
        let evicted = events.iter().filter(|event| {
            let reason = event.get("reason").unwrap_or_default();
            reason.contains(HEARTBEAT_EXPIRED)
        });
        evicted.count()
    }
}

async fn short_outage_loses_no_lock(db: Database) {
    short_outage(db, |relay| {
        relay.refuse();
        relay.cut_all();
    })
    .await;
}

async fn short_silence_loses_no_lock(db: Database) {
    short_outage(db, Relay::stall).await;
}

async fn short_outage(db: Database, begin: impl FnOnce(&Relay)) {
    Events::keep();
    let ttl = 3 * TTL;
    let mut scene = Scene::set(&db, &[ttl; 4]).await;
    begin(&scene.relay);
    tokio::time::sleep(ttl / 3).await;
    scene.relay.heal();
    for number in 0..4 {
        Session::next_beat(&db, &format!("holder_{number}"), ttl).await;
    }
    tokio::time::sleep(ttl).await;
    assert_eq!(scene.evictions(), 0);
    for holder in &mut scene.holders {
        assert_eq!(holder.ask("lost"), "false");
    }
    assert!(scene.waiting.iter().all(|waiting| !waiting.is_finished()));
    for holder in &mut scene.holders {
        assert_eq!(holder.ask("release"), "released");
    }
    for waiting in scene.waiting {
        drop(waiting.await.expect("it is granted"));
    }
    scene.rival.close().await.expect("it closes");
}

async fn long_outage_reports_losses_and_evicts_no_session(db: Database) {
    Events::keep();
    let journal = Journal::open(db.url()).await;
    let mut scene = Scene::set(&db, &[TTL, LONG, TTL, LONG]).await;
    // Just renewed, so that those with the longer ttl have enough time.
    Session::next_beat(&db, "holder_1", SOON).await;
    let away = Instant::now();
    scene.relay.refuse();
    scene.relay.cut_all();
    // The loss is reported while the database is unavailable, by the holder's own clock.
    for number in [0, 2] {
        let reported = scene.holders[number].ask("loss");
        assert!(reported.contains(NOT_RENEWED), "{reported}");
    }
    assert!(
        away.elapsed() < TTL + Duration::from_secs(1),
        "{:?}",
        away.elapsed()
    );
    tokio::time::sleep_until((away + 3 * TTL).into()).await;
    for number in [1, 3] {
        assert_eq!(scene.holders[number].ask("lost"), "false");
    }
    scene.relay.heal();
    let back = Instant::now();
    // Every observation starts again, so no session can have been evicted before.
    tokio::time::sleep_until((back + TTL).into()).await;
    assert_eq!(scene.evictions(), 0);
    for number in [1, 3] {
        Session::next_beat(&db, &format!("holder_{number}"), LONG).await;
        assert_eq!(scene.holders[number].ask("lost"), "false");
        assert!(!scene.waiting[number].is_finished());
    }
    assert_eq!(scene.evictions(), 0);
    // The release by a former holder is refused, and the task continues with a new session.
    for number in [0, 2] {
        assert_eq!(scene.holders[number].ask("begin late"), "begun");
        let refused = scene.holders[number].ask("commit");
        assert!(refused.starts_with("refused: lost"), "{refused}");
        scene.holders[number].acquire(&format!("another_{number}"));
    }
    assert_eq!(journal.entries().await, [""; 0]);
    for (number, waiting) in scene.waiting.into_iter().enumerate() {
        if number % 2 == 1 {
            assert_eq!(scene.holders[number].ask("release"), "released");
        }
        drop(waiting.await.expect("it is granted"));
    }
    scene.rival.close().await.expect("it closes");
}

/// A server that is killed, and starts again with its data.
fn a_server_that_crashes_and_comes_back(engine: Engine) {
    let Some(server) = Server::start(engine) else {
        return;
    };
    let db = Database::create_on(server.url());
    let mut short = worker!(db.url(), "short", "--ttl", TTL.as_millis().to_string());
    // A server and a machine take their time to start.
    let mut long = worker!(db.url(), "long", "--ttl", "120000");
    short.acquire("x");
    long.acquire("y");
    server.kill();
    let reported = short.ask("loss");
    assert!(reported.contains(NOT_RENEWED), "{reported}");
    server.start_again();
    let successor = LockManager::builder()
        .task_id("successor")
        .evidence(Evidence::Time);
    let successor = successor.connect(db.url()).blocking().expect("it is back");
    let guard = successor
        .wait("x")
        .timeout(SOON)
        .blocking()
        .expect("it was lost");
    assert!(
        successor
            .acquire("y")
            .blocking()
            .expect_err("it is held")
            .is_busy()
    );
    assert_eq!(short.ask("lost"), "true");
    assert!(short.ask("release").starts_with("refused: lost x: "));
    assert_eq!(long.ask("lost"), "false");
    assert_eq!(long.ask("release"), "released");
    guard.release().blocking().expect("it is ours");
    successor.close().blocking().expect("it closes");
    drop((short, long));
    drop(db);
}

#[test]
fn mariadb_crashes_and_comes_back() {
    a_server_that_crashes_and_comes_back(Engine::MySql);
}

#[test]
fn postgres_crashes_and_comes_back() {
    a_server_that_crashes_and_comes_back(Engine::Postgres);
}

/// On SQLite, a long write transaction blocks every other writer. Sessions are renewed beside the
/// file then, unless that is not possible either.
#[test]
fn sqlite_locked_for_longer_than_the_ttl_reports_losses() {
    run_async(Engine::Sqlite, async |db| {
        db.block_heartbeat_files();
        let journal = Journal::open(db.url()).await;
        let mut short = worker!(db.url(), "short", "--ttl", TTL.as_millis().to_string());
        let mut long = worker!(db.url(), "long", "--ttl", LONG.as_millis().to_string());
        short.acquire("x");
        long.acquire("y");
        let successor = LockManager::builder()
            .task_id("successor")
            .evidence(Evidence::Time);
        let successor = successor.connect(db.url()).await.expect("it connects");
        let waiting = successor.wait("x");
        let waiting = tokio::spawn(async move { waiting.await.expect("it waits on") });
        let queued = async || successor.waiting().await.expect("it answers").len() == 1;
        wait::until(SOON, "the next holder waits", queued).await;
        Session::next_beat(&db, "long", SOON).await;
        let tx = journal.begin_entry("slow").await.expect("it begins");
        let reported = short.ask("loss");
        assert!(reported.contains(NOT_RENEWED), "{reported}");
        tokio::time::sleep(2 * TTL).await;
        assert!(!waiting.is_finished());
        assert_eq!(long.ask("lost"), "false");
        on_engine!(Tx, tx, tx => tx.commit().await).expect("it can");
        let guard = waiting.await.expect("it is granted");
        Session::next_beat(&db, "long", LONG).await;
        assert_eq!(long.ask("lost"), "false");
        guard.release().await.expect("it is ours");
        assert_eq!(long.ask("release"), "released");
        assert!(short.ask("release").starts_with("refused: lost x: "));
    });
}
