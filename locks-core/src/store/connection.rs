//! A connection, and the statements it knows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time;

use super::{
    change::Change,
    executor::{Argument, ColumnType, Executor, Sql, Value},
    failure::{Class, Failure, Kind},
    file::FileIdentity,
    statements::{Condition, Statements},
    target::Server,
};
use crate::{
    process::Identity,
    table::{Columns, SessionId},
};

/// How long somebody else may write before it is asked less often, and how often.
const LONG: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(5);

/// A connection of our own: never an application's.
#[derive(Debug)]
pub(crate) struct Connection {
    executor: Box<dyn Executor>,
    limit: Duration,
    file: FileIdentity,
    pub(super) statements: Arc<Statements>,
    /// How many fence rows a session has.
    pub(super) fence_rows: usize,
    /// What each statement's transaction begins with, where settings do not stay on the
    /// connection.
    transaction: Option<String>,
    /// Whether it is in the transaction of `read_locked`.
    locked: bool,
}

/// Which write a row is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowVersion {
    pub(crate) version: i64,
    /// `None`: the original made this row, and nobody has adopted it.
    pub(crate) stamp: Option<String>,
}

/// A row as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocksRow {
    pub(crate) version: RowVersion,
    pub(crate) data_json: Option<String>,
    pub(crate) meta_json: Option<String>,
}

/// A session that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewSession {
    pub(crate) id: SessionId,
    pub(crate) namespace: Arc<str>,
    pub(crate) task: Arc<str>,
    pub(crate) process: Identity,
    pub(crate) ttl: Option<Duration>,
}

/// A session's beat row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionRow {
    pub(crate) id: SessionId,
    pub(crate) task: String,
    pub(crate) process: Identity,
    pub(crate) ttl: Option<Duration>,
    pub(crate) heartbeat: i64,
}

/// What must be so for a write to be made, beside the row being as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preconditions {
    /// Sessions that the write grants to or queues for: all of them live.
    pub(crate) alive: Vec<SessionId>,
    /// Sessions whose locks the write takes away: none of them has a fence row.
    pub(crate) dead: Vec<SessionId>,
    /// A session of our own, which shows that fence rows can be seen at all.
    pub(crate) witness: Option<SessionId>,
}

/// What is left of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// It beats, or did.
    Alive(SessionRow),
    /// Its beat row is gone and its fence row is not: somebody evicts it.
    Evicting,
    /// Both are gone: it is dead for good.
    Dead,
}

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
            file,
            statements: server.statements.clone(),
            fence_rows: server.fence.rows,
            transaction: (server.dialect.transaction)(limit, &server.facts),
            locked: false,
        };
        for setting in (server.dialect.settings)(limit, &server.facts) {
            this.raw(&setting).await?;
        }
        Ok(this)
    }

    /// The row of a namespace.
    pub(crate) async fn read(&mut self, namespace: &str) -> Result<Option<LocksRow>, Failure> {
        let sql = self.statements.clone();
        self.read_by(&sql.read, namespace).await
    }

    /// The row of a namespace under its lock, for which others wait until the next
    /// [`compare_and_set`](Self::swap) or [`unlock`](Self::unlock). After any failure before that
    /// the connection is not to be used again.
    ///
    /// # Panics
    ///
    /// Where the engine has no such lock.
    pub(crate) async fn read_locked(
        &mut self,
        namespace: &str,
    ) -> Result<Option<LocksRow>, Failure> {
        let statements = self.statements.clone();
        let lock = statements.lock.as_ref().expect("BUG: no such lock");
        let begin = self.transaction.as_deref().unwrap_or(lock.begin);
        let begin = match lock.limit {
            Some(limit) => format!("{begin}; {limit}"),
            None => begin.to_owned(),
        };
        self.locked = true;
        self.raw(&begin).await?;
        self.read_by(&lock.read, namespace).await
    }

    /// Gives back the row's lock and changes nothing.
    pub(crate) async fn unlock(&mut self) -> Result<(), Failure> {
        let statements = self.statements.clone();
        let rollback = statements.lock.as_ref().map_or("ROLLBACK", |l| l.rollback);
        self.raw(rollback).await?;
        self.locked = false;
        Ok(())
    }

    /// Whether a transaction is open that has to end first.
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
        Ok(only(rows, namespace)?.map(|cells| {
            let [data, version, stamp, meta] = columns(cells);
            LocksRow {
                version: row_version(version, stamp),
                data_json: data.text(),
                meta_json: meta.text(),
            }
        }))
    }

    /// Which write the row of a namespace is of, without its texts.
    pub(crate) async fn read_version(
        &mut self,
        namespace: &str,
    ) -> Result<Option<RowVersion>, Failure> {
        const TYPES: &[ColumnType] = &[ColumnType::Int, ColumnType::Text];
        let sql = self.statements.clone();
        let rows = self
            .fetch(&sql.read_version, &[Argument::Text(namespace)], TYPES)
            .await?;
        Ok(only(rows, namespace)?.map(|cells| {
            let [version, stamp] = columns(cells);
            row_version(version, stamp)
        }))
    }

    /// The same for many namespaces: those that have a row.
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
        let row = |cells| {
            let [name, version, stamp] = columns(cells);
            Some((name.text()?, row_version(version, stamp)))
        };
        Ok(rows.into_iter().filter_map(row).collect())
    }

    /// Replaces the row if it is still of the write `at` and `preconditions` holds; whether it
    /// was so.
    pub(crate) async fn compare_and_set(
        &mut self,
        namespace: &str,
        at: &RowVersion,
        new: &RowVersion,
        columns: &Columns,
        preconditions: &Preconditions,
    ) -> Result<bool, Failure> {
        let mut args = vec![
            Argument::Text(&columns.data_json),
            Argument::Text(&columns.meta_json),
            Argument::Text(new.stamp.as_deref().unwrap_or_default()),
            Argument::Int(new.version),
            Argument::Text(namespace),
            Argument::Int(at.version),
            Argument::Text(at.stamp.as_deref().unwrap_or_default()),
        ];
        let statements = self.statements.clone();
        let mut sql = statements.compare_and_set.clone();
        let witness = preconditions.witness.as_slice();
        // That none of the dead is found proves something if the witness is.
        let witness = if preconditions.dead.is_empty() {
            &[]
        } else {
            witness
        };
        let demands: [(&Condition, &[SessionId], usize); 3] = [
            (
                &statements.alive,
                &preconditions.alive,
                preconditions.alive.len(),
            ),
            (&statements.dead, &preconditions.dead, 0),
            (&statements.dead, witness, witness.len()),
        ];
        for (condition, sessions, number) in demands {
            if sessions.is_empty() {
                continue;
            }
            let (list, ids) = self.list(args.len(), sessions.iter().map(|id| &*id.0));
            args.extend(ids);
            args.push(Argument::Int(i64::try_from(number).unwrap_or(i64::MAX)));
            let number = (statements.placeholder)(args.len());
            let Condition { before, after } = condition;
            sql = format!("{sql}{before}{list}{after}{number}");
        }
        let rows = self.execute(&sql, &args).await?;
        if self.locked {
            let commit = statements.lock.as_ref().map_or("COMMIT", |l| l.commit);
            self.commit(commit).await?;
            self.locked = false;
        }
        Ok(rows == 1)
    }

    /// Commits. A failure leaves it unknown whether it happened, unless the server says
    /// that another transaction came first.
    async fn commit(&mut self, sql: &str) -> Result<(), Failure> {
        self.raw(sql).await.map_err(|mut failure| {
            if failure.kind != Kind::Conflict {
                failure.class = Class::Indeterminate;
            }
            failure
        })
    }

    /// Makes a row without stamp ours: its locks stay as they stand, its version
    /// starts at `least` or above.
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
        let sql = self.statements.clone();
        Ok(self.execute(&sql.adopt, &args).await? == 1)
    }

    /// Creates the row; whether it was not there.
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
        let sql = self.statements.clone();
        match self.execute(&sql.create, &args).await {
            Ok(rows) => Ok(rows == 1),
            Err(failure) if failure.kind == Kind::Exists => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// ChangeSource others that the row of a namespace is of this version now, where the engine
    /// can.
    pub(crate) async fn notify(&mut self, namespace: &str, version: i64) -> Result<(), Failure> {
        let statements = self.statements.clone();
        let Some(sql) = &statements.notify else {
            return Ok(());
        };
        let told = Change::text(namespace, version);
        self.fetch(sql, &[Argument::Text(&told)], &[])
            .await
            .map(drop)
    }

    /// A number that changes when other connections write, where asking is nearly
    /// free.
    pub(crate) async fn data_version(&mut self) -> Result<Option<i64>, Failure> {
        let Some(sql) = self.statements.data_version else {
            return Ok(None);
        };
        let rows = self.fetch(sql, &[], &[ColumnType::Int]).await?;
        let first = rows.into_iter().next();
        Ok(first.and_then(|cells| columns::<1>(cells)[0].clone().int()))
    }

    /// Says good-bye to the server; what it answers does not matter any more.
    pub(crate) async fn close(self) {
        let limit = self.limit;
        drop(time::timeout(limit, self.executor.close()).await);
    }

    pub(super) async fn raw(&mut self, sql: &str) -> Result<(), Failure> {
        self.ask(async |executor| executor.execute_raw(Sql(sql)).await)
            .await
    }

    pub(super) async fn execute(
        &mut self,
        sql: &str,
        args: &[Argument<'_>],
    ) -> Result<u64, Failure> {
        self.transact(async |executor| executor.execute(Sql(sql), args).await)
            .await
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

    /// Runs a query whose last column is the number of its rows, and checks that they are
    /// all there.
    pub(super) async fn fetch_all(
        &mut self,
        sql: &str,
        args: &[Argument<'_>],
        types: &[ColumnType],
    ) -> Result<Vec<Vec<Value>>, Failure> {
        let mut rows = self.fetch(sql, args, types).await?;
        let found = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        for row in &mut rows {
            let number = row.pop().and_then(Value::int);
            if number != Some(found) {
                let text = format!("the server counted {number:?} rows and sent {found}");
                return Err(Failure::inconsistent(Class::NotApplied, text));
            }
        }
        Ok(rows)
    }

    /// Runs a statement, in a transaction of its own where that is how settings are made.
    async fn transact<T>(
        &mut self,
        statement: impl AsyncFn(&mut dyn Executor) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let begin = self.transaction.clone().filter(|_| !self.locked);
        let Some(begin) = begin else {
            return self.ask(statement).await;
        };
        self.raw(&begin).await?;
        match self.ask(statement).await {
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

    /// Runs a statement within the limit, again and again where somebody else writes.
    async fn ask<T>(
        &mut self,
        statement: impl AsyncFn(&mut dyn Executor) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.file.check()?;
        let start = Instant::now();
        loop {
            let result = within(self.limit, statement(&mut *self.executor)).await;
            match result {
                Err(busy) if busy.kind == Kind::Busy && start.elapsed() < self.limit => {
                    // That is no lock's write.
                    if start.elapsed() > LONG {
                        time::sleep(PAUSE).await;
                    }
                }
                result => return result,
            }
        }
    }

    /// `sql` with a list of the ids behind it.
    pub(super) fn listed<'a>(
        &self,
        sql: &str,
        ids: &'a [SessionId],
    ) -> (String, Vec<Argument<'a>>) {
        let (list, args) = self.list(0, ids.iter().map(|id| &*id.0));
        (format!("{sql} {list}"), args)
    }

    /// A list of the ids in parentheses, behind so many other arguments. It is filled up
    /// to a power of two with the last one, so that only a handful of statements is ever
    /// prepared.
    pub(super) fn list<'a>(
        &self,
        behind: usize,
        ids: impl Iterator<Item = &'a str>,
    ) -> (String, Vec<Argument<'a>>) {
        let mut args: Vec<_> = ids.map(Argument::Text).collect();
        let last = args.last().copied();
        let fill = args.len().next_power_of_two() - args.len();
        args.extend(std::iter::repeat_n(last, fill).flatten());
        let name = self.statements.placeholder;
        let names: Vec<_> = (behind + 1..=behind + args.len()).map(name).collect();
        (format!("({})", names.join(", ")), args)
    }
}

/// The one row of a namespace, or none.
fn only(rows: Vec<Vec<Value>>, namespace: &str) -> Result<Option<Vec<Value>>, Failure> {
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

/// Ends a statement that has had its time. What it did is then unknown, and its
/// connection must not be used again: dropped, the statement still runs.
async fn within<T>(
    limit: Duration,
    running: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match time::timeout(limit, running).await {
        Ok(result) => result,
        Err(_) => Err(Failure::no_answer(limit)),
    }
}

/// The cells of a row, whose number the statement's types fixes.
pub(super) fn columns<const N: usize>(cells: Vec<Value>) -> [Value; N] {
    cells
        .try_into()
        .expect("BUG: a row has as many cells as its types")
}

fn row_version(version: Value, stamp: Value) -> RowVersion {
    RowVersion {
        version: version.int().unwrap_or_default(),
        stamp: stamp.text(),
    }
}
