//! A connection and its statements on the locks row.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time;

use super::{
    busy::BusyPauses,
    change::{Change, Signal},
    executor::{Argument, ColumnType, Executor, Sql, Value},
    failure::{Class, Failure, Kind},
    file::FileIdentity,
    rows::{LocksRow, Preconditions, RowVersion},
    statements::{Condition, Statements},
    target::Server,
};
use crate::{
    options::Durability,
    random::unique,
    table::{Columns, SessionId},
};

/// Pauses that are shorter than this are too short for the timers of the runtime. The driver's
/// thread sleeps.
const TIMER: Duration = Duration::from_millis(2);

/// A connection of the driver. It is never taken from the application.
#[derive(Debug)]
pub(crate) struct Connection {
    executor: Box<dyn Executor>,
    limit: Duration,
    /// How long a statement is repeated while another connection writes.
    pub(super) busy_limit: Duration,
    /// Whether sessions are renewed beside a database file that cannot be written.
    pub(super) renews_beside_file: bool,
    pub(super) file: FileIdentity,
    pub(super) statements: Arc<Statements>,
    /// Whether the statements of turns are prepared.
    pub(super) turns_prepared: bool,
    /// The number of fence rows of a session.
    pub(super) fence_rows: usize,
    /// The text that begins the transaction of each statement, if the settings do not stay on
    /// the connection.
    transaction: Option<String>,
    /// How many bytes the server accepts in one statement, if it says so.
    longest: Option<usize>,
    /// Whether the transaction of `read_locked` is open.
    locked: bool,
    /// What the writes of the connection survive, where that can be chosen.
    durability: Durability,
    busy: BusyPauses,
}

/// What a statement has besides the texts of its arguments is shorter than this.
const OVERHEAD: usize = 4096;

impl Connection {
    pub(super) async fn open(
        executor: Box<dyn Executor>,
        limit: Duration,
        file: FileIdentity,
        server: &Server,
    ) -> Result<Self, Failure> {
        let mut this = Self {
            executor,
            limit,
            busy_limit: limit,
            renews_beside_file: false,
            file,
            statements: server.statements.clone(),
            turns_prepared: false,
            fence_rows: server.fence.rows,
            transaction: (server.dialect.transaction)(limit, &server.facts),
            longest: server.facts.number("max_allowed_packet"),
            locked: false,
            durability: Durability::Full,
            busy: BusyPauses::new(unique()),
        };
        for setting in (server.dialect.settings)(limit, &server.facts) {
            this.raw(&setting).await?;
        }
        this.file.attach()?;
        Ok(this)
    }

    /// Reads the row of a namespace; `None` if there is none.
    pub(crate) async fn read(&mut self, namespace: &str) -> Result<Option<LocksRow>, Failure> {
        let sql = self.statements.clone();
        self.read_by(&sql.read, namespace).await
    }

    /// Locks and reads the row of a namespace. Other writers wait until the next
    /// [`compare_and_set`](Self::compare_and_set) or [`unlock`](Self::unlock). After a
    /// failure in between, the connection must not be used again.
    ///
    /// # Panics
    ///
    /// If the engine has no row lock.
    pub(crate) async fn read_locked(
        &mut self,
        namespace: &str,
    ) -> Result<Option<LocksRow>, Failure> {
        let statements = self.statements.clone();
        let lock = statements
            .row_lock
            .as_ref()
            .expect("BUG: the engine has no row lock");
        let begin = self.transaction.as_deref().unwrap_or(lock.begin);
        let begin = match lock.limit {
            Some(limit) => format!("{begin}; {limit}"),
            None => begin.to_owned(),
        };
        self.locked = true;
        self.raw(&begin).await?;
        self.read_by(&lock.read, namespace).await
    }

    /// Releases the row lock without a write.
    pub(crate) async fn unlock(&mut self) -> Result<(), Failure> {
        let statements = self.statements.clone();
        let rollback = statements
            .row_lock
            .as_ref()
            .map_or("ROLLBACK", |l| l.rollback);
        self.raw(rollback).await?;
        self.locked = false;
        Ok(())
    }

    /// Whether the row lock is held.
    pub(super) fn is_locked(&self) -> bool {
        self.locked
    }

    async fn read_by(&mut self, sql: &str, namespace: &str) -> Result<Option<LocksRow>, Failure> {
        const TYPES: &[ColumnType] = &[
            ColumnType::Text,
            ColumnType::Int,
            ColumnType::Text,
            ColumnType::Text,
        ];
        let rows = self.fetch(sql, &[Argument::Text(namespace)], TYPES).await?;
        Ok(at_most_one(rows, namespace)?.map(|values| {
            let [data, version, stamp, meta] = columns(values);
            LocksRow {
                version: row_version(version, stamp),
                data_json: data.text(),
                meta_json: meta.text(),
            }
        }))
    }

    /// Reads the version of a namespace's row, without its texts.
    pub(crate) async fn read_version(
        &mut self,
        namespace: &str,
    ) -> Result<Option<RowVersion>, Failure> {
        const TYPES: &[ColumnType] = &[ColumnType::Int, ColumnType::Text];
        let sql = self.statements.clone();
        let rows = self
            .fetch(&sql.read_version, &[Argument::Text(namespace)], TYPES)
            .await?;
        Ok(at_most_one(rows, namespace)?.map(|values| {
            let [version, stamp] = columns(values);
            row_version(version, stamp)
        }))
    }

    /// Reads the versions of many namespaces. A namespace without a row is left out.
    pub(crate) async fn read_versions(
        &mut self,
        namespaces: &[Arc<str>],
    ) -> Result<Vec<(String, RowVersion)>, Failure> {
        const TYPES: &[ColumnType] = &[
            ColumnType::Text,
            ColumnType::Int,
            ColumnType::Text,
            ColumnType::Int,
        ];
        let (list, args) = self.list(0, namespaces.iter().map(|name| &**name));
        let sql = format!("{} {list}", self.statements.read_versions);
        let rows = self.fetch_all(&sql, &args, TYPES).await?;
        let row = |values| {
            let [name, version, stamp] = columns(values);
            Some((name.text()?, row_version(version, stamp)))
        };
        Ok(rows.into_iter().filter_map(row).collect())
    }

    /// Sets what the next writes survive, where that can be chosen.
    pub(crate) async fn survive(&mut self, durability: Durability) -> Result<(), Failure> {
        if let Some(synchronous) = self.statements.synchronous
            && self.durability != durability
        {
            self.raw(synchronous(durability)).await?;
            self.durability = durability;
        }
        Ok(())
    }

    /// Replaces the row if its version is `from` and the preconditions hold. Returns whether
    /// it was replaced.
    pub(crate) async fn compare_and_set(
        &mut self,
        namespace: &str,
        from: &RowVersion,
        to: &RowVersion,
        columns: &Columns,
        preconditions: &Preconditions,
    ) -> Result<bool, Failure> {
        let mut args = vec![
            Argument::Text(&columns.data_json),
            Argument::Text(&columns.meta_json),
            Argument::Text(to.stamp.as_deref().unwrap_or_default()),
            Argument::Int(to.version),
            Argument::Text(namespace),
            Argument::Int(from.version),
            Argument::Text(from.stamp.as_deref().unwrap_or_default()),
        ];
        let statements = self.statements.clone();
        let mut sql = statements.compare_and_set.clone();
        let witness = preconditions.witness.as_slice();
        // An absent fence row proves nothing unless the witness is visible.
        let witness = if preconditions.dead.is_empty() {
            &[]
        } else {
            witness
        };
        let conditions: [(&Condition, &[SessionId], usize); 3] = [
            (
                &statements.alive,
                &preconditions.alive,
                preconditions.alive.len(),
            ),
            (&statements.dead, &preconditions.dead, 0),
            (&statements.dead, witness, witness.len()),
        ];
        for (condition, sessions, count) in conditions {
            if sessions.is_empty() {
                continue;
            }
            let (list, ids) = self.list(args.len(), sessions.iter().map(|id| &*id.0));
            args.extend(ids);
            args.push(Argument::Int(i64::try_from(count).unwrap_or(i64::MAX)));
            let count = (statements.placeholder)(args.len());
            let Condition { before, after } = condition;
            sql = format!("{sql}{before}{list}{after}{count}");
        }
        let result = self.execute(&sql, &args).await;
        if let Err(failure) = &result
            && self.locked
            && failure.keeps_connection()
        {
            self.unlock().await?;
        }
        let rows = result?;
        if self.locked {
            let commit = statements.row_lock.as_ref().map_or("COMMIT", |l| l.commit);
            self.commit(commit).await?;
            self.locked = false;
        }
        Ok(rows == 1)
    }

    /// Commits. After a failure it is unknown whether the transaction was committed, unless
    /// the server reports a conflict.
    async fn commit(&mut self, sql: &str) -> Result<(), Failure> {
        self.raw(sql).await.map_err(|mut failure| {
            if failure.kind != Kind::Conflict {
                failure.class = Class::Indeterminate;
            }
            failure
        })
    }

    /// Adopts a row without a stamp. Its locks stay, and its new version is at least
    /// `least`. Returns whether the row had this version and no stamp.
    pub(crate) async fn adopt(
        &mut self,
        namespace: &str,
        version: i64,
        least: i64,
        stamp: &str,
    ) -> Result<bool, Failure> {
        let args = [
            Argument::Int(least.max(version.saturating_add(1))),
            Argument::Text(stamp),
            Argument::Text(namespace),
            Argument::Int(version),
        ];
        self.survive(Durability::Full).await?;
        let sql = self.statements.clone();
        Ok(self.execute(&sql.adopt, &args).await? == 1)
    }

    /// Creates the row of a namespace. Returns whether there was none.
    pub(crate) async fn create(
        &mut self,
        namespace: &str,
        least: i64,
        stamp: &str,
    ) -> Result<bool, Failure> {
        let args = [
            Argument::Text(namespace),
            Argument::Int(least),
            Argument::Text(stamp),
        ];
        self.survive(Durability::Full).await?;
        let sql = self.statements.clone();
        match self.execute(&sql.create, &args).await {
            Ok(rows) => Ok(rows == 1),
            Err(failure) if failure.kind == Kind::Exists => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Notifies other processes of the row's new version, if the engine has notifications.
    pub(crate) async fn notify(&mut self, namespace: &str, version: i64) -> Result<(), Failure> {
        let statements = self.statements.clone();
        let Some(sql) = &statements.notify else {
            return Ok(());
        };
        let payload = Change::text(namespace, version);
        self.notify_of(sql, &payload).await
    }

    /// Sends a probe to every listening process, and so to this one.
    pub(crate) async fn probe(&mut self, id: &str) -> Result<(), Failure> {
        let statements = self.statements.clone();
        let Some(sql) = &statements.notify else {
            return Ok(());
        };
        self.notify_of(sql, &Signal::probe(id)).await
    }

    /// A full queue of notifications refuses the statement or the commit, and nothing else.
    async fn notify_of(&mut self, sql: &str, payload: &str) -> Result<(), Failure> {
        let sent = self.fetch(sql, &[Argument::Text(payload)], &[]).await;
        sent.map(drop).map_err(|mut failure| {
            if failure.kind == Kind::Content {
                failure.class = Class::NotApplied;
                failure.kind = Kind::Other;
            }
            failure
        })
    }

    /// Reads a number that changes when another connection writes; `None` if the engine has
    /// none.
    pub(crate) async fn data_version(&mut self) -> Result<Option<i64>, Failure> {
        let Some(sql) = self.statements.data_version else {
            return Ok(None);
        };
        let rows = self.fetch(sql, &[], &[ColumnType::Int]).await?;
        let first = rows.into_iter().next();
        Ok(first.and_then(|values| columns::<1>(values)[0].clone().int()))
    }

    /// Closes the connection. Errors are ignored.
    pub(crate) async fn close(self) {
        let Self {
            executor,
            limit,
            file,
            ..
        } = self;
        // SQLite may delete `-wal` and `-shm` now. A connection that is opened meanwhile must not
        // expect these.
        drop(file);
        drop(time::timeout(limit, executor.close()).await);
    }

    pub(super) async fn raw(&mut self, sql: &str) -> Result<(), Failure> {
        self.run(async |executor| executor.execute_raw(Sql(sql)).await)
            .await
    }

    /// Runs several statements as one message, and returns the rows of all of them.
    pub(super) async fn fetch_raw(
        &mut self,
        sql: &str,
        types: &[ColumnType],
    ) -> Result<Vec<Vec<Value>>, Failure> {
        self.run(async |executor| executor.fetch_raw(Sql(sql), types).await)
            .await
    }

    /// Runs a statement that cannot be prepared, with the settings of the connection.
    pub(super) async fn run_raw(&mut self, sql: &str) -> Result<(), Failure> {
        self.transact(async |executor| executor.execute_raw(Sql(sql)).await)
            .await
    }

    pub(super) async fn execute(
        &mut self,
        sql: &str,
        args: &[Argument<'_>],
    ) -> Result<u64, Failure> {
        self.check_length(args)?;
        self.transact(async |executor| executor.execute(Sql(sql), args).await)
            .await
    }

    /// Fails if the server would refuse the statement because of its length, and close the
    /// connection.
    fn check_length(&self, args: &[Argument<'_>]) -> Result<(), Failure> {
        let texts = args.iter().map(|arg| match arg {
            Argument::Text(text) => text.len(),
            Argument::Int(_) | Argument::OptionalInt(_) => 0,
        });
        let len = texts.sum::<usize>() + OVERHEAD;
        match self.longest {
            Some(longest) if len > longest.max(2 * OVERHEAD) => {
                Err(Failure::too_long(len, longest))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn fetch(
        &mut self,
        sql: &str,
        args: &[Argument<'_>],
        types: &[ColumnType],
    ) -> Result<Vec<Vec<Value>>, Failure> {
        self.transact(async |executor| executor.fetch(Sql(sql), args, types).await)
            .await
    }

    /// Runs a query whose last column is the number of its rows, and checks that no row is
    /// missing.
    pub(super) async fn fetch_all(
        &mut self,
        sql: &str,
        args: &[Argument<'_>],
        types: &[ColumnType],
    ) -> Result<Vec<Vec<Value>>, Failure> {
        let mut rows = self.fetch(sql, args, types).await?;
        let found = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        for row in &mut rows {
            let counted = row.pop().and_then(Value::int);
            if counted != Some(found) {
                let text = format!("the server counted {counted:?} rows and sent {found}");
                return Err(Failure::inconsistent(Class::NotApplied, text));
            }
        }
        Ok(rows)
    }

    /// Runs a statement, in a transaction of its own if the settings belong to transactions.
    async fn transact<T>(
        &mut self,
        statement: impl AsyncFn(&mut dyn Executor) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let begin = self.transaction.clone().filter(|_| !self.locked);
        let Some(begin) = begin else {
            return self.run(statement).await;
        };
        self.raw(&begin).await?;
        match self.run(statement).await {
            Ok(value) => {
                self.commit("COMMIT").await?;
                Ok(value)
            }
            Err(failure) => {
                if failure.keeps_connection() {
                    self.raw("ROLLBACK").await?;
                }
                Err(failure)
            }
        }
    }

    /// Runs a statement within the limit. While another connection writes and the engine has
    /// no queue for writers, the statement is repeated.
    async fn run<T>(
        &mut self,
        statement: impl AsyncFn(&mut dyn Executor) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        #[allow(clippy::disallowed_methods, reason = "the limit of a statement")]
        let start = Instant::now();
        let mut attempts = 0;
        loop {
            let result = within(self.limit, statement(&mut *self.executor)).await;
            match result {
                Err(busy) if busy.kind == Kind::Busy && start.elapsed() < self.busy_limit => {
                    attempts += 1;
                    let pause = self.busy.next(attempts);
                    if pause < TIMER {
                        #[allow(clippy::disallowed_methods, reason = "it is short")]
                        std::thread::sleep(pause);
                    } else {
                        time::sleep(pause).await;
                    }
                }
                result => {
                    self.busy.on_done(attempts);
                    // What was read or written counts only if it is in the file of the others.
                    self.file.check()?;
                    return result;
                }
            }
        }
    }

    /// `sql`, followed by a list of the ids.
    pub(super) fn listed<'a>(
        &self,
        sql: &str,
        ids: &'a [SessionId],
    ) -> (String, Vec<Argument<'a>>) {
        let (list, args) = self.list(0, ids.iter().map(|id| &*id.0));
        (format!("{sql} {list}"), args)
    }

    /// A list of the ids in parentheses, after `offset` other arguments. The last id is
    /// repeated until the length is a power of two, so that few statements are prepared.
    pub(super) fn list<'a>(
        &self,
        offset: usize,
        ids: impl Iterator<Item = &'a str>,
    ) -> (String, Vec<Argument<'a>>) {
        let mut args: Vec<_> = ids.map(Argument::Text).collect();
        let last = args.last().copied();
        let fill = args.len().next_power_of_two() - args.len();
        args.extend(std::iter::repeat_n(last, fill).flatten());
        let name = self.statements.placeholder;
        let names: Vec<_> = (offset + 1..=offset + args.len()).map(name).collect();
        (format!("({})", names.join(", ")), args)
    }
}

/// The row of a namespace, if there is one.
fn at_most_one(rows: Vec<Vec<Value>>, namespace: &str) -> Result<Option<Vec<Value>>, Failure> {
    if rows.len() > 1 {
        return Err(Failure::inconsistent(
            Class::Permanent,
            format!(
                "the locks table has {} rows for {namespace:?}: its primary key is missing; \
                 stop all processes that lock, keep one of the rows, and add the key",
                rows.len()
            ),
        ));
    }
    Ok(rows.into_iter().next())
}

/// Limits the time of a statement. After a timeout it is unknown whether the statement was
/// applied, and its connection must not be used again: the server may still run it.
async fn within<T>(
    limit: Duration,
    statement: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match time::timeout(limit, statement).await {
        Ok(result) => result,
        Err(_) => Err(Failure::no_answer(limit)),
    }
}

/// The values of a row. Their number is that of the query's column types.
pub(super) fn columns<const N: usize>(values: Vec<Value>) -> [Value; N] {
    values
        .try_into()
        .expect("BUG: a row has one value for each column type")
}

pub(super) fn row_version(version: Value, stamp: Value) -> RowVersion {
    RowVersion {
        version: version.int().unwrap_or_default(),
        stamp: stamp.text(),
    }
}
