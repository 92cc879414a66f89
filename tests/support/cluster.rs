//! A private Galera cluster of three MariaDB nodes.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use url::Url;

use crate::{
    engine::{Database, all_engines_wanted, note},
    plain::Plain,
    server::{Server, is_installed},
    wait,
};

/// The number of nodes of a cluster.
pub const NODES: usize = 3;

/// Where Debian's package `galera-4` installs the provider.
const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";
/// The longest time until a node has applied what another node committed.
const APPLIED: Duration = Duration::from_secs(20);

/// A running cluster; its nodes are killed, and their data deleted, when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    nodes: [Server; NODES],
}

impl Cluster {
    /// Starts a new, empty cluster. `None`, with a note, if Galera is not installed and engines
    /// may be left out.
    pub fn start() -> Option<Self> {
        let missing = [
            (!is_installed("mariadbd"), "mariadbd"),
            (!is_installed("rsync"), "rsync"),
            (!Path::new(PROVIDER).is_file(), PROVIDER),
        ];
        if let Some((_, what)) = missing.into_iter().find(|(is_missing, _)| *is_missing) {
            assert!(!all_engines_wanted(), "{what} is not installed");
            note(&format!(
                "left out: a Galera cluster, because {what} is not installed"
            ));
            return None;
        }
        let first = Server::start_node(None);
        // One after the other: nodes that join at one time wait for each other for longer.
        let second = Server::start_node(Some(&first));
        let third = Server::start_node(Some(&first));
        Some(Self {
            nodes: [first, second, third],
        })
    }

    /// The cluster that all tests of this process share. Its last user ends it.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = shared.upgrade() {
            return Some(cluster);
        }
        let cluster = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&cluster);
        Some(cluster)
    }

    /// The URL of a node.
    pub fn url(&self, node: usize) -> &str {
        self.nodes[node].url()
    }

    /// A new, empty database, which exists on every node. Its own URL is that of node 0.
    pub fn create_database(&self) -> Database {
        let db = Database::create_on(self.url(0));
        wait::block_on_thread(self.wait_until_applied());
        db
    }

    /// The URL of a database on a node.
    pub fn url_of(&self, db: &Database, node: usize) -> String {
        let url = Url::parse(self.url(node)).expect("a URL");
        db.url_with(|db| db.set_port(url.port()).expect("a server has a port"))
    }

    /// Waits until every node has applied what was committed on any node before this call.
    pub async fn wait_until_applied(&self) {
        for node in 0..NODES {
            let read = async {
                let mut conn = Plain::connect(self.url(node)).await?;
                let read =
                    "SET SESSION wsrep_sync_wait = 1; SELECT 1 FROM mysql.global_priv LIMIT 1";
                conn.execute(read).await?;
                conn.close().await
            };
            tokio::time::timeout(APPLIED, read)
                .await
                .unwrap_or_else(|_| panic!("node {node} is not up to date within {APPLIED:?}"))
                .unwrap_or_else(|error| panic!("node {node} cannot be read: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_one_node_is_on_every_node() {
        let Some(cluster) = Cluster::start() else {
            return;
        };
        let db = cluster.create_database();
        wait::block_on_thread(async {
            db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)").await;
            db.execute("INSERT INTO t VALUES (7)").await;
            cluster.wait_until_applied().await;
            for node in 0..NODES {
                let url = cluster.url_of(&db, node);
                let mut conn = Plain::connect(&url).await.expect("the node answers");
                let rows = conn.rows("SELECT n FROM t").await.expect("the table");
                assert_eq!(rows.len(), 1);
                assert_eq!(rows[0].get("n"), Some("7"));
            }
        });
        let url = cluster.url(2).to_owned();
        drop((db, cluster));
        wait::block_on_thread(Plain::connect(&url)).expect_err("the cluster has ended");
    }
}
