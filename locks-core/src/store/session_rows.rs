//! The heartbeat rows and fence rows of sessions.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    connection::{Connection, columns},
    executor::{Argument, ColumnType, Value},
    failure::{Class, Failure, Kind},
    file::unreadable,
    rows::{Liveness, NewSession, SessionRow},
};
use crate::{process::Identity, table::SessionId};

/// The part of its time for which a renewal tries to write the file. Holders are warned when
/// half of a lease is left; a renewal beside the file comes before.
const BESIDE: u32 = 4;

impl Connection {
    /// Inserts the rows of these sessions, all heartbeat rows before the first fence row. An id
    /// must not have been used in an earlier attempt.
    pub(crate) async fn insert_sessions(&mut self, new: &[NewSession]) -> Result<(), Failure> {
        let statements = self.statements.clone();
        let placeholder = statements.placeholder;
        let ttls: Vec<_> = new
            .iter()
            .map(|new| {
                new.ttl
                    .map(|ttl| i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
            })
            .collect();
        let hosts: Vec<_> = new.iter().map(|new| new.process.host_column()).collect();
        let (mut args, mut rows) = (Vec::new(), Vec::new());
        for ((new, ttl), host) in new.iter().zip(&ttls).zip(&hosts) {
            let first = args.len() + 1;
            args.extend([
                Argument::Text(&new.id.0),
                Argument::Text(&new.namespace),
                Argument::Text(&new.task),
                Argument::Text(host),
                Argument::Text(&new.process.process),
                Argument::OptionalInt(*ttl),
            ]);
            let names: Vec<_> = (first..first + 6).map(placeholder).collect();
            rows.push(format!(
                "({}{}",
                names.join(", "),
                statements.insert_sessions_end
            ));
        }
        let sql = format!("{}{}", statements.insert_sessions, rows.join(", "));
        self.execute(&sql, &args).await?;

        let each = 0..self.fence_rows;
        let fences: Vec<_> = new
            .iter()
            .flat_map(|new| each.clone().map(|number| new.id.fence_row(number)))
            .collect();
        let args: Vec<_> = fences.iter().map(|row| Argument::Text(row)).collect();
        let rows: Vec<_> = (1..=args.len())
            .map(|number| format!("({}, 0)", placeholder(number)))
            .collect();
        let sql = format!("{}{}", statements.insert_fences, rows.join(", "));
        self.execute(&sql, &args).await?;
        Ok(())
    }

    /// Advances the heartbeats of these sessions. Returns the number of heartbeat rows that
    /// were found. While another connection keeps a database file from being written, the
    /// heartbeats are advanced in files beside it.
    pub(crate) async fn renew(&mut self, sessions: &[SessionId]) -> Result<u64, Failure> {
        let statements = self.statements.clone();
        let (sql, args) = self.listed(&statements.renew, sessions);
        if !self.renews_beside_file {
            return self.execute(&sql, &args).await;
        }
        let limit = self.busy_limit;
        self.busy_limit = limit / BESIDE;
        let result = self.execute(&sql, &args).await;
        self.busy_limit = limit;
        match result {
            Err(busy) if busy.kind == Kind::Busy => {
                let Some(files) = self.file.heartbeats()? else {
                    return Err(busy);
                };
                tracing::debug!("the file is busy: heartbeats are advanced beside it");
                for id in sessions {
                    files.advance(id).map_err(unreadable)?;
                }
                // A session that a supervisor has removed is not renewed.
                let states = self.liveness(sessions, None).await?;
                let dead = states.iter().filter(|(_, state)| *state == Liveness::Dead);
                let dead: Vec<_> = dead.map(|(id, _)| id.clone()).collect();
                self.remove_heartbeats(&dead);
                let alive = states.iter();
                let alive = alive.filter(|(_, state)| matches!(state, Liveness::Alive(_)));
                Ok(alive.count() as u64)
            }
            result => result,
        }
    }

    /// Adds to the heartbeats what is in the files beside the database.
    fn add_heartbeats<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a mut SessionRow>,
    ) -> Result<(), Failure> {
        let files = self.file.heartbeats()?;
        if let Some(files) = files.filter(|files| !files.are_none()) {
            for row in rows {
                let beside = files.read(&row.id).map_err(unreadable)?;
                row.heartbeat = row.heartbeat.saturating_add(beside);
            }
        }
        Ok(())
    }

    /// Deletes what these sessions, which are dead, have beside the database.
    fn remove_heartbeats(&self, ids: &[SessionId]) {
        match self.file.heartbeats() {
            Ok(files) => files.into_iter().for_each(|files| files.remove(ids)),
            Err(failure) => tracing::debug!(%failure, "heartbeats of dead sessions are left"),
        }
    }

    /// Reads the states of these sessions, in their order. Each session must have had both of
    /// its rows.
    ///
    /// # Errors
    ///
    /// [`Kind::Inconsistent`](super::Kind::Inconsistent) when the answer lacks rows that the
    /// server counted, or the fence row of `witness`, a session that is alive. Such an answer
    /// does not prove that a session is dead.
    pub(crate) async fn liveness(
        &mut self,
        sessions: &[SessionId],
        witness: Option<&SessionId>,
    ) -> Result<Vec<(SessionId, Liveness)>, Failure> {
        const TYPES: [ColumnType; 8] = {
            let [a, b, c, d, e, f] = SESSION;
            [ColumnType::Text, a, b, c, d, e, f, ColumnType::Int]
        };
        if sessions.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = sessions.iter().chain(witness).cloned().collect();
        let statements = self.statements.clone();
        let (sql, args) = self.listed(&statements.liveness, &ids);
        let mut found = BTreeMap::new();
        for mut values in self.fetch_all(&sql, &args, &TYPES).await? {
            let fence = values.remove(0).text().unwrap_or_default();
            found.insert(fence, session_row(values));
        }
        self.add_heartbeats(found.values_mut().flatten())?;
        if let Some(witness) = witness
            && !found.contains_key(&*witness.0)
        {
            return Err(Failure::inconsistent(
                Class::NotApplied,
                "the answer lacks this process's own session",
            ));
        }
        let state = |id: &SessionId| match found.get(&*id.0) {
            Some(Some(row)) => Liveness::Alive(row.clone()),
            Some(None) => Liveness::Evicting,
            None => Liveness::Dead,
        };
        Ok(sessions.iter().map(|id| (id.clone(), state(id))).collect())
    }

    /// Reads every heartbeat row of a namespace.
    pub(crate) async fn sessions_in(
        &mut self,
        namespace: &str,
    ) -> Result<Vec<SessionRow>, Failure> {
        const TYPES: [ColumnType; 7] = {
            let [a, b, c, d, e, f] = SESSION;
            [a, b, c, d, e, f, ColumnType::Int]
        };
        let sql = self.statements.clone();
        let args = [Argument::Text(namespace)];
        let rows = self.fetch_all(&sql.sessions_in, &args, &TYPES).await?;
        let mut rows: Vec<_> = rows.into_iter().filter_map(session_row).collect();
        self.add_heartbeats(&mut rows)?;
        Ok(rows)
    }

    /// Reads every session of a namespace that has a fence row, once.
    pub(crate) async fn fences_in(&mut self, namespace: &str) -> Result<Vec<SessionId>, Failure> {
        let (start, end) = SessionId::range_of(namespace);
        let args = [Argument::Text(&start), Argument::Text(&end)];
        let sql = self.statements.clone();
        let types = &[ColumnType::Text, ColumnType::Int];
        let rows = self.fetch_all(&sql.fences_in, &args, types).await?;
        let texts = rows.into_iter().flatten().filter_map(Value::text);
        let ids: BTreeSet<_> = texts.map(|row| SessionId::of_fence_row(&row)).collect();
        Ok(ids.into_iter().collect())
    }

    /// Deletes a heartbeat row.
    pub(crate) async fn delete_session(&mut self, id: &SessionId) -> Result<(), Failure> {
        let sql = self.statements.clone();
        self.execute(&sql.delete_session, &[Argument::Text(&id.0)])
            .await
            .map(drop)
    }

    /// Deletes a heartbeat row if its heartbeat is `heartbeat`. Returns whether it was
    /// deleted.
    pub(crate) async fn delete_session_at(
        &mut self,
        id: &SessionId,
        heartbeat: i64,
    ) -> Result<bool, Failure> {
        let sql = self.statements.clone();
        let beside = match self.file.heartbeats()? {
            Some(files) => files.read(id).map_err(unreadable)?,
            None => 0,
        };
        let in_row = heartbeat.saturating_sub(beside);
        let args = [Argument::Text(&id.0), Argument::Int(in_row)];
        Ok(self.execute(&sql.delete_session_at, &args).await? == 1)
    }

    /// Deletes a heartbeat row if the namespace has no row, or with `unstamped`, if it has a
    /// row of that version without a stamp. Returns whether it was deleted.
    pub(crate) async fn delete_session_of(
        &mut self,
        id: &SessionId,
        namespace: &str,
        unstamped: Option<i64>,
    ) -> Result<bool, Failure> {
        let statements = self.statements.clone();
        let mut args = vec![Argument::Text(&id.0), Argument::Text(namespace)];
        let condition = match unstamped {
            None => &statements.without_row,
            Some(version) => {
                args.push(Argument::Int(version));
                &statements.with_unstamped_row
            }
        };
        let sql = format!("{}{condition}", statements.delete_session);
        Ok(self.execute(&sql, &args).await? == 1)
    }

    /// Deletes the heartbeat rows of these sessions.
    pub(crate) async fn delete_sessions(&mut self, ids: &[SessionId]) -> Result<(), Failure> {
        let statements = self.statements.clone();
        let (sql, args) = self.listed(&statements.delete_sessions, ids);
        self.execute(&sql, &args).await.map(drop)
    }

    /// Deletes the fence rows of a session. Fails with
    /// [`Kind::Locked`](super::Kind::Locked) while an open transaction is fenced with one of
    /// them.
    pub(crate) async fn delete_fences(&mut self, id: &SessionId) -> Result<(), Failure> {
        let (start, end) = id.fence_range();
        let args = [Argument::Text(&start), Argument::Text(&end)];
        self.try_fences(&args).await?;
        let sql = self.statements.clone();
        self.execute(&sql.delete_fences, &args).await?;
        self.remove_heartbeats(std::slice::from_ref(id));
        Ok(())
    }

    /// Deletes the fence rows of these sessions, as [`delete_fences`](Self::delete_fences) does.
    pub(crate) async fn delete_all_fences(&mut self, ids: &[SessionId]) -> Result<(), Failure> {
        let statements = self.statements.clone();
        let rows = 0..self.fence_rows;
        for chunk in ids.chunks((ids.len() / self.fence_rows).max(1)) {
            let keys: Vec<_> = chunk
                .iter()
                .flat_map(|id| rows.clone().map(|number| id.fence_row(number)))
                .collect();
            let (list, args) = self.list(0, keys.iter().map(String::as_str));
            if let Some(sql) = &statements.try_fence_list {
                let sql = format!("{sql} {list} FOR UPDATE NOWAIT");
                self.fetch(&sql, &args, &[ColumnType::Text]).await?;
            }
            let sql = format!("{} {list}", statements.delete_fence_list);
            self.execute(&sql, &args).await?;
        }
        self.remove_heartbeats(ids);
        Ok(())
    }

    /// Deletes the fence rows of a session if it has no heartbeat row and `witness`, if given,
    /// has one. Returns whether any row was deleted. Fails as
    /// [`delete_fences`](Self::delete_fences) does.
    pub(crate) async fn delete_fences_of_dead(
        &mut self,
        id: &SessionId,
        witness: Option<&SessionId>,
    ) -> Result<bool, Failure> {
        let (start, end) = id.fence_range();
        let other = witness.unwrap_or(id);
        let args = [
            Argument::Text(&start),
            Argument::Text(&end),
            Argument::Text(&id.0),
            Argument::Text(&other.0),
            Argument::Int(i64::from(witness.is_some())),
        ];
        self.try_fences(&args[..2]).await?;
        let statements = self.statements.clone();
        let sql = format!(
            "{}{}",
            statements.delete_fences, statements.without_heartbeat
        );
        let deleted = self.execute(&sql, &args).await? > 0;
        if deleted {
            self.remove_heartbeats(std::slice::from_ref(id));
        }
        Ok(deleted)
    }

    /// Fails while an open transaction is fenced with a row of this range, if the engine can
    /// detect it.
    async fn try_fences(&mut self, range: &[Argument<'_>]) -> Result<(), Failure> {
        let statements = self.statements.clone();
        match &statements.try_fences {
            Some(sql) => self.fetch(sql, range, &[ColumnType::Text]).await.map(drop),
            None => Ok(()),
        }
    }

    /// Succeeds if no open transaction is fenced with this row. Fails with
    /// [`Kind::Locked`](super::Kind::Locked) while one is.
    pub(crate) async fn await_fence(&mut self, row: &str) -> Result<(), Failure> {
        let statements = self.statements.clone();
        for sql in &statements.await_fence {
            self.execute(sql, &[Argument::Text(row)]).await?;
        }
        Ok(())
    }
}

/// The columns of a heartbeat row.
const SESSION: [ColumnType; 6] = [
    ColumnType::Text,
    ColumnType::Text,
    ColumnType::Text,
    ColumnType::Text,
    ColumnType::Int,
    ColumnType::Int,
];

/// A heartbeat row; `None` if its columns are NULL.
fn session_row(values: Vec<Value>) -> Option<SessionRow> {
    let [id, task, host, process, ttl, heartbeat] = columns(values);
    let ttl = ttl.int().and_then(|ms| u64::try_from(ms).ok());
    Some(SessionRow {
        id: SessionId(id.text()?.into()),
        task: task.text()?,
        process: Identity::from_columns(&host.text()?, &process.text()?),
        ttl: ttl.map(Duration::from_millis),
        heartbeat: heartbeat.int()?,
    })
}

#[cfg(feature = "sqlite")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::{
            rows::{Preconditions, RowVersion},
            target::Target,
        },
        table::LockTable,
    };

    /// A database in memory with the sessions `a` and `w`.
    async fn database() -> (Connection, SessionId, SessionId) {
        database_at("sqlite::memory:").await
    }

    async fn database_at(url: &str) -> (Connection, SessionId, SessionId) {
        let target = Target::parse(url).unwrap();
        let mut c = target.open(Duration::from_secs(5)).await.unwrap();
        c.ensure_tables(&target.server()).await.unwrap();
        let ids = ["a", "w"].map(|task| SessionId(format!("ns/{task}").into()));
        let new = ids.clone().map(|id| NewSession {
            id,
            namespace: "ns".into(),
            task: "t".into(),
            process: Identity {
                host: "".into(),
                process: "".into(),
                host_name: "".into(),
            },
            ttl: Some(Duration::from_secs(1)),
        });
        c.insert_sessions(&new).await.unwrap();
        let [a, w] = ids;
        (c, a, w)
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(test);
    }

    #[test]
    fn fences_are_deleted_only_without_a_heartbeat_row_and_with_the_witness() {
        run(async {
            let (mut c, a, w) = database().await;
            // The session has its heartbeat row: first with the witness, then without.
            assert!(!c.delete_fences_of_dead(&a, Some(&w)).await.unwrap());
            c.delete_session(&w).await.unwrap();
            assert!(!c.delete_fences_of_dead(&a, Some(&w)).await.unwrap());
            // Neither has a heartbeat row, so nothing proves that rows are visible.
            c.delete_session(&a).await.unwrap();
            assert!(!c.delete_fences_of_dead(&a, Some(&w)).await.unwrap());

            let (mut c, a, w) = database().await;
            c.delete_session(&a).await.unwrap();
            assert!(c.delete_fences_of_dead(&a, Some(&w)).await.unwrap());
            assert_eq!(c.fences_in("ns").await.unwrap(), [w]);
        });
    }

    #[test]
    fn session_is_dead_only_if_the_answer_has_the_witness() {
        run(async {
            let (mut c, a, w) = database().await;
            let ids = std::slice::from_ref(&a);
            let alive = c.liveness(ids, Some(&w)).await.unwrap();
            assert!(matches!(alive[..], [(_, Liveness::Alive(_))]));
            c.delete_session(&a).await.unwrap();
            let evicting = c.liveness(ids, Some(&w)).await.unwrap();
            assert!(matches!(evicting[..], [(_, Liveness::Evicting)]));
            c.delete_fences(&a).await.unwrap();
            let dead = c.liveness(ids, Some(&w)).await.unwrap();
            assert!(matches!(dead[..], [(_, Liveness::Dead)]));
            c.delete_fences(&w).await.unwrap();
            assert!(c.liveness(ids, Some(&w)).await.is_err());
        });
    }

    #[test]
    fn a_heartbeat_beside_the_file_shows_that_a_session_lives() {
        run(async {
            let directory = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}/db?mode=rwc", directory.path().display());
            let (mut c, a, _) = database_at(&url).await;
            let ids = std::slice::from_ref(&a);
            let heartbeat = async |c: &mut Connection| match &c.liveness(ids, None).await.unwrap()[..]
            {
                [(_, Liveness::Alive(row))] => row.heartbeat,
                other => panic!("{other:?}"),
            };
            let first = heartbeat(&mut c).await;
            assert_eq!(c.renew(ids).await.unwrap(), 1);
            assert_eq!(heartbeat(&mut c).await, first + 1);

            let mut application = Target::parse(&url)
                .unwrap()
                .open(Duration::from_secs(5))
                .await
                .unwrap();
            application.raw("BEGIN IMMEDIATE").await.unwrap();
            c.busy_limit = Duration::from_millis(20);
            assert!(c.renew(ids).await.is_err(), "version 0.1 may use the file");
            c.renews_beside_file = true;
            assert_eq!(c.renew(ids).await.unwrap(), 1);
            assert_eq!(heartbeat(&mut c).await, first + 2);
            assert_eq!(c.sessions_in("ns").await.unwrap()[0].heartbeat, first + 2);
            application.raw("COMMIT").await.unwrap();

            // The process that evicts has seen the heartbeat of the row alone.
            assert!(!c.delete_session_at(&a, first + 1).await.unwrap());
            assert!(c.delete_session_at(&a, first + 2).await.unwrap());
            c.delete_fences(&a).await.unwrap();
            assert!(c.file.heartbeats().unwrap().unwrap().are_none());
        });
    }

    #[test]
    fn write_needs_absent_fences_of_the_dead_and_the_fence_of_the_witness() {
        run(async {
            let (mut c, a, w) = database().await;
            assert!(c.create("ns", 1, "s0").await.unwrap());
            let mut from = c.read_version("ns").await.unwrap().unwrap();
            let columns = LockTable::default().columns();
            let mut wrote = async |c: &mut Connection, witness: Option<&SessionId>| {
                let preconditions = Preconditions {
                    alive: Vec::new(),
                    dead: vec![a.clone()],
                    witness: witness.cloned(),
                };
                let to = RowVersion {
                    version: from.version + 1,
                    stamp: Some(format!("s{}", from.version)),
                };
                let wrote = c
                    .compare_and_set("ns", &from, &to, &columns, &preconditions)
                    .await
                    .unwrap();
                if wrote {
                    from = to;
                }
                wrote
            };
            assert!(!wrote(&mut c, Some(&w)).await, "the session is alive");
            assert!(!wrote(&mut c, None).await, "the session is alive");
            c.delete_fences(&w).await.unwrap();
            assert!(
                !wrote(&mut c, Some(&w)).await,
                "the session is alive, the witness is dead"
            );
            c.delete_fences(&a).await.unwrap();
            assert!(!wrote(&mut c, Some(&w)).await, "the witness is dead");
            assert!(wrote(&mut c, None).await);

            let (mut c, a, w) = database().await;
            assert!(c.create("ns", 1, "s0").await.unwrap());
            let from = c.read_version("ns").await.unwrap().unwrap();
            c.delete_fences(&a).await.unwrap();
            let preconditions = Preconditions {
                alive: vec![w.clone()],
                dead: vec![a],
                witness: Some(w),
            };
            let to = RowVersion {
                version: from.version + 7,
                stamp: Some("s1".into()),
            };
            assert!(
                c.compare_and_set("ns", &from, &to, &columns, &preconditions)
                    .await
                    .unwrap()
            );
            assert_eq!(c.read_version("ns").await.unwrap(), Some(to));
        });
    }
}
