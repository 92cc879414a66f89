//! The rows of sessions, read with plain SQL and judged independently of the library.

use std::time::{Duration, Instant};

use crate::{
    engine::Database,
    plain::{Plain, Record},
    wait,
};

/// One row of the table `lock_sessions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// `id`.
    pub id: String,
    /// `namespace`.
    pub namespace: String,
    /// `taskId`.
    pub task: String,
    /// `host`.
    pub host: String,
    /// `process`.
    pub process: String,
    /// `ttlMs`; `None`: the session never expires.
    pub ttl_ms: Option<i64>,
    /// `beat`.
    pub beat: i64,
}

impl Session {
    /// All sessions, of all namespaces.
    pub async fn all(db: &Database) -> Vec<Self> {
        let mut conn = db.connect().await;
        let all = Self::all_on(&mut conn).await;
        let _ = conn.close().await;
        all
    }

    /// [`Session::all`] on an existing connection.
    pub async fn all_on(conn: &mut Plain) -> Vec<Self> {
        let rows = conn.rows("SELECT * FROM lock_sessions ORDER BY id").await;
        let rows = rows.expect("the table is there");
        rows.iter().map(Self::of_record).collect()
    }

    /// The session of the task, which has at most one.
    pub async fn of(db: &Database, task: &str) -> Option<Self> {
        let mut all = Self::all(db).await;
        all.retain(|session| session.task == task);
        assert!(all.len() <= 1, "several sessions of {task}: {all:#?}");
        all.pop()
    }

    /// Waits for the next renewal of the task's session, and returns two moments between which it
    /// was.
    pub async fn next_beat(db: &Database, task: &str, limit: Duration) -> (Instant, Instant) {
        let mut conn = db.connect().await;
        let sql = format!("SELECT beat FROM lock_sessions WHERE taskId = '{task}'");
        let start = Instant::now();
        let mut first = None;
        let mut before = start;
        loop {
            let asked = Instant::now();
            let rows = conn.rows(&sql).await.expect("the table is there");
            let beat = rows
                .first()
                .and_then(|row| row.get("beat")?.parse::<i64>().ok());
            let beat = beat.unwrap_or_else(|| panic!("{task} has no session"));
            if *first.get_or_insert(beat) != beat {
                return (before, Instant::now());
            }
            assert!(
                start.elapsed() < limit,
                "{task} does not renew in {limit:?}"
            );
            before = asked;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn of_record(record: &Record) -> Self {
        let text = |column| record.get(column).expect("it is not NULL").to_owned();
        let number = |text: &str| text.parse().expect("a number");
        Self {
            id: text("id"),
            namespace: text("namespace"),
            task: text("taskId"),
            host: text("host"),
            process: text("process"),
            ttl_ms: record.get("ttlMs").map(number),
            beat: number(&text("beat")),
        }
    }
}

/// The sessions that have a row in `lock_fences`. On a cluster they have several: the name of
/// all but the first has a number after `#`.
pub async fn fences(db: &Database) -> Vec<String> {
    let mut conn = db.connect().await;
    let rows = conn
        .rows("SELECT session FROM lock_fences ORDER BY session")
        .await
        .expect("the table is there");
    let _ = conn.close().await;
    let id = |row: &Record| {
        let row = row.get("session").expect("it is not NULL");
        row.split('#').next().unwrap_or_default().to_owned()
    };
    let mut ids: Vec<_> = rows.iter().map(id).collect();
    ids.dedup();
    ids
}

/// Waits until both tables have rows of these tasks' sessions and of no other session.
pub async fn wait_until_only(db: &Database, tasks: &[&str], limit: Duration) {
    let what = format!("sessions of {tasks:?} and of no other task");
    wait::until(limit, &what, async || {
        let all = Session::all(db).await;
        let fences = fences(db).await;
        all.iter().all(|session| tasks.contains(&&*session.task))
            && fences.len() == all.len()
            && all.iter().all(|session| fences.contains(&session.id))
    })
    .await;
}
