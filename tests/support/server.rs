//! Private servers, which a test can stop and start.

use std::{
    env, fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    engine::{Engine, all_engines_wanted, note},
    wall_clock::WallClock,
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/server");

/// A private server; it is killed, and its data deleted, when it is dropped.
#[derive(Debug)]
pub struct Server {
    kind: &'static str,
    clock: Option<WallClock>,
    settings: Vec<String>,
    directory: TempDir,
    /// The directory of a node of the cluster that a Galera node joins.
    peer: Option<PathBuf>,
    /// The URL of the server that a standby copies and follows.
    primary: Option<String>,
    port: u16,
    url: String,
}

impl Server {
    /// Starts a new, empty server. `None`, with a note, if its programs are not installed and the
    /// engine may be left out.
    pub fn start(engine: Engine) -> Option<Self> {
        Self::start_any(engine, None, &[])
    }

    /// Starts a server whose connections begin with these settings, each `name=value` as
    /// `tests/server` accepts it.
    pub fn start_with(engine: Engine, settings: &[&str]) -> Option<Self> {
        Self::start_any(engine, None, settings)
    }

    /// Starts a server with a wall clock of its own.
    pub fn start_by(engine: Engine, clock: Option<WallClock>) -> Option<Self> {
        Self::start_any(engine, clock, &[])
    }

    fn start_any(engine: Engine, clock: Option<WallClock>, settings: &[&str]) -> Option<Self> {
        let (kind, program) = match engine {
            Engine::Sqlite => panic!("SQLite has no server"),
            Engine::MySql => ("mariadb", "mariadbd"),
            Engine::Postgres => ("postgres", "postgres"),
        };
        if !is_installed(program) {
            assert!(!all_engines_wanted(), "{program} is not installed");
            note(&format!(
                "left out: a private server, because {program} is not installed"
            ));
            return None;
        }
        Some(Self::launch(kind, clock, settings, None, None))
    }

    /// Starts a Galera node: of a new cluster, or of the cluster of `peer`.
    pub(crate) fn start_node(peer: Option<&Self>) -> Self {
        let peer = peer.map(|peer| peer.directory.path().to_owned());
        Self::launch("galera", None, &[], peer, None)
    }

    /// Starts a standby of a PostgreSQL server.
    pub(crate) fn start_standby(primary: &Self) -> Self {
        Self::launch("postgres", None, &[], None, Some(primary.url.clone()))
    }

    /// Starts a pooler for the PostgreSQL server at this URL, with these settings in its
    /// configuration. `None`, with a note, if `PgBouncer` is not installed and engines may be
    /// left out.
    pub fn start_pooler(upstream: &str, settings: &[&str]) -> Option<Self> {
        if !is_installed("pgbouncer") {
            assert!(!all_engines_wanted(), "pgbouncer is not installed");
            note("left out: a pooler, because pgbouncer is not installed");
            return None;
        }
        let settings = [&[upstream], settings].concat();
        Some(Self::launch("pgbouncer", None, &settings, None, None))
    }

    fn launch(
        kind: &'static str,
        clock: Option<WallClock>,
        settings: &[&str],
        peer: Option<PathBuf>,
        primary: Option<String>,
    ) -> Self {
        let parent = env::var_os("LOCKS_TEST_DIR").map_or_else(env::temp_dir, PathBuf::from);
        // The clean-up of tests/run looks for this name.
        let prefix = format!("{kind}-");
        let directory = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(parent)
            .expect("a temporary directory");
        // Root starts the server as another user.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).expect("our own");
        let mut server = Self {
            kind,
            clock,
            settings: settings.iter().map(ToString::to_string).collect(),
            directory,
            peer,
            primary,
            port: free_port(),
            url: String::new(),
        };
        let url = server.call("start").expect("the server starts");
        url.trim().clone_into(&mut server.url);
        server
    }

    /// The URL, for [`Database::create_on`](crate::engine::Database::create_on). It does not change
    /// when the server is started again.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Shuts the server down in order; open connections end.
    pub fn stop(&self) {
        self.call("stop").expect("the server stops");
    }

    /// Kills the server, as a crash would.
    pub fn kill(&self) {
        self.call("kill").expect("the server dies");
    }

    /// Starts the server on its data and port after it was stopped or killed.
    pub fn start_again(&self) {
        let url = self.call("start").expect("the server starts again");
        assert_eq!(url.trim(), self.url);
    }

    /// The wall clock that the server was started with.
    pub fn clock(&self) -> Option<&WallClock> {
        self.clock.as_ref()
    }

    fn call(&self, action: &str) -> Result<String, String> {
        let mut command = Command::new(SCRIPT);
        if let Some(clock) = &self.clock {
            clock.rule(&mut command);
        }
        if let Some(primary) = &self.primary {
            command.env("LOCKS_TEST_STANDBY_OF", primary);
        }
        let output = command
            .arg(action)
            .arg(self.kind)
            .arg(self.directory.path())
            .arg(self.port.to_string())
            .args(&self.settings)
            .args(&self.peer)
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

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.call("kill");
    }
}

/// Whether a server program is on the `PATH` or where Debian installs it.
pub(crate) fn is_installed(program: &str) -> bool {
    let debian = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let debian = debian.map(|version| version.path().join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(debian)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .any(|directory| directory.join(program).is_file())
}

/// A free port below those that the system gives to outgoing connections: it must still be free
/// when the server is started again. The three ports after it, which a Galera node uses, are free
/// as well.
fn free_port() -> u16 {
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let port = fastrand::u16(20_000..32_000);
        if (port..port + 4).all(is_free) {
            return port;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::Database, plain::Plain, wait::block_on_thread};

    fn keeps_its_data(engine: Engine) {
        let Some(server) = Server::start(engine) else {
            return;
        };
        let db = Database::create_on(server.url());
        block_on_thread(db.execute("CREATE TABLE t (n INTEGER)"));
        for (n, end) in [Server::stop, Server::kill].into_iter().enumerate() {
            block_on_thread(db.execute("INSERT INTO t VALUES (1)"));
            end(&server);
            block_on_thread(Plain::connect(db.url())).expect_err("it is stopped");
            server.start_again();
            let rows = block_on_thread(async { db.connect().await.rows("SELECT * FROM t").await });
            assert_eq!(rows.unwrap().len(), n + 1);
        }
        let url = db.url().to_owned();
        drop(db);
        drop(server);
        block_on_thread(Plain::connect(&url)).expect_err("it is gone");
    }

    #[test]
    fn mariadb_keeps_its_data() {
        keeps_its_data(Engine::MySql);
    }

    #[test]
    fn postgres_keeps_its_data() {
        keeps_its_data(Engine::Postgres);
    }
}
