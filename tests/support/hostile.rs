//! Defaults of databases that the library must not depend on, and the settings that the tests' own
//! statements depend on.

use std::{env, fs};

use sqlx::{Executor, pool::PoolOptions};

use crate::{engine::Engine, plain::Plain, wait};

/// Whether all databases of this run have hostile defaults. `tests/run` sets those of the servers.
pub fn is_wanted() -> bool {
    env::var_os("LOCKS_TEST_HOSTILE").is_some_and(|value| value == "1")
}

/// The settings of `tests/hostile/mariadb` or `tests/hostile/postgres`.
pub fn settings(file: &str) -> Vec<String> {
    let path = format!("{}/hostile/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).expect("the file is there");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// Creates an SQLite file whose settings differ from the library's choices.
pub fn make_file(url: &str) {
    const SETTINGS: &str = "PRAGMA encoding = 'UTF-16be'; PRAGMA page_size = 512; \
                            PRAGMA auto_vacuum = FULL; PRAGMA journal_mode = DELETE; \
                            PRAGMA user_version = 7; PRAGMA application_id = 7; \
                            CREATE TABLE unrelated (n INTEGER)";
    wait::block_on_thread(async {
        let mut conn = Plain::connect(url).await.expect("the file can be made");
        conn.execute(SETTINGS).await.expect("it can be written");
        let _ = conn.close().await;
    });
}

/// The statement that gives a connection the settings that the tests' own statements depend on.
///
/// The servers of `tests/hostile` have other defaults, which are meant for the library.
pub const fn own_settings(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "SELECT 1",
        Engine::MySql => {
            // Without unique_checks, MariaDB locks an empty table for its first INSERT, and two of
            // them deadlock.
            "SET SESSION completion_type = 0, autocommit = 1, sql_safe_updates = 0, \
                 unique_checks = 1, foreign_key_checks = 1, \
                 sql_select_limit = 18446744073709551615, \
                 max_join_size = 18446744073709551615, sql_big_selects = 1, \
                 sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION', \
                 default_storage_engine = InnoDB, lock_wait_timeout = 60, \
                 innodb_lock_wait_timeout = 50, wait_timeout = 28800 \
                 /*M! , max_statement_time = 0, idle_transaction_timeout = 0, \
                        idle_write_transaction_timeout = 0 */; \
             SET SESSION TRANSACTION READ WRITE"
        }
        Engine::Postgres => {
            "SET default_transaction_read_only = off; SET statement_timeout = 0; \
             SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
             SET standard_conforming_strings = on"
        }
    }
}

/// The options of a pool whose connections have [`own_settings`].
pub fn pool_options<DB>(engine: Engine) -> PoolOptions<DB>
where
    DB: sqlx::Database,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    PoolOptions::new().after_connect(move |conn, _| {
        Box::pin(async move {
            let settings = sqlx::raw_sql(own_settings(engine));
            settings.execute(conn).await.map(drop)
        })
    })
}
