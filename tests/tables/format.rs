//! The format number of `metaJson`: rows of a newer format are refused and left unchanged.

use std::time::Duration;

use locks_core::{LockError, LockManager, Shared};
use locks_tests::{
    engine::Database,
    on_every_engine,
    row::{LocksRow, wait_until_empty},
};
use serde_json::{Value, json};

/// The limit for requests that fail at once.
const AT_ONCE: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(20);
/// The text of the error that names a newer format.
const NEWER: &str = "written by a newer version";
/// The format that this version writes if no lock is shared.
const FORMAT: u64 = 1;
/// The format that it writes if one is, and the highest one that it reads.
const SHARED: u64 = 2;

on_every_engine!(
    async every_written_row_contains_the_format_number,
    async an_adopted_row_contains_the_format_number,
    async a_row_has_the_format_of_shared_locks_while_there_are_any,
    async a_row_without_a_format_number_is_read,
    async a_row_of_a_newer_format_is_refused_and_left_unchanged,
    async a_row_whose_format_is_no_number_is_refused_and_left_unchanged,
    async a_release_does_not_write_a_row_of_a_newer_format,
    async unknown_fields_are_not_erased,
);

async fn connect(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it connects")
}

async fn read(db: &Database) -> LocksRow {
    let row = LocksRow::read(db, "platform").await;
    row.expect("the row is there")
}

/// The format number in the row.
async fn format_of(db: &Database) -> Option<u64> {
    let row = read(db).await;
    row.meta().get("format").and_then(Value::as_u64)
}

/// Writes both columns as another program does: the version and the stamp change.
async fn write(db: &Database, data: &str, meta: &str) -> LocksRow {
    assert!(!data.contains(['\'', '\\']) && !meta.contains(['\'', '\\']));
    let stamp = format!("{:032x}", fastrand::u128(..));
    let updated = db
        .execute(&format!(
            "UPDATE locks SET dataJson = '{data}', metaJson = '{meta}', stamp = '{stamp}', \
             version = version + 1 WHERE id = 'platform'"
        ))
        .await;
    assert_eq!(updated, 1);
    read(db).await
}

async fn refused<T>(
    request: impl IntoFuture<Output = locks_core::Result<T>>,
    what: &str,
) -> LockError {
    let answer = tokio::time::timeout(AT_ONCE, request).await;
    let answer = answer.unwrap_or_else(|_| panic!("{what}: no answer within {AT_ONCE:?}"));
    match answer {
        Ok(_) => panic!("{what} succeeds on a row that cannot be understood"),
        Err(error) => error,
    }
}

/// The errors of every request that reads or writes the row. The row must be unchanged.
async fn refusals(db: &Database, locks: &LockManager) -> Vec<(&'static str, LockError)> {
    let before = read(db).await;
    let long = Duration::from_mins(1);
    let errors = vec![
        ("acquire", refused(locks.acquire("z"), "acquire").await),
        ("wait", refused(locks.wait("z"), "wait").await),
        (
            "wait with a time-out",
            refused(locks.wait("z").timeout(long), "wait with a time-out").await,
        ),
        ("held", refused(locks.held(), "held").await),
        ("waiting", refused(locks.waiting(), "waiting").await),
        ("release", refused(locks.release("z"), "release").await),
        (
            "release_task",
            refused(locks.release_task("t"), "release_task").await,
        ),
        (
            "release_all",
            refused(locks.release_all(), "release_all").await,
        ),
    ];
    assert_eq!(read(db).await, before, "a refused row was written");
    errors
}

fn assert_newer(errors: Vec<(&'static str, LockError)>) {
    for (what, error) in errors {
        assert!(
            error.to_string().contains(NEWER),
            "{what}: {error} ({error:?})"
        );
        assert!(!error.is_transient(), "{what}: {error:?}");
    }
}

async fn every_written_row_contains_the_format_number(db: Database) {
    let locks = connect(&db, "a").await;
    let guard = locks.acquire("x").await.expect("it is free");
    assert_eq!(format_of(&db).await, Some(FORMAT), "after a grant");
    let other = connect(&db, "b").await;
    let waiting = tokio::spawn(other.wait("x").timeout(SOON));
    locks_tests::row::wait_until_queued(&db, "platform", 1).await;
    assert_eq!(format_of(&db).await, Some(FORMAT), "with a queue");
    guard.release().await.expect("it is held");
    let next = waiting.await.expect("no panic").expect("it is granted");
    assert_eq!(format_of(&db).await, Some(FORMAT), "after a hand-over");
    locks.release_all().await.expect("it can");
    assert_eq!(format_of(&db).await, Some(FORMAT), "after release_all");
    drop(next);
}

/// A row of the original has no `metaJson`.
async fn an_adopted_row_contains_the_format_number(db: Database) {
    connect(&db, "first").await.close().await.expect("it ends");
    db.execute("DELETE FROM locks").await;
    db.execute(r#"INSERT INTO locks (id, dataJson) VALUES ('platform', '{"x":"foreign"}')"#)
        .await;
    let locks = connect(&db, "a").await;
    assert!(locks.acquire("x").await.expect_err("it is held").is_busy());
    let guard = locks.acquire("y").await.expect("it is free");
    assert_eq!(format_of(&db).await, Some(FORMAT));
    guard.release().await.expect("it is held");
}

async fn a_row_has_the_format_of_shared_locks_while_there_are_any(db: Database) {
    let locks = connect(&db, "a").await;
    let exclusive = locks.acquire("x").await.expect("it is free");
    let shared = locks.acquire(Shared("y")).await.expect("it is free");
    assert_eq!(format_of(&db).await, Some(SHARED));
    shared.release().await.expect("it is held");
    assert_eq!(format_of(&db).await, Some(FORMAT));
    exclusive.release().await.expect("it is held");
}

/// Version 0.1 wrote no format number.
async fn a_row_without_a_format_number_is_read(db: Database) {
    let holder = connect(&db, "holder").await;
    let guard = holder.acquire("x").await.expect("it is free");
    let row = read(&db).await;
    let mut meta = row.meta();
    meta.as_object_mut()
        .expect("metaJson is an object")
        .remove("format");
    write(&db, &row.data_json, &meta.to_string()).await;
    let other = connect(&db, "other").await;
    let held = other.held().await.expect("it is read");
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].token, Some(guard.token()));
    assert!(other.acquire("x").await.expect_err("it is held").is_busy());
    let second = other.acquire("y").await.expect("it is free");
    assert!(second.token() > guard.token());
    assert!(!guard.is_lost());
    guard.release().await.expect("it is held");
    second.release().await.expect("it is held");
    let row = wait_until_empty(&db, "platform", SOON).await;
    assert_eq!(row.meta().get("format"), Some(&json!(FORMAT)), "{row:?}");
}

async fn a_row_of_a_newer_format_is_refused_and_left_unchanged(db: Database) {
    let connected_before = connect(&db, "before").await;
    let guard = connected_before.acquire("x").await.expect("it is free");
    guard.release().await.expect("it is held");
    let readable = read(&db).await;
    let newer = SHARED + 1;
    let metas = [
        // The current format with one more field.
        json!({"format": newer, "sessions": [], "token": 0, "since": 0, "held": {}, "queue": [],
               "shared": {"x": [1, 2]}}),
        // Fields of known names with other types.
        json!({"sessions": {"s": {"task": "t"}}, "held": [{"name": "x", "modes": ["s"]}],
               "queue": {"x": []}, "format": 1_000_000}),
        json!({"format": newer, "leases": [["s", 1]]}),
        json!({"format": newer}),
    ];
    for meta in metas {
        let data = r#"{"x":"t"}"#;
        write(&db, data, &meta.to_string()).await;
        let connected_after = connect(&db, "after").await;
        for locks in [&connected_before, &connected_after] {
            assert_newer(refusals(&db, locks).await);
        }
        connected_after.close().await.expect("it holds nothing");
        assert_eq!(read(&db).await.meta_json, Some(meta.to_string()));
        // The older program works again when the row has its format again.
        let meta = readable.meta_json.as_deref().expect("it was written");
        write(&db, &readable.data_json, meta).await;
        let guard = connected_before.wait("x").timeout(SOON).await;
        let guard = guard.expect("the row can be read again");
        guard.release().await.expect("it is held");
    }
}

async fn a_row_whose_format_is_no_number_is_refused_and_left_unchanged(db: Database) {
    let locks = connect(&db, "a").await;
    let guard = locks.acquire("x").await.expect("it is free");
    guard.release().await.expect("it is held");
    for format in [json!("2"), json!([1]), json!({"major": 1}), json!(-1)] {
        let mut meta = read(&db).await.meta();
        meta["format"] = format.clone();
        write(&db, "{}", &meta.to_string()).await;
        for (what, error) in refusals(&db, &locks).await {
            assert!(
                matches!(error, LockError::Schema { .. }),
                "{what} with {format}: {error:?}"
            );
        }
    }
}

/// A newer program writes the row while an older program holds a lock.
async fn a_release_does_not_write_a_row_of_a_newer_format(db: Database) {
    let locks = connect(&db, "a").await;
    let guard = locks.acquire("x").await.expect("it is free");
    let readable = read(&db).await;
    let mut meta = readable.meta();
    meta["format"] = json!(SHARED + 1);
    meta["later"] = json!({"x": true});
    let newer = write(&db, &readable.data_json, &meta.to_string()).await;
    drop(guard);
    // These requests are answered after the driver tried the release.
    for _ in 0..3 {
        let error = refused(locks.acquire("y"), "acquire").await;
        assert!(error.to_string().contains(NEWER), "{error}");
        assert_eq!(read(&db).await, newer, "a release wrote a newer format");
    }
    let meta = readable.meta_json.as_deref().expect("it was written");
    write(&db, &readable.data_json, meta).await;
    wait_until_empty(&db, "platform", SOON).await;
}

/// Fields that this version does not know, in a row with the known format number, and in a row
/// without one.
async fn unknown_fields_are_not_erased(db: Database) {
    let holder = connect(&db, "holder").await;
    let _guard = holder.acquire("x").await.expect("it is free");
    let readable = read(&db).await;
    let unknown = json!({"x": [1, "two", {"three": 3}]});
    for format in [Some(SHARED), Some(FORMAT), None] {
        let mut meta = readable.meta();
        let fields = meta.as_object_mut().expect("metaJson is an object");
        fields.remove("format");
        if let Some(format) = format {
            fields.insert("format".to_owned(), json!(format));
        }
        fields.insert("unknown".to_owned(), unknown.clone());
        let before = write(&db, &readable.data_json, &meta.to_string()).await;
        let other = connect(&db, "other").await;
        match other.acquire("y").await {
            // The fields are kept, also by the write of the release.
            Ok(guard) => {
                assert_eq!(
                    read(&db).await.meta().get("unknown"),
                    Some(&unknown),
                    "a grant erased an unknown field (format {format:?})"
                );
                guard.release().await.expect("it is held");
                assert_eq!(read(&db).await.meta().get("unknown"), Some(&unknown));
            }
            Err(error) => {
                assert!(matches!(error, LockError::Schema { .. }), "{error:?}");
                assert_eq!(read(&db).await, before, "a refused row was written");
            }
        }
        let meta = readable.meta_json.as_deref().expect("it was written");
        write(&db, &readable.data_json, meta).await;
    }
}
