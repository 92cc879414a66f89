//! The address of a database, and connecting to it.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use sqlx::ConnectOptions;
#[cfg(feature = "mysql")]
use sqlx::mysql::MySqlConnectOptions;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgConnectOptions;
#[cfg(feature = "sqlite")]
use sqlx::sqlite::SqliteConnectOptions;
use tokio::time;

use super::{
    change::ChangeSource,
    connection::Connection,
    dialect::{Catalog, Dialect, Facts},
    executor::{ColumnType, Engine, Executor, On, Sql, failure},
    failure::{Class, Failure},
    file::FileIdentity,
    names::{TableChoice, TableNames},
    reopen::Reopen,
    statements::{FenceStatement, Statements},
};
use crate::error::{LockError, Result};

/// The time limit of a connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The connect options of one of the engines, and the choice of the tables' names.
#[derive(Clone)]
pub(crate) struct Target {
    engine: Options,
    file: FileIdentity,
    tables: TableChoice,
    /// Set by the first connect, and used by all later ones.
    server: Arc<OnceLock<Arc<Server>>>,
    reopen: Arc<Reopen>,
}

/// The facts about a server, and the statements for it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) dialect: &'static Dialect,
    pub(super) facts: Facts,
    pub(super) names: TableNames,
    pub(super) schema_is_chosen: bool,
    pub(super) statements: Arc<Statements>,
    pub(super) fence: FenceStatement,
    pub(super) catalog: Catalog,
}

#[derive(Clone)]
enum Options {
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteConnectOptions),
    #[cfg(feature = "mysql")]
    MySql(MySqlConnectOptions),
    #[cfg(feature = "postgres")]
    Postgres(PgConnectOptions),
}

impl Target {
    fn new(engine: Options, file: FileIdentity) -> Self {
        Self {
            engine,
            file,
            tables: TableChoice::default(),
            server: Arc::default(),
            reopen: Arc::default(),
        }
    }

    /// Parses a URL.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidConfig`]. The message does not repeat the URL, which may contain a
    /// password.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let scheme = url.split(':').next().unwrap_or_default();
        match scheme {
            "sqlite" => sqlite(url),
            "mysql" | "mariadb" => mysql(url),
            "postgres" | "postgresql" => postgres(url),
            _ => Err(LockError::config(
                "database URL",
                "it must start with sqlite:, mysql:, mariadb:, postgres: or postgresql:",
            )),
        }
    }

    /// Sets the names of the tables.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidConfig`] when a schema is chosen and the engine has none.
    pub(crate) fn with_tables(mut self, tables: TableChoice) -> Result<Self> {
        if tables.schema().is_some() && self.dialect().change_source != ChangeSource::Notifications
        {
            return Err(LockError::config(
                "schema",
                format!("{} has no schemas: use a table prefix", self.dialect().name),
            ));
        }
        self.tables = tables;
        Ok(self)
    }

    /// The file of the database, if it is one.
    pub(super) fn file(&self) -> FileIdentity {
        self.file.clone()
    }

    /// Fails if the database is a file in a place where its locks do not work.
    pub(super) fn check_location(&self) -> Result<()> {
        #[cfg(feature = "sqlite")]
        if let Some(path) = self.file.path()
            && let Some(network) = super::file::network_file_system(path)
        {
            return Err(LockError::config(
                "database file",
                format!(
                    "{} is on a network file system ({network}), where the locks of SQLite do not \
                     exclude other machines: use a file on a local disk, or MySQL or PostgreSQL",
                    path.display()
                ),
            ));
        }
        Ok(())
    }

    /// Whether two connections may lead to two databases: those of SQLite without a file.
    pub(super) fn may_be_two_databases(&self) -> bool {
        match &self.engine {
            #[cfg(feature = "sqlite")]
            Options::Sqlite(_) => !self.file.is_known(),
            #[cfg(any(feature = "mysql", feature = "postgres"))]
            _ => false,
        }
    }

    /// Opens a connection again, unless attempts have failed just now.
    pub(super) async fn reopen(&self, limit: Duration) -> Result<Connection, Failure> {
        self.file.check()?;
        #[allow(clippy::disallowed_methods, reason = "the pause between attempts")]
        let now = Instant::now;
        self.reopen.check(now())?;
        let result = self.open(limit).await;
        self.reopen.on_attempt(&result, now());
        result.map_err(Failure::of_reconnect)
    }

    /// Opens a connection whose statements may take `limit` each. The first connect also reads
    /// the facts about the server.
    pub(super) async fn open(&self, limit: Duration) -> Result<Connection, Failure> {
        self.file.check()?;
        let opening = async {
            let server = self.server.get();
            let mut executor = self
                .connect(limit, server.map(|server| &server.facts))
                .await?;
            let server = if let Some(server) = server {
                server.clone()
            } else {
                let facts;
                (executor, facts) = self.read_facts(executor, limit).await?;
                let server = Arc::new(self.describe(facts)?);
                self.server.get_or_init(|| server).clone()
            };
            Ok((executor, server))
        };
        let (executor, server) = match time::timeout(CONNECT_LIMIT, opening).await {
            Ok(opened) => opened?,
            Err(_) => return Err(Failure::no_answer(CONNECT_LIMIT)),
        };
        self.file.remember();
        Connection::open(executor, limit, self.file.clone(), &server).await
    }

    async fn connect(
        &self,
        limit: Duration,
        facts: Option<&Facts>,
    ) -> Result<Box<dyn Executor>, Failure> {
        let _ = (limit, facts);
        Ok(match &self.engine {
            #[cfg(feature = "sqlite")]
            Options::Sqlite(options) => {
                // Only the first connect may create the file. If the file is missing later, it
                // was deleted, and another process may hold locks in it.
                let is_first = facts.is_none();
                let options = options.clone();
                let options = if is_first {
                    options
                } else {
                    options.create_if_missing(false)
                };
                let explain = |error: &_| super::sqlite::explained(error, &self.file);
                match explained::<sqlx::Sqlite>(&options, explain).await {
                    Ok(connection) => Box::new(connection),
                    Err(failure) => {
                        self.file.check()?;
                        return Err(failure);
                    }
                }
            }
            #[cfg(feature = "mysql")]
            Options::MySql(options) => Box::new(connected::<sqlx::MySql>(options).await?),
            #[cfg(feature = "postgres")]
            Options::Postgres(options) => match facts {
                Some(facts) if !facts.has(super::postgres::SHARED) => {
                    let options = super::postgres::startup(options.clone(), limit, facts);
                    Box::new(connected::<sqlx::Postgres>(&options).await?)
                }
                _ => Box::new(connected::<sqlx::Postgres>(options).await?),
            },
        })
    }

    /// Reads the facts about the server on the first connection. PostgreSQL may need another
    /// connection, which is returned instead.
    async fn read_facts(
        &self,
        mut executor: Box<dyn Executor>,
        limit: Duration,
    ) -> Result<(Box<dyn Executor>, Facts), Failure> {
        let _ = limit;
        if let Some(unlimited) = self.dialect().unlimited {
            executor.execute_raw(Sql(unlimited)).await?;
        }
        let facts = facts(&mut *executor, self.dialect()).await?;
        #[cfg(feature = "postgres")]
        if let Some(options) = self.postgres() {
            use super::postgres::{SHARED, is_pinned, refuses_settings, startup};

            // The settings belong to the startup message, if the server receives it.
            let options = startup(options.clone(), limit, &facts);
            let mut facts = facts;
            match options.connect().await {
                Ok(pinned) => {
                    let mut pinned = On::<sqlx::Postgres>(pinned);
                    let found = self::facts(&mut pinned, self.dialect()).await?;
                    if is_pinned(limit, &facts, &found) {
                        drop(executor.close().await);
                        return Ok((Box::new(pinned), facts));
                    }
                    drop(Box::new(pinned).close().await);
                }
                Err(error) if refuses_settings(&error) => {}
                Err(error) => return Err(failure::<sqlx::Postgres>(error)),
            }
            tracing::debug!("settings do not stay on connections; each transaction sets them");
            facts.insert(SHARED, "");
            return Ok((executor, facts));
        }
        Ok((executor, facts))
    }

    /// The names of the tables and the statements, according to the facts and the choice.
    fn describe(&self, facts: Facts) -> Result<Server, Failure> {
        let dialect = self.dialect();
        let schema = match self.tables.schema() {
            None if dialect.change_source == ChangeSource::Notifications => {
                let first = facts.get("schema").filter(|schema| !schema.is_empty());
                Some(first.ok_or_else(|| {
                    Failure::inconsistent(
                        Class::Permanent,
                        "no schema of the search_path exists: name one with Builder::schema",
                    )
                })?)
            }
            chosen => chosen,
        };
        let names = self.tables.names(schema, dialect.quote);
        if let Some(reason) = (dialect.unusable)(&facts) {
            return Err(Failure::inconsistent(Class::Permanent, reason));
        }
        if let Some(warning) = (dialect.relaxed)(&facts) {
            tracing::warn!("{warning}");
        }
        Ok(Server {
            dialect,
            statements: Arc::new((dialect.statements)(&names, &facts)),
            fence: (dialect.fence)(&names, &facts),
            catalog: (dialect.catalog)(&names),
            schema_is_chosen: self.tables.schema().is_some(),
            names,
            facts,
        })
    }

    /// The facts about the server.
    ///
    /// # Panics
    ///
    /// Before the first connect has succeeded.
    pub(super) fn server(&self) -> Arc<Server> {
        let server = self.server.get();
        server.expect("BUG: there was no connect yet").clone()
    }

    pub(super) fn dialect(&self) -> &'static Dialect {
        match &self.engine {
            #[cfg(feature = "sqlite")]
            Options::Sqlite(_) => sqlx::Sqlite::DIALECT,
            #[cfg(feature = "mysql")]
            Options::MySql(_) => sqlx::MySql::DIALECT,
            #[cfg(feature = "postgres")]
            Options::Postgres(_) => sqlx::Postgres::DIALECT,
        }
    }

    /// The options for a listening connection; `None` if the engine has no notifications.
    #[cfg(feature = "postgres")]
    #[allow(clippy::unnecessary_wraps, reason = "with one engine only")]
    pub(super) fn postgres(&self) -> Option<&PgConnectOptions> {
        match &self.engine {
            Options::Postgres(options) => Some(options),
            #[cfg(any(feature = "sqlite", feature = "mysql"))]
            _ => None,
        }
    }
}

impl fmt::Debug for Target {
    /// Only the name of the engine: the options contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dialect().name)
    }
}

/// Queries the facts about the server.
async fn facts(executor: &mut dyn Executor, dialect: &Dialect) -> Result<Facts, Failure> {
    let mut facts = Facts::default();
    let types = [ColumnType::Text, ColumnType::Text];
    for values in executor.fetch(Sql(dialect.facts), &[], &types).await? {
        let mut values = values.into_iter().filter_map(super::executor::Value::text);
        if let (Some(name), Some(value)) = (values.next(), values.next()) {
            facts.insert(name.to_lowercase(), value);
        }
    }
    Ok(facts)
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
async fn connected<DB: Engine>(
    options: &<DB::Connection as sqlx::Connection>::Options,
) -> Result<On<DB>, Failure> {
    explained(options, |_| None).await
}

/// Connects. A failure is that of `explain`, if it knows the cause of the error.
async fn explained<DB: Engine>(
    options: &<DB::Connection as sqlx::Connection>::Options,
    explain: impl FnOnce(&sqlx::Error) -> Option<Failure>,
) -> Result<On<DB>, Failure> {
    let connection = options.connect().await;
    let explained = |error| explain(&error).unwrap_or_else(|| failure::<DB>(error));
    connection.map(On).map_err(explained)
}

#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
fn parsed<T: std::str::FromStr<Err = sqlx::Error>>(url: &str) -> Result<T> {
    url.parse()
        .map_err(|error: sqlx::Error| LockError::config("database URL", error.to_string()))
}

#[cfg(not(all(feature = "sqlite", feature = "mysql", feature = "postgres")))]
fn left_out(engine: &str, feature: &str) -> Result<Target> {
    Err(LockError::config(
        "database URL",
        format!("{engine} is not compiled in: turn on the feature `{feature}` of locks-core"),
    ))
}

#[cfg(feature = "sqlite")]
fn sqlite(url: &str) -> Result<Target> {
    let options: SqliteConnectOptions = parsed(url)?;
    // The file is created unless the URL has a mode. The default of sqlx is not to create
    // it.
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let create = !super::sqlite::has_parameter(query, "mode", None);
    Ok(if create {
        options.create_if_missing(true).into_target()
    } else {
        options.into_target()
    })
}

#[cfg(not(feature = "sqlite"))]
fn sqlite(_: &str) -> Result<Target> {
    left_out("SQLite", "sqlite")
}

#[cfg(feature = "mysql")]
fn mysql(url: &str) -> Result<Target> {
    parsed::<MySqlConnectOptions>(url).map(sealed::Connect::into_target)
}

#[cfg(not(feature = "mysql"))]
fn mysql(_: &str) -> Result<Target> {
    left_out("MySQL", "mysql")
}

#[cfg(feature = "postgres")]
fn postgres(url: &str) -> Result<Target> {
    parsed::<PgConnectOptions>(url).map(sealed::Connect::into_target)
}

#[cfg(not(feature = "postgres"))]
fn postgres(_: &str) -> Result<Target> {
    left_out("PostgreSQL", "postgres")
}

/// The argument of [`Builder::connect_with`](crate::Builder::connect_with): the connect
/// options of an engine, by value, by reference or in an `Arc` as
/// `pool.connect_options()` returns them.
///
/// The driver opens its own connections with these options and takes none from a pool. It
/// does not run the pool's hooks, such as `after_connect`. The `:memory:` database of a pool is
/// not visible to the driver.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say how to connect",
    label = "not the connect options of an engine that is compiled in",
    note = "pass `SqliteConnectOptions`, `MySqlConnectOptions` or `PgConnectOptions`, \
            or what `pool.connect_options()` returns"
)]
pub trait IntoConnectOptions: sealed::Connect {}

impl<T: sealed::Connect> IntoConnectOptions for T {}

pub(crate) mod sealed {
    use super::Target;

    pub trait Connect: Sized {
        #[doc(hidden)]
        #[allow(private_interfaces)]
        fn into_target(self) -> Target;
    }
}

use sealed::Connect;

impl<T: Connect + Clone> Connect for &T {
    #[allow(private_interfaces)]
    fn into_target(self) -> Target {
        self.clone().into_target()
    }
}

impl<T: Connect + Clone> Connect for Arc<T> {
    #[allow(private_interfaces)]
    fn into_target(self) -> Target {
        Arc::unwrap_or_clone(self).into_target()
    }
}

#[cfg(feature = "sqlite")]
impl Connect for SqliteConnectOptions {
    #[allow(private_interfaces)]
    fn into_target(self) -> Target {
        let (options, file) = super::sqlite::located(self);
        Target::new(Options::Sqlite(super::sqlite::prepared(options)), file)
    }
}

#[cfg(feature = "mysql")]
impl Connect for MySqlConnectOptions {
    #[allow(private_interfaces)]
    fn into_target(self) -> Target {
        let options = super::mysql::prepared(self);
        Target::new(Options::MySql(options), FileIdentity::none())
    }
}

#[cfg(feature = "postgres")]
impl Connect for PgConnectOptions {
    #[allow(private_interfaces)]
    fn into_target(self) -> Target {
        Target::new(Options::Postgres(self), FileIdentity::none())
    }
}
