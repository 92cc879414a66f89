//! Processes that contend for the row take turns, and write for each other.

use std::time::{Duration, Instant};

use locks_core::LockManager;
use locks_tests::{
    engine::{Database, Engine, run_async_on},
    on_every_engine,
    row::wait_until_empty,
    server::Server,
};

const NAMESPACE: &str = "turns";
const DRIVERS: usize = 8;
const PAIRS: usize = 40;
const SOON: Duration = Duration::from_secs(20);

on_every_engine!(servers:
    async drivers_that_contend_write_for_each_other,
    async a_turn_that_does_not_come_is_not_waited_for,
    async without_the_table_of_submissions_each_driver_writes_for_itself,
);

/// Each driver acquires and releases a lock of its own, again and again. Returns the longest time
/// that an acquire or a release took.
async fn contend(db: &Database, pairs: usize) -> Duration {
    let run = async |number: usize| {
        let builder = LockManager::builder().namespace(NAMESPACE);
        let builder = builder.task_id(format!("task_{number}"));
        let locks = builder.connect(db.url()).await.expect("it connects");
        let mut longest = Duration::ZERO;
        for _ in 0..pairs {
            let start = Instant::now();
            let guard = locks.acquire(format!("app_task_{number}")).await;
            longest = longest.max(start.elapsed());
            let start = Instant::now();
            guard
                .expect("it is free")
                .release()
                .await
                .expect("it is ours");
            longest = longest.max(start.elapsed());
        }
        locks.close().await.expect("it closes");
        longest
    };
    let runs = (0..DRIVERS).map(run);
    let longest = futures_util::future::join_all(runs).await.into_iter().max();
    wait_until_empty(db, NAMESPACE, SOON).await;
    longest.unwrap_or_default()
}

async fn served(db: &Database) -> String {
    let sql = "SELECT COUNT(*) AS n FROM lock_requests WHERE served > 0";
    let rows = db.connect().await.rows(sql).await.expect("it is there");
    rows[0].get("n").unwrap_or_default().to_owned()
}

async fn drivers_that_contend_write_for_each_other(db: Database) {
    contend(&db, PAIRS).await;
    assert_ne!(served(&db).await, "0");
}

/// There each submission would be flushed to the log, and sent to every replica.
#[test]
fn nothing_is_submitted_where_a_binary_log_is_written() {
    let settings = ["--log-bin=bin", "--binlog-format=ROW"];
    let Some(server) = Server::start_with(Engine::MySql, &settings) else {
        return;
    };
    run_async_on(Database::create_on(server.url()), async |db: Database| {
        contend(&db, PAIRS).await;
        let mut connection = db.connect().await;
        let sql = "SELECT COUNT(*) AS n FROM lock_requests";
        if let Ok(rows) = connection.rows(sql).await {
            assert_eq!(rows[0].get("n"), Some("0"));
        }
        // Each turn is passed on by a DO.
        let sql = "SHOW GLOBAL STATUS LIKE 'Com_do'";
        let rows = connection.rows(sql).await.expect("a server has it");
        let turns: u32 = rows[0]
            .get("Value")
            .unwrap_or_default()
            .parse()
            .expect("a number");
        assert!(turns > 10, "{turns} turns");
    });
}

async fn a_turn_that_does_not_come_is_not_waited_for(db: Database) {
    // As a process does that is stopped while it has the turn.
    let mut other = db.connect().await;
    let take = match db.engine() {
        Engine::Postgres => format!("SELECT pg_advisory_lock({})", turn_number()),
        _ => format!(
            "DO GET_LOCK(CONCAT('locks:', LEFT(SHA2(CONCAT(DATABASE(), \
             '/lock_requests/{NAMESPACE}'), 256), 40)), 1)"
        ),
    };
    other.execute(&take).await.expect("nobody has it");
    let longest = contend(&db, 5).await;
    // It is waited for until the row has not changed during two waits, of 0.3 s each and of 1 s on
    // MySQL. Other drivers that wait no more change it.
    assert!(longest < Duration::from_secs(15), "{longest:?}");
    assert_eq!(served(&db).await, "0");
}

/// FNV-1a.
fn turn_number() -> i64 {
    let step = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let sum = NAMESPACE.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    sum.cast_signed()
}

async fn without_the_table_of_submissions_each_driver_writes_for_itself(db: Database) {
    let locks = LockManager::connect(db.url()).await.expect("it connects");
    // What cannot be used instead is left as it is.
    db.execute("DROP TABLE lock_requests").await;
    db.execute("CREATE VIEW lock_requests AS SELECT 1 AS n")
        .await;
    contend(&db, 5).await;
    locks.close().await.expect("it closes");
}
