//! This library with its default settings.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use locks_core::LockManager;

use super::{Locks, Setup};
use crate::Result;

#[derive(Debug)]
pub(super) struct Ours {
    locks: LockManager,
    end: End,
}

/// How a lock is released.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Release,
    Drop,
}

impl Ours {
    pub(super) async fn connect(setup: &Setup, end: End) -> Result<Self> {
        let mut locks = setup.connect().await?;
        if let End::Drop = end {
            // A dropped lock is still held for some milliseconds, which must not affect the
            // rounds with `release`.
            locks = locks.with_namespace("dropped")?;
        }
        Ok(Self { locks, end })
    }
}

impl Locks for Ours {
    fn pair<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Duration>> {
        Box::pin(async move {
            let asked = Instant::now();
            let guard = self.locks.acquire(name).await?;
            let took = asked.elapsed();
            match self.end {
                End::Release => guard.release().await?,
                End::Drop => drop(guard),
            }
            Ok(took)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(self.locks.close().await?) })
    }
}
