//! Writes that are allowed only while a lock is held, in fenced transactions.
//!
//! Each write records how many earlier conflicting writes it saw. If an earlier write was committed
//! after the next lock was granted, the next write did not see it; and no write may see a later
//! one. So the table itself shows violations, whatever the processes believed.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    time::Duration,
};

use sqlx::{
    MySqlPool, PgPool, SqlitePool, mysql::MySqlPoolOptions, postgres::PgPoolOptions,
    sqlite::SqlitePoolOptions,
};

use crate::{
    conflict_table::refused_while,
    engine::{Database, Engine},
    journal::{Journal, Tx},
};

/// How long a worker waits for a connection.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(3);

/// One write under one grant, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FencedWrite {
    names: Vec<String>,
    token: i64,
    /// Distinguishes the writes of one grant.
    number: u64,
}

/// A worker's access to the table.
#[derive(Debug)]
pub struct FencedWrites(Journal);

/// Counts events of all workers, including those that are killed later.
#[derive(Debug)]
pub struct EventCounts(File);

impl FencedWrite {
    /// A new write.
    pub fn new(names: &[&str], token: i64) -> Self {
        let names = names.iter().map(ToString::to_string).collect();
        let number = fastrand::u64(..);
        Self {
            names,
            token,
            number,
        }
    }

    /// Whether this write must be committed before `later` begins: its token is smaller, and
    /// `later`'s lock was refused while its own was held.
    fn precedes(&self, later: &Self) -> bool {
        self.token < later.token
            && later
                .names
                .iter()
                .any(|name| self.names.iter().any(|held| refused_while(name, held)))
    }

    fn text(&self) -> String {
        format!("{} {} {}", self.token, self.number, self.names.join(" "))
    }

    fn parse(text: &str) -> Self {
        let mut words = text.split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (token, number) = number().zip(number()).expect("two numbers");
        Self {
            token: i64::try_from(token).expect("it was one"),
            number,
            names: words.map(str::to_owned).collect(),
        }
    }
}

impl FencedWrites {
    /// Creates the table.
    pub async fn create(db: &Database) {
        db.execute(
            "CREATE TABLE fenced_writes (entry VARCHAR(120) NOT NULL, seen INTEGER NOT NULL)",
        )
        .await;
    }

    /// Opens no connection: the pool opens them when they are needed.
    pub fn open(url: &str) -> Self {
        const SIZE: u32 = 2;
        Self(match Engine::of_url(url) {
            Engine::Sqlite => {
                let pool = SqlitePoolOptions::new().max_connections(SIZE);
                let pool: sqlx::Result<SqlitePool> =
                    pool.acquire_timeout(ACQUIRE_LIMIT).connect_lazy(url);
                Journal::Sqlite(pool.expect("a URL"))
            }
            Engine::MySql => {
                let pool = MySqlPoolOptions::new().max_connections(SIZE);
                let pool: sqlx::Result<MySqlPool> =
                    pool.acquire_timeout(ACQUIRE_LIMIT).connect_lazy(url);
                Journal::MySql(pool.expect("a URL"))
            }
            Engine::Postgres => {
                let pool = PgPoolOptions::new().max_connections(SIZE);
                let pool: sqlx::Result<PgPool> =
                    pool.acquire_timeout(ACQUIRE_LIMIT).connect_lazy(url);
                Journal::Postgres(pool.expect("a URL"))
            }
        })
    }

    /// Begins a transaction, inserts the write, and records the earlier writes that it saw.
    pub async fn begin(&self, write: &FencedWrite) -> sqlx::Result<Tx> {
        let mut tx = self.0.begin().await?;
        let earlier = tx.texts("SELECT entry FROM fenced_writes").await?;
        let earlier = earlier.iter().map(|text| FencedWrite::parse(text));
        let (mut seen, mut later) = (0, Vec::new());
        for other in earlier {
            seen += u32::from(other.precedes(write));
            if write.precedes(&other) {
                later.push(other);
            }
        }
        // A former holder, which the fence must stop.
        let text = write.text();
        let late = if later.is_empty() { "" } else { " late" };
        tx.execute(&format!(
            "INSERT INTO fenced_writes VALUES ('{text}{late}', {seen})"
        ))
        .await?;
        Ok(tx)
    }

    /// Returns the number of writes. Panics if one of them was made without its lock.
    pub async fn judge(db: &Database) -> usize {
        let mut conn = db.connect().await;
        let rows = conn
            .rows("SELECT entry, seen FROM fenced_writes")
            .await
            .expect("it is there");
        let writes: Vec<(FencedWrite, usize)> = rows
            .iter()
            .map(|row| {
                let text = row.get("entry").expect("not NULL");
                assert!(
                    !text.ends_with(" late"),
                    "done although a later one was seen: {text}"
                );
                let seen = row.get("seen").and_then(|seen| seen.parse().ok());
                (FencedWrite::parse(text), seen.expect("a number"))
            })
            .collect();
        for (write, seen) in &writes {
            let before: Vec<_> = writes
                .iter()
                .filter(|(other, _)| other.precedes(write))
                .collect();
            assert_eq!(
                before.len(),
                *seen,
                "the earlier writes that {write:?} saw; all earlier writes: {before:#?}"
            );
        }
        writes.len()
    }
}

impl EventCounts {
    /// The counts of this directory.
    pub fn open(directory: &Path) -> Self {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(Self::path(directory));
        Self(file.expect("the directory is there"))
    }

    /// Adds one to a count.
    pub fn count(&mut self, what: &str) {
        // In one write call, so that other processes' lines do not split it.
        self.0
            .write_all(format!("{what}\n").as_bytes())
            .expect("the disk has room");
    }

    /// The counts by event.
    pub fn read(directory: &Path) -> std::collections::BTreeMap<String, usize> {
        let text = std::fs::read_to_string(Self::path(directory)).unwrap_or_default();
        let mut counts = std::collections::BTreeMap::new();
        for line in text.lines() {
            *counts.entry(line.to_owned()).or_default() += 1;
        }
        counts
    }

    fn path(directory: &Path) -> std::path::PathBuf {
        directory.join("counts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::on_every_engine!(async late_write_is_detected);

    async fn commit(writes: &FencedWrites, write: &FencedWrite) {
        writes.begin(write).await.unwrap().commit().await.unwrap();
    }

    async fn late_write_is_detected(db: Database) {
        FencedWrites::create(&db).await;
        let writes = FencedWrites::open(db.url());
        commit(&writes, &FencedWrite::new(&["box_update"], 5)).await;
        commit(&writes, &FencedWrite::new(&["app_task_1", "x"], 7)).await;
        // It may coexist with an update of an earlier token.
        commit(&writes, &FencedWrite::new(&["app_backup_1"], 6)).await;
        commit(&writes, &FencedWrite::new(&["box_update"], 5)).await;
        let judged = tokio::spawn(async move {
            FencedWrites::judge(&db).await;
        });
        judged
            .await
            .expect_err("the update went on after the task began");
    }

    #[tokio::test]
    async fn ordered_writes_are_allowed() {
        let db = Database::create(Engine::Sqlite);
        FencedWrites::create(&db).await;
        let writes = FencedWrites::open(db.url());
        for (name, token) in [("app_task_1", 1), ("app_task_2", 1), ("app_task_1", 1)] {
            commit(&writes, &FencedWrite::new(&[name], token)).await;
        }
        commit(&writes, &FencedWrite::new(&["box_update"], 2)).await;
        commit(&writes, &FencedWrite::new(&["app_backup_1"], 3)).await;
        commit(&writes, &FencedWrite::new(&["box_update"], 2)).await;
        assert_eq!(FencedWrites::judge(&db).await, 6);
    }
}
