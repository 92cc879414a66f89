//! The files of an SQLite database: where they are, which are refused, and what happens to them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use locks_core::{
    Evidence, Expiry, LockError, LockManager,
    sqlx::{
        self, SqlitePool,
        sqlite::{SqliteConnectOptions, SqliteJournalMode},
    },
};
use locks_tests::{
    engine::{Database, Engine, note, run_async},
    wait,
};

const SOON: Duration = Duration::from_secs(20);
/// What the child of a test gets from it.
const CHILD: &str = "LOCKS_TEST_CHILD_OF_SQLITE_FILES";

/// The path of an SQLite database.
fn path(db: &Database) -> PathBuf {
    let path = db.url().strip_prefix("sqlite://").expect("a file");
    path.split('?').next().expect("a path").into()
}

fn beside(db: &Database, end: &str) -> PathBuf {
    format!("{}{end}", path(db).display()).into()
}

async fn refused(request: impl IntoFuture<Output = locks_core::Result<LockManager>>) -> LockError {
    let answer = tokio::time::timeout(SOON, request).await;
    answer.expect("an answer").expect_err("it is refused")
}

/// Runs this test again in a process of its own, as this user and with this directory.
fn run_child(test: &str, directory: &Path, nobody: bool) {
    let exe = env::current_exe().expect("this program");
    let mut command = if nobody {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        command.arg(exe);
        command
    } else {
        Command::new(exe)
    };
    command.args(["--exact", &format!("sqlite_files::{test}"), "--nocapture"]);
    let output = command.env(CHILD, directory).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if nobody && said.is_empty() {
        note(&format!("left out: files without rights ({errors})"));
        return;
    }
    assert!(output.status.success(), "{said}\n{errors}");
}

#[test]
fn relative_path_survives_a_change_of_the_working_directory() {
    let test = "relative_path_survives_a_change_of_the_working_directory";
    let Some(directory) = env::var_os(CHILD) else {
        let directory = tempfile::tempdir().expect("a directory");
        run_child(test, directory.path(), false);
        assert!(directory.path().join("locks.db").exists());
        return;
    };
    env::set_current_dir(&directory).expect("it is there");
    let asked = LockManager::connect("sqlite://locks.db");
    env::set_current_dir("/").expect("it is there");
    let locks = asked.blocking().expect("it connects");
    let guard = locks.acquire("x").blocking().expect("it is free");
    // The renewal opens a connection, and so does each of these.
    locks.held().blocking().expect("it is the same file");
    assert_eq!(locks.release_all().blocking().expect("it can").len(), 1);
    drop(guard);
    let guard = locks.acquire("x").blocking().expect("it is free");
    guard.release().blocking().expect("it was held");
}

/// Deletes what SQLite would delete only when no process has the database open.
fn deleted_while_open(ends: &'static [&'static str]) {
    run_async(Engine::Sqlite, async |db| {
        let connect = async |task, ttl| {
            let builder = LockManager::builder().task_id(task).namespace(task);
            let builder = builder.expiry(Expiry::After(ttl));
            builder.connect(db.url()).await.expect("it connects")
        };
        let busy = connect("busy", Duration::from_mins(1)).await;
        let idle = connect("idle", Duration::from_secs(3)).await;
        let guard = busy.acquire("x").await.expect("it is free");
        let kept = idle.acquire("y").await.expect("it is free");
        for end in ends {
            fs::remove_file(beside(&db, end)).expect("it is there");
        }
        let start = Instant::now();
        for refused in [busy.acquire("z").await, busy.wait("z").await] {
            let error = refused.expect_err("it would be granted in another database");
            let text = error.to_string();
            assert!(text.contains("deleted or replaced"), "{text}");
            assert!(!error.is_transient(), "{error:?}");
        }
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        for guard in [&guard, &kept] {
            let lost = tokio::time::timeout(SOON, guard.lost());
            let lost = lost.await.expect("the loss is noticed");
            assert!(lost.reason.contains("deleted or replaced"), "{lost}");
        }
    });
}

#[test]
fn deleted_log_is_noticed_before_anything_is_granted() {
    deleted_while_open(&["-wal"]);
}

#[test]
fn deleted_log_and_index_are_noticed_before_anything_is_granted() {
    deleted_while_open(&["-wal", "-shm"]);
}

#[test]
fn commit_after_the_log_was_deleted_is_refused() {
    run_async(Engine::Sqlite, async |db| {
        let pool = application(&db).await;
        let locks = holder(&db, Duration::from_mins(1)).await;
        let guard = locks.acquire("x").await.expect("it is free");
        let mut tx = pool.begin().await.expect("it begins");
        let written = sqlx::query(INSERT).execute(&mut *tx).await;
        written.expect("nothing else writes");
        for end in ["-wal", "-shm"] {
            fs::remove_file(beside(&db, end)).expect("it is there");
        }
        let error = guard
            .commit(tx)
            .await
            .expect_err("the others do not see it");
        let text = error.to_string();
        assert!(text.contains("deleted or replaced"), "{text}");
    });
}

#[test]
fn last_connection_may_delete_the_log() {
    run_async(Engine::Sqlite, async |db| {
        for _ in 0..3 {
            let locks = LockManager::connect(db.url()).await.expect("it connects");
            let guard = locks.acquire("x").await.expect("it is free");
            assert!(beside(&db, "-wal").exists());
            guard.release().await.expect("it was held");
            locks.close().await.expect("nothing is left");
            assert!(!beside(&db, "-wal").exists(), "the last one has closed it");
        }
    });
}

#[tokio::test]
async fn two_connections_that_are_two_databases_are_refused() {
    for url in [
        "sqlite:",
        "sqlite://",
        "sqlite:?mode=memory",
        "sqlite://?mode=memory",
        "sqlite:locks_private?mode=memory&cache=private",
        // SQLite shares only what is named by a URI.
        "sqlite:locks_named?mode=memory",
        "sqlite:locks_shared?mode=memory&cache=shared",
    ] {
        let error = refused(LockManager::connect(url)).await;
        let text = error.to_string();
        assert!(
            matches!(error, LockError::InvalidConfig { .. }),
            "{url}: {error:?}"
        );
        assert!(text.contains("two databases"), "{url}: {text}");
    }
    let options = SqliteConnectOptions::new();
    let error = refused(LockManager::builder().connect_with(options)).await;
    assert!(error.to_string().contains("two databases"), "{error}");
    for name in ["locks_private", "locks_named", "locks_shared"] {
        assert!(!Path::new(name).exists(), "{name} is in memory");
    }
}

#[tokio::test]
async fn fault_of_the_url_is_not_taken_for_missing_tables() {
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite://{}/x.db?vfs=nope", directory.path().display());
    let text = refused(LockManager::connect(&url)).await.to_string();
    assert!(text.contains("no such vfs: nope"), "{text}");
    assert!(!text.contains("lock tables"), "{text}");
}

#[tokio::test]
async fn shared_databases_in_memory_work() {
    let by_uri = SqliteConnectOptions::new().filename("file:locks_by_uri?mode=memory&cache=shared");
    let requests = [
        LockManager::connect("sqlite::memory:"),
        LockManager::connect("sqlite:file:locks_in_memory?mode=memory"),
        LockManager::connect("sqlite:file:locks_in_uri?mode=memory&cache=shared"),
        LockManager::builder().connect_with(by_uri),
    ];
    for (number, request) in requests.into_iter().enumerate() {
        let locks = request
            .await
            .unwrap_or_else(|error| panic!("{number}: {error}"));
        let guard = locks.acquire("x").await;
        let guard = guard.unwrap_or_else(|error| panic!("{number}: {error}"));
        let refused = locks.acquire("x").await.expect_err("it is held");
        assert!(refused.is_busy(), "{number}: {refused}");
        guard.release().await.expect("it was held");
        locks.close().await.expect("nothing is left");
    }
}

#[tokio::test]
async fn a_directory_may_be_called_as_a_parameter() {
    let directory = tempfile::tempdir().expect("a directory");
    let inner = directory.path().join("mode=ro");
    fs::create_dir(&inner).expect("it can be made");
    let url = format!("sqlite://{}/locks.db", inner.display());
    let locks = LockManager::connect(&url).await.expect("it is created");
    locks.close().await.expect("nothing is left");
    assert!(inner.join("locks.db").exists());
}

#[tokio::test]
async fn errors_name_the_file_and_the_cause() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = directory.path().join("notes.txt");
    fs::write(&text, "This is no database. ".repeat(100)).expect("it is written");
    let missing = directory.path().join("missing");
    for (path, parameters, cause) in [
        (text, "", "is not an SQLite database"),
        (missing.join("locks.db"), "", "does not exist: create it"),
        (directory.path().to_owned(), "", "is a directory"),
        (missing.clone(), "?mode=rw", "leave out the `mode`"),
        (missing, "?mode=ro", "leave out the `mode`"),
    ] {
        let url = format!("sqlite://{}{parameters}", path.display());
        let said = refused(LockManager::connect(&url)).await.to_string();
        let shown = path.display().to_string();
        assert!(said.contains(&shown) && said.contains(cause), "{said}");
    }
}

/// The superuser may write everywhere, so another one tries.
#[test]
fn missing_rights_are_told_as_such() {
    use std::os::unix::fs::PermissionsExt as _;

    let test = "missing_rights_are_told_as_such";
    if let Some(directory) = env::var_os(CHILD) {
        let directory = Path::new(&directory);
        for (name, cause) in [
            ("closed/new.db", "may not write in the directory"),
            ("closed/used.db", "may not write in the directory"),
            ("open/closed.db", "may not read and write it"),
        ] {
            let path = directory.join(name);
            let url = format!("sqlite://{}", path.display());
            let error = LockManager::connect(&url).blocking();
            let error = error.expect_err("the right is missing").to_string();
            assert!(error.contains(cause), "{name}: {error}");
            assert!(error.contains(name), "{name}: {error}");
        }
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    let path = |name: &str| directory.path().join(name);
    mode(directory.path(), 0o755);
    for name in ["closed", "open"] {
        fs::create_dir(path(name)).expect("it can be made");
    }
    for name in ["closed/used.db", "open/closed.db"] {
        let url = format!("sqlite://{}", path(name).display());
        let locks = LockManager::connect(&url).blocking().expect("it connects");
        locks.close().blocking().expect("nothing is left");
    }
    mode(&path("closed/used.db"), 0o666);
    mode(&path("open/closed.db"), 0o600);
    mode(&path("closed"), 0o755);
    mode(&path("open"), 0o777);
    run_child(test, directory.path(), true);
}

async fn holder(db: &Database, ttl: Duration) -> LockManager {
    let builder = LockManager::builder().task_id("holder");
    let builder = builder.expiry(Expiry::After(ttl)).evidence(Evidence::Time);
    builder.connect(db.url()).await.expect("it connects")
}

/// A pool of the application, with a table of its own.
async fn application(db: &Database) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(path(db));
    let options = options.create_if_missing(true);
    let options = options.journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePool::connect_with(options).await;
    let pool = pool.expect("it connects");
    let sql = "CREATE TABLE IF NOT EXISTS import (line INTEGER NOT NULL)";
    sqlx::query(sql).execute(&pool).await.expect("it is made");
    pool
}

async fn lines(pool: &SqlitePool) -> i64 {
    let sql = "SELECT COUNT(*) FROM import";
    let count = sqlx::query_scalar(sql).fetch_one(pool).await;
    count.expect("the table is there")
}

const INSERT: &str = "INSERT INTO import VALUES (1)";

#[test]
fn transaction_that_is_longer_than_the_ttl_commits() {
    run_async(Engine::Sqlite, async |db| {
        let pool = application(&db).await;
        db.block_heartbeat_files();
        let locks = holder(&db, Duration::from_millis(600)).await;
        let guard = locks.acquire("x").await.expect("it is free");
        let mut tx = pool.begin().await.expect("it begins");
        let written = sqlx::query(INSERT).execute(&mut *tx).await;
        written.expect("nothing else writes");
        let over = async || guard.is_lost();
        wait::until(SOON, "the ttl has passed", over).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        // No other process could write since, and take the lock.
        guard.commit(tx).await.expect("the file has the grant");
        assert_eq!(lines(&pool).await, 1);
    });
}

#[test]
fn transaction_that_is_longer_than_the_ttl_is_refused_after_an_eviction() {
    run_async(Engine::Sqlite, async |db| {
        let pool = application(&db).await;
        let locks = holder(&db, Duration::from_mins(1)).await;
        let guard = locks.acquire("x").await.expect("it is free");
        let other = LockManager::builder().task_id("other").connect(db.url());
        let other = other.await.expect("it connects");
        let taken = other.release_task("holder").await.expect("it can");
        assert_eq!(taken.len(), 1);
        let theirs = other.acquire("x").await.expect("it is free");
        let mut tx = pool.begin().await.expect("it begins");
        let written = sqlx::query(INSERT).execute(&mut *tx).await;
        written.expect("nothing else writes");
        let error = guard.commit(tx).await.expect_err("it was taken");
        let LockError::Lost(lost) = &error else {
            panic!("{error:?}");
        };
        assert!(lost.reason.contains("release_task"), "{lost}");
        assert_eq!(lines(&pool).await, 0);
        theirs.release().await.expect("it is held");
    });
}

/// The lock was not renewed, because a transaction was open, and then it was taken.
#[test]
fn commit_after_the_ttl_is_refused_when_the_rows_are_gone() {
    run_async(Engine::Sqlite, async |db| {
        let pool = application(&db).await;
        db.block_heartbeat_files();
        let locks = holder(&db, Duration::from_millis(300)).await;
        let guard = locks.acquire("x").await.expect("it is free");
        let mut tx = pool.begin().await.expect("it begins");
        let written = sqlx::query(INSERT).execute(&mut *tx).await;
        written.expect("nothing else writes");
        let over = async || guard.is_lost();
        wait::until(SOON, "the ttl has passed", over).await;
        tx.rollback().await.expect("it is open");
        // Its own driver deletes the session that it lost.
        let sql = "SELECT COUNT(*) FROM lock_fences";
        let gone = async || {
            let count = sqlx::query_scalar::<_, i64>(sql).fetch_one(&pool).await;
            count.expect("the table is there") == 0
        };
        wait::until(SOON, "the session is evicted", gone).await;
        let mut tx = pool.begin().await.expect("it begins");
        let written = sqlx::query(INSERT).execute(&mut *tx).await;
        written.expect("nothing else writes");
        let error = guard.commit(tx).await.expect_err("it was taken");
        assert!(error.is_lost(), "{error:?}");
        assert_eq!(lines(&pool).await, 0);
    });
}

/// It has the rows, and none of what happens in the file of the locks.
#[test]
fn commit_in_a_copy_of_the_file_is_refused_after_the_ttl() {
    run_async(Engine::Sqlite, async |db| {
        let pool = application(&db).await;
        db.block_heartbeat_files();
        let locks = holder(&db, Duration::from_millis(600)).await;
        let guard = locks.acquire("x").await.expect("it is free");
        let copy = Database::create(Engine::Sqlite);
        let sql = sqlx::AssertSqlSafe(format!("VACUUM INTO '{}'", path(&copy).display()));
        sqlx::query(sql).execute(&pool).await.expect("it is copied");
        let elsewhere = application(&copy).await;
        let mut tx = pool.begin().await.expect("it begins");
        let written = sqlx::query(INSERT).execute(&mut *tx).await;
        written.expect("nothing else writes");
        let over = async || guard.is_lost();
        wait::until(SOON, "the ttl has passed", over).await;
        let mut other = elsewhere.begin().await.expect("it begins");
        let written = sqlx::query(INSERT).execute(&mut *other).await;
        written.expect("nothing else writes");
        let error = guard.commit(other).await.expect_err("it is another file");
        assert!(error.is_lost(), "{error:?}");
        assert_eq!(lines(&elsewhere).await, 0);
        drop(tx);
    });
}

/// Nothing that it has read needs to be protected.
#[test]
fn transaction_that_only_reads_commits_although_another_one_wrote() {
    run_async(Engine::Sqlite, async |db| {
        let pool = application(&db).await;
        let locks = holder(&db, Duration::from_mins(1)).await;
        let guard = locks.acquire("x").await.expect("it is free");
        let mut tx = pool.begin().await.expect("it begins");
        let read = sqlx::query("SELECT * FROM import").fetch_all(&mut *tx);
        read.await.expect("the table is there");
        sqlx::query(INSERT).execute(&pool).await.expect("it writes");
        guard.commit(tx).await.expect("it is held");
    });
}
