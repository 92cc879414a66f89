//! A job that every node schedules, and one node does. All nodes begin at one time, as cron lets
//! them. One gets the lock and does the job. The others skip it. A node that comes later, because
//! its clock is behind, finds that the job of this hour is done.
//!
//! The lock alone would not tell that node: it only says that the job is not running. So the run is
//! noted in a table, in the transaction of the job, which commits only while the lock is held.
//!
//! Run it with `cargo run --example scheduled_job`. Its database is an SQLite file in a temporary
//! directory.

use std::time::Duration;

use locks_core::{
    LockManager,
    sqlx::{self, SqlitePool},
    with_lock,
};
use tokio::time;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

#[derive(Clone)]
struct Node {
    name: &'static str,
    locks: LockManager,
    pool: SqlitePool,
}

impl Node {
    /// Does the job of this hour, unless another node does it or has done it.
    #[with_lock("report_<hour>", acquire, busy = Ok("another node does it"), guard = lock,
                locks = self.locks)]
    async fn report(&self, hour: &str) -> Result<&'static str> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let done = sqlx::query("SELECT 1 FROM reports WHERE hour = ?").bind(hour);
        if done.fetch_optional(&mut *tx).await?.is_some() {
            return Ok("it is done");
        }
        time::sleep(Duration::from_millis(300)).await;
        let insert = sqlx::query("INSERT INTO reports (hour, node) VALUES (?, ?)");
        insert.bind(hour).bind(self.name).execute(&mut *tx).await?;
        lock.commit(tx).await?; // Fails if the lock was lost.
        Ok("it does the job")
    }

    /// What the scheduler calls.
    async fn on_schedule(self, hour: &str) -> Result<()> {
        let outcome = self.report(hour).await?;
        println!("{} at {hour}: {outcome}", self.name);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite://{}", directory.path().join("locks.db").display());
    let mut nodes = Vec::new();
    for name in ["node-1", "node-2", "node-3"] {
        // Each of them could be a process on another machine, on a server instead of a file.
        let locks = LockManager::builder().task_id(name).connect(&url).await?;
        let pool = SqlitePool::connect(&url).await?;
        nodes.push(Node { name, locks, pool });
    }
    let create = "CREATE TABLE reports (hour TEXT PRIMARY KEY, node TEXT NOT NULL)";
    sqlx::query(create).execute(&nodes[0].pool).await?;

    for hour in ["13:00", "14:00"] {
        let runs: Vec<_> = nodes
            .iter()
            .map(|node| tokio::spawn(node.clone().on_schedule(hour)))
            .collect();
        for run in runs {
            run.await??;
        }
    }
    // A node whose clock is behind.
    nodes[0].clone().on_schedule("14:00").await?;
    for node in nodes {
        node.pool.close().await;
        node.locks.close().await?;
    }
    Ok(())
}
