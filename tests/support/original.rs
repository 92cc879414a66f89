//! The foreign client: the original's protocol in plain SQL, step by step.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{Connection as _, MySqlConnection, Row as _};

use crate::conflict_table::refused_while;

/// The pause of the original after a version conflict.
pub const CONFLICT_PAUSE: Duration = Duration::from_millis(100);
/// The pause of the original between two attempts of `wait`.
pub const WAIT_PAUSE: Duration = Duration::from_secs(10);

/// The content of `dataJson`: lock names and task ids.
pub type Held = BTreeMap<String, String>;

/// Why a call of the original failed.
#[derive(Debug, thiserror::Error)]
pub enum OriginalError {
    /// The conflict table forbids it.
    #[error("{asked} is refused: {held} is held by {by}")]
    Refused {
        /// The requested lock.
        asked: String,
        /// The conflicting lock.
        held: String,
        /// The holder of the conflicting lock.
        by: String,
    },
    /// The lock is not held.
    #[error("{0} was never acquired")]
    NeverAcquired(String),
    /// Another task holds the lock.
    #[error("attempted to release {name} acquired by {by}")]
    HeldByOther {
        /// The lock.
        name: String,
        /// The holder of the lock.
        by: String,
    },
    /// The row does not exist: the original crashes.
    #[error("the row is missing")]
    NoRow,
    /// The database reported an error.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// A process of the original.
#[derive(Debug)]
pub struct Original {
    conn: MySqlConnection,
    task_id: String,
    /// The pauses, which tests may shorten.
    conflict_pause: Duration,
    wait_pause: Duration,
}

impl Original {
    /// Connects with a task id (`setTaskId`).
    pub async fn connect(url: &str, task_id: &str) -> sqlx::Result<Self> {
        let conn = MySqlConnection::connect(url).await?;
        let task_id = task_id.to_owned();
        Ok(Self {
            conn,
            task_id,
            conflict_pause: CONFLICT_PAUSE,
            wait_pause: WAIT_PAUSE,
        })
    }

    /// Sets other pauses than the original's.
    #[must_use]
    pub fn with_pauses(mut self, after_conflict: Duration, between_looks: Duration) -> Self {
        self.conflict_pause = after_conflict;
        self.wait_pause = between_looks;
        self
    }

    /// The task id.
    pub fn task_id(&self) -> &str {
        &self.task_id
    }

    /// Creates the table and the row as the original's installation does.
    pub async fn create_table(&mut self) -> sqlx::Result<()> {
        sqlx::query(
            "CREATE TABLE IF NOT EXISTS locks(id VARCHAR(128) NOT NULL PRIMARY KEY, \
             dataJson TEXT, version INT DEFAULT 1)",
        )
        .execute(&mut self.conn)
        .await?;
        self.insert_row().await
    }

    /// Step: reads the first row.
    pub async fn read(&mut self) -> Result<(Held, i64), OriginalError> {
        let row = sqlx::query("SELECT version, dataJson FROM locks")
            .fetch_optional(&mut self.conn)
            .await?
            .ok_or(OriginalError::NoRow)?;
        let held: String = row.try_get_unchecked(1)?;
        let held =
            serde_json::from_str(&held).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok((held, row.try_get(0)?))
    }

    /// Step: replaces the row's content if it still has this version.
    pub async fn compare_and_set(&mut self, held: &Held, version: i64) -> sqlx::Result<bool> {
        let done = sqlx::query(
            "UPDATE locks SET dataJson=?, version=version+1 WHERE id='platform' AND version=?",
        )
        .bind(serde_json::to_string(held).expect("a map of strings"))
        .bind(version)
        .execute(&mut self.conn)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Step: the first half of `releaseAll`.
    pub async fn delete_row(&mut self) -> sqlx::Result<()> {
        sqlx::query("DELETE FROM locks")
            .execute(&mut self.conn)
            .await?;
        Ok(())
    }

    /// Step: the second half; the version starts again.
    pub async fn insert_row(&mut self) -> sqlx::Result<()> {
        sqlx::query("INSERT INTO locks (id, dataJson) VALUES ('platform', '{}')")
            .execute(&mut self.conn)
            .await?;
        Ok(())
    }

    /// Acquires the lock, or fails at once if the table forbids it. A version conflict is retried
    /// without limit.
    pub async fn acquire(&mut self, name: &str) -> Result<(), OriginalError> {
        loop {
            let (mut held, version) = self.read().await?;
            if let Some((other, by)) = held.iter().find(|(other, _)| refused_while(name, other)) {
                let (asked, held, by) = (name.to_owned(), other.clone(), by.clone());
                return Err(OriginalError::Refused { asked, held, by });
            }
            held.insert(name.to_owned(), self.task_id.clone());
            if self.compare_and_set(&held, version).await? {
                return Ok(());
            }
            tokio::time::sleep(self.conflict_pause).await;
        }
    }

    /// Repeats `acquire` without limit, after any error.
    pub async fn wait(&mut self, name: &str) {
        while self.acquire(name).await.is_err() {
            tokio::time::sleep(self.wait_pause).await;
        }
    }

    /// Releases the lock.
    pub async fn release(&mut self, name: &str) -> Result<(), OriginalError> {
        loop {
            let (mut held, version) = self.read().await?;
            match held.remove(name) {
                None => return Err(OriginalError::NeverAcquired(name.to_owned())),
                Some(by) if by != self.task_id => {
                    return Err(OriginalError::HeldByOther {
                        name: name.to_owned(),
                        by,
                    });
                }
                Some(_) => {}
            }
            if self.compare_and_set(&held, version).await? {
                return Ok(());
            }
            tokio::time::sleep(self.conflict_pause).await;
        }
    }

    /// Releases all locks of the task and returns their names. Writes even if there are none.
    pub async fn release_by_task_id(
        &mut self,
        task_id: &str,
    ) -> Result<Vec<String>, OriginalError> {
        loop {
            let (mut held, version) = self.read().await?;
            let mut forgotten = Vec::new();
            held.retain(|name, by| {
                let keep = by != task_id;
                if !keep {
                    forgotten.push(name.clone());
                }
                keep
            });
            if self.compare_and_set(&held, version).await? {
                return Ok(forgotten);
            }
            tokio::time::sleep(self.conflict_pause).await;
        }
    }

    /// Releases every lock; in between there is no row.
    pub async fn release_all(&mut self) -> sqlx::Result<()> {
        self.delete_row().await?;
        self.insert_row().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Database, Engine, run_async};

    async fn two(db: &Database) -> (Original, Original) {
        let mut a = Original::connect(db.url(), "a").await.unwrap();
        a.create_table().await.unwrap();
        (a, Original::connect(db.url(), "b").await.unwrap())
    }

    #[test]
    fn acquires_refuses_and_releases() {
        run_async(Engine::MySql, async |db| {
            let (mut a, mut b) = two(&db).await;
            a.acquire("box_update").await.unwrap();
            let refused = b.acquire("app_task_1").await.unwrap_err().to_string();
            assert_eq!(refused, "app_task_1 is refused: box_update is held by a");
            b.acquire("app_backup_1").await.unwrap();
            assert!(matches!(
                b.release("x").await,
                Err(OriginalError::NeverAcquired(_))
            ));
            assert!(matches!(
                b.release("box_update").await,
                Err(OriginalError::HeldByOther { .. })
            ));
            a.release("box_update").await.unwrap();
            assert_eq!(a.release_by_task_id("b").await.unwrap(), ["app_backup_1"]);
            assert_eq!(b.read().await.unwrap(), (Held::new(), 5));
        });
    }

    #[test]
    fn an_old_version_does_not_match() {
        run_async(Engine::MySql, async |db| {
            let (mut a, mut b) = two(&db).await;
            let (mut held, version) = a.read().await.unwrap();
            b.acquire("x").await.unwrap();
            held.insert("x".to_owned(), "a".to_owned());
            assert!(!a.compare_and_set(&held, version).await.unwrap());
            assert_eq!(a.read().await.unwrap().0["x"], "b");
        });
    }

    #[test]
    fn release_all_starts_the_version_over_and_leaves_a_gap() {
        run_async(Engine::MySql, async |db| {
            let (mut a, mut b) = two(&db).await;
            a.acquire("x").await.unwrap();
            a.delete_row().await.unwrap();
            assert!(matches!(b.acquire("y").await, Err(OriginalError::NoRow)));
            a.insert_row().await.unwrap();
            assert_eq!(b.read().await.unwrap(), (Held::new(), 1));
            b.wait("x").await;
            a.release_all().await.unwrap();
            assert_eq!(b.read().await.unwrap(), (Held::new(), 1));
        });
    }
}
