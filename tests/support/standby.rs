//! An asynchronous standby of a private PostgreSQL server.

use std::{
    env, fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use url::Url;

use crate::{
    plain::Plain,
    server::{Server, free_port},
    wait,
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/server");
const SOON: Duration = Duration::from_secs(30);

/// A hot standby; it is killed, and its data deleted, when it is dropped.
#[derive(Debug)]
pub struct Standby {
    directory: TempDir,
    primary: String,
    port: u16,
    url: String,
}

impl Standby {
    /// Copies the server and follows it.
    pub fn of(primary: &Server) -> Self {
        let parent = env::var_os("LOCKS_TEST_DIR").map_or_else(env::temp_dir, PathBuf::from);
        // The clean-up of tests/run looks for this name.
        let directory = tempfile::Builder::new()
            .prefix("postgres-standby-")
            .tempdir_in(parent)
            .expect("a temporary directory");
        // Root starts the server as another user.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).expect("our own");
        let mut standby = Self {
            directory,
            primary: primary.url().to_owned(),
            port: free_port(),
            url: String::new(),
        };
        let url = standby.call("start").expect("the standby starts");
        url.trim().clone_into(&mut standby.url);
        standby
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        let url = Url::parse(&self.url).expect("a URL");
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
        let mut conn = Plain::connect(&self.url).await.expect("it answers");
        conn.execute(sql).await.expect("it can");
        let _ = conn.close().await;
    }

    async fn wait_for(&self, what: &str, sql: &str, answer: &str) {
        wait::until(SOON, what, async || ask(&self.url, sql).await == answer).await;
    }

    fn call(&self, action: &str) -> Result<String, String> {
        let output = Command::new(SCRIPT)
            .env("LOCKS_TEST_STANDBY_OF", &self.primary)
            .args([action, "postgres"])
            .arg(self.directory.path())
            .arg(self.port.to_string())
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{SCRIPT}: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let _ = self.call("kill");
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
