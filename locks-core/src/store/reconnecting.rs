//! A connection that comes back by itself.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};

use super::{
    change::ChangeSource,
    connection::Connection,
    failure::{Class, Failure, Kind},
    schema,
    statements::FenceStatement,
    target::Target,
};
use crate::error::LockError;

/// A place for one connection, opened when needed and thrown away when in doubt.
#[derive(Debug)]
pub(crate) struct Reconnecting {
    target: Target,
    limit: Duration,
    role: &'static str,
    connection: Option<Connection>,
}

impl Reconnecting {
    /// A link whose statements may take `limit` each; `role` is what events call it.
    pub(crate) fn new(target: Target, limit: Duration, role: &'static str) -> Self {
        Self {
            target,
            limit,
            role,
            connection: None,
        }
    }

    /// Another link to the same database.
    pub(crate) fn sibling(&self, limit: Duration, role: &'static str) -> Self {
        Self::new(self.target.clone(), limit, role)
    }

    pub(crate) fn target(&self) -> Target {
        self.target.clone()
    }

    /// How the engine tells of changes.
    pub(crate) fn change_source(&self) -> ChangeSource {
        self.target.dialect().change_source
    }

    /// Whether a row can be read under its lock. Known once the tables are there.
    pub(crate) fn has_row_lock(&self) -> bool {
        self.target.server().statements.lock.is_some()
    }

    /// What fences an application's transaction. Known once the tables are there.
    pub(crate) fn fence_statement(&self) -> FenceStatement {
        self.target.server().fence.clone()
    }

    /// Connects, and sees to it that the tables are there.
    pub(crate) async fn ensure_tables(&mut self) -> Result<(), LockError> {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(5))
            .with_max_delay(Duration::from_millis(500))
            .with_max_times(12)
            .with_jitter();
        // A file that another process is just making, or a server that is full, says so.
        let mut connection = (|| self.target.open(self.limit))
            .retry(pauses)
            .when(|failure| failure.class == Class::NotApplied)
            .await
            .map_err(|failure| match failure.kind {
                // A file that may only be read, and was never one of ours.
                Kind::Denied => schema::not_allowed(&failure, self.target.dialect().migration_path),
                _ => failure.into(),
            })?;
        connection.ensure_tables(&self.target.server()).await?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Runs `work` on the connection, opened first where there is none. After a
    /// failure that leaves the connection in doubt it is thrown away.
    pub(crate) async fn with<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if self.connection.is_none() {
            let opened = self.target.open(self.limit).await;
            // Nothing was asked yet, so nothing can be unknown.
            let opened = opened.map_err(Failure::not_applied)?;
            tracing::debug!(role = self.role, target = ?self.target, "connected");
            self.connection = Some(opened);
        }
        let connection = self.connection.as_mut().expect("BUG: just connected");
        let result = work(connection).await;
        if let Err(failure) = &result
            && (!failure.keeps_connection() || connection.is_locked())
        {
            tracing::warn!(role = self.role, %failure, "connection given up");
            self.connection = None;
        }
        result
    }

    /// Says good-bye where there is a connection.
    pub(crate) async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }
}
