//! A grant ends when its time is over, also while its task computes.

use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

use locks_core::LockManager;
use locks_tests::{engine::Database, on_every_engine};

const LIMIT: Duration = Duration::from_millis(300);
const LATE: Duration = Duration::from_millis(50);
const ROUNDS: u32 = 10;

on_every_engine!(async a_grant_ends_in_time_while_its_task_computes);

async fn a_grant_ends_in_time_while_its_task_computes(db: Database) {
    let connect = async |task: &str| {
        let builder = LockManager::builder().task_id(task);
        builder.connect(db.url()).await.expect("it connects")
    };
    let locks = connect("a").await;
    for _ in 0..ROUNDS {
        let guard = locks.wait("x").max_hold(LIMIT).await.expect("it is free");
        let end = guard.remaining().expect("it has a limit");
        let (granted, since) = (Instant::now(), SystemTime::now());
        // The runtime of the test has this thread alone.
        while granted.elapsed() < end {
            assert!(granted.elapsed() + LATE > end || !guard.is_lost());
            thread::sleep(Duration::from_millis(1));
        }
        assert!(guard.is_lost());
        while granted.elapsed() < end + LATE {
            thread::sleep(Duration::from_millis(1));
        }
        // The driver has told it, on a thread of its own.
        let told = guard.lost().await.since.duration_since(since);
        let told = told.expect("no clock goes back");
        assert!(
            told < end + LATE,
            "{told:?} after the grant, {end:?} allowed"
        );
        drop(guard);
    }
}
