//! Redis, if a server is available. By default it is not durable.

use std::{
    env,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use redis::aio::MultiplexedConnection;

use super::Locks;
use crate::Result;

/// The environment variable that holds the URL of a Redis server.
pub(crate) const REDIS_URL: &str = "LOCKS_BENCH_REDIS_URL";

const COMPARE_AND_DELETE: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end";

pub(super) fn is_available() -> bool {
    env::var_os(REDIS_URL).is_some_and(|url| !url.is_empty())
}

pub(super) struct Redis {
    connections: Vec<MultiplexedConnection>,
    next: AtomicUsize,
}

impl Redis {
    pub(super) async fn connect(connections: usize) -> Result<Self> {
        let client = redis::Client::open(env::var(REDIS_URL)?)?;
        let mut opened = Vec::new();
        for _ in 0..connections {
            opened.push(client.get_multiplexed_async_connection().await?);
        }
        Ok(Self {
            connections: opened,
            next: AtomicUsize::new(0),
        })
    }
}

impl Locks for Redis {
    fn pair<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Duration>> {
        Box::pin(async move {
            let owner = format!("{:016x}", fastrand::u64(..));
            let asked = Instant::now();
            // A connection can carry many commands at once.
            let next = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
            let mut connection = self.connections[next].clone();
            let taken: Option<String> = redis::cmd("SET")
                .arg(name)
                .arg(&owner)
                .arg("NX")
                .arg("PX")
                .arg(15_000)
                .query_async(&mut connection)
                .await?;
            let took = asked.elapsed();
            taken.ok_or_else(|| format!("{name} is held"))?;
            let () = redis::cmd("EVAL")
                .arg(COMPARE_AND_DELETE)
                .arg(1)
                .arg(name)
                .arg(&owner)
                .query_async(&mut connection)
                .await?;
            Ok(took)
        })
    }
}
