//! The original's algorithm: one row with all the locks, read, changed and replaced if nobody
//! replaced it meanwhile.

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

/// What the original waits after a conflict.
pub(super) const CONFLICT_PAUSE: Duration = Duration::from_millis(100);
/// What it waits between two looks of its `wait`.
const WAIT_PAUSE: Duration = Duration::from_secs(10);
/// What it writes for the task.
const TASK: &str = "task";

#[derive(Debug)]
pub(crate) struct OneRow {
    pool: Pool,
    read: Statement,
    swap: Statement,
    pause: Option<Duration>,
}

impl OneRow {
    pub(crate) async fn connect(
        engine: Engine,
        url: &str,
        connections: usize,
        pause: Option<Duration>,
    ) -> Result<Self> {
        let swap = "UPDATE one_row SET dataJson = ?, version = version + 1 \
                    WHERE id = 'platform' AND version = ?";
        Ok(Self {
            pool: Pool::open(engine, url, connections).await?,
            read: Statement::new(engine, "SELECT dataJson, version FROM one_row"),
            swap: Statement::new(engine, swap),
            pause,
        })
    }

    /// Reads, lets `change` change what is held, and writes, until nobody was faster; false
    /// when there is nothing to change.
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
                if connection.execute(&self.swap, &args).await? == 1 {
                    return Ok(true);
                }
            }
            if let Some(pause) = self.pause {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Takes the lock; false if it is held.
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

    /// Looks again every 10 s until the lock is free.
    pub(crate) async fn wait(&self, name: &str) -> Result<()> {
        while !self.acquire(name).await? {
            tokio::time::sleep(WAIT_PAUSE).await;
        }
        Ok(())
    }

    /// Gives the lock back; false if nobody held it.
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
