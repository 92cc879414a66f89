//! How a lock is released: by its guard, by name, by a supervisor.

use locks_core::LockError;
use locks_tests::{
    engine::Database,
    events::Events,
    on_every_engine, peer,
    row::{LocksRow, wait_until_empty},
    wait,
};

use super::{SOON, held, names, pairs, row, soon, task};

on_every_engine!(
    async a_release_is_done_when_it_returns,
    async a_drop_is_done_soon,
    async a_release_that_is_never_polled_is_a_drop,
    async a_detached_lock_stays_until_it_is_released_by_name,
    async a_detached_lock_of_several_names,
    async what_a_guard_holds_is_not_released_by_name,
    async release_task_takes_and_tells_what_was_forgotten,
    async release_task_writes_nothing_when_there_is_nothing,
    async release_task_takes_the_locks_of_another_process,
    async release_all_takes_everything_and_tells,
    async what_was_taken_away_is_not_released_twice,
    async held_tells_what_everybody_holds,
);

async fn a_release_is_done_when_it_returns(db: Database) {
    let a = task(&db, "a").await;
    for round in 0..20 {
        let guard = a.acquire(["x", "y"]).await.unwrap();
        let other = a.acquire(format!("z_{round}")).await.unwrap();
        guard.release().await.unwrap();
        assert!(
            !held(&db)
                .await
                .iter()
                .any(|(name, _)| name == "x" || name == "y")
        );
        drop(other);
    }
    wait_until_empty(&db, "platform", SOON).await;
}

async fn a_drop_is_done_soon(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    let guard = a.acquire("x").await.unwrap();
    drop(guard);
    // The lock is free at once for other requests of this manager.
    let guard = soon(a.acquire("x")).await.expect("it was dropped before");
    drop(guard);
    wait_until_empty(&db, "platform", SOON).await;
    soon(b.acquire("x"))
        .await
        .expect("it is free")
        .release()
        .await
        .unwrap();
}

async fn a_release_that_is_never_polled_is_a_drop(db: Database) {
    let a = task(&db, "a").await;
    let guard = a.acquire("x").await.unwrap();
    drop(guard.release());
    wait_until_empty(&db, "platform", SOON).await;
    let guard = a.acquire("x").await.unwrap();
    let release = guard.release();
    // No request was polled, and a request does nothing before that.
    assert_eq!(names(&a.held().await.unwrap()), [("x", "a")]);
    release.await.unwrap();
    assert_eq!(held(&db).await, []);
}

async fn a_detached_lock_stays_until_it_is_released_by_name(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    a.acquire("x").await.unwrap().detach();
    a.acquire("y").await.unwrap().release().await.unwrap();
    assert_eq!(held(&db).await, pairs(&[("x", "a")]));
    assert!(b.acquire("x").await.unwrap_err().is_busy());
    let error = a.release("y").await.unwrap_err();
    assert!(matches!(error, LockError::NotHeld { .. }), "{error:?}");
    // Any handle of this task may release it, with any form of the name.
    a.clone().release(String::from("x")).await.unwrap();
    assert_eq!(held(&db).await, []);
    let error = a.release("x").await.unwrap_err();
    assert!(matches!(error, LockError::NotHeld { .. }), "{error:?}");
    soon(b.acquire("x"))
        .await
        .expect("it is free")
        .release()
        .await
        .unwrap();
}

async fn a_detached_lock_of_several_names(db: Database) {
    let a = task(&db, "a").await;
    a.acquire(["x", "y", "z"]).await.unwrap().detach();
    a.release("y").await.unwrap();
    assert_eq!(held(&db).await, pairs(&[("x", "a"), ("z", "a")]));
    let between = a.acquire("y").await.expect("it was released");
    a.release("x").await.unwrap();
    a.release("z").await.unwrap();
    assert_eq!(held(&db).await, pairs(&[("y", "a")]));
    assert!(!between.is_lost());
    between.release().await.unwrap();
    wait_until_empty(&db, "platform", SOON).await;
}

async fn what_a_guard_holds_is_not_released_by_name(db: Database) {
    let a = task(&db, "a").await;
    let guard = a.acquire(["x", "y"]).await.unwrap();
    let before = row(&db).await;
    for name in ["x", "y"] {
        let error = a.release(name).await.expect_err("a guard holds it");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("guard"), "{text}");
    }
    assert_eq!(row(&db).await, before);
    assert!(!guard.is_lost());
    guard.release().await.unwrap();
    assert_eq!(held(&db).await, []);
}

async fn release_task_takes_and_tells_what_was_forgotten(db: Database) {
    let events = Events::keep();
    let id = format!("forgetful-{:x}", fastrand::u64(..));
    let (worker, supervisor) = (task(&db, &id).await, task(&db, "supervisor").await);
    let guard = worker.acquire(["x", "y"]).await.unwrap();
    let token = guard.token();
    worker.acquire("z").await.unwrap().detach();
    let own = supervisor.acquire("own").await.unwrap();
    let forgotten = soon(supervisor.release_task(&id)).await.unwrap();
    assert_eq!(names(&forgotten), [("x", &*id), ("y", &id), ("z", &id)]);
    assert!(forgotten.iter().all(|holder| holder.token >= Some(token)));
    assert_eq!(held(&db).await, pairs(&[("own", "supervisor")]));
    assert!(!own.is_lost());
    for name in ["x", "y", "z"] {
        let told = |event: &&_| is_forgotten(event, name);
        let told: Vec<_> = events
            .with("task", &id)
            .into_iter()
            .filter(|e| told(&e))
            .collect();
        let [event] = &told[..] else {
            panic!("{name} is told of {} times: {told:?}", told.len());
        };
        assert!(event.level <= tracing::Level::WARN, "{event:?}");
        assert_eq!(event.get("namespace"), Some("platform"));
    }
    wait::until(SOON, "the loss is seen", async || guard.is_lost()).await;
}

fn is_forgotten(event: &locks_tests::events::Event, name: &str) -> bool {
    event.get("lock") == Some(name)
        && event
            .get("message")
            .is_some_and(|text| text.contains("forg"))
}

async fn release_task_writes_nothing_when_there_is_nothing(db: Database) {
    let a = task(&db, "a").await;
    let guard = a.acquire("x").await.unwrap();
    let before = row(&db).await;
    // Some of these are equal in some collation, or match as a pattern.
    for id in ["absent", "A", "ä", "a_", "_", "%", "x"] {
        assert_eq!(soon(a.release_task(id)).await.unwrap(), []);
    }
    assert_eq!(row(&db).await, before);
    assert!(!guard.is_lost());
    guard.release().await.unwrap();
    let before = row(&db).await;
    assert_eq!(soon(a.release_task("a")).await.unwrap(), []);
    assert_eq!(row(&db).await, before);
    // The task continues afterwards.
    soon(a.acquire("x"))
        .await
        .expect("it is free")
        .release()
        .await
        .unwrap();
}

async fn release_task_takes_the_locks_of_another_process(db: Database) {
    let supervisor = task(&db, "supervisor").await;
    let mut worker = peer!("neighbour", db.url(), "worker");
    worker.expect_line("ready", SOON);
    for name in ["app_task_1", "app_task_2"] {
        worker.send(&format!("acquire {name}"));
        worker.expect_line("granted", SOON);
    }
    worker.send("detach app_task_2");
    worker.expect_line("done", SOON);
    worker.kill();
    let forgotten = soon(supervisor.release_task("worker")).await.unwrap();
    assert_eq!(
        names(&forgotten),
        [("app_task_1", "worker"), ("app_task_2", "worker")]
    );
    let update = soon(supervisor.acquire("box_update"))
        .await
        .expect("nothing is in its way");
    update.release().await.unwrap();
    assert!(LocksRow::read(&db, "platform").await.unwrap().is_empty());
}

async fn release_all_takes_everything_and_tells(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    assert_eq!(soon(a.release_all()).await.unwrap(), []);
    let x = a.acquire("x").await.unwrap();
    b.acquire(["y", "z"]).await.unwrap().detach();
    let version = row(&db).await.version;
    let all = soon(b.release_all()).await.unwrap();
    assert_eq!(names(&all), [("x", "a"), ("y", "b"), ("z", "b")]);
    let now = row(&db).await;
    assert!(now.is_empty() && now.version > version, "{now:?}");
    wait::until(SOON, "the loss is seen", async || x.is_lost()).await;
    // The former holders continue.
    for locks in [&a, &b] {
        let guard = soon(locks.acquire(["x", "y", "z"]))
            .await
            .expect("they are free");
        assert!(!guard.is_lost() && guard.token() > version);
        guard.release().await.unwrap();
    }
}

async fn what_was_taken_away_is_not_released_twice(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    let (dropped, released) = (a.acquire("x").await.unwrap(), a.acquire("y").await.unwrap());
    let detached = a.acquire("z").await.unwrap();
    detached.detach();
    assert_eq!(soon(b.release_task("a")).await.unwrap().len(), 3);
    let theirs = soon(b.acquire(["x", "y", "z"]))
        .await
        .expect("they are free");
    let before = row(&db).await;
    drop(dropped);
    // The release succeeds or is refused. It does not hang, and does not release another holder's
    // lock.
    match soon(released.release()).await {
        Ok(()) | Err(LockError::Lost(_)) => {}
        Err(error) => panic!("{error:?}"),
    }
    let error = a.release("z").await.unwrap_err();
    assert!(matches!(error, LockError::HeldByOther { .. }), "{error:?}");
    soon(a.held()).await.unwrap();
    assert_eq!(row(&db).await, before);
    assert!(!theirs.is_lost());
}

async fn held_tells_what_everybody_holds(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    assert_eq!(soon(a.held()).await.unwrap(), []);
    let x = a.acquire("x").await.unwrap();
    b.acquire("y").await.unwrap().detach();
    let other = a.with_namespace("other").unwrap();
    let _elsewhere = other.acquire("z").await.unwrap();
    for locks in [&a, &b] {
        let told = soon(locks.held()).await.unwrap();
        assert_eq!(names(&told), [("x", "a"), ("y", "b")]);
        assert_eq!(told[0].token, Some(x.token()));
        assert!(told.iter().all(|holder| holder.since.is_some()));
    }
    assert_eq!(names(&soon(other.held()).await.unwrap()), [("z", "a")]);
    // A foreign writer, which writes as the original does.
    let data = r#"{"foreign":"platform-task","x":"a","y":"b"}"#;
    db.execute(&format!(
        "UPDATE locks SET dataJson = '{data}', version = version + 1 WHERE id = 'platform'"
    ))
    .await;
    let told = soon(a.held()).await.unwrap();
    assert_eq!(
        names(&told),
        [("foreign", "platform-task"), ("x", "a"), ("y", "b")]
    );
    let foreign = told.iter().find(|h| h.name == "foreign").unwrap();
    assert_eq!((foreign.token, foreign.since), (None, None));
    x.release().await.unwrap();
    assert_eq!(
        names(&soon(b.held()).await.unwrap()),
        [("foreign", "platform-task"), ("y", "b")]
    );
}
