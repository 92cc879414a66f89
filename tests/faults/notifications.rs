//! Notifications that are lost, delayed or never sent: they cost time, never a grant.

use std::{future::IntoFuture as _, time::Duration};

use locks_core::{LockGuard, LockManager};
use locks_tests::{
    clock::micros,
    engine::{Database, Engine, note, run_async, run_async_on},
    relay::{How, Relay, When},
    row::wait_until_queued,
    server::Server,
    wait, waiter,
    waiter::Waiter,
};

const SOON: Duration = Duration::from_secs(20);
/// The limit for a grant without a notification: a second between two looks, and the statements.
const UNNOTIFIED: Duration = Duration::from_millis(1_500);

/// The number of connections that listen, or try to.
async fn listening(db: &Database) -> usize {
    let mut conn = db.connect().await;
    let sql = "SELECT count(*) AS n FROM pg_stat_activity \
               WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let rows = conn.rows(sql).await.expect("it may be asked");
    rows[0]
        .get("n")
        .expect("a number")
        .parse()
        .expect("a number")
}

async fn wait_until_listening(db: &Database) {
    wait::until(SOON, "a connection that listens", async || {
        listening(db).await == 1
    })
    .await;
    // The server shows `LISTEN` as the last statement as soon as it begins.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn held(url: &str) -> LockGuard {
    let holder = LockManager::builder().task_id("holder").connect(url).await;
    let holder = holder.expect("it is there");
    holder.acquire("x").await.expect("it is free")
}

/// A process that waits and listens.
async fn listener(db: &Database) -> Waiter {
    let mut waiter = waiter!(db.url(), "waiter");
    waiter.tell("wait job x");
    wait_until_queued(db, "platform", 1).await;
    wait_until_listening(db).await;
    waiter
}

/// How often the table of the rows was looked at, by any connection.
async fn looks(db: &Database) -> i64 {
    let mut conn = db.connect().await;
    let sql = "SELECT COALESCE(seq_scan, 0) + COALESCE(idx_scan, 0) AS n \
               FROM pg_stat_user_tables WHERE relname = 'locks'";
    let rows = conn.rows(sql).await.expect("it may be asked");
    let looks = rows[0].get("n").expect("a number");
    looks.parse().expect("a number")
}

/// The time from `from` to the grant.
fn delay(waiter: &mut Waiter, from: u64) -> Duration {
    let granted = waiter.granted("job", SOON);
    Duration::from_micros(granted.at.saturating_sub(from))
}

#[test]
fn lost_notification_only_delays_the_grant() {
    run_async(Engine::Postgres, async |db| {
        let relay = Relay::start(db.server_address());
        let guard = held(&db.url_via(relay.address())).await;
        let mut waiter = listener(&db).await;
        relay.arm(When::Containing(b"pg_notify".to_vec()), How::CutBefore);
        let from = micros();
        guard.release().await.expect("it is held");
        let delay = delay(&mut waiter, from);
        note(&format!("a grant without its notification: {delay:?}"));
        assert!(delay < UNNOTIFIED, "{delay:?}");
        assert_eq!(relay.counters().cut_before, 1);
    });
}

#[test]
fn late_notification_is_harmless() {
    run_async(Engine::Postgres, async |db| {
        let relay = Relay::start(db.server_address());
        let guard = held(&db.url_via(relay.address())).await;
        let mut waiter = listener(&db).await;
        let late = How::Delay(Duration::from_secs(4));
        relay.arm(When::Containing(b"pg_notify".to_vec()), late);
        let from = micros();
        guard.release().await.expect("it is held");
        let delay = delay(&mut waiter, from);
        assert!(delay < UNNOTIFIED, "{delay:?}");
        // When the delayed notification arrives, it tells nothing new.
        let delayed = |counters: &locks_tests::relay::Counters| counters.delayed == 1;
        relay.wait_for(SOON, "the notification", delayed).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        waiter.release("job");
        waiter.tell("pass again x");
        waiter.granted("again", SOON);
    });
}

#[test]
fn requests_are_granted_without_listen() {
    run_async(Engine::Postgres, async |db| {
        let guard = held(db.url()).await;
        let relay = Relay::start(db.server_address());
        relay.arm(When::Containing(b"LISTEN".to_vec()), How::Stall);
        let mut waiter = waiter!(db.url_via(relay.address()), "waiter");
        waiter.tell("wait job x");
        wait_until_queued(&db, "platform", 1).await;
        let stalled = |counters: &locks_tests::relay::Counters| counters.stalled == 1;
        relay.wait_for(SOON, "the attempt to listen", stalled).await;
        assert_eq!(listening(&db).await, 0);
        // The looks are a twentieth of the waiting time apart.
        let length = Duration::from_secs(4);
        tokio::time::sleep(length).await;
        let from = micros();
        guard.release().await.expect("it is held");
        let delay = delay(&mut waiter, from);
        assert!(
            delay < length / 20 + Duration::from_millis(400),
            "{delay:?}"
        );
    });
}

#[test]
fn change_without_notification_is_found() {
    run_async(Engine::Postgres, async |db| {
        let holder = LockManager::builder()
            .task_id("holder")
            .connect(db.url())
            .await;
        let holder = holder.expect("it is there");
        let other = holder.acquire("other").await.expect("it is free");
        // As the original does it, without a notification. It appears so to a process whose
        // listening connection is dead.
        let write =
            |data: &str| format!("UPDATE locks SET dataJson = '{data}', version = version + 1");
        db.execute(&write(r#"{"other":"holder","x":"original"}"#))
            .await;
        let mut waiter = listener(&db).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(waiter.is_silent_about("granted"));
        let from = micros();
        db.execute(&write(r#"{"other":"holder"}"#)).await;
        let delay = delay(&mut waiter, from);
        assert!(delay < UNNOTIFIED, "{delay:?}");
        other.release().await.expect("it is held");
    });
}

#[test]
fn notifications_are_not_trusted_before_one_of_the_own_is_heard() {
    run_async(Engine::Postgres, async |db| {
        let holder = LockManager::builder().task_id("holder").connect(db.url());
        let holder = holder.await.expect("it is there");
        let other = holder.acquire("other").await.expect("it is free");
        // No session is in the row: a process also looks at the row when it looks at sessions.
        other.release().await.expect("it is held");
        let write =
            |data: &str| format!("UPDATE locks SET dataJson = '{data}', version = version + 1");
        db.execute(&write(r#"{"x":"original"}"#)).await;
        let relay = Relay::start(db.server_address());
        // No probe reaches the server.
        for _ in 0..200 {
            relay.arm(When::Containing(b"pg_notify".to_vec()), How::CutBefore);
        }
        let mut waiter = waiter!(db.url_via(relay.address()), "waiter");
        waiter.tell("wait job x");
        wait_until_queued(&db, "platform", 1).await;
        wait_until_listening(&db).await;
        // A process that trusts notifications looks once a second, and this one ten times as often
        // in the first seconds. Looks are counted, because a busy machine delays a grant.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = looks(&db).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let looks = looks(&db).await - before;
        assert!(looks >= 12, "{looks} looks in four seconds");
        assert!(waiter.is_silent_about("granted"));
        // A write without a notification, as if the server delivered none.
        db.execute(&write("{}")).await;
        waiter.granted("job", SOON);
        waiter.release("job");
        assert!(relay.counters().cut_before >= 3, "{:?}", relay.counters());
    });
}

/// Makes every notification fail as on a server whose queue of notifications is full, which takes
/// 8 GB of them.
async fn fill_queue(db: &Database) {
    let mut conn = db.connect().await;
    for sql in [
        "SET allow_system_table_mods = on",
        "UPDATE pg_proc SET proname = 'pg_notify_of_the_server' WHERE proname = 'pg_notify'",
        "CREATE FUNCTION pg_catalog.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$BEGIN \
         RAISE EXCEPTION 'too many notifications in the NOTIFY queue' USING ERRCODE = '54000'; \
         END$$",
    ] {
        conn.execute(sql).await.expect("a superuser may");
    }
}

#[test]
fn full_queue_of_notifications_costs_no_reconnect() {
    let Some(server) = Server::start(Engine::Postgres) else {
        return;
    };
    run_async_on(Database::create_on(server.url()), async |db: Database| {
        let relay = Relay::start(db.server_address());
        let url = db.url_via(relay.address());
        let connect = async |task| {
            let locks = LockManager::builder().task_id(task).connect(&url).await;
            locks.expect("it connects")
        };
        let (first, second) = (connect("first").await, connect("second").await);
        fill_queue(&db).await;
        let mut guard = first.acquire("x").await.expect("it is free");
        let mut connections = None;
        for turn in 0..20 {
            let next = [&second, &first][turn % 2];
            let waiting = tokio::spawn(next.wait("x").into_future());
            wait_until_queued(&db, "platform", 1).await;
            guard.release().await.expect("it is held");
            guard = waiting.await.expect("no panic").expect("it is granted");
            // The first requests that wait open side connections.
            if turn == 9 {
                connections = Some(relay.counters().connections);
            }
        }
        guard.release().await.expect("it is held");
        assert_eq!(Some(relay.counters().connections), connections);
        for locks in [first, second] {
            locks.close().await.expect("it closes");
        }
    });
}

#[test]
fn disconnected_listener_listens_again() {
    run_async(Engine::Postgres, async |db| {
        let guard = held(db.url()).await;
        let mut waiter = listener(&db).await;
        let killed = db
            .connect()
            .await
            .rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND query LIKE 'LISTEN%'",
            )
            .await
            .expect("it may");
        assert_eq!(killed.len(), 1);
        wait_until_listening(&db).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let from = micros();
        guard.release().await.expect("it is held");
        let delay = delay(&mut waiter, from);
        assert!(
            delay < Duration::from_millis(200),
            "it is notified again: {delay:?}"
        );
    });
}

#[test]
fn connection_listens_only_while_requests_wait() {
    run_async(Engine::Postgres, async |db| {
        let guard = held(db.url()).await;
        assert_eq!(listening(&db).await, 0);
        let mut waiter = listener(&db).await;
        guard.release().await.expect("it is held");
        waiter.granted("job", SOON);
        // After a delay, because the next request may come.
        let limit = Duration::from_secs(30);
        wait::until(limit, "no connection listens", async || {
            listening(&db).await == 0
        })
        .await;
    });
}
