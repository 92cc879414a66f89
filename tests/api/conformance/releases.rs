//! How a lock is released: by its guard, by name, by a supervisor.

use locks_core::LockError;
use locks_tests::{
    engine::Database,
    events::{Events, FORGOTTEN},
    on_every_engine,
    row::{LocksRow, wait_until_empty},
    wait, worker,
};

use super::{SOON, held, names, pairs, row, soon, task};

on_every_engine!(
    async release_is_complete_when_it_returns,
    async drop_releases_soon,
    async unpolled_release_acts_like_a_drop,
    async detached_lock_is_held_until_it_is_released_by_name,
    async detached_names_are_released_one_by_one,
    async guarded_lock_cannot_be_released_by_name,
    async release_task_releases_and_logs_forgotten_locks,
    async release_task_without_locks_writes_nothing,
    async release_task_releases_locks_of_another_process,
    async release_all_releases_and_reports_every_lock,
    async lock_that_was_taken_away_is_not_released_again,
    async held_lists_the_locks_of_every_task,
);

async fn release_is_complete_when_it_returns(db: Database) {
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

async fn drop_releases_soon(db: Database) {
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

async fn unpolled_release_acts_like_a_drop(db: Database) {
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

async fn detached_lock_is_held_until_it_is_released_by_name(db: Database) {
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

async fn detached_names_are_released_one_by_one(db: Database) {
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

async fn guarded_lock_cannot_be_released_by_name(db: Database) {
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

async fn release_task_releases_and_logs_forgotten_locks(db: Database) {
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
        let reported = |event: &&_| is_forgotten(event, name);
        let reported: Vec<_> = events
            .with("task", &id)
            .into_iter()
            .filter(|e| reported(&e))
            .collect();
        let [event] = &reported[..] else {
            panic!(
                "{name} is reported of {} times: {reported:?}",
                reported.len()
            );
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
            .is_some_and(|text| text.contains(FORGOTTEN))
}

async fn release_task_without_locks_writes_nothing(db: Database) {
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

async fn release_task_releases_locks_of_another_process(db: Database) {
    let supervisor = task(&db, "supervisor").await;
    let mut worker = worker!(db.url(), "worker");
    worker.acquire("app_task_1");
    worker.acquire("app_task_2");
    assert_eq!(worker.ask("detach"), "detached");
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

async fn release_all_releases_and_reports_every_lock(db: Database) {
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

async fn lock_that_was_taken_away_is_not_released_again(db: Database) {
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

async fn held_lists_the_locks_of_every_task(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    assert_eq!(soon(a.held()).await.unwrap(), []);
    let x = a.acquire("x").await.unwrap();
    b.acquire("y").await.unwrap().detach();
    let other = a.with_namespace("other").unwrap();
    let _elsewhere = other.acquire("z").await.unwrap();
    for locks in [&a, &b] {
        let reported = soon(locks.held()).await.unwrap();
        assert_eq!(names(&reported), [("x", "a"), ("y", "b")]);
        assert_eq!(reported[0].token, Some(x.token()));
        assert!(reported.iter().all(|holder| holder.since.is_some()));
    }
    assert_eq!(names(&soon(other.held()).await.unwrap()), [("z", "a")]);
    // A foreign writer, which writes as the original does.
    let data = r#"{"foreign":"platform-task","x":"a","y":"b"}"#;
    db.execute(&format!(
        "UPDATE locks SET dataJson = '{data}', version = version + 1 WHERE id = 'platform'"
    ))
    .await;
    let reported = soon(a.held()).await.unwrap();
    assert_eq!(
        names(&reported),
        [("foreign", "platform-task"), ("x", "a"), ("y", "b")]
    );
    let foreign = reported.iter().find(|h| h.name == "foreign").unwrap();
    assert_eq!((foreign.token, foreign.since), (None, None));
    x.release().await.unwrap();
    assert_eq!(
        names(&soon(b.held()).await.unwrap()),
        [("foreign", "platform-task"), ("y", "b")]
    );
}
