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
    dialect::{Catalog, Dialect, Facts, SHARED},
    failure::{Class, Failure},
    file::FileIdentity,
    given_options::{GivenOptions, Options},
    names::{TableChoice, TableNames},
    provider::{BoxError, Provider},
    reopen::Reopen,
    statements::{FenceStatement, Statements},
};
use crate::{
    error::{LockError, Result},
    options::Durability,
};

/// The time limit of a connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A database: how to connect to it, and the choice of the tables' names.
#[derive(Clone)]
pub(crate) struct Target {
    /// What every connect uses, or what the provider returned first.
    first: Arc<OnceLock<GivenOptions>>,
    /// Returns the options of each connect.
    provider: Option<Provider>,
    tables: TableChoice,
    /// What the writes of a new connection survive, where that can be chosen.
    durability: Durability,
    /// Set by the first connect, and used by all later ones.
    server: Arc<OnceLock<Arc<Server>>>,
    reopen: Arc<Reopen>,
}

/// The facts about a server, and the statements for it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) dialect: &'static Dialect,
    pub(super) change_source: ChangeSource,
    pub(super) facts: Facts,
    pub(super) names: TableNames,
    pub(super) schema_is_chosen: bool,
    /// Whether connect creates and widens no tables.
    pub(super) must_exist: bool,
    pub(super) statements: Arc<Statements>,
    pub(super) fence: FenceStatement,
    pub(super) catalog: Catalog,
}

impl Target {
    fn new(engine: Options, file: FileIdentity) -> Self {
        let given = GivenOptions { engine, file };
        Self {
            first: Arc::new(OnceLock::from(given)),
            provider: None,
            tables: TableChoice::default(),
            durability: Durability::Full,
            server: Arc::default(),
            reopen: Arc::default(),
        }
    }

    /// A database whose connect options `provide` returns at each connect.
    pub(crate) fn provided<F, O, E>(provide: F) -> Self
    where
        F: AsyncFn() -> Result<O, E> + Send + Sync + 'static,
        O: IntoConnectOptions,
        E: Into<BoxError>,
    {
        let provide = Arc::new(provide);
        let provider = Provider::new(move || {
            let provide = provide.clone();
            Box::pin(async move {
                let options = (*provide)().await.map_err(Into::into)?;
                Ok(Self::given(options))
            })
        });
        Self {
            first: Arc::default(),
            provider: Some(provider),
            tables: TableChoice::default(),
            durability: Durability::Full,
            server: Arc::default(),
            reopen: Arc::default(),
        }
    }

    pub(super) fn given(options: impl IntoConnectOptions) -> GivenOptions {
        let target = sealed::Connect::into_target(options);
        let given = target.first.get();
        given.expect("BUG: options have an engine").clone()
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

    /// Whether a closure provides the options.
    pub(super) fn is_provided(&self) -> bool {
        self.provider.is_some()
    }

    /// Sets the names of the tables.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidConfig`] when a schema is chosen and the engine has none.
    pub(crate) fn with_tables(mut self, tables: TableChoice) -> Result<Self> {
        if let Some(dialect) = self.dialect()
            && let Some(reason) = refused_schema(&tables, dialect)
        {
            return Err(LockError::config("schema", reason));
        }
        self.tables = tables;
        Ok(self)
    }

    /// The statements that create the tables, and in comments the rights that an account needs.
    pub(crate) fn migration_sql(&self) -> String {
        let Some(dialect) = self.dialect() else {
            return String::new();
        };
        let names = self.tables.names(self.tables.schema(), dialect.quote);
        let files = || dialect.migrations.iter().chain(dialect.optional);
        let mut text = String::new();
        for statement in files().flat_map(|file| names.migration(file.sql)) {
            text.push_str(&statement);
            text.push_str(";\n\n");
        }
        for line in files().flat_map(|file| names.rights(file.sql)) {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// Sets what the writes of a new connection survive, where that can be chosen.
    pub(crate) fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The file of the database, if it is one and known.
    pub(super) fn file(&self) -> FileIdentity {
        let given = self.first.get();
        given.map_or_else(FileIdentity::none, |given| given.file.clone())
    }

    /// Fails if the database is a file in a place where its locks do not work.
    #[cfg_attr(
        not(feature = "sqlite"),
        allow(
            clippy::unused_self,
            clippy::unnecessary_wraps,
            reason = "for files only"
        )
    )]
    pub(super) fn check_location(&self) -> Result<()> {
        #[cfg(feature = "sqlite")]
        if let Some(path) = self.file().path()
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
        match self.first.get().map(|given| &given.engine) {
            #[cfg(feature = "sqlite")]
            Some(Options::Sqlite(_)) => !self.file().is_known(),
            _ => false,
        }
    }

    /// Opens a connection again, unless attempts have failed just now.
    pub(super) async fn reopen(&self, limit: Duration) -> Result<Connection, Failure> {
        // Boxed, because the future of every query would be as large otherwise.
        self.attempt(Box::pin(self.open(limit))).await
    }

    /// Runs an attempt to connect again, unless attempts have failed just now.
    pub(super) async fn attempt<T>(
        &self,
        attempt: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.check_file()?;
        #[allow(clippy::disallowed_methods, reason = "the pause between attempts")]
        let now = Instant::now;
        self.reopen.check(now())?;
        let result = attempt.await;
        self.reopen.on_attempt(&result, now());
        result.map_err(Failure::of_reconnect)
    }

    fn check_file(&self) -> Result<(), Failure> {
        self.first.get().map_or(Ok(()), |given| given.file.check())
    }

    /// Opens a connection whose statements may take `limit` each. The first connect also reads
    /// the facts about the server.
    pub(super) async fn open(&self, limit: Duration) -> Result<Connection, Failure> {
        self.check_file()?;
        let opening = async {
            let given = self.options().await?;
            if let Some(server) = self.server.get() {
                let executor = given.connect(limit, Some(&server.facts)).await?;
                return Ok((executor, server.clone(), given.file));
            }
            let (executor, facts) = given.first_connect(limit).await?;
            let server = Arc::new(self.describe(facts, given.dialect())?);
            let server = self.server.get_or_init(|| server).clone();
            Ok((executor, server, given.file))
        };
        let (executor, server, file) = within(CONNECT_LIMIT, opening).await?;
        file.remember();
        let mut connection = Connection::open(executor, limit, file, &server).await?;
        connection.survive(self.durability).await?;
        // Processes of version 0.1 do not look beside the file.
        connection.renews_beside_file = self.durability == Durability::Normal;
        Ok(connection)
    }

    /// The options of one connect.
    async fn options(&self) -> Result<GivenOptions, Failure> {
        let Some(provider) = &self.provider else {
            let given = self.first.get();
            return Ok(given.expect("BUG: neither options nor a provider").clone());
        };
        let given = provider.call().await?;
        let first = self.first.get_or_init(|| given.clone());
        given.after(first)
    }

    /// The options of a listening connection. It is counted as an attempt to connect by the
    /// caller.
    #[cfg(feature = "postgres")]
    pub(super) async fn listening(&self, limit: Duration) -> Result<PgConnectOptions, Failure> {
        let given = within(CONNECT_LIMIT, self.options()).await?;
        match &given.engine {
            Options::Postgres(options) => {
                let facts = &self.server().facts;
                Ok(super::postgres::options(options, limit, facts))
            }
            #[cfg(any(feature = "sqlite", feature = "mysql"))]
            _ => Err(Failure::no_answer(Duration::ZERO)),
        }
    }

    /// The names of the tables and the statements, according to the facts and the choice.
    fn describe(&self, facts: Facts, dialect: &'static Dialect) -> Result<Server, Failure> {
        if let Some(reason) = refused_schema(&self.tables, dialect) {
            return Err(Failure::inconsistent(Class::Permanent, reason));
        }
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
            // A notification for a connection that is shared reaches any of its clients.
            change_source: match dialect.change_source {
                ChangeSource::Notifications if facts.has(SHARED) => ChangeSource::None,
                source => source,
            },
            statements: Arc::new((dialect.statements)(&names, &facts)),
            fence: (dialect.fence)(&names, &facts),
            catalog: (dialect.catalog)(&names),
            schema_is_chosen: self.tables.schema().is_some(),
            must_exist: self.tables.must_exist,
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

    /// The dialect of the engine; `None` if a provider chooses it and was not called yet.
    pub(super) fn dialect(&self) -> Option<&'static Dialect> {
        self.first.get().map(GivenOptions::dialect)
    }
}

impl fmt::Debug for Target {
    /// Only the name of the engine: the options contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dialect().map_or("a database", |dialect| dialect.name))
    }
}

/// Why the choice of a schema is refused.
fn refused_schema(tables: &TableChoice, dialect: &Dialect) -> Option<String> {
    (tables.schema().is_some() && dialect.change_source != ChangeSource::Notifications)
        .then(|| format!("{} has no schemas: use a table prefix", dialect.name))
}

async fn within<T>(
    limit: Duration,
    opening: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match time::timeout(limit, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(Failure::no_answer(limit)),
    }
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

/// The options with the address of an IPv6 host as the system expects it. A URL has it in
/// brackets, which sqlx keeps.
#[cfg(any(feature = "mysql", feature = "postgres"))]
fn without_brackets<T>(options: T, host: fn(&T) -> &str, with_host: fn(T, &str) -> T) -> T {
    let bare = host(&options)
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .map(ToOwned::to_owned);
    match bare {
        Some(bare) => with_host(options, &bare),
        None => options,
    }
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
        let options = super::sqlite::prepared(options).disable_statement_logging();
        Target::new(Options::Sqlite(options), file)
    }
}

#[cfg(feature = "mysql")]
impl Connect for MySqlConnectOptions {
    #[allow(private_interfaces)]
    fn into_target(self) -> Target {
        let options = without_brackets(self, MySqlConnectOptions::get_host, Self::host);
        let options = super::mysql::prepared(options).disable_statement_logging();
        Target::new(Options::MySql(options), FileIdentity::none())
    }
}

#[cfg(feature = "postgres")]
impl Connect for PgConnectOptions {
    #[allow(private_interfaces)]
    fn into_target(self) -> Target {
        let options = without_brackets(self, PgConnectOptions::get_host, Self::host);
        let options = super::postgres::prepared(options).disable_statement_logging();
        Target::new(Options::Postgres(options), FileIdentity::none())
    }
}

#[cfg(all(feature = "mysql", feature = "postgres"))]
#[cfg(test)]
mod tests {
    use super::*;

    fn host(url: &str) -> String {
        let target = Target::parse(url).expect("a URL");
        let given = target.first.get().expect("options");
        #[allow(
            clippy::match_wildcard_for_single_variants,
            reason = "with two engines only"
        )]
        match &given.engine {
            Options::MySql(options) => options.get_host().to_owned(),
            Options::Postgres(options) => options.get_host().to_owned(),
            _ => panic!("{url}"),
        }
    }

    #[test]
    fn ipv6_host_has_no_brackets() {
        for engine in ["mysql", "mariadb", "postgres", "postgresql"] {
            for (in_url, expected) in [
                ("[::1]", "::1"),
                ("[2001:db8::7]", "2001:db8::7"),
                ("127.0.0.1", "127.0.0.1"),
                ("db.internal", "db.internal"),
            ] {
                assert_eq!(host(&format!("{engine}://u:p@{in_url}:1234/d")), expected);
                assert_eq!(host(&format!("{engine}://u@{in_url}/d")), expected);
            }
        }
        // Options that were parsed elsewhere.
        let options: PgConnectOptions = "postgres://u@[::1]/d".parse().expect("a URL");
        let target = sealed::Connect::into_target(options);
        let Options::Postgres(options) = &target.first.get().expect("options").engine else {
            panic!("another engine");
        };
        assert_eq!(options.get_host(), "::1");
    }

    #[test]
    fn application_name_is_that_of_the_options_or_locks() {
        for (url, expected) in [
            ("postgres://u@h/d", "locks"),
            ("postgres://u@h/d?application_name=mail", "mail"),
        ] {
            let target = Target::parse(url).expect("a URL");
            let Options::Postgres(options) = &target.first.get().expect("options").engine else {
                panic!("another engine");
            };
            assert_eq!(options.get_application_name(), Some(expected));
        }
    }
}
