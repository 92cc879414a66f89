//! The tables: found, made or widened.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time;

use super::{
    connection::Connection,
    failure::{Class, Failure, Kind},
};
use crate::error::{LockError, Result};

impl Connection {
    /// Sees to it that all tables are there. Many processes may do so at once: every
    /// statement may find its work done, and no lock is taken, since two of the
    /// engines have none that would hold.
    pub(crate) async fn ensure_tables(&mut self) -> Result<()> {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(5))
            .with_max_delay(Duration::from_millis(500))
            .with_max_times(30)
            .with_jitter()
            .build();
        let mut last = None;
        for pause in pauses {
            match self.probe().await {
                Ok(()) => return Ok(()),
                Err(failure) if failure.kind == Kind::Missing => {}
                Err(failure) if failure.class == Class::Retry => {}
                Err(failure) => return Err(failure.into()),
            }
            match self.migrate().await {
                Ok(()) => tracing::info!("the lock tables were made"),
                Err(failure) if failure.kind == Kind::Denied => {
                    let path = self.statements().migration_path;
                    return Err(not_allowed(&failure, path));
                }
                Err(failure) if failure.class == Class::Retry || failure.kind == Kind::Missing => {
                    tracing::debug!(%failure, "making the tables again");
                    last = Some(failure);
                }
                Err(failure) => return Err(failure.into()),
            }
            time::sleep(pause).await;
        }
        Err(match last {
            Some(failure) => failure.into(),
            None => LockError::schema("the tables were made again and again, and never found"),
        })
    }

    /// Whether every table has every column we need.
    async fn probe(&mut self) -> Result<(), Failure> {
        self.read("").await?;
        self.sessions_in("").await?;
        self.fences_in("").await?;
        Ok(())
    }

    async fn migrate(&mut self) -> Result<(), Failure> {
        for statement in self.statements().migration.split(";\n") {
            if statement.trim().is_empty() {
                continue;
            }
            match self.raw(statement).await {
                Err(failure) if failure.kind != Kind::Exists => return Err(failure),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The tables may not be made here, nor anything else be written.
pub(super) fn not_allowed(failure: &Failure, path: &str) -> LockError {
    LockError::schema(format!(
        "the lock tables are missing or incomplete and cannot be made here ({failure}); \
         apply {path} with a user that may"
    ))
}

/// The tables went away, or another database answered.
pub(super) fn missing(failure: &Failure) -> LockError {
    LockError::schema(format!(
        "the lock tables are missing or incomplete ({failure}); \
         connect again, or apply the engine's file under migrations/"
    ))
}
