//! The original's algorithm: one row holds all locks. A change reads the row and replaces it,
//! unless its version has changed in between.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;

use super::Locks;
use crate::{
    Result,
    engine::Engine,
    sql::{Arg, Pool, Statement},
};

/// The original's pause after a conflict.
pub(super) const CONFLICT_PAUSE: Duration = Duration::from_millis(100);
/// The original's `wait` reads the row once in this time.
const WAIT_PAUSE: Duration = Duration::from_secs(10);
/// The owner of every lock.
const TASK: &str = "task";

#[derive(Debug)]
pub(crate) struct OneRow {
    pool: Pool,
    read: Statement,
    compare_and_set: Statement,
    pause: Option<Duration>,
}

impl OneRow {
    pub(crate) async fn connect(
        engine: Engine,
        url: &str,
        connections: usize,
        pause: Option<Duration>,
    ) -> Result<Self> {
        let compare_and_set = "UPDATE one_row SET dataJson = ?, version = version + 1 \
                    WHERE id = 'platform' AND version = ?";
        Ok(Self {
            pool: Pool::open(engine, url, connections).await?,
            read: Statement::new(engine, "SELECT dataJson, version FROM one_row"),
            compare_and_set: Statement::new(engine, compare_and_set),
            pause,
        })
    }

    /// Applies `change` to the locks, and repeats that after a conflict. Returns false if
    /// `change` changes nothing.
    async fn change(&self, change: impl Fn(&mut BTreeMap<String, String>) -> bool) -> Result<bool> {
        loop {
            {
                let mut connection = self.pool.take().await?;
                let (json, version) = connection.text_and_number(&self.read).await?;
                let mut held = serde_json::from_str(&json)?;
                if !change(&mut held) {
                    return Ok(false);
                }
                let json = serde_json::to_string(&held)?;
                let args = [Arg::Text(&json), Arg::Int(version)];
                if connection.execute(&self.compare_and_set, &args).await? == 1 {
                    return Ok(true);
                }
            }
            if let Some(pause) = self.pause {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Acquires the lock. Returns false if it is held.
    pub(crate) async fn acquire(&self, name: &str) -> Result<bool> {
        self.change(|held| {
            let is_free = !held.contains_key("box_update") && !held.contains_key(name);
            if is_free {
                held.insert(name.to_owned(), TASK.to_owned());
            }
            is_free
        })
        .await
    }

    /// Acquires the lock, and tries that every 10 s while it is held.
    pub(crate) async fn wait(&self, name: &str) -> Result<()> {
        while !self.acquire(name).await? {
            tokio::time::sleep(WAIT_PAUSE).await;
        }
        Ok(())
    }

    /// Releases the lock. Returns false if it is not held.
    pub(crate) async fn release(&self, name: &str) -> Result<bool> {
        self.change(|held| held.remove(name).is_some()).await
    }
}

impl Locks for OneRow {
    fn pair<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Duration>> {
        Box::pin(async move {
            let asked = Instant::now();
            if !self.acquire(name).await? {
                return Err(format!("{name} is held").into());
            }
            let took = asked.elapsed();
            if !self.release(name).await? {
                return Err(format!("{name} was never acquired").into());
            }
            Ok(took)
        })
    }
}
