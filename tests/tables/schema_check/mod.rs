//! What `connect` checks: the tables' keys, the account's rights, where the rows are stored, and
//! whether the tables are those of this library.

mod foreign;
mod keys;
mod rights;
mod storage;
mod visibility;

use std::time::{Duration, Instant};

use locks_core::{LockError, LockManager};
use locks_tests::{
    engine::{Database, Engine, run_async_on},
    server::Server,
};

/// The limit for a refusal at connect, which is not retried. It takes some milliseconds on an idle
/// machine; retries would take ten seconds and more.
const AT_ONCE: Duration = Duration::from_secs(5);
/// The limit for what happens without delay, also on a busy machine.
const SOON: Duration = Duration::from_secs(20);

const TABLES: [&str; 3] = ["locks", "lock_sessions", "lock_fences"];

/// The text of the migration.
fn migration(engine: Engine) -> String {
    let name = match engine {
        Engine::Sqlite => "sqlite",
        Engine::MySql => "mysql",
        Engine::Postgres => "postgres",
    };
    let root = env!("CARGO_MANIFEST_DIR");
    let path = format!("{root}/../migrations/{name}/0001_locks.sql");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Connects as this task. Panics if that takes too long.
async fn connect(url: &str, task: &str) -> locks_core::Result<LockManager> {
    let connecting = LockManager::builder().task_id(task).connect(url);
    let answer = tokio::time::timeout(SOON, connecting).await;
    answer.unwrap_or_else(|_| panic!("no answer to connect within {SOON:?}"))
}

/// Asserts that `connect` fails at once with a schema error whose text contains all these words.
/// Otherwise returns a description.
async fn refusal(url: &str, words: &[&str]) -> Result<(), String> {
    let start = Instant::now();
    let answer = connect(url, "refused").await;
    let took = start.elapsed();
    match answer {
        Ok(_) => Err("connected".to_owned()),
        Err(error @ LockError::Schema { .. }) => {
            let text = error.to_string();
            let missing = words.iter().filter(|word| !says(&text, word));
            let missing: Vec<_> = missing.collect();
            if !missing.is_empty() {
                return Err(format!("the error has no {missing:?} in it: {text}"));
            }
            if error.is_transient() {
                return Err(format!("the error is transient: {text}"));
            }
            if took > AT_ONCE {
                return Err(format!("refused after {took:?}: {text}"));
            }
            Ok(())
        }
        Err(error) => Err(format!("another error, after {took:?}: {error:?}")),
    }
}

/// Whether the text contains the word, in any case.
fn says(text: &str, word: &str) -> bool {
    text.to_lowercase().contains(&word.to_lowercase())
}

/// Acquires and releases a lock.
async fn works(locks: &LockManager) -> Result<(), String> {
    let guard = locks.wait("works").timeout(SOON).await;
    let guard = guard.map_err(|error| format!("not granted: {error:?}"))?;
    let released = guard.release().await;
    released.map_err(|error| format!("not released: {error:?}"))
}

/// Creates the tables and closes the manager that created them.
async fn make_tables(db: &Database) {
    let locks = connect(db.url(), "maker").await.expect("it may make them");
    works(&locks).await.expect("it may use them");
    locks.close().await.expect("it closes");
}

/// Panics with the failures, if there are any.
fn assert_none(failed: &[String]) {
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Runs the test on a private server, which is then stopped together with its accounts.
fn on_private_server<F: Future<Output = ()>>(engine: Engine, test: impl FnOnce(Database) -> F) {
    if let Some(server) = Server::start(engine) {
        run_async_on(Database::create_on(server.url()), test);
    }
}
