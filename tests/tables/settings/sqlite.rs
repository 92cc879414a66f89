//! Settings stored in an SQLite file, and options of the connection.

use std::{str::FromStr as _, time::Duration};

use locks_core::LockManager;
use locks_tests::{
    engine::{Database, Engine, run_async},
    hostile,
};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqliteSynchronous};

use super::{
    SOON,
    contention::{contend, in_order, smoke},
};

#[test]
fn a_file_with_hostile_settings_is_used_as_any_other() {
    run_async(Engine::Sqlite, async |db| {
        hostile::make_file(db.url());
        smoke(&db).await.expect("as ever");
        let mut conn = db.connect().await;
        let mode = conn.rows("PRAGMA journal_mode").await.expect("it is read");
        assert_eq!(mode[0].get("journal_mode"), Some("wal"));
    });
}

/// A named change of the connection options.
type Change = (
    &'static str,
    fn(SqliteConnectOptions) -> SqliteConnectOptions,
);

const CHANGES: &[Change] = &[
    ("query_only", |options| options.pragma("query_only", "1")),
    ("read_uncommitted", |options| {
        options.pragma("read_uncommitted", "1").shared_cache(true)
    }),
    ("synchronous", |options| {
        options.synchronous(SqliteSynchronous::Off)
    }),
    ("journal_mode", |options| {
        options.journal_mode(SqliteJournalMode::Memory)
    }),
    ("locking_mode", |options| {
        options.locking_mode(SqliteLockingMode::Exclusive)
    }),
    ("busy_timeout", |options| {
        options.busy_timeout(Duration::ZERO)
    }),
    ("count_changes", |options| {
        options
            .pragma("count_changes", "1")
            .pragma("full_column_names", "1")
            .pragma("short_column_names", "0")
    }),
    ("reverse_unordered_selects", |options| {
        options
            .pragma("reverse_unordered_selects", "1")
            .pragma("ignore_check_constraints", "1")
            .pragma("wal_autocheckpoint", "0")
    }),
];

/// One manager has the changed options, the other the default ones.
async fn contend_with(url: &str, change: &Change) -> Result<(), String> {
    let options = SqliteConnectOptions::from_str(url).expect("a URL");
    let builder = LockManager::builder().task_id("changed");
    let connecting = builder.connect_with((change.1)(options));
    let changed = connecting.await;
    let changed = changed.map_err(|error| format!("connect: {error:?}"))?;
    let usual = LockManager::builder().task_id("usual").connect(url).await;
    let usual = usual.map_err(|error| format!("the other one's connect: {error:?}"))?;
    for (first, second) in [(&changed, &usual), (&usual, &changed)] {
        let guard = first.acquire("held").await;
        let guard = guard.map_err(|error| format!("acquire: {error:?}"))?;
        let refused = second.acquire("held").await.map(|guard| guard.token());
        if !refused.as_ref().is_err_and(locks_core::LockError::is_busy) {
            return Err(format!("the other one is answered {refused:?}"));
        }
        let released = guard.release().await;
        released.map_err(|error| format!("release: {error:?}"))?;
    }
    let managers = [changed, usual];
    let tokens = contend(&managers, Duration::from_millis(300)).await?;
    in_order(&tokens)
}

#[test]
fn hostile_connect_options_change_nothing() {
    run_async(Engine::Sqlite, async |first| {
        let mut failed = Vec::new();
        for change in CHANGES {
            let db = Database::create(first.engine());
            let run = tokio::time::timeout(SOON, contend_with(db.url(), change)).await;
            match run {
                Ok(Ok(())) => {}
                Ok(Err(what)) => failed.push(format!("{}: {what}", change.0)),
                Err(_) => failed.push(format!("{}: no answer", change.0)),
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    });
}
