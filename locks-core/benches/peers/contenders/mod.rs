//! The contenders: ours, and what one would use instead.

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
use serde::Serialize;

pub(crate) use self::{one_row::OneRow, server_lock::Blocking};
use crate::{Result, engine::Engine};

/// A way to lock by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// This library, with releases that are waited for.
    Ours,
    /// This library, with guards that are dropped: the release rides with the next grant.
    OursDropped,
    /// The original's algorithm: one row, 100 ms after a conflict.
    Original,
    /// The same, tried again at once.
    Retry,
    /// A row per lock by `INSERT` and `DELETE`.
    RowPerLock,
    /// `GET_LOCK`, or an advisory lock.
    ServerLock,
    /// `SET NX PX`, and a script that compares and deletes.
    Redis,
}

/// Connected, and ready to be measured.
pub(crate) trait Locks: Send + Sync {
    /// Takes the lock and gives it back; how long the taking took.
    fn pair<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Duration>>;
}

impl Contender {
    /// Those that can run on this engine, ours first.
    pub(crate) fn on(engine: Engine) -> Vec<Self> {
        let all = Self::value_variants().iter().copied();
        all.filter(|contender| match contender {
            Self::ServerLock => engine != Engine::Sqlite,
            Self::Redis => redis::is_there(),
            _ => true,
        })
        .collect()
    }

    /// Whether it is this library.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursDropped)
    }

    /// What it is called in tables and plots.
    pub(crate) fn name(self, engine: Engine) -> &'static str {
        match (self, engine) {
            (Self::Ours, _) => "locks-core",
            (Self::OursDropped, _) => "locks-core, dropped",
            (Self::Original, _) => "original, 100 ms pauses",
            (Self::Retry, _) => "original, retried at once",
            (Self::RowPerLock, _) => "row per lock",
            (Self::ServerLock, Engine::Postgres) => "PgAdvisoryLock",
            (Self::ServerLock, _) => "GET_LOCK",
            (Self::Redis, _) => "Redis",
        }
    }

    /// Connects it, where it works that way over so many connections.
    pub(crate) async fn connect(
        self,
        engine: Engine,
        url: &str,
        connections: usize,
    ) -> Result<Box<dyn Locks>> {
        Ok(match self {
            Self::Ours => Box::new(ours::Ours::connect(url, ours::End::Release).await?),
            Self::OursDropped => Box::new(ours::Ours::connect(url, ours::End::Drop).await?),
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

/// Takes and gives back until `end`; how long each taking took.
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
