//! The locks row, read with plain SQL and judged independently of the library.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::{
    engine::{Database, Engine},
    plain::{Plain, Record},
    wait,
};

/// One row of the table `locks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocksRow {
    /// `dataJson`, as text.
    pub data_json: String,
    /// `version`.
    pub version: i64,
    /// `stamp`, if that column exists and is not NULL.
    pub stamp: Option<String>,
    /// `metaJson`, if that column exists and is not NULL, as text.
    pub meta_json: Option<String>,
}

impl LocksRow {
    /// The row of the namespace; `None` if the row or the table does not exist.
    pub async fn read(db: &Database, namespace: &str) -> Option<Self> {
        let mut conn = db.connect().await;
        let row = Self::read_on(&mut conn, namespace).await;
        let _ = conn.close().await;
        row
    }

    /// [`LocksRow::read`] on an existing connection.
    pub async fn read_on(conn: &mut Plain, namespace: &str) -> Option<Self> {
        assert!(!namespace.contains('\''), "namespaces need no quoting");
        // All columns, because an original table does not have all of them.
        let sql = format!("SELECT * FROM locks WHERE id = '{namespace}'");
        // A missing table, or the moment at which the table is being altered.
        let rows = conn.rows(&sql).await.ok()?;
        rows.first().map(Self::of_record)
    }

    fn of_record(record: &Record) -> Self {
        let optional = |column| record.has(column).then(|| record.get(column)).flatten();
        Self {
            data_json: record
                .get("dataJson")
                .expect("dataJson is not NULL")
                .to_owned(),
            version: record
                .get("version")
                .expect("version is not NULL")
                .parse()
                .expect("a number"),
            stamp: optional("stamp").map(str::to_owned),
            meta_json: optional("metaJson").map(str::to_owned),
        }
    }

    /// The lock names and task ids of `dataJson`.
    pub fn held(&self) -> BTreeMap<String, String> {
        serde_json::from_str(&self.data_json).unwrap_or_else(|error| {
            panic!(
                "dataJson is not what the original reads: {error}: {}",
                self.data_json
            )
        })
    }

    /// `metaJson`, parsed.
    pub fn meta(&self) -> Value {
        self.meta_json.as_deref().map_or(Value::Null, |text| {
            serde_json::from_str(text).unwrap_or_else(|error| panic!("metaJson: {error}: {text}"))
        })
    }

    /// The waiters, in order: session and names.
    pub fn queue(&self) -> Vec<(String, Vec<String>)> {
        let meta = self.meta();
        let queue = meta.get("queue").and_then(Value::as_array);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let waiting = |entry: &Value| {
            let place = entry[0].as_u64().expect("the place of a session");
            let place = usize::try_from(place).expect("a place");
            let names = entry[4].as_array().expect("a list of names");
            (
                text(&meta["sessions"][place][0]),
                // A shared name is in an array.
                names
                    .iter()
                    .map(|name| text(name.get(0).unwrap_or(name)))
                    .collect(),
            )
        };
        queue.into_iter().flatten().map(waiting).collect()
    }

    /// Whether nothing is held, and no other entry remains: every list or map in `metaJson` is
    /// empty.
    pub fn is_empty(&self) -> bool {
        let left_over = |value: &Value| match value {
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => false,
        };
        self.held().is_empty()
            && match self.meta() {
                Value::Object(map) => !map.values().any(left_over),
                other => !left_over(&other),
            }
    }
}

/// The number of writes to the locks table, counted by a trigger.
#[derive(Debug)]
pub struct WriteCount<'d> {
    db: &'d Database,
}

impl<'d> WriteCount<'d> {
    /// Counts from now on. The locks table must exist.
    pub async fn start(db: &'d Database) -> Self {
        let count = "UPDATE locks_writes SET n = n + 1";
        let trigger = match db.engine() {
            Engine::Sqlite => {
                format!("CREATE TRIGGER locks_write AFTER UPDATE ON locks BEGIN {count}; END")
            }
            Engine::MySql => {
                format!("CREATE TRIGGER locks_write AFTER UPDATE ON locks FOR EACH ROW {count}")
            }
            Engine::Postgres => format!(
                "CREATE FUNCTION locks_write() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN {count}; RETURN NULL; END $$; \
                 CREATE TRIGGER locks_write AFTER UPDATE ON locks \
                 FOR EACH ROW EXECUTE FUNCTION locks_write()"
            ),
        };
        db.execute("CREATE TABLE locks_writes (n INTEGER)").await;
        db.execute("INSERT INTO locks_writes VALUES (0)").await;
        db.execute(&trigger).await;
        Self { db }
    }

    /// The number of writes since the start.
    pub async fn read(&self) -> u64 {
        let mut conn = self.db.connect().await;
        let rows = conn.rows("SELECT n FROM locks_writes").await;
        let _ = conn.close().await;
        let number = rows.expect("the table is there")[0]
            .get("n")
            .map(str::parse);
        number.expect("one row").expect("a number")
    }
}

/// Waits until this many requests are in the namespace's queue, and returns the row.
pub async fn wait_until_queued(db: &Database, namespace: &str, number: usize) -> LocksRow {
    let limit = Duration::from_secs(20);
    let mut conn = db.connect().await;
    let what = format!("{number} in the queue of {namespace}");
    let row = wait::until_some(limit, &what, async || {
        let row = LocksRow::read_on(&mut conn, namespace).await?;
        (row.queue().len() == number).then_some(row)
    })
    .await;
    let _ = conn.close().await;
    row
}

/// Waits until nothing is held or awaited in the namespace, and returns the row. Panics with what
/// is left after the limit.
pub async fn wait_until_empty(db: &Database, namespace: &str, limit: Duration) -> LocksRow {
    let mut last = None;
    let empty = async {
        let mut conn = db.connect().await;
        wait::until_some(Duration::MAX, "an empty row", async || {
            last = LocksRow::read_on(&mut conn, namespace).await;
            last.clone().filter(LocksRow::is_empty)
        })
        .await
    };
    match tokio::time::timeout(limit, empty).await.ok() {
        Some(row) => row,
        None => panic!("the row {namespace} is not empty after {limit:?}: {last:#?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(data: &str, meta: Option<&str>) -> LocksRow {
        LocksRow {
            data_json: data.to_owned(),
            version: 1,
            stamp: None,
            meta_json: meta.map(str::to_owned),
        }
    }

    #[test]
    fn remaining_entries_are_seen() {
        assert!(row("{}", None).is_empty());
        assert!(row("{}", Some(r#"{"v":1,"held":{},"queue":[]}"#)).is_empty());
        assert!(!row(r#"{"a":"t"}"#, None).is_empty());
        assert!(!row("{}", Some(r#"{"held":{"a":{}}}"#)).is_empty());
        assert!(!row("{}", Some(r#"{"queue":[1]}"#)).is_empty());
        assert_eq!(row(r#"{"a":"t"}"#, None).held()["a"], "t");
    }

    crate::on_every_engine!(async the_row_is_read_as_it_stands);

    async fn the_row_is_read_as_it_stands(db: Database) {
        assert_eq!(LocksRow::read(&db, "platform").await, None);
        let id = "id VARCHAR(128) PRIMARY KEY";
        db.execute(&format!(
            "CREATE TABLE locks ({id}, dataJson TEXT, version INT DEFAULT 1)"
        ))
        .await;
        assert_eq!(LocksRow::read(&db, "platform").await, None);
        db.execute("INSERT INTO locks (id, dataJson) VALUES ('platform', '{}')")
            .await;
        assert_eq!(LocksRow::read(&db, "platform").await, Some(row("{}", None)));
        wait_until_empty(&db, "platform", Duration::from_secs(5)).await;
    }

    #[tokio::test]
    #[should_panic(expected = "is not empty after 50ms")]
    async fn remaining_entry_is_reported() {
        let db = Database::create(crate::engine::Engine::Sqlite);
        db.execute("CREATE TABLE locks (id TEXT, dataJson TEXT, version INT)")
            .await;
        db.execute(r#"INSERT INTO locks VALUES ('platform', '{"a":"t"}', 3)"#)
            .await;
        wait_until_empty(&db, "platform", Duration::from_millis(50)).await;
    }
}
