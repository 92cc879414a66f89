//! Databases of PostgreSQL that serve one test after the other.
//!
//! PostgreSQL writes some 300 files for a new database, and dropping one waits until a
//! checkpoint has synced all of them. `tests/run` therefore allows the reuse
//! (`LOCKS_TEST_REUSE=1`) on its own server, whose databases end with it.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{Engine, Plain, wait};

/// The databases of the test server that no test uses.
static UNUSED: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// The limit for a reset; a database that needs longer is dropped.
const LIMIT: Duration = Duration::from_secs(10);

/// Ends the connections and removes everything that a test may have created or set. The last
/// statements restore the schema `public` as PostgreSQL 15 and newer create it.
const RESET: &str = "
DO $$
DECLARE
    item text;
BEGIN
    IF current_setting('server_version_num')::integer < 150000 THEN
        RAISE EXCEPTION 'the schema public has other rights';
    END IF;
    PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    FOR item IN SELECT nspname FROM pg_namespace
        WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', item);
    END LOOP;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
    EXECUTE format('ALTER DATABASE %I RESET ALL', current_database());
END
$$";

/// The name of an unused database on the server, if there is one.
pub(super) fn take(admin: &str) -> Option<String> {
    if !is_allowed(admin) {
        return None;
    }
    UNUSED.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

/// Resets the database for the next test. `false` if it must be dropped instead.
pub(super) fn give_back(admin: &str, url: &str, name: &str) -> bool {
    // What a failed test did is not known.
    if !is_allowed(admin) || std::thread::panicking() {
        return false;
    }
    let unused = super::new_name();
    let reset = async {
        let mut conn = Plain::connect(url).await?;
        conn.execute(RESET).await?;
        conn.close().await?;
        // A client that the test has left behind must not find it.
        let mut conn = Plain::connect(admin).await?;
        let rename = format!("ALTER DATABASE {name} RENAME TO {unused}");
        conn.execute(&rename).await?;
        conn.close().await
    };
    let reset = async {
        tokio::time::timeout(LIMIT, reset)
            .await
            .is_ok_and(|done| done.is_ok())
    };
    let is_reset = catch_unwind(AssertUnwindSafe(|| wait::block_on_thread(reset)));
    let is_reset = is_reset.unwrap_or(false);
    if is_reset {
        UNUSED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(unused);
    }
    is_reset
}

fn is_allowed(admin: &str) -> bool {
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|set| set == value);
    let server = Engine::Postgres.variable().expect("it has a server");
    is("LOCKS_TEST_REUSE", "1") && is(server, admin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Database, run_async};

    #[test]
    fn reset_database_is_empty_and_has_no_connections() {
        run_async(Engine::Postgres, async |db: Database| {
            let mut other = db.connect().await;
            let name = db.url().rsplit('/').next().unwrap().to_owned();
            let changes = format!(
                "CREATE SCHEMA extra; CREATE TABLE extra.t (n INTEGER); CREATE TABLE t (n INTEGER); \
                 ALTER DATABASE {name} SET search_path = extra"
            );
            db.execute(&changes).await;
            db.execute(RESET).await;
            other.rows("SELECT 1").await.expect_err("it was ended");
            let mut conn = db.connect().await;
            let sql = "SELECT nspname, current_setting('search_path') AS path FROM pg_namespace \
                       WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'";
            let rows = conn.rows(sql).await.unwrap();
            assert_eq!(rows.len(), 1);
            assert_eq!(rows[0].get("nspname"), Some("public"));
            assert!(rows[0].get("path").unwrap().contains("public"));
            conn.execute("CREATE TABLE t (n INTEGER)").await.unwrap();
        });
    }
}
