//! The engines, and the databases of the workloads.

use std::{env, fmt};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use url::Url;

use crate::{Result, sql::Connection};

/// A kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Engine {
    Sqlite,
    Mysql,
    Postgres,
}

/// The database of one workload. It is deleted when it is closed.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) engine: Engine,
    pub(crate) url: String,
    home: Home,
}

#[derive(Debug)]
enum Home {
    // Held for its drop only.
    Directory { _guard: TempDir },
    Server { admin: String, name: String },
}

/// The tables of the references.
const TABLES: [&str; 5] = [
    "CREATE TABLE bare (id INTEGER PRIMARY KEY, n BIGINT NOT NULL)",
    "INSERT INTO bare VALUES (1, 0)",
    "CREATE TABLE one_row (id VARCHAR(128) NOT NULL PRIMARY KEY, dataJson TEXT, \
     version BIGINT DEFAULT 1)",
    "INSERT INTO one_row (id, dataJson) VALUES ('platform', '{}')",
    "CREATE TABLE lock_rows (name VARCHAR(255) NOT NULL PRIMARY KEY, owner VARCHAR(255))",
];

impl Engine {
    /// The environment variable that holds the URL of a server that allows new databases.
    fn variable(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => None,
            Self::Mysql => Some("LOCKS_TEST_MYSQL_URL"),
            Self::Postgres => Some("LOCKS_TEST_POSTGRES_URL"),
        }
    }

    /// Why it cannot be measured here; `None` if it can.
    pub(crate) fn missing(self) -> Option<String> {
        let variable = self.variable()?;
        let is_set = env::var_os(variable).is_some_and(|url| !url.is_empty());
        (!is_set).then(|| format!("{variable} is not set; `tests/run bench` starts servers"))
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sqlite => "SQLite",
            Self::Mysql => "MariaDB",
            Self::Postgres => "PostgreSQL",
        })
    }
}

impl Database {
    /// Creates a database with the references' tables.
    pub(crate) async fn create(engine: Engine) -> Result<Self> {
        let this = match engine.variable() {
            None => Self::file(engine)?,
            Some(variable) => Self::on_server(engine, env::var(variable)?).await?,
        };
        let mut connection = Connection::open(engine, &this.url).await?;
        for table in TABLES {
            connection.raw(table).await?;
        }
        connection.close().await?;
        Ok(this)
    }

    fn file(engine: Engine) -> Result<Self> {
        let directory = TempDir::with_prefix("locks-bench-")?;
        let url = format!(
            "sqlite://{}?mode=rwc",
            directory.path().join("l.db").display()
        );
        let home = Home::Directory { _guard: directory };
        Ok(Self { engine, url, home })
    }

    async fn on_server(engine: Engine, admin: String) -> Result<Self> {
        let name = format!(
            "locks_bench_{}_{:08x}",
            std::process::id(),
            fastrand::u32(..)
        );
        let mut connection = Connection::open(engine, &admin).await?;
        connection.raw(&format!("CREATE DATABASE {name}")).await?;
        connection.close().await?;
        let mut url = Url::parse(&admin)?;
        url.set_path(&name);
        let url = url.into();
        let home = Home::Server { admin, name };
        Ok(Self { engine, url, home })
    }

    /// Deletes it, even if there are still connections to it.
    pub(crate) async fn close(self) -> Result<()> {
        if let Home::Server { admin, name } = &self.home {
            let mut connection = Connection::open(self.engine, admin).await?;
            let force = match self.engine {
                Engine::Postgres => " WITH (FORCE)",
                _ => "",
            };
            connection
                .raw(&format!("DROP DATABASE {name}{force}"))
                .await?;
            connection.close().await?;
        }
        Ok(())
    }
}
