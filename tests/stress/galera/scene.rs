//! A database on the cluster, with the application's tables, and its clients.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use locks_core::{Expiry, LockManager};
use locks_tests::{
    cluster::Cluster,
    engine::{Database, run_async_on},
};
use sqlx::{MySql, MySqlPool, Transaction, mysql::MySqlPoolOptions};

/// The number of tasks with a row in `counters`.
pub(crate) const TASKS: usize = 4;

const LONG: Duration = Duration::from_mins(2);

/// No settings for a connection.
pub(crate) const PLAIN: &str = "DO 0";
/// A transaction sees everything that was committed earlier on any node.
pub(crate) const CAUSAL: &str = "SET SESSION wsrep_sync_wait = 1";
/// The default since MariaDB 11.6.2.
pub(crate) const SNAPSHOT_ISOLATION: &str = "SET SESSION innodb_snapshot_isolation = ON";

/// A database on the cluster, and managers and applications that use it on any node.
pub(crate) struct Scene {
    // Fields are dropped in this order: the database is dropped while the cluster runs.
    pub(crate) db: Database,
    pub(crate) cluster: Arc<Cluster>,
}

/// Runs a test on a database of its own, while no other test uses the cluster.
pub(crate) fn on_cluster<F: Future<Output = ()>>(test: impl FnOnce(Scene) -> F) {
    static TURN: Mutex<()> = Mutex::new(());
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let db = cluster.create_database();
    run_async_on(db, async |db| test(Scene { db, cluster }).await);
}

impl Scene {
    pub(crate) async fn connect(&self, node: usize, namespace: &str, task: &str) -> LockManager {
        LockManager::builder()
            .namespace(namespace)
            .task_id(task)
            .expiry(Expiry::After(LONG))
            .connect(&self.cluster.url_of(&self.db, node))
            .await
            .expect("the node answers")
    }

    /// A pool of the application, with settings for each of its connections.
    pub(crate) async fn pool(&self, node: usize, settings: &'static str) -> MySqlPool {
        MySqlPoolOptions::new()
            .max_connections(40)
            .after_connect(move |conn, _| {
                Box::pin(async move { sqlx::raw_sql(settings).execute(conn).await.map(drop) })
            })
            .connect(&self.cluster.url_of(&self.db, node))
            .await
            .expect("the node answers")
    }

    /// Creates the tables of the library and of the application, on every node.
    pub(crate) async fn create_tables(&self) {
        let locks = self.connect(0, "platform", "setup").await;
        locks.close().await.expect("the node answers");
        self.db
            .execute("CREATE TABLE counters (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)")
            .await;
        self.db
            .execute("CREATE TABLE entries (entry VARCHAR(99) PRIMARY KEY)")
            .await;
        for id in 0..TASKS {
            let row = format!("INSERT INTO counters VALUES ({id}, 0)");
            self.db.execute(&row).await;
        }
        self.cluster.wait_until_applied().await;
    }

    pub(crate) async fn counter(&self, id: usize) -> i64 {
        self.cluster.wait_until_applied().await;
        let mut conn = self.db.connect().await;
        let sql = format!("SELECT n FROM counters WHERE id = {id}");
        let rows = conn.rows(&sql).await.expect("the table is there");
        let n = rows[0].get("n").expect("a number");
        n.parse().expect("a number")
    }
}

pub(crate) async fn increment(tx: &mut Transaction<'_, MySql>, id: usize) -> sqlx::Result<()> {
    let id = i64::try_from(id).expect("a small number");
    sqlx::query_scalar::<_, i64>("SELECT CAST(n AS SIGNED) FROM counters WHERE id = ?")
        .bind(id)
        .fetch_one(&mut **tx)
        .await?;
    sqlx::query("UPDATE counters SET n = n + 1 WHERE id = ?")
        .bind(id)
        .execute(&mut **tx)
        .await
        .map(drop)
}

pub(crate) async fn insert(
    pool: &MySqlPool,
    entry: &str,
) -> sqlx::Result<Transaction<'static, MySql>> {
    let mut tx = pool.begin().await?;
    sqlx::query("INSERT INTO entries VALUES (?)")
        .bind(entry)
        .execute(&mut *tx)
        .await?;
    Ok(tx)
}

pub(crate) async fn has(pool: &MySqlPool, entry: &str) -> bool {
    let found = sqlx::query_scalar::<_, String>("SELECT entry FROM entries WHERE entry = ?")
        .bind(entry)
        .fetch_optional(pool);
    found.await.expect("the table is there").is_some()
}
