//! The locks of the servers. They are kept in memory and end with their session.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::postgres::PgAdvisoryLock;

use super::Locks;
use crate::{
    Result,
    engine::Engine,
    sql::{Arg, Connection, Pool, Statement},
};

#[derive(Debug)]
pub(super) struct ServerLock {
    pool: Pool,
    calls: Calls,
}

/// The calls that acquire and release a lock.
#[derive(Debug)]
struct Calls {
    lock: Statement,
    unlock: Statement,
}

impl Calls {
    fn new(engine: Engine) -> Self {
        let (lock, unlock) = match engine {
            Engine::Postgres => (
                "SELECT pg_advisory_lock(hashtext(?))::text",
                "SELECT pg_advisory_unlock(hashtext(?))",
            ),
            _ => ("SELECT GET_LOCK(?, 60)", "SELECT RELEASE_LOCK(?)"),
        };
        Self {
            lock: Statement::new(engine, lock),
            unlock: Statement::new(engine, unlock),
        }
    }
}

impl ServerLock {
    pub(super) async fn connect(engine: Engine, url: &str, connections: usize) -> Result<Self> {
        Ok(Self {
            pool: Pool::open(engine, url, connections).await?,
            calls: Calls::new(engine),
        })
    }
}

impl Locks for ServerLock {
    fn pair<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Duration>> {
        Box::pin(async move {
            let asked = Instant::now();
            // The lock belongs to the connection, which must not return to the pool in between.
            let mut connection = self.pool.take().await?;
            if let Connection::Postgres(connection) = &mut *connection {
                let lock = PgAdvisoryLock::new(name);
                let guard = lock.acquire(connection).await?;
                let took = asked.elapsed();
                guard.release_now().await?;
                return Ok(took);
            }
            connection
                .call(&self.calls.lock, &[Arg::Text(name)])
                .await?;
            let took = asked.elapsed();
            connection
                .call(&self.calls.unlock, &[Arg::Text(name)])
                .await?;
            Ok(took)
        })
    }
}

/// A lock of the server, with waiting in the server.
#[derive(Debug)]
pub(crate) struct Blocking {
    connection: Connection,
    calls: Calls,
}

impl Blocking {
    pub(crate) async fn connect(engine: Engine, url: &str) -> Result<Self> {
        Ok(Self {
            connection: Connection::open(engine, url).await?,
            calls: Calls::new(engine),
        })
    }

    pub(crate) async fn lock(&mut self, name: &str) -> Result<()> {
        self.connection
            .call(&self.calls.lock, &[Arg::Text(name)])
            .await
    }

    pub(crate) async fn unlock(&mut self, name: &str) -> Result<()> {
        self.connection
            .call(&self.calls.unlock, &[Arg::Text(name)])
            .await
    }
}
