//! A connection that is reopened after a failure.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use backon::{ExponentialBuilder, Retryable};

use super::{
    change::ChangeSource,
    connection::Connection,
    failure::{Class, Failure, Kind},
    schema,
    statements::FenceStatement,
    target::Target,
};
use crate::{error::LockError, options::Durability};

/// How long the first connect calls a provider of options again.
const RETRY_LIMIT: Duration = Duration::from_secs(5);

/// A connection that is opened at its first use, and dropped after a failure that leaves its
/// state unknown.
#[derive(Debug)]
pub(crate) struct Reconnecting {
    target: Target,
    limit: Duration,
    role: &'static str,
    connection: Option<Connection>,
    /// When the connection was opened.
    opened: Option<Instant>,
    has_turns: bool,
    /// Whether the last connection was dropped after a failure.
    failed: bool,
    /// How often a connection was opened again after a failure, and is not reported yet.
    reconnects: u64,
}

/// How old a connection is before it is replaced because its server cannot write: a new one may
/// lead to another server.
const READ_ONLY: Duration = Duration::from_secs(3);

impl Reconnecting {
    /// A connection whose statements may take `limit` each. Log events name it by `role`.
    pub(crate) fn new(target: Target, limit: Duration, role: &'static str) -> Self {
        Self {
            target,
            limit,
            role,
            connection: None,
            opened: None,
            has_turns: false,
            failed: false,
            reconnects: 0,
        }
    }

    /// Another connection to this database.
    pub(crate) fn sibling(&self, limit: Duration, role: &'static str) -> Self {
        Self::new(self.target.clone(), limit, role)
    }

    pub(crate) fn target(&self) -> Target {
        self.target.clone()
    }

    /// How the server reports changes.
    ///
    /// # Panics
    ///
    /// Before [`ensure_tables`](Self::ensure_tables) has succeeded.
    pub(crate) fn change_source(&self) -> ChangeSource {
        self.target.server().change_source
    }

    /// The file to which every write of the database is written, if there is one.
    pub(crate) fn log_file(&self) -> Option<PathBuf> {
        self.target.file().log()
    }

    /// Whether the engine has a row lock.
    ///
    /// # Panics
    ///
    /// Before [`ensure_tables`](Self::ensure_tables) has succeeded.
    pub(crate) fn has_row_lock(&self) -> bool {
        self.target.server().statements.row_lock.is_some()
    }

    /// Whether turns can be taken.
    pub(crate) fn has_turns(&self) -> bool {
        self.has_turns
    }

    /// Whether what is read has survived what writes must survive that are made with this
    /// durability, whoever has written it.
    ///
    /// # Panics
    ///
    /// Before [`ensure_tables`](Self::ensure_tables) has succeeded.
    pub(crate) fn are_reads_durable(&self, durability: Durability) -> bool {
        let statements = &self.target.server().statements;
        // Where each process chooses, another one may have chosen less.
        let chosen = statements.synchronous.is_none() || durability == Durability::Normal;
        statements.shows_durable && chosen
    }

    /// Whether a restart of the machine can undo writes that were answered.
    ///
    /// # Panics
    ///
    /// Before [`ensure_tables`](Self::ensure_tables) has succeeded.
    pub(crate) fn boot_matters(&self) -> bool {
        self.target.server().statements.synchronous.is_some()
    }

    /// The statement that fences a transaction of the application.
    ///
    /// # Panics
    ///
    /// Before [`ensure_tables`](Self::ensure_tables) has succeeded.
    pub(crate) fn fence_statement(&self) -> FenceStatement {
        FenceStatement {
            file: self.target.file(),
            ..self.target.server().fence.clone()
        }
    }

    /// Connects, then checks the tables and creates them if they are missing.
    pub(crate) async fn ensure_tables(&mut self) -> Result<(), LockError> {
        self.target.check_location()?;
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(5))
            .with_max_delay(Duration::from_millis(500))
            .with_max_times(12)
            .with_jitter();
        #[allow(clippy::disallowed_methods, reason = "the limit of the first connect")]
        let start = Instant::now();
        // A retry helps while another process creates the file or the server is full, and if
        // the options of the next call have another host.
        let mut connection = (|| self.target.open(self.limit))
            .retry(pauses)
            .when(|failure| match failure.class {
                Class::NotApplied => true,
                Class::Indeterminate | Class::ReadOnly => {
                    self.target.is_provided() && start.elapsed() < RETRY_LIMIT
                }
                Class::Permanent => false,
            })
            .await
            .map_err(
                |failure| match (failure.kind, failure.class, self.target.dialect()) {
                    // A read-only file without lock tables. A server denies the connection.
                    (Kind::Denied, Class::ReadOnly, Some(dialect)) => {
                        schema::not_allowed(&failure, &dialect.migration_paths())
                    }
                    _ => failure.into(),
                },
            )?;
        // A closure may have named the file.
        self.target.check_location()?;
        let server = self.target.server();
        connection.ensure_tables(&server).await?;
        let turns = connection.prepare_turns(&server).await;
        if self.target.may_be_two_databases() {
            self.expect_tables_elsewhere().await?;
        }
        match turns {
            Ok(has_turns) => {
                self.has_turns = has_turns;
                self.connection = Some(connection);
            }
            Err(failure) => tracing::debug!(%failure, "no turns are taken"),
        }
        Ok(())
    }

    /// Fails if a second connection does not see the tables of the first one.
    async fn expect_tables_elsewhere(&self) -> Result<(), LockError> {
        let mut second = self.target.open(self.limit).await?;
        let seen = second.read_version("").await;
        second.close().await;
        match seen {
            Err(failure) if failure.kind == Kind::Missing => Err(LockError::config(
                "database",
                "two connections to it are two databases, because it is temporary, or in memory \
                 without a shared name: name a file, as in sqlite://path/locks.db, or in a test \
                 a shared database, as in sqlite::memory: or sqlite:file:name?mode=memory",
            )),
            Err(failure) => Err(failure.into()),
            Ok(_) => Ok(()),
        }
    }

    /// Runs `work` on the connection, which is opened if necessary. It is dropped after a
    /// failure that leaves its state unknown.
    pub(crate) async fn with<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        #[allow(clippy::disallowed_methods, reason = "the age of a connection")]
        let now = Instant::now;
        if self.connection.is_none() {
            let opened = self.target.reopen(self.limit).await?;
            tracing::debug!(role = self.role, target = ?self.target, "connected");
            self.connection = Some(opened);
            self.opened = Some(now());
            self.reconnects += u64::from(std::mem::take(&mut self.failed));
        }
        let connection = self.connection.as_mut().expect("BUG: just connected");
        let result = work(connection).await;
        let is_new = self.opened.is_some_and(|at| at.elapsed() < READ_ONLY);
        if let Err(failure) = &result
            && (!failure.keeps_connection() || connection.is_locked())
            && !(failure.is_refused_write() && is_new && !connection.is_locked())
        {
            tracing::debug!(role = self.role, %failure, "connection dropped");
            self.connection = None;
            self.failed = true;
        }
        result
    }

    /// How often a connection was opened again after a failure since the last call.
    pub(crate) fn take_reconnects(&mut self) -> u64 {
        std::mem::take(&mut self.reconnects)
    }

    /// Closes the connection, if it is open.
    pub(crate) async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }
}
