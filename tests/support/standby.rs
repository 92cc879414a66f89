//! An asynchronous standby of a private PostgreSQL server.

use std::{net::SocketAddr, time::Duration};

use url::Url;

use crate::{plain::Plain, server::Server, wait};

const SOON: Duration = Duration::from_secs(30);

/// A hot standby; it is killed, and its data deleted, when it is dropped.
#[derive(Debug)]
pub struct Standby {
    server: Server,
    primary: String,
}

impl Standby {
    /// Copies the server and follows it.
    pub fn of(primary: &Server) -> Self {
        Self {
            server: Server::start_standby(primary),
            primary: primary.url().to_owned(),
        }
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        let url = Url::parse(self.server.url()).expect("a URL");
        url.socket_addrs(|| None).expect("it has an address")[0]
    }

    /// Waits until the standby has everything that its primary has written so far.
    pub async fn catch_up(&self) {
        let written = "SELECT pg_current_wal_lsn() AS written";
        let written = ask(&self.primary, written).await;
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn AS there");
        self.wait_for("the standby has caught up", &sql, "t").await;
    }

    /// Ends the connection to the primary: the standby receives nothing more.
    pub async fn disconnect(&self) {
        self.execute("ALTER SYSTEM SET primary_conninfo = ''").await;
        self.execute("SELECT pg_reload_conf()").await;
        let sql = "SELECT count(*) AS receivers FROM pg_stat_wal_receiver";
        self.wait_for("the standby is disconnected", sql, "0").await;
    }

    /// Promotes the standby to a primary.
    pub async fn promote(&self) {
        self.execute("SELECT pg_promote()").await;
        let sql = "SELECT pg_is_in_recovery() AS follows";
        self.wait_for("the standby is promoted", sql, "f").await;
    }

    async fn execute(&self, sql: &str) {
        let mut conn = Plain::connect(self.server.url()).await.expect("it answers");
        conn.execute(sql).await.expect("it can");
        let _ = conn.close().await;
    }

    async fn wait_for(&self, what: &str, sql: &str, answer: &str) {
        wait::until(SOON, what, async || {
            ask(self.server.url(), sql).await == answer
        })
        .await;
    }
}

/// The only value of the result.
async fn ask(url: &str, sql: &str) -> String {
    let mut conn = Plain::connect(url).await.expect("it answers");
    let rows = conn.rows(sql).await.expect("it can");
    let _ = conn.close().await;
    let column = sql.split(" AS ").nth(1).expect("a column with a name");
    let column = column.split(' ').next().expect("its name");
    rows[0].get(column).expect("it is not NULL").to_owned()
}
