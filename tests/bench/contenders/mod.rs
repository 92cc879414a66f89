//! The contenders: this library, and other ways to lock.

mod one_row;
mod ours;
mod redis;
mod row_per_lock;
mod server_lock;

use std::{
    fmt,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use futures_util::future::BoxFuture;
use locks_core::LockManager;
use serde::Serialize;

pub(crate) use self::{one_row::OneRow, server_lock::Blocking};
use crate::{Result, engine::Engine, switches};

/// A way to lock by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// This library; `release` is awaited.
    Ours,
    /// This library; guards are dropped, and the next grant's write releases the lock as well.
    OursDropped,
    /// The original's algorithm: one row, and a pause of 100 ms after a conflict.
    Original,
    /// The original's algorithm without the pause.
    Retry,
    /// A row per lock by `INSERT` and `DELETE`.
    RowPerLock,
    /// `GET_LOCK`, or an advisory lock.
    ServerLock,
    /// `SET NX PX`, and a script that compares and deletes.
    Redis,
}

/// What a contender connects to.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) engine: Engine,
    pub(crate) url: String,
    /// The mechanisms of this library that are turned off.
    pub(crate) without: Vec<String>,
}

/// A connected contender.
pub(crate) trait Locks: Send + Sync {
    /// Acquires the lock and releases it. Returns how long the acquisition took.
    fn pair<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Duration>>;

    /// Ends the contender's sessions in the database, if it has any.
    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

impl Setup {
    /// Connects this library.
    pub(crate) async fn connect(&self) -> Result<LockManager> {
        switches::connect(&self.url, &self.without).await
    }
}

impl Contender {
    /// The contenders that can run on this engine. This library comes first.
    pub(crate) fn on(engine: Engine) -> Vec<Self> {
        let all = Self::value_variants().iter().copied();
        all.filter(|contender| match contender {
            Self::ServerLock => engine != Engine::Sqlite,
            Self::Redis => redis::is_available(),
            _ => true,
        })
        .collect()
    }

    /// Whether it is this library.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursDropped)
    }

    /// Its name in tables and plots.
    pub(crate) fn name(self, engine: Engine) -> &'static str {
        match (self, engine) {
            (Self::Ours, _) => "locks-core",
            (Self::OursDropped, _) => "locks-core, dropped",
            (Self::Original, _) => "original, 100 ms pauses",
            (Self::Retry, _) => "original, no pauses",
            (Self::RowPerLock, _) => "row per lock",
            (Self::ServerLock, Engine::Postgres) => "PgAdvisoryLock",
            (Self::ServerLock, _) => "GET_LOCK",
            (Self::Redis, _) => "Redis",
        }
    }

    /// Connects it. `connections` is the size of its pool, if it has one.
    pub(crate) async fn connect(self, setup: &Setup, connections: usize) -> Result<Box<dyn Locks>> {
        let (engine, url) = (setup.engine, &setup.url);
        Ok(match self {
            Self::Ours => Box::new(ours::Ours::connect(setup, ours::End::Release).await?),
            Self::OursDropped => Box::new(ours::Ours::connect(setup, ours::End::Drop).await?),
            Self::Original => {
                let pause = Some(one_row::CONFLICT_PAUSE);
                Box::new(OneRow::connect(engine, url, connections, pause).await?)
            }
            Self::Retry => Box::new(OneRow::connect(engine, url, connections, None).await?),
            Self::RowPerLock => {
                Box::new(row_per_lock::RowPerLock::connect(engine, url, connections).await?)
            }
            Self::ServerLock => {
                Box::new(server_lock::ServerLock::connect(engine, url, connections).await?)
            }
            Self::Redis => Box::new(redis::Redis::connect(connections).await?),
        })
    }
}

impl fmt::Debug for dyn Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Locks")
    }
}

/// Acquires and releases until `end`. Returns how long each acquisition took.
pub(crate) async fn pairs_until(
    locks: &dyn Locks,
    name: &str,
    end: Instant,
) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    while Instant::now() < end {
        took.push(locks.pair(name).await?);
    }
    Ok(took)
}
