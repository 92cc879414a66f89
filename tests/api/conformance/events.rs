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
    async a_grant_and_a_release_are_told,
    async a_refusal_is_told_with_who_is_in_the_way,
    async a_wait_is_told_when_it_begins,
);
on_every_engine!(
    servers: async a_cut_is_told,
);

/// A manager whose task id no other test uses.
async fn unheard_of(url: &str) -> (LockManager, String) {
    let id = format!("told-{:016x}", fastrand::u64(..));
    let builder = LockManager::builder().namespace("told").task_id(&id);
    (builder.connect(url).await.unwrap(), id)
}

/// The events about this lock of this task, which also name the namespace.
fn about(task: &str, lock: &str) -> Vec<Event> {
    let mut events = Events::keep().with("task", task);
    events.retain(|e| e.get("lock") == Some(lock) && e.get("namespace") == Some("told"));
    events
}

async fn a_grant_and_a_release_are_told(db: Database) {
    Events::keep();
    let (locks, id) = unheard_of(db.url()).await;
    let guard = locks.acquire("granted").await.unwrap();
    let token = guard.token().to_string();
    let with_token = |event: &Event| event.get("token") == Some(&token);
    let told = about(&id, "granted");
    assert!(told.iter().any(with_token), "{told:?}");
    guard.release().await.unwrap();
    let after = about(&id, "granted");
    let more = after[told.len()..].iter().any(with_token);
    assert!(more, "the release is reported as well: {after:?}");
    // The names of a grant are reported in one event or in one event each.
    soon(locks.wait(["a", "b"]))
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    let told = Events::keep().with("task", &id);
    for name in ["a", "b"] {
        let fits = |event: &Event| event.get("lock").is_some_and(|lock| lock.contains(name));
        assert!(told.iter().any(fits), "{name}: {told:?}");
    }
}

async fn a_refusal_is_told_with_who_is_in_the_way(db: Database) {
    Events::keep();
    let (holder, holder_id) = unheard_of(db.url()).await;
    let (asker, asker_id) = unheard_of(db.url()).await;
    let _guard = holder.acquire("wanted").await.unwrap();
    asker.acquire("wanted").await.expect_err("it is held");
    let told = about(&asker_id, "wanted");
    let names = |event: &Event| event.fields.values().any(|text| text.contains(&holder_id));
    assert!(told.iter().any(names), "{told:?}");
}

async fn a_wait_is_told_when_it_begins(db: Database) {
    Events::keep();
    let (holder, _) = unheard_of(db.url()).await;
    let (waiter, id) = unheard_of(db.url()).await;
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

async fn a_cut_is_told(db: Database) {
    let events = Events::keep();
    let relay = Relay::start(db.server_address());
    let (locks, _) = unheard_of(&db.url_via(relay.address())).await;
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
