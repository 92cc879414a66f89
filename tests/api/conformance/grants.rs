//! `acquire`: it grants all names or none, without waiting, with tokens that grow.

use std::{borrow::Cow, rc::Rc, sync::Arc, time::SystemTime};

use locks_core::{LockError, LockManager, LockName};
use locks_tests::{
    engine::Database,
    on_every_engine,
    row::{LocksRow, WriteCount},
};

use super::{blockers, held, holders, names, pairs, row, soon, task};

on_every_engine!(
    async held_lock_is_refused_with_its_holder,
    async a_refusal_writes_nothing,
    async conflicting_name_is_refused_with_its_blocker,
    async refusal_names_every_blocker,
    async several_names_are_granted_together_or_not_at_all,
    async a_grant_is_one_write_whose_version_is_the_token,
    async repeated_names_of_one_request_are_merged,
    async request_conflicts_with_guards_of_its_own_task,
    async names_are_accepted_in_many_types,
    async names_are_compared_byte_by_byte,
    async names_with_any_characters_are_returned_unchanged,
    async tokens_of_conflicting_grants_grow,
    async unpolled_request_does_nothing,
    async guard_works_after_its_manager_is_dropped,
    async sixty_four_concurrent_requests_share_writes,
);

async fn held_lock_is_refused_with_its_holder(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    let before = SystemTime::now();
    let guard = a.acquire("x").await.unwrap();
    assert_eq!(held(&db).await, pairs(&[("x", "a")]));
    let error = soon(b.acquire("x")).await.expect_err("it is held");
    assert!(error.is_busy() && error.is_transient());
    assert!(!error.is_timeout() && !error.is_lost() && !error.is_deadlock());
    let text = error.to_string();
    assert!(text.contains('x') && text.contains("task a"), "{text}");
    let LockError::Busy { names, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(names[..], ["x"]);
    let [holder] = &holders::<()>(Err(error))[..] else {
        panic!("one holder");
    };
    assert_eq!((holder.name.as_str(), &*holder.task_id), ("x", "a"));
    assert_eq!(holder.token, Some(guard.token()));
    let since = holder.since.expect("we took it");
    let second = std::time::Duration::from_secs(1);
    assert!(before - second < since && since < SystemTime::now() + second);
    guard.release().await.unwrap();
    soon(b.acquire("x"))
        .await
        .expect("it is free")
        .release()
        .await
        .unwrap();
}

async fn a_refusal_writes_nothing(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    let _guard = a.acquire(["x", "box_update"]).await.unwrap();
    // The first refusal may also check the session of the lock's holder.
    blockers(b.acquire("x").await);
    let before = row(&db).await;
    blockers(b.acquire("x").await);
    blockers(b.acquire("app_task_1").await);
    blockers(a.acquire(["y", "x"]).await);
    assert_eq!(row(&db).await, before);
}

async fn conflicting_name_is_refused_with_its_blocker(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    let update = a.acquire("box_update").await.unwrap();
    let refused = holders(b.acquire("app_task_1").await);
    assert_eq!(names(&refused), [("box_update", "a")]);
    // The table has a direction.
    let backup = b
        .acquire("app_backup_1")
        .await
        .expect("no rule forbids this");
    update.release().await.unwrap();
    let refused = holders(a.acquire("box_update").await);
    assert_eq!(names(&refused), [("app_backup_1", "b")]);
    drop(backup);
}

async fn refusal_names_every_blocker(db: Database) {
    let (a, b, c) = (
        task(&db, "a").await,
        task(&db, "b").await,
        task(&db, "c").await,
    );
    let _one = a.acquire(["app_task_1", "other"]).await.unwrap();
    let _two = b.acquire("app_backup_2").await.unwrap();
    let refused = holders(c.acquire(["box_update", "other"]).await);
    assert_eq!(
        names(&refused),
        [("app_backup_2", "b"), ("app_task_1", "a"), ("other", "a")]
    );
}

async fn several_names_are_granted_together_or_not_at_all(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    let middle = a.acquire("m").await.unwrap();
    let refused = holders(b.acquire(["l", "m", "n"]).await);
    assert_eq!(names(&refused), [("m", "a")]);
    assert_eq!(held(&db).await, pairs(&[("m", "a")]));
    middle.release().await.unwrap();
    let all = b.acquire(["l", "m", "n"]).await.expect("all are free");
    assert_eq!(
        held(&db).await,
        pairs(&[("l", "b"), ("m", "b"), ("n", "b")])
    );
    for name in ["l", "m", "n"] {
        assert_eq!(names(&holders(a.acquire(name).await)), [(name, "b")]);
    }
    all.release().await.unwrap();
    assert_eq!(held(&db).await, []);
}

async fn a_grant_is_one_write_whose_version_is_the_token(db: Database) {
    let a = task(&db, "a").await;
    let first = a.acquire("first").await.unwrap();
    assert_eq!(row(&db).await.version, first.token());
    let writes = WriteCount::start(&db).await;
    let three = a.acquire(["x", "y", "z"]).await.unwrap();
    assert_eq!(writes.read().await, 1);
    assert_eq!(row(&db).await.version, three.token());
    assert!(three.token() > first.token());
    let reported = a.held().await.unwrap();
    let tokens = reported.iter().map(|holder| holder.token.unwrap());
    assert_eq!(tokens.max(), Some(three.token()));
}

async fn repeated_names_of_one_request_are_merged(db: Database) {
    let a = task(&db, "a").await;
    let wanted = [
        "box_update",
        "app_task_1",
        "box_update",
        "app_backup_1",
        "app_task_1",
    ];
    let guard = a.acquire(wanted).await.expect("they are one request's");
    let mut got: Vec<_> = guard.names().iter().map(LockName::as_str).collect();
    got.sort_unstable();
    assert_eq!(got, ["app_backup_1", "app_task_1", "box_update"]);
    assert_eq!(held(&db).await.len(), 3);
    guard.release().await.unwrap();
    assert_eq!(held(&db).await, []);
}

async fn request_conflicts_with_guards_of_its_own_task(db: Database) {
    let a = task(&db, "a").await;
    let _guard = a.acquire("box_update").await.unwrap();
    // A lock is not reentrant, not even for the task that holds it.
    assert_eq!(
        names(&holders(a.acquire("box_update").await)),
        [("box_update", "a")]
    );
    assert_eq!(
        names(&holders(a.clone().acquire("app_task_1").await)),
        [("box_update", "a")]
    );
    assert_eq!(held(&db).await, pairs(&[("box_update", "a")]));
}

async fn names_are_accepted_in_many_types(db: Database) {
    let a = task(&db, "a").await;
    let owned = String::from("x");
    let name = LockName::new("x").unwrap();
    let (array, list) = (["x"], vec![name.clone()]);
    let by_reference: &[_; 1] = &array;
    let requests = [
        a.acquire("x"),
        a.acquire(&owned),
        a.acquire(owned.clone()),
        a.acquire(Cow::from("x")),
        a.acquire(Box::<str>::from("x")),
        a.acquire(Arc::<str>::from("x")),
        a.acquire(Rc::<str>::from("x")),
        a.acquire(name.clone()),
        a.acquire(&name),
        a.acquire([&owned]),
        a.acquire(by_reference),
        a.acquire(&array[..]),
        a.acquire(array),
        a.acquire(vec![owned.clone()]),
        a.acquire(&list),
        a.acquire(list),
        a.acquire(std::slice::from_ref(&name)),
    ];
    for request in requests {
        let guard = request.await.expect("the one before was released");
        assert_eq!(guard.names(), std::slice::from_ref(&name));
        guard.release().await.unwrap();
    }
    let two = [Cow::from("y"), Cow::from(owned)];
    let both = a.wait(two.to_vec()).await.unwrap();
    assert_eq!(both.names().len(), 2);
}

async fn names_are_compared_byte_by_byte(db: Database) {
    let a = task(&db, "a").await;
    // Each collation of the engines treats some of these as equal.
    let similar = [
        "app_1", "APP_1", "App_1", "ä", "a\u{308}", "a", "A", "ss", "ß", "x  y", "x y",
    ];
    let mut guards = Vec::new();
    for name in similar {
        guards.push(
            a.acquire(name)
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}")),
        );
    }
    assert_eq!(held(&db).await.len(), similar.len());
    // Namespaces of which one is a prefix of the other.
    for namespace in ["a", "a.", "a_", "a-", "a1"] {
        let other = a.with_namespace(namespace).unwrap();
        guards.push(other.acquire("x").await.expect("a namespace of its own"));
    }
}

async fn names_with_any_characters_are_returned_unchanged(db: Database) {
    let a = task(&db, r#"o'task "7" \ %s 任务 🔒"#).await;
    let long = "x".repeat(255);
    let wide = "🔒".repeat(63);
    for name in [
        "constructor",
        "__proto__",
        "toString",
        r#"a"b\c'd`e;--"#,
        "a b",
        "?$1:x%_",
        "{\"x\":1}",
        "\u{feff}x",
        "\u{202e}x",
        "任务",
        &long,
        &wide,
    ] {
        let guard = a
            .acquire(name)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(held(&db).await, pairs(&[(name, a.task_id())]));
        assert_eq!(names(&a.held().await.unwrap()), [(name, a.task_id())]);
        assert_eq!(
            names(&holders(a.acquire(name).await)),
            [(name, a.task_id())]
        );
        guard.release().await.unwrap();
        assert_eq!(held(&db).await, []);
    }
}

async fn tokens_of_conflicting_grants_grow(db: Database) {
    let (a, b) = (task(&db, "a").await, task(&db, "b").await);
    let mut last = 0;
    let mut grown = |token: i64| {
        assert!(token > last, "{last}, and then {token}");
        last = token;
    };
    for round in 0..3 {
        let guard = a.acquire("box_update").await.unwrap();
        grown(guard.token());
        guard.release().await.unwrap();
        let guard = b.acquire("app_task_1").await.unwrap();
        grown(guard.token());
        if round == 1 {
            // This releases the lock, and must not reset the tokens.
            assert_eq!(a.release_all().await.unwrap().len(), 1);
        }
        drop(guard);
        let guard = soon(b.wait("box_update")).await.unwrap();
        grown(guard.token());
        guard.release().await.unwrap();
    }
    // A new process continues after the highest token.
    a.close().await.unwrap();
    b.close().await.unwrap();
    let guard = task(&db, "c").await.acquire("app_task_1").await.unwrap();
    grown(guard.token());
}

async fn unpolled_request_does_nothing(db: Database) {
    drop(LockManager::connect(db.url()));
    assert!(
        db.connect()
            .await
            .rows("SELECT * FROM locks")
            .await
            .is_err()
    );

    let a = task(&db, "a").await;
    let used = a.acquire("used").await.unwrap();
    let before = row(&db).await;
    let (acquire, wait) = (a.acquire("x"), a.wait("y"));
    let (all, one) = (a.release_all(), a.release_task("a"));
    let (close, by_name) = (a.close(), a.release("used"));
    // The requests share a connection, so a statement sent earlier would have been executed.
    assert_eq!(a.held().await.unwrap().len(), 1);
    assert_eq!(row(&db).await, before);
    drop((acquire, wait, all, one, close, by_name));
    assert_eq!(a.held().await.unwrap().len(), 1);
    assert_eq!(row(&db).await, before);
    assert!(!used.is_lost());
}

async fn guard_works_after_its_manager_is_dropped(db: Database) {
    let guard = task(&db, "a").await.acquire("x").await.unwrap();
    let other = task(&db, "b").await;
    blockers(other.acquire("x").await);
    assert!(!guard.is_lost());
    guard.release().await.unwrap();
    soon(other.acquire("x"))
        .await
        .expect("it is free")
        .release()
        .await
        .unwrap();
    assert!(LocksRow::read(&db, "platform").await.unwrap().is_empty());
}

async fn sixty_four_concurrent_requests_share_writes(db: Database) {
    let a = task(&db, "a").await;
    let first = a.acquire("first").await.unwrap();
    let before = first.token();
    let count = WriteCount::start(&db).await;
    let tasks: Vec<_> = (0..64)
        .map(|n| tokio::spawn(a.acquire(format!("x_{n}"))))
        .collect();
    let mut guards = Vec::new();
    for task in tasks {
        guards.push(soon(task).await.unwrap().expect("it is free"));
    }
    assert!(
        guards
            .iter()
            .all(|guard| guard.token() > before && !guard.is_lost())
    );
    assert_eq!(held(&db).await.len(), 65);
    // The requests came together, so at least some were granted by one write.
    let writes = count.read().await;
    assert!(writes < 64, "{writes} writes for 64 grants");
    drop((first, guards));
    locks_tests::row::wait_until_empty(&db, "platform", super::SOON).await;
}
