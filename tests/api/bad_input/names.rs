//! Invalid names, namespaces and task ids, and releases of locks that are not held.

use std::{net::TcpListener, time::Duration};

use locks_core::{LockError, LockManager, LockName};
use locks_tests::{engine::Database, on_every_engine, row::LocksRow};

use super::error_of;

on_every_engine!(
    async invalid_names_are_refused,
    async requests_without_names_are_refused,
    async invalid_namespaces_are_refused,
    async invalid_task_ids_are_refused,
    async release_of_a_free_lock_is_refused,
    async release_of_another_tasks_lock_is_refused,
);
fn invalid_names() -> Vec<String> {
    let names = [
        "",
        " ",
        " x",
        "x ",
        "\tx",
        "x\u{a0}",
        "x\n",
        "a\nb",
        "a\0b",
        "a\u{7f}b",
        "a\u{85}b",
        "*",
        "app_task_*",
        "a*b",
    ];
    let mut names: Vec<_> = names.map(str::to_owned).into();
    names.extend(["x".repeat(256), "ä".repeat(128)]);
    names
}

/// A manager that has used its row, and the row.
async fn used(db: &Database) -> (LockManager, LocksRow) {
    let locks = LockManager::builder()
        .task_id("us")
        .connect(db.url())
        .await
        .expect("it connects");
    let guard = locks.acquire("used").await.expect("it is free");
    guard.release().await.expect("it is ours");
    let row = LocksRow::read(db, "platform").await.expect("it was used");
    (locks, row)
}

async fn invalid_names_are_refused(db: Database) {
    let (locks, row) = used(&db).await;
    for bad in invalid_names() {
        let errors = [
            LockName::new(&bad).expect_err("this cannot be"),
            error_of(locks.acquire(&bad)).await,
            error_of(locks.acquire(["good", &bad])).await,
            error_of(locks.wait(&bad)).await,
            error_of(locks.wait(&bad).timeout(Duration::from_mins(1))).await,
            error_of(locks.wait(vec!["good".to_owned(), bad.clone()])).await,
            error_of(locks.release(&bad)).await,
        ];
        for error in errors {
            let LockError::InvalidName { name, reason, .. } = &error else {
                panic!("{bad:?}: {error:?}");
            };
            assert_eq!(**name, *bad);
            let text = error.to_string();
            assert!(
                text.contains(reason) && text.contains(&format!("{bad:?}")),
                "{text}"
            );
        }
        assert_eq!(
            LocksRow::read(&db, "platform").await.as_ref(),
            Some(&row),
            "{bad:?}"
        );
    }
}

async fn requests_without_names_are_refused(db: Database) {
    let (locks, row) = used(&db).await;
    let errors = [
        error_of(locks.acquire([] as [&str; 0])).await,
        error_of(locks.acquire(Vec::<String>::new())).await,
        error_of(locks.wait(&[] as &[LockName])).await,
    ];
    for error in errors {
        assert!(matches!(error, LockError::InvalidName { .. }), "{error:?}");
    }
    assert_eq!(LocksRow::read(&db, "platform").await, Some(row));
}

async fn invalid_namespaces_are_refused(db: Database) {
    let (locks, row) = used(&db).await;
    let long = "x".repeat(65);
    let bad = [
        "", "A", "a b", "a ", "ä", "a/b", "a'b", "a%", "a\0", "*", &long,
    ];
    let other = Database::create(db.engine());
    for namespace in bad {
        let errors = [
            locks.with_namespace(namespace).expect_err("this cannot be"),
            error_of(
                LockManager::builder()
                    .namespace(namespace)
                    .connect(other.url()),
            )
            .await,
        ];
        for error in errors {
            assert!(
                matches!(
                    &error,
                    LockError::InvalidConfig {
                        what: "namespace",
                        ..
                    }
                ),
                "{namespace:?}: {error:?}"
            );
            assert!(
                error.to_string().contains(&format!("{namespace:?}")),
                "{error}"
            );
        }
        assert_eq!(LocksRow::read(&other, "platform").await, None);
    }
    let rows = db
        .connect()
        .await
        .rows("SELECT id FROM locks")
        .await
        .unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(LocksRow::read(&db, "platform").await, Some(row));
}

async fn invalid_task_ids_are_refused(db: Database) {
    let (locks, row) = used(&db).await;
    let other = Database::create(db.engine());
    for id in invalid_names() {
        let errors = [
            locks.with_task_id(&id).expect_err("this cannot be"),
            error_of(LockManager::builder().task_id(&id).connect(other.url())).await,
        ];
        for error in errors {
            assert!(
                matches!(
                    &error,
                    LockError::InvalidConfig {
                        what: "task id",
                        ..
                    }
                ),
                "{id:?}: {error:?}"
            );
            assert!(error.to_string().contains(&format!("{id:?}")), "{error}");
        }
        assert_eq!(LocksRow::read(&other, "platform").await, None);
        // No task can have such an id.
        assert_eq!(locks.release_task(&id).await.unwrap_or_default(), []);
    }
    assert_eq!(LocksRow::read(&db, "platform").await, Some(row));
}

async fn release_of_a_free_lock_is_refused(db: Database) {
    let (locks, row) = used(&db).await;
    for name in ["x", "used"] {
        let error = error_of(locks.release(name)).await;
        assert!(
            matches!(&error, LockError::NotHeld { name: reported, .. } if *reported == name),
            "{error:?}"
        );
        assert!(error.to_string().contains(name), "{error}");
    }
    assert_eq!(LocksRow::read(&db, "platform").await, Some(row));
}

async fn release_of_another_tasks_lock_is_refused(db: Database) {
    let (locks, _) = used(&db).await;
    let other = locks.with_task_id("other").unwrap();
    let foreign = LockManager::builder().task_id("foreign");
    let foreign = foreign.connect(db.url()).await.unwrap();
    let guard = foreign.acquire("guarded").await.unwrap();
    let token = guard.token();
    foreign.acquire("detached").await.unwrap().detach();
    other.acquire("neighbours").await.unwrap().detach();
    let row = LocksRow::read(&db, "platform").await;
    for (name, holder) in [
        ("guarded", "foreign"),
        ("detached", "foreign"),
        ("neighbours", "other"),
    ] {
        let error = error_of(locks.release(name)).await;
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(holder), "{text}");
        let LockError::HeldByOther {
            holder: reported, ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!((reported.name.as_str(), &*reported.task_id), (name, holder));
        assert!(reported.token >= Some(token), "{reported:?}");
    }
    assert_eq!(LocksRow::read(&db, "platform").await, row);
    assert!(!guard.is_lost());
}

#[test]
fn invalid_input_opens_no_connection() {
    // The checks come first: the server does not listen, and no connection is attempted.
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    port.set_nonblocking(true).unwrap();
    let url = format!("postgres://u@{}/d", port.local_addr().unwrap());
    for builder in [
        LockManager::builder().namespace("A"),
        LockManager::builder().task_id(""),
    ] {
        let error = builder
            .connect(&url)
            .blocking()
            .expect_err("this cannot be");
        assert!(
            matches!(error, LockError::InvalidConfig { .. }),
            "{error:?}"
        );
    }
    port.accept().expect_err("no connection was attempted");
}
