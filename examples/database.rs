//! The database an example runs on.

use std::fmt;

use locks_core::sqlx::{self, Connection as _, MySqlConnection, PgConnection, SqliteConnection};
use tempfile::TempDir;

use crate::Result;

/// A database somewhere, or an `SQLite` file of the example's own, which goes with this.
#[derive(Debug)]
pub struct Database {
    place: Place,
    url: String,
}

#[derive(Debug)]
enum Place {
    // Held for its drop only.
    Temporary(#[expect(dead_code)] TempDir),
    Given,
}

impl Database {
    /// The one at this URL or, without a URL, a file in a new temporary directory.
    ///
    /// # Errors
    ///
    /// When there can be no such directory, or the database is in memory: then every process
    /// would have one of its own. Whether it is there is not looked at.
    pub fn at(url: Option<String>) -> Result<Self> {
        if let Some(url) = url {
            let in_memory = [":memory:", "mode=memory"];
            if url.starts_with("sqlite:") && in_memory.iter().any(|text| url.contains(text)) {
                return Err("a database in memory is not shared by processes; \
                            name one in a file, or none"
                    .into());
            }
            let place = Place::Given;
            return Ok(Self { place, url });
        }
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("locks.db");
        let path = path.to_str().ok_or("the temporary directory is no text")?;
        // In a URL these would mean something else.
        let path = path.replace('%', "%25").replace('?', "%3f");
        Ok(Self {
            place: Place::Temporary(directory),
            url: format!("sqlite://{}", path.replace('#', "%23")),
        })
    }

    /// How to connect to it; may hold a password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Deletes the row of a namespace that nobody uses any more. There is no such call in
    /// the library: a namespace is meant to stay.
    ///
    /// # Errors
    ///
    /// The database's own.
    pub async fn forget(&self, namespace: &str) -> Result<()> {
        match self.engine() {
            "SQLite" => {
                sqlx::query("DELETE FROM locks WHERE id = ?")
                    .bind(namespace)
                    .execute(&mut SqliteConnection::connect(&self.url).await?)
                    .await?;
            }
            "PostgreSQL" => {
                sqlx::query("DELETE FROM locks WHERE id = $1")
                    .bind(namespace)
                    .execute(&mut PgConnection::connect(&self.url).await?)
                    .await?;
            }
            _ => {
                sqlx::query("DELETE FROM locks WHERE id = ?")
                    .bind(namespace)
                    .execute(&mut MySqlConnection::connect(&self.url).await?)
                    .await?;
            }
        }
        Ok(())
    }

    fn engine(&self) -> &'static str {
        match self.url.split(':').next() {
            Some("sqlite") => "SQLite",
            Some("postgres" | "postgresql") => "PostgreSQL",
            _ => "MySQL or MariaDB",
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Temporary(_) => f.write_str("an SQLite file in a temporary directory"),
            Place::Given => write!(f, "the given {} database", self.engine()),
        }
    }
}
