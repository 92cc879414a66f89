//! The three engines, and a database for each test.

use std::{
    env, fmt,
    io::Write as _,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use tempfile::TempDir;
use url::Url;

use crate::{hostile, plain::Plain, wait};

mod reuse;

/// The limit for a test; a longer one hangs.
const TEST_LIMIT: Duration = Duration::from_mins(3);

/// A kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// A file; always available.
    Sqlite,
    /// MySQL or MariaDB, at `LOCKS_TEST_MYSQL_URL`.
    MySql,
    /// PostgreSQL, at `LOCKS_TEST_POSTGRES_URL`.
    Postgres,
}

/// A database that belongs to one test and is deleted when it is dropped.
#[derive(Debug)]
pub struct Database {
    engine: Engine,
    url: String,
    home: Home,
}

#[derive(Debug)]
enum Home {
    // Kept for its drop only.
    Directory(#[expect(dead_code)] TempDir),
    Server { admin: String, name: String },
}

impl Engine {
    /// The tables of the library, sorted.
    pub const fn tables(self) -> &'static [&'static str] {
        match self {
            Self::Sqlite => &["lock_fences", "lock_sessions", "locks"],
            Self::MySql | Self::Postgres => {
                &["lock_fences", "lock_requests", "lock_sessions", "locks"]
            }
        }
    }

    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sqlite, Self::MySql, Self::Postgres];

    /// The engine of a URL.
    pub fn of_url(url: &str) -> Self {
        match url.split(':').next() {
            Some("sqlite") => Self::Sqlite,
            Some("mysql" | "mariadb") => Self::MySql,
            Some("postgres" | "postgresql") => Self::Postgres,
            scheme => panic!("no engine has URLs that begin with {scheme:?}"),
        }
    }

    /// The variable with the URL of the test server.
    pub fn variable(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => None,
            Self::MySql => Some("LOCKS_TEST_MYSQL_URL"),
            Self::Postgres => Some("LOCKS_TEST_POSTGRES_URL"),
        }
    }

    /// Whether tests can run on this engine. If not, prints a note once, past libtest's capture, or
    /// panics if no engine may be left out (`LOCKS_TEST_ALL_ENGINES=1`).
    pub fn is_there(self) -> bool {
        static REPORTED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];
        let Some(variable) = self.variable() else {
            return true;
        };
        if env::var_os(variable).is_some_and(|url| !url.is_empty()) {
            return true;
        }
        assert!(
            !all_engines_wanted(),
            "{variable} is not set, and no engine may be left out"
        );
        if !REPORTED[self as usize].swap(true, Relaxed) {
            note(&format!(
                "left out: {self}. To include it, set {variable} to a server on which databases \
                 may be created, or run tests/run."
            ));
        }
        false
    }

    fn admin_url(self) -> String {
        let variable = self.variable().expect("a server engine");
        env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set"))
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "SQLite",
            Self::MySql => "MySQL/MariaDB",
            Self::Postgres => "PostgreSQL",
        })
    }
}

/// Prints a note about the test run, past libtest's capture.
pub fn note(text: &str) {
    // In one write, because libtest prints on other threads.
    let _ = std::io::stderr().write_all(format!("\nnote: {text}\n").as_bytes());
}

/// Whether a test that cannot run must fail instead of passing with a note.
pub fn all_engines_wanted() -> bool {
    env::var_os("LOCKS_TEST_ALL_ENGINES").is_some_and(|value| value == "1")
}

impl Database {
    /// A new, empty database: a file in a directory of its own, or a database on the test server.
    pub fn create(engine: Engine) -> Self {
        if engine == Engine::Sqlite {
            let directory = tempfile::Builder::new()
                .prefix("locks-")
                .tempdir()
                .expect("a directory");
            let path = directory.path().join("locks.db");
            // Connecting creates the file, as it does for users of the library.
            let url = format!("sqlite://{}?mode=rwc", path.display());
            if hostile::is_wanted() {
                hostile::make_file(&url);
            }
            return Self {
                engine,
                url,
                home: Home::Directory(directory),
            };
        }
        Self::create_on(&engine.admin_url())
    }

    /// A new, empty database on the server at this URL, whose account may create databases.
    pub fn create_on(admin: &str) -> Self {
        let engine = Engine::of_url(admin);
        if let Some(name) = reuse::take(admin) {
            return Self::named(admin, name);
        }
        let name = new_name();
        let sql = match engine {
            Engine::Sqlite => panic!("SQLite has no server"),
            Engine::MySql => format!("CREATE DATABASE {name}"),
            // template0, because it accepts no connections; an open connection would be an error.
            Engine::Postgres => format!("CREATE DATABASE {name} TEMPLATE template0"),
        };
        wait::block_on_thread(async {
            let mut conn = Plain::connect(admin)
                .await
                .expect("the test server answers");
            conn.execute(&sql).await.expect("databases may be created");
            let _ = conn.close().await;
        });
        Self::named(admin, name)
    }

    fn named(admin: &str, name: String) -> Self {
        let mut url = Url::parse(admin).expect("a URL");
        url.set_path(&name);
        Self {
            engine: Engine::of_url(admin),
            url: url.into(),
            home: Home::Server {
                admin: admin.to_owned(),
                name,
            },
        }
    }

    /// The engine.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// The URL, complete for any client.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Keeps sessions of an SQLite database from being renewed beside its file, while the file is
    /// locked: another file has the name of their directory.
    pub fn block_heartbeat_files(&self) {
        let path = self.url.strip_prefix("sqlite://").expect("a file");
        let path = path.split('?').next().expect("a path");
        std::fs::write(format!("{path}-beats"), "").expect("it can be made");
    }

    /// The URL of this database at another address, as through a relay.
    pub fn url_via(&self, address: SocketAddr) -> String {
        let mut url = Url::parse(&self.url).expect("a URL");
        url.set_ip_host(address.ip()).expect("a server has a host");
        url.set_port(Some(address.port()))
            .expect("a server has a port");
        url.into()
    }

    /// The URL of this database with another account, path or parameter.
    pub fn url_with(&self, change: impl FnOnce(&mut Url)) -> String {
        let mut url = Url::parse(&self.url).expect("a URL");
        change(&mut url);
        url.into()
    }

    /// The address of the server.
    pub fn server_address(&self) -> SocketAddr {
        assert_ne!(self.engine, Engine::Sqlite, "SQLite has no server");
        let url = Url::parse(&self.url).expect("a URL");
        let default = if self.engine == Engine::MySql {
            3306
        } else {
            5432
        };
        url.socket_addrs(|| Some(default))
            .expect("the server's name has an address")[0]
    }

    /// A connection of the test's own.
    pub async fn connect(&self) -> Plain {
        Plain::connect(&self.url)
            .await
            .expect("the test's own database answers")
    }

    /// Executes the statements on a new connection.
    pub async fn execute(&self, sql: &str) -> u64 {
        let mut conn = self.connect().await;
        let affected = conn
            .execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let _ = conn.close().await;
        affected
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Home::Server { admin, name } = &self.home else {
            return;
        };
        if reuse::give_back(admin, &self.url, name) {
            return;
        }
        let sql = match self.engine {
            // What a failed test left open must not block this.
            Engine::MySql => format!("SET lock_wait_timeout = 5; DROP DATABASE IF EXISTS {name}"),
            _ => format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
        };
        // If the server was stopped, the database is gone, and an error does not matter.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            wait::block_on_thread(async {
                let drop_it = async {
                    let mut conn = Plain::connect(admin).await?;
                    conn.execute(&sql).await?;
                    conn.close().await
                };
                let _ = tokio::time::timeout(Duration::from_secs(10), drop_it).await;
            });
        }));
    }
}

fn new_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Relaxed));
    format!("locks_{process}_{number}_{:08x}", fastrand::u32(..))
}

/// Runs an asynchronous test, if its engine is available; for
/// [`on_every_engine!`](crate::on_every_engine).
pub fn run_async<F: Future<Output = ()>>(engine: Engine, test: impl FnOnce(Database) -> F) {
    if engine.is_there() {
        run_async_on(Database::create(engine), test);
    }
}

/// Runs an asynchronous test on a database that the caller created.
pub fn run_async_on<F: Future<Output = ()>>(database: Database, test: impl FnOnce(Database) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            tokio::time::timeout(TEST_LIMIT, test(database))
                .await
                .unwrap_or_else(|_| panic!("the test hangs: not done after {TEST_LIMIT:?}"));
        });
    }));
    // A task of a failed test may block forever.
    runtime.shutdown_background();
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

/// Runs a synchronous test, if its engine is available; for
/// [`on_every_engine!`](crate::on_every_engine).
pub fn run_sync(engine: Engine, test: impl FnOnce(Database) + Send + 'static) {
    if !engine.is_there() {
        return;
    }
    let database = Database::create(engine);
    let (done, wait_for_it) = mpsc::channel::<()>();
    let name = std::thread::current().name().map(str::to_owned);
    let test = std::thread::Builder::new()
        .name(name.unwrap_or_default())
        .spawn(move || {
            // Disconnected when the test returns, and when it panics.
            let _done = done;
            test(database);
        })
        .expect("a thread");
    if let Err(RecvTimeoutError::Timeout) = wait_for_it.recv_timeout(TEST_LIMIT) {
        panic!("the test hangs: not done after {TEST_LIMIT:?}");
    }
    if let Err(panic) = test.join() {
        resume_unwind(panic);
    }
}

/// Keeps other tests of this process that call it from running until the value is dropped.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a `#[test]` on every engine, in the modules `sqlite`, `mysql` and `postgres`, of each
/// named function from a [`Database`]. With `servers:`, SQLite is left
/// out. Tests that are `async_alone` or `sync_alone` hold [`alone`].
///
/// ```text
/// on_every_engine!(async a_held_lock_is_busy, sync the_last_drop_flushes);
/// on_every_engine!(servers: async a_cut_connection_is_replaced);
///
/// async fn a_held_lock_is_busy(db: Database) { … }
/// fn the_last_drop_flushes(db: Database) { … }
/// ```
#[macro_export]
macro_rules! on_every_engine {
    (servers: $($kind:ident $name:ident),+ $(,)?) => {
        $crate::on_every_engine!(@module mysql_server MySql $($kind $name)+);
        $crate::on_every_engine!(@module postgres_server Postgres $($kind $name)+);
    };
    ($($kind:ident $name:ident),+ $(,)?) => {
        $crate::on_every_engine!(@module sqlite Sqlite $($kind $name)+);
        $crate::on_every_engine!(@module mysql MySql $($kind $name)+);
        $crate::on_every_engine!(@module postgres Postgres $($kind $name)+);
    };
    (@module $module:ident $engine:ident $($kind:ident $name:ident)+) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    $crate::on_every_engine!(@run $kind $engine $name);
                }
            )+
        }
    };
    (@run async $engine:ident $name:ident) => {
        $crate::engine::run_async($crate::engine::Engine::$engine, super::$name)
    };
    (@run async_alone $engine:ident $name:ident) => {{
        let _alone = $crate::engine::alone();
        $crate::engine::run_async($crate::engine::Engine::$engine, super::$name)
    }};
    (@run sync_alone $engine:ident $name:ident) => {{
        let _alone = $crate::engine::alone();
        $crate::engine::run_sync($crate::engine::Engine::$engine, super::$name)
    }};
    (@run sync $engine:ident $name:ident) => {
        $crate::engine::run_sync($crate::engine::Engine::$engine, super::$name)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::on_every_engine!(async each_database_is_separate, sync dropped_database_is_deleted);
    crate::on_every_engine!(servers: async its_address_is_that_of_its_server);

    async fn each_database_is_separate(db: Database) {
        let other = Database::create(db.engine());
        for database in [&db, &other] {
            database
                .execute("CREATE TABLE t (n INTEGER, s VARCHAR(9))")
                .await;
        }
        assert_eq!(db.execute("INSERT INTO t VALUES (7, NULL)").await, 1);
        let rows = db.connect().await.rows("SELECT n, s FROM t").await.unwrap();
        assert_eq!(
            (rows.len(), rows[0].get("N"), rows[0].get("s")),
            (1, Some("7"), None)
        );
        assert_eq!(
            other
                .connect()
                .await
                .rows("SELECT n, s FROM t")
                .await
                .unwrap(),
            []
        );
    }

    fn dropped_database_is_deleted(db: Database) {
        let url = db.url().replace("?mode=rwc", "");
        wait::block_on_thread(db.execute("CREATE TABLE t (n INTEGER)"));
        wait::block_on_thread(async { Plain::connect(&url).await.expect("it is there") });
        drop(db);
        wait::block_on_thread(async { Plain::connect(&url).await.expect_err("it is gone") });
    }

    async fn its_address_is_that_of_its_server(db: Database) {
        let url = db.url_via(db.server_address());
        Plain::connect(&url).await.expect("the same server");
    }
}
