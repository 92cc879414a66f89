//! Many sessions or many namespaces of one process, on a remote database: work that grows with
//! their number delays no grant and loses no lock.

use std::time::{Duration, Instant};

use locks_core::{Expiry, LockGuard, LockManager};
use locks_tests::{
    engine::{Database, note},
    on_every_engine,
    relay::Relay,
};
use tokio::task::JoinSet;

/// The latency from the process to the database, one way.
const LATENCY: Duration = Duration::from_millis(10);
const TASKS: usize = 450;
const NAMESPACES: usize = 200;

on_every_engine!(
    servers:
    async all_new_tasks_are_granted,
    async locks_in_many_namespaces_are_kept,
);

async fn connect(url: &str, ttl: Duration) -> LockManager {
    let builder = LockManager::builder().expiry(Expiry::After(ttl));
    builder.connect(url).await.expect("it connects")
}

/// All sessions are new, so all of them are inserted before the first grant.
async fn all_new_tasks_are_granted(db: Database) {
    const LIMIT: Duration = Duration::from_secs(10);
    let relay = Relay::start(db.server_address());
    let locks = connect(&db.url_via(relay.address()), Duration::from_secs(15)).await;
    relay.set_latency(LATENCY);
    let start = Instant::now();
    let mut requests = JoinSet::new();
    for n in 0..TASKS {
        let task = locks.with_task_id(&format!("task-{n}")).expect("an id");
        requests.spawn(async move { task.wait(format!("name-{n}")).await });
    }
    let mut guards = Vec::new();
    let all = async {
        while let Some(granted) = requests.join_next().await {
            guards.push(granted.expect("no panic").expect("the name is free"));
        }
    };
    let all = tokio::time::timeout(LIMIT, all).await;
    assert!(
        all.is_ok(),
        "{} of {TASKS} new tasks were granted within {LIMIT:?}",
        guards.len()
    );
    note(&format!(
        "{}: {TASKS} new tasks were granted after {:?}",
        db.engine(),
        start.elapsed()
    ));
    let lost = guards.iter().filter(|guard| guard.is_lost()).count();
    assert_eq!(lost, 0, "locks were lost at once");
}

async fn locks_in_many_namespaces_are_kept(db: Database) {
    const TTL: Duration = Duration::from_secs(6);
    let relay = Relay::start(db.server_address());
    let locks = connect(&db.url_via(relay.address()), TTL).await;
    // The latency starts later: this test is about the cost of keeping the locks.
    let mut requests = JoinSet::new();
    for n in 0..NAMESPACES {
        let locks = locks.with_namespace(&format!("n{n}")).expect("a namespace");
        requests.spawn(async move { locks.wait("x").await.expect("the name is free") });
    }
    let guards = requests.join_all().await;
    let lost = |guards: &[LockGuard]| guards.iter().filter(|guard| guard.is_lost()).count();
    assert_eq!(lost(&guards), 0, "locks were lost before the latency began");
    relay.set_latency(LATENCY);
    tokio::time::sleep(2 * TTL).await;
    assert_eq!(
        lost(&guards),
        0,
        "locks of {NAMESPACES} namespaces were lost within two ttls"
    );
}
