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
const PATIENCE: Duration = Duration::from_secs(3);

/// One write under one grant, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    names: Vec<String>,
    token: i64,
    /// Distinguishes the writes of one grant.
    number: u64,
}

/// A worker's access to the table.
#[derive(Debug)]
pub struct Deeds(Journal);

/// Counts events of all workers, including those that are killed later.
#[derive(Debug)]
pub struct Tally(File);

impl Deed {
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

impl Deeds {
    /// Creates the table.
    pub async fn create(db: &Database) {
        db.execute("CREATE TABLE deeds (deed VARCHAR(120) NOT NULL, seen INTEGER NOT NULL)")
            .await;
    }

    /// Opens no connection: the pool opens them when they are needed.
    pub fn open(url: &str) -> Self {
        const SIZE: u32 = 2;
        Self(match Engine::of_url(url) {
            Engine::Sqlite => {
                let pool = SqlitePoolOptions::new().max_connections(SIZE);
                let pool: sqlx::Result<SqlitePool> =
                    pool.acquire_timeout(PATIENCE).connect_lazy(url);
                Journal::Sqlite(pool.expect("a URL"))
            }
            Engine::MySql => {
                let pool = MySqlPoolOptions::new().max_connections(SIZE);
                let pool: sqlx::Result<MySqlPool> =
                    pool.acquire_timeout(PATIENCE).connect_lazy(url);
                Journal::MySql(pool.expect("a URL"))
            }
            Engine::Postgres => {
                let pool = PgPoolOptions::new().max_connections(SIZE);
                let pool: sqlx::Result<PgPool> = pool.acquire_timeout(PATIENCE).connect_lazy(url);
                Journal::Postgres(pool.expect("a URL"))
            }
        })
    }

    /// Begins a transaction, inserts the write, and records the earlier writes that it saw.
    pub async fn begin(&self, deed: &Deed) -> sqlx::Result<Tx> {
        let mut tx = self.0.begin().await?;
        let earlier = tx.texts("SELECT deed FROM deeds").await?;
        let earlier = earlier.iter().map(|text| Deed::parse(text));
        let (mut seen, mut later) = (0, Vec::new());
        for other in earlier {
            seen += u32::from(other.precedes(deed));
            if deed.precedes(&other) {
                later.push(other);
            }
        }
        // A former holder, which the fence must stop.
        let text = deed.text();
        let late = if later.is_empty() { "" } else { " late" };
        tx.execute(&format!(
            "INSERT INTO deeds VALUES ('{text}{late}', {seen})"
        ))
        .await?;
        Ok(tx)
    }

    /// Returns the number of writes. Panics if one of them was made without its lock.
    pub async fn judge(db: &Database) -> usize {
        let mut conn = db.connect().await;
        let rows = conn
            .rows("SELECT deed, seen FROM deeds")
            .await
            .expect("it is there");
        let deeds: Vec<(Deed, usize)> = rows
            .iter()
            .map(|row| {
                let text = row.get("deed").expect("not NULL");
                assert!(
                    !text.ends_with(" late"),
                    "done although a later one was seen: {text}"
                );
                let seen = row.get("seen").and_then(|seen| seen.parse().ok());
                (Deed::parse(text), seen.expect("a number"))
            })
            .collect();
        for (deed, seen) in &deeds {
            let before: Vec<_> = deeds
                .iter()
                .filter(|(other, _)| other.precedes(deed))
                .collect();
            assert_eq!(
                before.len(),
                *seen,
                "the earlier writes that {deed:?} saw; all earlier writes: {before:#?}"
            );
        }
        deeds.len()
    }
}

impl Tally {
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
        directory.join("tally")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::on_every_engine!(async a_deed_that_comes_too_late_is_seen);

    async fn commit(deeds: &Deeds, deed: &Deed) {
        deeds.begin(deed).await.unwrap().commit().await.unwrap();
    }

    async fn a_deed_that_comes_too_late_is_seen(db: Database) {
        Deeds::create(&db).await;
        let deeds = Deeds::open(db.url());
        commit(&deeds, &Deed::new(&["box_update"], 5)).await;
        commit(&deeds, &Deed::new(&["app_task_1", "x"], 7)).await;
        // It may coexist with an update of an earlier token.
        commit(&deeds, &Deed::new(&["app_backup_1"], 6)).await;
        commit(&deeds, &Deed::new(&["box_update"], 5)).await;
        let judged = tokio::spawn(async move {
            Deeds::judge(&db).await;
        });
        judged
            .await
            .expect_err("the update went on after the task began");
    }

    #[tokio::test]
    async fn what_is_in_order_is_allowed() {
        let db = Database::create(Engine::Sqlite);
        Deeds::create(&db).await;
        let deeds = Deeds::open(db.url());
        for (name, token) in [("app_task_1", 1), ("app_task_2", 1), ("app_task_1", 1)] {
            commit(&deeds, &Deed::new(&[name], token)).await;
        }
        commit(&deeds, &Deed::new(&["box_update"], 2)).await;
        commit(&deeds, &Deed::new(&["app_backup_1"], 3)).await;
        commit(&deeds, &Deed::new(&["box_update"], 2)).await;
        assert_eq!(Deeds::judge(&db).await, 6);
    }
}
