//! A connection, and the statements it knows.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio::time;

use super::{
    change::Change,
    failure::{Failure, Kind},
    file::FileIdentity,
    run::{Cell, Run, Shape, Sql, Value},
};
use crate::{
    process::Identity,
    table::{Columns, SessionId},
};

/// How long somebody else may write before it is asked less often, and how often.
const LONG: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(5);

/// The SQL of one engine. Placeholders stand in the order of the arguments.
#[derive(Debug)]
pub(super) struct Statements {
    /// What to say first on a new connection; failures of the second kind do not
    /// matter, since the server may not know the setting.
    pub(super) settings: &'static [&'static str],
    pub(super) optional_settings: &'static [&'static str],
    pub(super) migration: &'static str,
    /// Where users find the migration.
    pub(super) migration_path: &'static str,
    /// Name of the placeholder with this number, from 1.
    pub(super) placeholder: fn(usize) -> String,

    /// id → dataJson, version, stamp, metaJson
    pub(super) read: &'static str,
    /// Where a row's lock can be had in order, and the server ends who stops with it.
    pub(super) lock: Option<Lock>,
    /// id → version, stamp
    pub(super) peek: &'static str,
    /// dataJson, metaJson, stamp, id, version, stamp
    pub(super) swap: &'static str,
    /// What follows `swap` where sessions must be alive: before their list, and after
    /// it, where their number follows.
    pub(super) alive: (&'static str, &'static str),
    /// least version, stamp, id, version: where the row has no stamp
    pub(super) adopt: &'static str,
    /// id, least version, stamp
    pub(super) create: &'static str,

    /// id, namespace, task, host, process, ttl
    pub(super) insert_session: &'static str,
    /// session
    pub(super) insert_fence: &'static str,
    /// (list of ids follows)
    pub(super) renew: &'static str,
    /// (list of ids follows) → those with a fence: fence, id, taskId, host, process,
    /// ttlMs, beat; all but the fence NULL where the beat row is gone
    pub(super) liveness: &'static str,
    /// namespace → id, taskId, host, process, ttlMs, beat
    pub(super) sessions_in: &'static str,
    /// length, start of the id → session
    pub(super) fences_in: &'static str,
    /// id
    pub(super) delete_session: &'static str,
    /// id, beat
    pub(super) delete_session_at: &'static str,
    /// session
    pub(super) delete_fence: &'static str,
    /// session
    pub(super) touch_fence: &'static str,

    /// namespace and version; where the engine can wake others
    pub(super) notify: Option<&'static str>,
    /// → a number that changes when others write, where asking is nearly free
    pub(super) data_version: Option<&'static str>,
}

/// How a row is read under its lock.
#[derive(Debug)]
pub(super) struct Lock {
    /// Begins a transaction that the server ends when nothing comes any more.
    pub(super) begin: &'static str,
    /// id → dataJson, version, stamp, metaJson
    pub(super) read: &'static str,
}

/// A connection of our own: never an application's.
#[derive(Debug)]
pub(crate) struct Connection {
    run: Box<dyn Run>,
    limit: Duration,
    file: FileIdentity,
    /// Whether it is in the transaction of `read_locked`.
    locked: bool,
}

/// Which write a row is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) version: i64,
    /// `None`: the original made this row, and nobody has adopted it.
    pub(crate) stamp: Option<String>,
}

/// A row as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) at: Stamp,
    pub(crate) data_json: Option<String>,
    pub(crate) meta_json: Option<String>,
}

/// A session that is to be.
#[derive(Clone, Debug)]
pub(crate) struct NewSession {
    pub(crate) id: SessionId,
    pub(crate) namespace: std::sync::Arc<str>,
    pub(crate) task: std::sync::Arc<str>,
    pub(crate) process: Identity,
    pub(crate) ttl: Option<Duration>,
}

/// A session's beat row.
#[derive(Clone, Debug)]
pub(crate) struct SessionRow {
    pub(crate) id: SessionId,
    pub(crate) task: String,
    pub(crate) process: Identity,
    pub(crate) ttl: Option<Duration>,
    pub(crate) beat: i64,
}

/// What is left of a session.
#[derive(Clone, Debug)]
pub(crate) enum Liveness {
    /// It beats, or did.
    Beating(SessionRow),
    /// Its beat row is gone and its fence row is not: somebody evicts it.
    Fenced,
    /// Both are gone: it is dead for good.
    Dead,
}

impl Connection {
    pub(super) async fn open(
        run: Box<dyn Run>,
        limit: Duration,
        file: FileIdentity,
    ) -> Result<Self, Failure> {
        let locked = false;
        let mut this = Self {
            run,
            limit,
            file,
            locked,
        };
        let statements = this.statements();
        for setting in statements.settings {
            this.raw(setting).await?;
        }
        for setting in statements.optional_settings {
            if let Err(failure) = this.raw(setting).await
                && !failure.keeps_connection()
            {
                return Err(failure);
            }
        }
        Ok(this)
    }

    pub(super) fn statements(&self) -> &'static Statements {
        self.run.statements()
    }

    /// The row of a namespace.
    pub(crate) async fn read(&mut self, namespace: &str) -> Result<Option<Row>, Failure> {
        self.read_by(self.statements().read, namespace).await
    }

    /// The row of a namespace under its lock, for which others wait until the next
    /// [`swap`](Self::swap) or [`unlock`](Self::unlock). After any failure before that
    /// the connection is not to be used again.
    ///
    /// # Panics
    ///
    /// Where the engine has no such lock.
    pub(crate) async fn read_locked(&mut self, namespace: &str) -> Result<Option<Row>, Failure> {
        let lock = self.statements().lock.as_ref().expect("BUG: no such lock");
        self.locked = true;
        self.raw(lock.begin).await?;
        self.read_by(lock.read, namespace).await
    }

    /// Gives back the row's lock and changes nothing.
    pub(crate) async fn unlock(&mut self) -> Result<(), Failure> {
        self.raw("ROLLBACK").await?;
        self.locked = false;
        Ok(())
    }

    /// Whether a transaction is open that has to end first.
    pub(super) fn is_locked(&self) -> bool {
        self.locked
    }

    async fn read_by(&mut self, sql: &str, namespace: &str) -> Result<Option<Row>, Failure> {
        const SHAPE: &[Shape] = &[Shape::Text, Shape::Int, Shape::Text, Shape::Text];
        let rows = self.fetch(sql, &[Value::Text(namespace)], SHAPE).await?;
        Ok(rows.into_iter().next().map(|cells| {
            let [data, version, stamp, meta] = columns(cells);
            Row {
                at: at(version, stamp),
                data_json: data.text(),
                meta_json: meta.text(),
            }
        }))
    }

    /// Which write the row of a namespace is of, without its texts.
    pub(crate) async fn peek(&mut self, namespace: &str) -> Result<Option<Stamp>, Failure> {
        const SHAPE: &[Shape] = &[Shape::Int, Shape::Text];
        let sql = self.statements().peek;
        let rows = self.fetch(sql, &[Value::Text(namespace)], SHAPE).await?;
        Ok(rows.into_iter().next().map(|cells| {
            let [version, stamp] = columns(cells);
            at(version, stamp)
        }))
    }

    /// Replaces the row if it is still of the write `at`, and if all the sessions of
    /// `alive` have their beat rows; whether it was so.
    pub(crate) async fn swap(
        &mut self,
        namespace: &str,
        at: &Stamp,
        stamp: &str,
        columns: &Columns,
        alive: &[SessionId],
    ) -> Result<bool, Failure> {
        let mut args = vec![
            Value::Text(&columns.data_json),
            Value::Text(&columns.meta_json),
            Value::Text(stamp),
            Value::Text(namespace),
            Value::Int(at.version),
            Value::Text(at.stamp.as_deref().unwrap_or_default()),
        ];
        let mut sql = Cow::Borrowed(self.statements().swap);
        if !alive.is_empty() {
            let (before, after) = self.statements().alive;
            let (list, ids) = self.list(args.len(), alive);
            args.extend(ids);
            args.push(Value::Int(i64::try_from(alive.len()).unwrap_or(i64::MAX)));
            let number = (self.statements().placeholder)(args.len());
            sql = format!("{sql}{before} {list}{after}{number}").into();
        }
        let rows = self.execute(&sql, &args).await?;
        if self.locked {
            self.raw("COMMIT").await?;
            self.locked = false;
        }
        Ok(rows == 1)
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
            Value::Int(least.max(version.saturating_add(1))),
            Value::Text(stamp),
            Value::Text(namespace),
            Value::Int(version),
        ];
        let sql = self.statements().adopt;
        Ok(self.execute(sql, &args).await? == 1)
    }

    /// Creates the row; whether it was not there.
    pub(crate) async fn create(
        &mut self,
        namespace: &str,
        least: i64,
        stamp: &str,
    ) -> Result<bool, Failure> {
        let args = [
            Value::Text(namespace),
            Value::Int(least),
            Value::Text(stamp),
        ];
        let sql = self.statements().create;
        match self.execute(sql, &args).await {
            Ok(rows) => Ok(rows == 1),
            Err(failure) if failure.kind == Kind::Exists => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Inserts both rows of a session. Its id must never have been tried before.
    pub(crate) async fn insert_session(&mut self, new: &NewSession) -> Result<(), Failure> {
        let args = [
            Value::Text(&new.id.0),
            Value::Text(&new.namespace),
            Value::Text(&new.task),
            Value::Text(&new.process.host),
            Value::Text(&new.process.process),
            Value::OptionalInt(
                new.ttl
                    .map(|ttl| i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)),
            ),
        ];
        let sql = self.statements().insert_session;
        self.execute(sql, &args).await?;
        let sql = self.statements().insert_fence;
        self.execute(sql, &[Value::Text(&new.id.0)]).await?;
        Ok(())
    }

    /// Advances the beat of all these sessions; how many were there.
    pub(crate) async fn renew(&mut self, sessions: &[SessionId]) -> Result<u64, Failure> {
        let (sql, args) = self.listed(self.statements().renew, sessions);
        self.execute(&sql, &args).await
    }

    /// What is left of these sessions, in their order. Each was seen in the row, so
    /// both of its rows were there once.
    pub(crate) async fn liveness(
        &mut self,
        sessions: &[SessionId],
    ) -> Result<Vec<(SessionId, Liveness)>, Failure> {
        const SHAPE: [Shape; 7] = {
            let [a, b, c, d, e, f] = SESSION;
            [Shape::Text, a, b, c, d, e, f]
        };
        if sessions.is_empty() {
            return Ok(Vec::new());
        }
        let (sql, args) = self.listed(self.statements().liveness, sessions);
        let mut found = BTreeMap::new();
        for mut cells in self.fetch(&sql, &args, &SHAPE).await? {
            let fence = cells.remove(0).text().unwrap_or_default();
            found.insert(fence, session_row(cells));
        }
        let mut state = |id: &SessionId| match found.remove(&*id.0) {
            Some(Some(row)) => Liveness::Beating(row),
            Some(None) => Liveness::Fenced,
            None => Liveness::Dead,
        };
        Ok(sessions.iter().map(|id| (id.clone(), state(id))).collect())
    }

    /// Every session of a namespace that has a beat row.
    pub(crate) async fn sessions_in(
        &mut self,
        namespace: &str,
    ) -> Result<Vec<SessionRow>, Failure> {
        let sql = self.statements().sessions_in;
        let args = [Value::Text(namespace)];
        let rows = self.fetch(sql, &args, &SESSION).await?;
        Ok(rows.into_iter().filter_map(session_row).collect())
    }

    /// Every session of a namespace that has a fence row.
    pub(crate) async fn fences_in(&mut self, namespace: &str) -> Result<Vec<SessionId>, Failure> {
        let start = SessionId::start_of(namespace);
        let length = i64::try_from(start.len()).unwrap_or(i64::MAX);
        let args = [Value::Int(length), Value::Text(&start)];
        let sql = self.statements().fences_in;
        Ok(ids(self.fetch(sql, &args, &[Shape::Text]).await?))
    }

    /// Deletes a beat row, where it still shows `beat` if one is given; whether the
    /// row is gone now.
    pub(crate) async fn delete_session(
        &mut self,
        id: &SessionId,
        beat: Option<i64>,
    ) -> Result<bool, Failure> {
        let statements = self.statements();
        match beat {
            None => {
                let args = [Value::Text(&id.0)];
                self.execute(statements.delete_session, &args).await?;
                Ok(true)
            }
            Some(beat) => {
                let args = [Value::Text(&id.0), Value::Int(beat)];
                let rows = self.execute(statements.delete_session_at, &args).await?;
                Ok(rows == 1)
            }
        }
    }

    /// Deletes a fence row. Waits for an open transaction that touched it.
    pub(crate) async fn delete_fence(&mut self, id: &SessionId) -> Result<(), Failure> {
        let sql = self.statements().delete_fence;
        self.execute(sql, &[Value::Text(&id.0)]).await.map(drop)
    }

    /// Touches a fence row, which waits for an open transaction that did.
    pub(crate) async fn touch_fence(&mut self, id: &SessionId) -> Result<(), Failure> {
        let sql = self.statements().touch_fence;
        self.execute(sql, &[Value::Text(&id.0)]).await.map(drop)
    }

    /// Tells others that the row of a namespace is of this version now, where the engine
    /// can.
    pub(crate) async fn notify(&mut self, namespace: &str, version: i64) -> Result<(), Failure> {
        let Some(sql) = self.statements().notify else {
            return Ok(());
        };
        let told = Change::text(namespace, version);
        self.fetch(sql, &[Value::Text(&told)], &[]).await.map(drop)
    }

    /// A number that changes when other connections write, where asking is nearly
    /// free.
    pub(crate) async fn data_version(&mut self) -> Result<Option<i64>, Failure> {
        let Some(sql) = self.statements().data_version else {
            return Ok(None);
        };
        let rows = self.fetch(sql, &[], &[Shape::Int]).await?;
        let first = rows.into_iter().next();
        Ok(first.and_then(|cells| columns::<1>(cells)[0].clone().int()))
    }

    /// Says good-bye to the server; what it answers does not matter any more.
    pub(crate) async fn close(self) {
        let limit = self.limit;
        drop(time::timeout(limit, self.run.close()).await);
    }

    pub(super) async fn raw(&mut self, sql: &str) -> Result<(), Failure> {
        self.ask(async |run| run.execute_raw(Sql(sql)).await).await
    }

    async fn execute(&mut self, sql: &str, args: &[Value<'_>]) -> Result<u64, Failure> {
        self.ask(async |run| run.execute(Sql(sql), args).await)
            .await
    }

    async fn fetch(
        &mut self,
        sql: &str,
        args: &[Value<'_>],
        shape: &[Shape],
    ) -> Result<Vec<Vec<Cell>>, Failure> {
        self.ask(async |run| run.fetch(Sql(sql), args, shape).await)
            .await
    }

    /// Runs a statement within the limit, again and again where somebody else writes.
    async fn ask<T>(
        &mut self,
        statement: impl AsyncFn(&mut dyn Run) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.file.check()?;
        let start = Instant::now();
        loop {
            let result = within(self.limit, statement(&mut *self.run)).await;
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
    fn listed<'a>(&self, sql: &str, ids: &'a [SessionId]) -> (String, Vec<Value<'a>>) {
        let (list, args) = self.list(0, ids);
        (format!("{sql} {list}"), args)
    }

    /// A list of the ids in parentheses, behind so many other arguments. It is filled up
    /// to a power of two with the last one, so that only a handful of statements is ever
    /// prepared.
    fn list<'a>(&self, behind: usize, ids: &'a [SessionId]) -> (String, Vec<Value<'a>>) {
        let last = ids.last();
        let fill = ids.len().next_power_of_two() - ids.len();
        let args: Vec<_> = ids
            .iter()
            .chain(std::iter::repeat_n(last, fill).flatten())
            .map(|id| Value::Text(&id.0))
            .collect();
        let name = self.statements().placeholder;
        let names: Vec<_> = (behind + 1..=behind + args.len()).map(name).collect();
        (format!("({})", names.join(", ")), args)
    }
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

/// How a beat row is read.
const SESSION: [Shape; 6] = [
    Shape::Text,
    Shape::Text,
    Shape::Text,
    Shape::Text,
    Shape::Int,
    Shape::Int,
];

/// A beat row; nothing where it is not there.
fn session_row(cells: Vec<Cell>) -> Option<SessionRow> {
    let [id, task, host, process, ttl, beat] = columns(cells);
    let ttl = ttl.int().and_then(|ms| u64::try_from(ms).ok());
    Some(SessionRow {
        id: SessionId(id.text()?.into()),
        task: task.text()?,
        process: Identity {
            host: host.text()?.into(),
            process: process.text()?.into(),
        },
        ttl: ttl.map(Duration::from_millis),
        beat: beat.int()?,
    })
}

/// The cells of a row, whose number the statement's shape fixes.
fn columns<const N: usize>(cells: Vec<Cell>) -> [Cell; N] {
    cells
        .try_into()
        .expect("BUG: a row has as many cells as its shape")
}

fn ids(rows: Vec<Vec<Cell>>) -> Vec<SessionId> {
    rows.into_iter()
        .flatten()
        .filter_map(Cell::text)
        .map(|id| SessionId(id.into()))
        .collect()
}

fn at(version: Cell, stamp: Cell) -> Stamp {
    Stamp {
        version: version.int().unwrap_or_default(),
        stamp: stamp.text(),
    }
}
