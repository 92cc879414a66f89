//! Managers: how they are built, cloned, divided and closed.

use std::{sync::Arc, time::Duration};

use locks_core::{ConflictMatrix, LockError, LockManager};
use locks_tests::{
    engine::{Database, Engine, run_async},
    on_every_engine,
    row::{LocksRow, wait_until_empty},
};
use sqlx::{
    mysql::{MySqlConnectOptions, MySqlPool},
    postgres::{PgConnectOptions, PgPool},
    sqlite::{SqliteConnectOptions, SqlitePool},
};

use super::{SOON, held, holders, names, pairs, soon, task};

on_every_engine!(
    async builder_has_the_documented_defaults,
    async builder_sets_task_id_and_namespace,
    async custom_matrix_is_used,
    async namespaces_are_independent,
    async with_task_id_makes_another_task,
    async clones_share_one_manager,
    async close_releases_everything_and_ends_all_requests,
    async close_may_be_repeated,
    async managers_close_independently,
    async connect_options_are_accepted_in_every_form,
);

async fn builder_has_the_documented_defaults(db: Database) {
    let one = LockManager::connect(db.url()).await.unwrap();
    let two = LockManager::builder().connect(db.url()).await.unwrap();
    for locks in [&one, &two] {
        assert_eq!(locks.namespace(), "platform");
        // `<host>-<pid>-<random>`; the host's name may contain hyphens, too.
        let mut parts = locks.task_id().rsplitn(3, '-');
        assert!(!parts.next().unwrap().is_empty());
        assert_eq!(parts.next(), Some(&*std::process::id().to_string()));
        assert!(!parts.next().expect("a host").is_empty());
    }
    assert_ne!(one.task_id(), two.task_id());
    // The original's conflict table.
    let _task = one.acquire("app_task_1").await.unwrap();
    let refused = holders(two.acquire("box_update").await);
    assert_eq!(names(&refused), [("app_task_1", one.task_id())]);
}

async fn builder_sets_task_id_and_namespace(db: Database) {
    let locks = LockManager::builder()
        .namespace("name.space_1-x")
        .task_id("some one")
        .connect(db.url())
        .await
        .unwrap();
    assert_eq!(
        (locks.namespace(), locks.task_id()),
        ("name.space_1-x", "some one")
    );
    let _guard = locks.acquire("x").await.unwrap();
    let row = LocksRow::read(&db, "name.space_1-x").await.unwrap();
    assert_eq!(row.held()["x"], "some one");
    assert_eq!(held(&db).await, []);
}

async fn custom_matrix_is_used(db: Database) {
    const MATRIX: ConflictMatrix = ConflictMatrix::new(&[("write_*", &["read_*"])]);
    for (namespace, matrix) in [("as_written", MATRIX), ("both_ways", MATRIX.symmetric())] {
        let builder = LockManager::builder().matrix(matrix).namespace(namespace);
        let locks = builder.connect(db.url()).await.unwrap();
        let reader = locks.acquire("read_1").await.unwrap();
        let refused = holders(locks.acquire("write_1").await);
        assert_eq!(names(&refused), [("read_1", locks.task_id())]);
        reader.release().await.unwrap();
        let _writer = locks.acquire("write_1").await.unwrap();
        let reader = locks.acquire("read_1").await;
        assert_eq!(reader.is_ok(), namespace == "as_written", "{reader:?}");
        // Names that no rule mentions.
        drop(locks.acquire(["box_update", "app_task_1"]).await.unwrap());
    }
    let builder = LockManager::builder().matrix(ConflictMatrix::exclusive());
    let locks = builder
        .namespace("exclusive")
        .connect(db.url())
        .await
        .unwrap();
    let _update = locks.acquire("box_update").await.unwrap();
    let _task = locks
        .acquire("app_task_1")
        .await
        .expect("only an equal name conflicts");
    holders(locks.acquire("app_task_1").await);
}

async fn namespaces_are_independent(db: Database) {
    let a = task(&db, "a").await;
    let other = a.with_namespace("other").unwrap();
    assert_eq!((other.namespace(), other.task_id()), ("other", "a"));
    assert_eq!(a.namespace(), "platform");
    let here = a.acquire("box_update").await.unwrap();
    let there = other
        .acquire(["box_update", "app_task_1"])
        .await
        .expect("another row");
    assert_eq!(held(&db).await, pairs(&[("box_update", "a")]));
    assert_eq!(LocksRow::read(&db, "other").await.unwrap().held().len(), 2);
    assert_eq!(soon(other.release_all()).await.unwrap().len(), 2);
    assert!(!here.is_lost());
    assert_eq!(names(&a.held().await.unwrap()), [("box_update", "a")]);
    drop(there);
    // Managers with one namespace name share the namespace.
    let elsewhere = task(&db, "b").await.with_namespace("other").unwrap();
    let _guard = elsewhere.acquire("x").await.unwrap();
    assert_eq!(names(&holders(other.acquire("x").await)), [("x", "b")]);
    here.release().await.unwrap();
}

async fn with_task_id_makes_another_task(db: Database) {
    let a = task(&db, "a").await;
    let b = a.with_task_id("b").unwrap();
    assert_eq!(
        (b.task_id(), b.namespace(), a.task_id()),
        ("b", "platform", "a")
    );
    let in_other = b.with_namespace("other").unwrap();
    assert_eq!((in_other.task_id(), in_other.namespace()), ("b", "other"));
    let of_a = a.acquire("x").await.unwrap();
    let of_b = b.acquire("y").await.unwrap();
    assert_eq!(held(&db).await, pairs(&[("x", "a"), ("y", "b")]));
    assert_eq!(names(&holders(b.acquire("x").await)), [("x", "a")]);
    // Each task has its own sessions: a supervisor releases only the named task's locks.
    let taken = soon(task(&db, "supervisor").await.release_task("b"))
        .await
        .unwrap();
    assert_eq!(names(&taken), [("y", "b")]);
    assert!(!of_a.is_lost());
    drop(of_b);
    soon(a.acquire("y"))
        .await
        .expect("it was taken")
        .release()
        .await
        .unwrap();
    assert_eq!(held(&db).await, pairs(&[("x", "a")]));
    let again = soon(b.acquire("y")).await.expect("the task goes on");
    drop((of_a, again));
    wait_until_empty(&db, "platform", SOON).await;
}

async fn clones_share_one_manager(db: Database) {
    let a = task(&db, "a").await;
    let clone = a.clone();
    assert_eq!(
        (clone.task_id(), clone.namespace()),
        (a.task_id(), a.namespace())
    );
    clone.acquire("x").await.unwrap().detach();
    drop(clone);
    a.release("x").await.expect("it was this manager's");
    let guard = a.acquire("y").await.unwrap();
    let clone = a.clone();
    drop(a);
    assert_eq!(held(&db).await, pairs(&[("y", "a")]));
    drop(clone);
    assert!(!guard.is_lost());
    assert_eq!(held(&db).await, pairs(&[("y", "a")]));
    drop(guard);
    // The drop of the last handle flushes, so other managers need not wait.
    assert_eq!(held(&db).await, []);
}

fn is_closed<T: std::fmt::Debug>(answer: locks_core::Result<T>) {
    let error = answer.expect_err("it is closed");
    assert!(matches!(error, LockError::Closed), "{error:?}");
    assert!(!error.is_transient());
}

async fn close_releases_everything_and_ends_all_requests(db: Database) {
    let (a, watcher) = (task(&db, "a").await, task(&db, "watcher").await);
    let (clone, other) = (a.clone(), a.with_namespace("other").unwrap());
    let b = a.with_task_id("b").unwrap();
    let guard = a.acquire("x").await.unwrap();
    let in_other = other.acquire("x").await.unwrap();
    let of_b = b.acquire("y").await.unwrap();
    a.acquire("z").await.unwrap().detach();
    let theirs = watcher.acquire("theirs").await.unwrap();
    let waiting = tokio::spawn(b.wait("theirs"));
    let waits = async || !watcher.waiting().await.unwrap().is_empty();
    locks_tests::wait::until(SOON, "it waits", waits).await;
    soon(clone.close()).await.unwrap();

    assert_eq!(held(&db).await, pairs(&[("theirs", "watcher")]));
    assert!(LocksRow::read(&db, "other").await.unwrap().is_empty());
    for guard in [&guard, &in_other, &of_b] {
        assert!(guard.is_lost());
        let lost = soon(guard.lost()).await;
        assert_eq!(lost.names[..], *guard.names());
    }
    is_closed(soon(waiting).await.unwrap());
    for locks in [&a, &clone, &other, &b] {
        is_closed(soon(locks.acquire("x")).await);
        is_closed(soon(locks.wait("x")).await);
        is_closed(soon(locks.wait("x").timeout(SOON)).await);
        is_closed(soon(locks.held()).await);
        is_closed(soon(locks.release("z")).await);
        is_closed(soon(locks.release_all()).await);
        is_closed(soon(locks.release_task("a")).await);
        if let Ok(divided) = locks.with_namespace("more") {
            is_closed(soon(divided.acquire("x")).await);
        }
    }
    // No entry remains, and guards that are dropped now do not affect other locks.
    let theirs_too = soon(watcher.acquire(["x", "y", "z"]))
        .await
        .expect("they are free");
    drop((guard, in_other, of_b));
    assert!(!theirs.is_lost() && !theirs_too.is_lost());
    drop((theirs, theirs_too));
    let row = wait_until_empty(&db, "platform", SOON).await;
    assert!(row.is_empty());
}

async fn close_may_be_repeated(db: Database) {
    let a = task(&db, "a").await;
    let _guard = a.acquire("x").await.unwrap();
    let (one, two) = soon(async { tokio::join!(a.close(), a.clone().close()) }).await;
    for again in [one, two, soon(a.close()).await] {
        match again {
            Ok(()) | Err(LockError::Closed) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(held(&db).await, []);
}

async fn managers_close_independently(db: Database) {
    // Even with one task id.
    let (one, two) = (task(&db, "a").await, task(&db, "a").await);
    let guard = one.acquire("x").await.unwrap();
    let _gone = two.acquire("y").await.unwrap();
    soon(two.close()).await.unwrap();
    assert!(!guard.is_lost());
    assert_eq!(held(&db).await, pairs(&[("x", "a")]));
    soon(one.acquire("y"))
        .await
        .expect("it is free")
        .release()
        .await
        .unwrap();
    guard.release().await.unwrap();
}

async fn connect_options_are_accepted_in_every_form(db: Database) {
    let builder = || LockManager::builder().task_id("options");
    let url = db.url();
    let requests = match db.engine() {
        Engine::Sqlite => {
            let options: SqliteConnectOptions = url.parse().unwrap();
            let pool = SqlitePool::connect_lazy(url).unwrap();
            [
                builder().connect_with(&options),
                builder().connect_with(Arc::new(options.clone())),
                builder().connect_with(options),
                builder().connect_with(pool.connect_options()),
            ]
        }
        Engine::MySql => {
            let options: MySqlConnectOptions = url.parse().unwrap();
            let pool = MySqlPool::connect_lazy(url).unwrap();
            [
                builder().connect_with(&options),
                builder().connect_with(Arc::new(options.clone())),
                builder().connect_with(options),
                builder().connect_with(pool.connect_options()),
            ]
        }
        Engine::Postgres => {
            let options: PgConnectOptions = url.parse().unwrap();
            let pool = PgPool::connect_lazy(url).unwrap();
            [
                builder().connect_with(&options),
                builder().connect_with(Arc::new(options.clone())),
                builder().connect_with(options),
                builder().connect_with(pool.connect_options()),
            ]
        }
    };
    let watcher = task(&db, "watcher").await;
    for request in requests {
        let locks = soon(request).await.unwrap();
        let guard = locks.acquire("x").await.unwrap();
        assert_eq!(
            names(&holders(watcher.acquire("x").await)),
            [("x", "options")]
        );
        guard.release().await.unwrap();
        soon(locks.close()).await.unwrap();
    }
}

#[test]
fn in_memory_database_belongs_to_one_manager() {
    // Without a file the test cannot read the database, but all handles share one.
    run_async(Engine::Sqlite, async |_| {
        for url in ["sqlite::memory:", "sqlite://:memory:"] {
            let one = LockManager::connect(url).await.unwrap();
            let two = LockManager::connect(url).await.unwrap();
            let guard = one.acquire("x").await.unwrap();
            let _same = two.acquire("x").await.expect("another database");
            let (clone, task) = (one.clone(), one.with_task_id("other").unwrap());
            holders(clone.acquire("x").await);
            holders(task.acquire("x").await);
            let waiting = tokio::spawn(task.wait("x").timeout(SOON));
            let waits = async || !one.waiting().await.unwrap().is_empty();
            locks_tests::wait::until(SOON, "it waits", waits).await;
            guard.release().await.unwrap();
            let guard = soon(waiting).await.unwrap().expect("it was released");
            // Longer than any time after which an idle connection is closed.
            let error = one
                .wait("x")
                .timeout(Duration::from_secs(1))
                .await
                .unwrap_err();
            assert!(error.is_timeout(), "{error:?}");
            assert_eq!(names(&one.held().await.unwrap()), [("x", "other")]);
            drop(guard);
            soon(one.wait("x"))
                .await
                .expect("it was dropped")
                .release()
                .await
                .unwrap();
            soon(one.close()).await.unwrap();
        }
    });
}
