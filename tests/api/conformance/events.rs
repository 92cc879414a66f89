//! The events that the library emits through `tracing`.

use std::time::Duration;

use locks_core::LockManager;
use locks_tests::{
    engine::Database,
    events::{Event, Events},
    on_every_engine,
    relay::{How, Relay, When},
    wait,
};

use super::{SOON, soon};

on_every_engine!(
    async grant_and_release_are_logged,
    async refusal_is_logged_with_its_blockers,
    async wait_is_logged_when_it_begins,
);
on_every_engine!(
    servers: async lost_connection_is_logged,
);

/// A manager whose task id no other test uses.
async fn unique_task(url: &str) -> (LockManager, String) {
    let id = format!("events-{:016x}", fastrand::u64(..));
    let builder = LockManager::builder().namespace("events").task_id(&id);
    (builder.connect(url).await.unwrap(), id)
}

/// The events about this lock of this task, which also name the namespace.
fn about(task: &str, lock: &str) -> Vec<Event> {
    let mut events = Events::keep().with("task", task);
    events.retain(|e| e.get("lock") == Some(lock) && e.get("namespace") == Some("events"));
    events
}

async fn grant_and_release_are_logged(db: Database) {
    Events::keep();
    let (locks, id) = unique_task(db.url()).await;
    let guard = locks.acquire("granted").await.unwrap();
    let token = guard.token().to_string();
    let with_token = |event: &Event| event.get("token") == Some(&token);
    let reported = about(&id, "granted");
    assert!(reported.iter().any(with_token), "{reported:?}");
    guard.release().await.unwrap();
    let after = about(&id, "granted");
    let more = after[reported.len()..].iter().any(with_token);
    assert!(more, "the release is reported as well: {after:?}");
    let routine = |event: &Event| event.level == tracing::Level::DEBUG;
    assert!(after.iter().all(routine), "{after:?}");
    // The names of a grant are reported in one event or in one event each.
    soon(locks.wait(["a", "b"]))
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    let reported = Events::keep().with("task", &id);
    for name in ["a", "b"] {
        let fits = |event: &Event| event.get("lock").is_some_and(|lock| lock.contains(name));
        assert!(reported.iter().any(fits), "{name}: {reported:?}");
    }
}

async fn refusal_is_logged_with_its_blockers(db: Database) {
    Events::keep();
    let (holder, holder_id) = unique_task(db.url()).await;
    let (asker, asker_id) = unique_task(db.url()).await;
    let _guard = holder.acquire("wanted").await.unwrap();
    asker.acquire("wanted").await.expect_err("it is held");
    let reported = about(&asker_id, "wanted");
    let names = |event: &Event| event.fields.values().any(|text| text.contains(&holder_id));
    assert!(reported.iter().any(names), "{reported:?}");
}

async fn wait_is_logged_when_it_begins(db: Database) {
    Events::keep();
    let (holder, _) = unique_task(db.url()).await;
    let (waiter, id) = unique_task(db.url()).await;
    let guard = holder.acquire("awaited").await.unwrap();
    let waiting = tokio::spawn(waiter.wait("awaited").timeout(SOON));
    wait::until(SOON, "the wait is reported", async || {
        !about(&id, "awaited").is_empty()
    })
    .await;
    guard.release().await.unwrap();
    soon(waiting)
        .await
        .unwrap()
        .expect("it was released")
        .release()
        .await
        .unwrap();
}

async fn lost_connection_is_logged(db: Database) {
    let events = Events::keep();
    let relay = Relay::start(db.server_address());
    let (locks, _) = unique_task(&db.url_via(relay.address())).await;
    locks
        .acquire("first")
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    let warnings = || {
        let mut all = events.all();
        all.retain(|event| event.level <= tracing::Level::WARN);
        all.len()
    };
    let before = warnings();
    relay.arm(When::Containing(b"second".to_vec()), How::CutAfter);
    let guard = tokio::time::timeout(Duration::from_secs(30), locks.acquire("second")).await;
    guard
        .expect("it connects again")
        .unwrap()
        .release()
        .await
        .unwrap();
    assert_eq!(relay.counters().cut_after, 1);
    assert!(warnings() > before, "an unknown write is worth a warning");
}
