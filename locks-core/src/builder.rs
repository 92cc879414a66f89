//! Settings of a manager.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    driver::Owner,
    error::{LockError, Result},
    matrix::ConflictMatrix,
    name,
    options::{Durability, Evidence, Expiry, Fairness},
    process::{Identity, host_name},
    protocol::{Config, Mechanisms},
    random::unique,
    store::{TableChoice, Target},
};

/// The shortest ttl of a session. With a shorter one, a slow write would look like a crash.
const MIN_TTL: Duration = Duration::from_millis(200);

/// Settings of a [`LockManager`](crate::LockManager). All of them have defaults.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
/// use locks_core::{ConflictMatrix, Expiry, LockManager};
///
/// # async fn example() -> locks_core::Result<()> {
/// let locks = LockManager::builder()
///     .namespace("platform")
///     .task_id("worker-7")
///     .matrix(ConflictMatrix::platform())
///     .expiry(Expiry::After(Duration::from_secs(15)))
///     .connect("sqlite://locks.db")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it connects"]
pub struct Builder {
    namespace: String,
    task_id: Option<String>,
    matrix: ConflictMatrix,
    expiry: Expiry,
    fairness: Fairness,
    evidence: Evidence,
    durability: Durability,
    queue_limit: usize,
    table_prefix: Option<String>,
    schema: Option<String>,
    create_tables: bool,
    mechanisms: Mechanisms,
    unknown_mechanism: Option<String>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            namespace: "platform".into(),
            task_id: None,
            matrix: ConflictMatrix::platform(),
            expiry: Expiry::After(Duration::from_secs(15)),
            fairness: Fairness::InTurn,
            evidence: Evidence::Process,
            durability: Durability::Normal,
            queue_limit: 10_000,
            table_prefix: None,
            schema: None,
            create_tables: true,
            mechanisms: Mechanisms::default(),
            unknown_mechanism: None,
        }
    }

    /// The namespace: 1–64 characters of `[a-z0-9._-]`. The default is `platform`, which is that
    /// of the original platform.
    ///
    /// Each namespace is one row of the table `locks`. Locks of different namespaces never
    /// conflict.
    pub fn namespace(mut self, n: impl Into<String>) -> Self {
        self.namespace = n.into();
        self
    }

    /// The id of the task that holds the locks: 1–255 bytes without control characters and `*`,
    /// like a lock name. The default is `<host>-<pid>-<random>`.
    pub fn task_id(mut self, n: impl Into<String>) -> Self {
        self.task_id = Some(n.into());
        self
    }

    /// The matrix that says which locks exclude each other. The default is
    /// [`ConflictMatrix::platform`].
    ///
    /// All processes of a namespace need one matrix.
    pub fn matrix(mut self, m: ConflictMatrix) -> Self {
        self.matrix = m;
        self
    }

    /// When the locks of a process that no longer renews its session are released. The default is
    /// after 15 s.
    pub fn expiry(mut self, e: Expiry) -> Self {
        self.expiry = e;
        self
    }

    /// The order in which requests are granted. The default is [`Fairness::InTurn`].
    pub fn fairness(mut self, f: Fairness) -> Self {
        self.fairness = f;
        self
    }

    /// What shows that another process of this machine has ended. The default is
    /// [`Evidence::Process`].
    pub fn evidence(mut self, e: Evidence) -> Self {
        self.evidence = e;
        self
    }

    /// What a write of the locks survives, on SQLite. The default is [`Durability::Normal`].
    pub fn durability(mut self, d: Durability) -> Self {
        self.durability = d;
        self
    }

    /// The highest number of requests that wait in the namespace. The default is 10,000. Further
    /// ones fail with [`LockError::QueueFull`].
    pub fn queue_limit(mut self, limit: usize) -> Self {
        self.queue_limit = limit;
        self
    }

    /// The prefix of the names of the tables `locks`, `lock_sessions`, `lock_fences` and
    /// `lock_requests`: 0–40 characters of `[a-z0-9_]`. The default is no prefix.
    ///
    /// Processes exclude each other only if they use one prefix. The original platform uses the
    /// name `locks` only.
    pub fn table_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.table_prefix = Some(prefix.into());
        self
    }

    /// The schema of the tables, on PostgreSQL only: 1–63 bytes, spelled as in the catalog. It
    /// must exist. The default is the first schema of the account's `search_path` at the time of
    /// the connect; later changes of the `search_path` have no effect.
    ///
    /// Accounts with different search paths exclude each other only if this names one schema.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// Whether connect creates the tables that are missing and widens columns that are too narrow,
    /// if the account may. The default is `true`.
    ///
    /// With `false`, connect fails with [`LockError::Schema`] if a table is missing or a column is
    /// too narrow, and changes no table. A missing SQLite file is created nevertheless, unless the
    /// URL has a `mode`. That is for those who apply migrations with a tool of their own
    /// ([`migration_sql`](Self::migration_sql)), and for programs that only look.
    pub fn create_tables(mut self, create: bool) -> Self {
        self.create_tables = create;
        self
    }

    /// Turns off a mechanism of the write schedule, so that a benchmark can measure it. An
    /// unknown name is an error when the builder connects.
    #[doc(hidden)]
    pub fn without(mut self, mechanism: &str) -> Self {
        if !self.mechanisms.turn_off(mechanism) {
            self.unknown_mechanism = Some(mechanism.into());
        }
        self
    }

    /// For whom the handle of this builder acts.
    pub(crate) fn owner(&self) -> Result<Owner> {
        Ok(Owner {
            namespace: name::namespace(&self.namespace)?,
            task: match &self.task_id {
                Some(id) => name::task_id(id)?,
                None => default_task_id(),
            },
        })
    }

    /// The SQL text that creates the tables in the database of this URL, with the prefix and the
    /// schema of the builder, for a tool that applies migrations. Nothing is connected. The rights
    /// that an account needs follow as comments.
    ///
    /// [`connect`](Self::connect) creates missing tables by itself, if the account may and unless
    /// [`create_tables`](Self::create_tables) is off.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidConfig`]: the URL, the prefix or the schema is invalid.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> locks_core::Result<()> {
    /// let builder = locks_core::LockManager::builder().table_prefix("app_");
    /// let sql = builder.migration_sql("sqlite://locks.db")?;
    /// assert!(sql.contains("CREATE TABLE IF NOT EXISTS app_locks ("));
    /// # Ok(())
    /// # }
    /// ```
    pub fn migration_sql(&self, url: &str) -> Result<String> {
        let target = Target::parse(url)?.with_tables(self.tables()?)?;
        Ok(target.migration_sql())
    }

    /// The tables that the builder names.
    pub(crate) fn tables(&self) -> Result<TableChoice> {
        let choice = TableChoice::new(self.table_prefix.clone(), self.schema.clone())?;
        Ok(choice.created(self.create_tables))
    }

    /// The settings for the driver.
    pub(crate) fn config(self) -> Result<Config> {
        let ttl = match self.expiry {
            Expiry::Never => None,
            Expiry::After(ttl) if ttl >= MIN_TTL => Some(ttl),
            Expiry::After(ttl) => {
                return Err(LockError::config(
                    "expiry",
                    format!("{ttl:?} is shorter than {MIN_TTL:?}"),
                ));
            }
        };
        if let Some(name) = self.unknown_mechanism {
            let reason = format!("{name:?} is not known");
            return Err(LockError::config("mechanism", reason));
        }
        let process = Identity::current();
        Ok(Config {
            boot: process.boot(),
            reads_durable: false,
            matrix: self.matrix,
            ttl,
            fairness: self.fairness,
            queue_limit: self.queue_limit,
            process,
            evidence: self.evidence,
            durability: self.durability,
            mechanisms: self.mechanisms,
            // The driver learns these from the database.
            row_lock: false,
            turns: false,
            fence_rows: 1,
        })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("namespace", &self.namespace)
            .field("task_id", &self.task_id)
            .field("matrix", &self.matrix)
            .field("expiry", &self.expiry)
            .field("fairness", &self.fairness)
            .finish_non_exhaustive()
    }
}

/// `<host>-<pid>-<random>`.
fn default_task_id() -> Arc<str> {
    let host = host_name();
    let random = unique() >> 32;
    format!("{host}-{}-{random:08x}", std::process::id()).into()
}
