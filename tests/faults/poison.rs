//! Requests that the database cannot store, among others: each fault is that of its request.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use locks_core::{LockError, LockGuard, LockManager};
use locks_tests::{
    engine::{Database, Engine, run_async_on},
    relay::Relay,
    row,
    server::Server,
};

const SOON: Duration = Duration::from_secs(20);
const OTHERS: usize = 99;
/// More bytes than a server accepts that is started with [`PACKET`].
const LONG: usize = 400;
const PACKET: &str = "--max-allowed-packet=65536";

/// A list of names of 250 bytes each.
fn long_list() -> Vec<String> {
    (0..LONG).map(|n| format!("long_{n:0245}")).collect()
}

/// Requests 100 things at once, one of which the database refuses, and returns its error. A
/// lock that was held before is released in between.
async fn among_others(locks: &LockManager, poison: Vec<String>) -> LockError {
    let held = locks.acquire("held_before").await.expect("it is free");
    let first = poison[0].clone();
    let mut requests = Vec::new();
    for number in 0..=OTHERS {
        let names = if number == OTHERS / 2 {
            poison.clone()
        } else {
            vec![format!("other_{number}")]
        };
        requests.push(tokio::spawn(locks.wait(names).timeout(SOON).into_future()));
    }
    let released = tokio::time::timeout(SOON, held.release()).await;
    released
        .expect("an answer")
        .expect("a release can be written");
    let answers = tokio::time::timeout(2 * SOON, join_all(requests)).await;
    let answers = answers.expect("every request has an answer");
    let mut refused = Vec::new();
    let mut guards: Vec<LockGuard> = Vec::new();
    for (number, answer) in answers.into_iter().enumerate() {
        match answer.expect("no panic") {
            Ok(guard) => guards.push(guard),
            Err(error) => refused.push((number, error)),
        }
    }
    assert_eq!(guards.len(), OTHERS, "{refused:?}");
    for guard in guards {
        guard.release().await.expect("a release can be written");
    }
    let (number, error) = refused.pop().expect("one is refused");
    assert_eq!(number, OTHERS / 2);
    let text = error.to_string();
    assert!(matches!(error, LockError::Rejected { .. }), "{error:?}");
    assert!(!error.is_transient(), "{error:?}");
    assert!(text.contains(&first), "{text}");
    error
}

async fn is_empty(db: &Database) {
    row::wait_until_empty(db, "platform", SOON).await;
}

#[test]
fn character_that_postgres_cannot_store_is_refused_alone() {
    let Some(server) = Server::start(Engine::Postgres) else {
        return;
    };
    let admin = Database::create_on(server.url());
    run_async_on(admin, async |admin: Database| {
        let sql = "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' \
                   TEMPLATE template0";
        admin.execute(sql).await;
        let url = admin.url_with(|url| url.set_path("latin"));
        let locks = LockManager::connect(&url).await.expect("it connects");
        let error = among_others(&locks, vec!["app_task_📦".into()]).await;
        assert!(error.to_string().contains("LATIN1"), "{error}");
        for acquired in [
            locks.acquire("app_task_📦").await,
            locks.acquire(["a", "📦"]).await,
        ] {
            let error = acquired.expect_err("it cannot be stored");
            assert!(matches!(error, LockError::Rejected { .. }), "{error:?}");
        }
        // The id of a task is stored as well.
        let odd = locks.with_task_id("worker_📦").expect("a valid id");
        let (refused, granted) = tokio::join!(odd.wait("x"), locks.wait("y"));
        let error = refused.expect_err("its task cannot be stored");
        assert!(error.to_string().contains("worker_📦"), "{error}");
        granted
            .expect("its task can")
            .release()
            .await
            .expect("it can");
        assert_eq!(locks.held().await.expect("it answers"), []);
        locks.close().await.expect("it closes");
    });
}

#[test]
fn list_that_is_longer_than_a_packet_is_refused_alone() {
    let Some(server) = Server::start_with(Engine::MySql, &[PACKET]) else {
        return;
    };
    run_async_on(Database::create_on(server.url()), async |db: Database| {
        let locks = LockManager::connect(db.url()).await.expect("it connects");
        let error = among_others(&locks, long_list()).await;
        assert!(error.to_string().contains("max_allowed_packet"), "{error}");
        let error = locks
            .acquire(long_list())
            .await
            .expect_err("it is too long");
        assert!(matches!(error, LockError::Rejected { .. }), "{error:?}");
        is_empty(&db).await;
        locks.close().await.expect("it closes");
    });
}

#[test]
fn packet_limit_that_was_lowered_while_connected_refuses_one_request() {
    let Some(server) = Server::start(Engine::MySql) else {
        return;
    };
    run_async_on(Database::create_on(server.url()), async |db: Database| {
        let address: SocketAddr = db.server_address();
        let relay = Relay::start(address);
        let url = db.url_via(relay.address());
        let locks = LockManager::connect(&url).await.expect("it connects");
        db.execute("SET GLOBAL max_allowed_packet = 65536").await;
        relay.cut_all();
        among_others(&locks, long_list()).await;
        is_empty(&db).await;
        locks.close().await.expect("it closes");
    });
}

locks_tests::on_every_engine!(async odd_and_long_names_are_stored_where_the_database_can);

/// Without such a database nothing is refused.
async fn odd_and_long_names_are_stored_where_the_database_can(db: Database) {
    let locks = LockManager::builder().task_id("worker_📦");
    let locks = locks.connect(db.url()).await.expect("it connects");
    for names in [vec!["app_task_📦".to_owned()], long_list()] {
        let guard = locks.acquire(names).await.expect("it can be stored");
        guard.release().await.expect("it can be stored");
    }
}
