//! Servers that lose grants: a crash with relaxed durability, and the promotion of a standby that
//! is behind.

use std::time::Duration;

use locks_tests::{
    engine::{Database, Engine, note, run_async},
    journal::Journal,
    plain::Plain,
    relay::Relay,
    row::{LocksRow, wait_until_queued},
    server::Server,
    standby::Standby,
    wait,
};

use super::{SOON, Tokens, assert_only_the_next_commits, commit, connect};

/// How long the next holder waits for a lock that the crash may have released.
const SHORT: Duration = Duration::from_secs(2);
/// The number of times the server is killed.
const CRASHES: usize = 2;

/// Runs the test with a private server, if its programs are installed.
fn with_server(engine: Engine, test: impl AsyncFnOnce(&Server)) {
    let Some(server) = Server::start(engine) else {
        return;
    };
    // The database of `run_async` is on the shared server, or in a file.
    run_async(Engine::Sqlite, async |_| test(&server).await);
}

/// Kills the server right after a grant. Whether the grant is durable or not: no token is granted
/// twice, and only one of two holders can commit.
async fn kill_after_a_grant(server: &Server, before: &[&str], relax: &[&str], flush: &[&str]) {
    let engine = Engine::of_url(server.url());
    let db = Database::create_on(server.url());
    drop(Journal::open(db.url()).await);
    for sql in before {
        db.execute(sql).await;
    }
    let mut tokens = Tokens::default();
    let holder = connect(db.url(), "holder").await;
    let mut taken_back = 0;
    for crash in 0..CRASHES {
        tokens.take(&holder, "x", 1, "before the crash").await;
        let mut conn = Plain::connect(db.url()).await.expect("it answers");
        for sql in relax.iter().chain(flush) {
            conn.execute(sql).await.expect("the account may");
        }
        tokens.take(&holder, "y", 5, "before the crash").await;
        let guard = holder.acquire("x").await.expect("it is free");
        tokens.add(guard.token(), "before the crash");
        server.kill();
        server.start_again();

        let row = LocksRow::read(&db, "platform").await;
        let row = row.expect("it was there for long");
        taken_back += usize::from(!row.held().contains_key("x"));
        let other = connect(db.url(), &format!("other_{crash}")).await;
        // Unlike drivers, pools do not survive a crash.
        let journal = Journal::open_existing(db.url()).await;
        match other.wait("x").timeout(SHORT).await {
            Ok(next) => {
                let late = journal.begin_entry("late").await.expect("it begins");
                let refused = commit(&guard, late).await;
                let refused = refused.expect_err("two holders of one lock can commit");
                assert!(refused.is_lost(), "{refused:?}");
                tokens.add(next.token(), "the next holder");
                let tx = journal.begin_entry("next").await.expect("it begins");
                commit(&next, tx).await.expect("it is held");
                next.release().await.expect("it is held");
            }
            Err(error) => {
                assert!(error.is_timeout(), "{error:?}");
                let tx = journal.begin_entry("held").await.expect("it begins");
                commit(&guard, tx).await.expect("it is held");
                guard.release().await.expect("it is held");
            }
        }
        assert!(!journal.has("late").await);
        tokens.take(&holder, "x", 3, "after the crash").await;
        tokens.take(&other, "x", 3, "after the crash").await;
    }
    note(&format!(
        "{engine}: {taken_back} of {CRASHES} crashes took the last grant back"
    ));
}

/// Commits of the role do not wait for the disk, unless the library changes that.
#[test]
fn a_crash_of_postgres_without_synchronous_commit_repeats_no_token() {
    with_server(Engine::Postgres, async |server| {
        let before = [
            "ALTER ROLE locks SET synchronous_commit = off",
            // The log is written in the background; here, later than the crash.
            "ALTER SYSTEM SET wal_writer_delay = '10s'",
            "SELECT pg_reload_conf()",
        ];
        kill_after_a_grant(server, &before, &[], &["CHECKPOINT"]).await;
    });
}

/// Durability is a setting of the whole server: a client cannot change it.
#[test]
fn a_crash_of_mariadb_without_log_flushes_repeats_no_token() {
    with_server(Engine::MySql, async |server| {
        let relax = [
            "SET GLOBAL innodb_flush_log_at_timeout = 2700",
            "SET GLOBAL innodb_flush_log_at_trx_commit = 0",
        ];
        kill_after_a_grant(server, &[], &relax, &[]).await;
    });
}

/// The standby lacks the last grants of the primary when it replaces it.
#[test]
fn a_promoted_standby_repeats_no_token() {
    with_server(Engine::Postgres, async |primary| {
        let db = Database::create_on(primary.url());
        drop(Journal::open(db.url()).await);
        let standby = Standby::of(primary);
        let relay = Relay::start(db.server_address());
        let url = db.url_via(relay.address());
        let mut tokens = Tokens::default();
        let holder = connect(&url, "holder").await;
        tokens.take(&holder, "x", 1, "before the failover").await;
        standby.catch_up().await;
        standby.disconnect().await;

        tokens
            .take(&holder, "y", 10, "not seen by the standby")
            .await;
        let guard = holder.acquire("x").await.expect("it is free");
        tokens.add(guard.token(), "not seen by the standby");
        primary.kill();
        standby.promote().await;
        relay.lead_to(standby.address());
        relay.cut_all();

        let other = connect(&url, "other").await;
        let next = other.wait("x").timeout(SOON).await;
        let next = next.expect("the standby knows of no holder");
        let journal = Journal::open_existing(&url).await;
        assert_only_the_next_commits(&journal, &guard, &next).await;
        tokens.add(next.token(), "the next holder");
        next.release().await.expect("it is held");
        tokens.take(&holder, "x", 3, "after the failover").await;
        tokens.take(&other, "y", 3, "after the failover").await;
    });
}

/// The wait of a commit for its standby can be ended, and then others see the commit although the
/// standby lacks it.
#[test]
fn each_process_writes_its_grants_where_a_standby_has_to_have_them() {
    with_server(Engine::Postgres, async |primary| {
        let db = Database::create_on(primary.url());
        let standby = Standby::of(primary);
        for (standbys, is_handed_over) in [("", true), ("*", false)] {
            let sql = format!("ALTER SYSTEM SET synchronous_standby_names = '{standbys}'");
            db.execute(&sql).await;
            db.execute("SELECT pg_reload_conf()").await;
            // A division by zero until then.
            let read = format!(
                "SELECT 1 / (current_setting('synchronous_standby_names') = '{standbys}')::int"
            );
            wait::until(SOON, "the setting is read", async || {
                db.connect().await.execute(&read).await.is_ok()
            })
            .await;
            let holder = connect(db.url(), "holder").await;
            let guard = holder.acquire("x").await.expect("it is free");
            let waiter = connect(db.url(), "waiter").await;
            let waiting = tokio::spawn(waiter.wait("x").timeout(SOON));
            let row = wait_until_queued(&db, "platform", 1).await;
            guard.release().await.expect("it is held");
            let next = waiting.await.expect("no panic").expect("it is free");
            assert!(next.token() > row.version);
            let (session, _) = &row.queue()[0];
            assert_eq!(session.ends_with('+'), is_handed_over, "{standbys:?}");
            next.release().await.expect("it is held");
        }
        standby.catch_up().await;
    });
}
