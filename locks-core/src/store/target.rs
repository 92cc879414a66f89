//! Where to connect: an address of one of the engines.

use std::{fmt, sync::Arc, time::Duration};

use sqlx::ConnectOptions;
#[cfg(feature = "mysql")]
use sqlx::mysql::MySqlConnectOptions;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgConnectOptions;
#[cfg(feature = "sqlite")]
use sqlx::sqlite::SqliteConnectOptions;
use tokio::time;

use super::{
    change::Tells,
    connection::{Connection, Statements},
    failure::Failure,
    file::FileIdentity,
    run::{Engine, On, Run, failure},
};
use crate::error::{LockError, Result};

/// How long opening a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// An address of one of the engines, and how to log in there.
#[derive(Clone)]
pub(crate) struct Target {
    engine: Options,
    file: FileIdentity,
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
    /// Reads a URL. What is wrong with it is said without repeating it, since it may
    /// contain a password.
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

    /// Opens a connection whose statements may take `limit` each.
    pub(super) async fn open(&self, limit: Duration) -> Result<Connection, Failure> {
        self.file.check()?;
        let opening = async {
            Ok::<Box<dyn Run>, Failure>(match &self.engine {
                #[cfg(feature = "sqlite")]
                Options::Sqlite(options) => Box::new(connected::<sqlx::Sqlite>(options).await?),
                #[cfg(feature = "mysql")]
                Options::MySql(options) => Box::new(connected::<sqlx::MySql>(options).await?),
                #[cfg(feature = "postgres")]
                Options::Postgres(options) => Box::new(connected::<sqlx::Postgres>(options).await?),
            })
        };
        let run = match time::timeout(CONNECT_LIMIT, opening).await {
            Ok(run) => run?,
            Err(_) => return Err(Failure::no_answer(CONNECT_LIMIT)),
        };
        self.file.remember();
        Connection::open(run, limit, self.file.clone()).await
    }

    /// Where users find what makes the tables.
    pub(super) fn migration_path(&self) -> &'static str {
        self.statements().migration_path
    }

    fn statements(&self) -> &'static Statements {
        match &self.engine {
            #[cfg(feature = "sqlite")]
            Options::Sqlite(_) => sqlx::Sqlite::STATEMENTS,
            #[cfg(feature = "mysql")]
            Options::MySql(_) => sqlx::MySql::STATEMENTS,
            #[cfg(feature = "postgres")]
            Options::Postgres(_) => sqlx::Postgres::STATEMENTS,
        }
    }

    /// How the engine tells of changes.
    pub(super) fn tells(&self) -> Tells {
        match &self.engine {
            #[cfg(feature = "sqlite")]
            Options::Sqlite(_) => Tells::Number,
            #[cfg(feature = "mysql")]
            Options::MySql(_) => Tells::Nothing,
            #[cfg(feature = "postgres")]
            Options::Postgres(_) => Tells::Notifications,
        }
    }

    /// Whether a row's lock can be had in order, without the danger that somebody stops
    /// with it.
    pub(super) fn locks_rows(&self) -> bool {
        self.statements().lock.is_some()
    }

    /// How to listen for what others tell, where the engine can.
    #[cfg(feature = "postgres")]
    #[allow(clippy::unnecessary_wraps, reason = "only where it is the one engine")]
    pub(super) fn postgres(&self) -> Option<&PgConnectOptions> {
        match &self.engine {
            Options::Postgres(options) => Some(options),
            #[cfg(any(feature = "sqlite", feature = "mysql"))]
            _ => None,
        }
    }
}

impl fmt::Debug for Target {
    /// The engine and nothing else: the options hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.engine {
            #[cfg(feature = "sqlite")]
            Options::Sqlite(_) => "SQLite",
            #[cfg(feature = "mysql")]
            Options::MySql(_) => "MySQL or MariaDB",
            #[cfg(feature = "postgres")]
            Options::Postgres(_) => "PostgreSQL",
        })
    }
}

async fn connected<DB: Engine>(
    options: &<DB::Connection as sqlx::Connection>::Options,
) -> Result<On<DB>, Failure> {
    let connection = options.connect().await;
    connection.map(On).map_err(failure::<DB>)
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
    // Unlike sqlx, an embedded default makes its file, unless the URL says how to
    // open it.
    let create = !url.contains("mode=");
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

/// What [`Builder::connect_with`](crate::Builder::connect_with) takes: the connect
/// options of an engine, by value, by reference or in an `Arc`, as
/// `pool.connect_options()` returns them.
///
/// Connections are opened with these options, never taken from a pool. The pool's
/// hooks, such as `after_connect`, are not copied, and a pool's `:memory:` is another
/// database than ours.
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
        let file = FileIdentity::of(self.get_filename());
        Target {
            engine: Options::Sqlite(super::sqlite::prepared(self)),
            file,
        }
    }
}

#[cfg(feature = "mysql")]
impl Connect for MySqlConnectOptions {
    #[allow(private_interfaces)]
    fn into_target(self) -> Target {
        Target {
            engine: Options::MySql(self),
            file: FileIdentity::none(),
        }
    }
}

#[cfg(feature = "postgres")]
impl Connect for PgConnectOptions {
    #[allow(private_interfaces)]
    fn into_target(self) -> Target {
        Target {
            engine: Options::Postgres(self),
            file: FileIdentity::none(),
        }
    }
}
