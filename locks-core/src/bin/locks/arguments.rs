//! The arguments.

use std::{ffi::OsString, time::Duration};

use clap::{Args, Parser, Subcommand};
use locks_core::{Builder, Expiry, LockError, LockManager, Result, Shared};

use crate::{matrix::Matrix, report};

const EXIT_CODES: &str = "\
Exit codes:
  0     done
  1     release: the lock is not held, or by another grant
  125   locks itself failed: wrong arguments, or the database
  `locks run` has more: see `locks run --help`";

const RUN_EXIT_CODES: &str = "\
Exit codes:
  that of the command, or
  75    the locks are not available (--try)
  76    the locks were lost before the command had ended
  124   the locks were not available in time (--wait)
  125   locks itself failed: wrong arguments, or the database
  126   the command cannot be run
  127   the command was not found
  128+N the command was ended by signal N, or locks was before it started the command

Environment of the command:
  LOCKS_TOKEN   the fencing token of the locks
  LOCKS_NAMES   their names, sorted, one a line

Signals:
  SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 are passed on to the command. What is typed
  at a terminal reaches the command from there.

  If locks itself is killed, Linux kills the command at once, but neither what the command has
  started nor a program with the set-user-ID bit: let a shell `exec` its last program. Other systems
  cannot do so. There the command goes on without its locks; LOCKS_TOKEN lets other systems refuse
  it.";

/// Runs commands under the locks of an SQL database, and shows and breaks locks.
#[derive(Debug, Parser)]
#[command(name = "locks", version, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) database: Database,
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// Where the locks are.
#[derive(Debug, Args)]
pub(crate) struct Database {
    /// The URL of the database: sqlite:, mysql:, mariadb:, postgres: or postgresql:. A password is
    /// visible in the process table; use the variable for it.
    #[arg(long, global = true, env = "DATABASE_URL", hide_env_values = true)]
    url: Option<String>,
    /// The namespace of the locks.
    #[arg(long, global = true, default_value = "platform")]
    namespace: String,
    /// The prefix of the names of the tables.
    #[arg(long, global = true, default_value = "", hide_default_value = true)]
    table_prefix: String,
    /// The schema of the tables, on PostgreSQL.
    #[arg(long, global = true)]
    schema: Option<String>,
    /// The conflict matrix that all processes of the namespace use: `platform`, that of the original
    /// platform; `exclusive`, with which each lock excludes only itself; or a JSON file such as
    /// `{"rules": [["update", ["app_*"]]], "symmetric": true, "limits": [["app_*", 3]]}`.
    #[arg(
        long,
        global = true,
        env = "LOCKS_MATRIX",
        default_value = "platform",
        value_name = "FILE"
    )]
    matrix: Matrix,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Runs a command while locks are held.
    Run(Run),
    /// Lists the locks that are held. Host and process are missing for a holder whose session has
    /// ended, and for the original platform.
    List(Output),
    /// Lists the requests that wait, in the order of the queue, and what blocks them.
    Waiting(Output),
    /// Prints a line for each lock that is granted or released and each request that is queued, until
    /// it is interrupted. What happens within half a second may be left out.
    Watch(Output),
    /// Takes a lock away from its holder, if it is still the grant with this token.
    ///
    /// The holder loses everything else that it holds under its session: all locks of its task in its
    /// process. A fenced commit of the holder is refused from then on, or awaited. The holder learns
    /// of it at its next renewal, a third of its expiry later at most (5 s by default). The next
    /// holder may be at work by then.
    Release(Release),
    /// Releases every lock that a task holds, in all processes with this task id.
    ReleaseTask {
        /// The id of the task.
        id: String,
    },
    /// Creates the tables, if they are missing.
    Migrate {
        /// Print the SQL statements, and the rights that an account needs, and connect to nothing.
        #[arg(long)]
        print: bool,
    },
}

#[derive(Debug, Args)]
#[command(after_help = RUN_EXIT_CODES)]
pub(crate) struct Run {
    /// Wait at most this long for the locks, such as 30s or "1m 30s". The default is to wait without
    /// end.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) wait: Option<Duration>,
    /// Fail at once if a lock is not available.
    #[arg(long = "try", conflicts_with = "wait")]
    pub(crate) no_wait: bool,
    /// How long the command may go on after SIGTERM when the locks are lost, before it gets SIGKILL.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) grace: Duration,
    /// After which time without a renewal the locks are lost.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = humantime::parse_duration)]
    pub(crate) expiry: Duration,
    /// The id of the task that holds the locks. The default is `<host>-<pid>-<random>`.
    #[arg(long, value_name = "ID")]
    pub(crate) task_id: Option<String>,
    /// The name of a lock to share with all others that share it. It can be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) shared: Vec<String>,
    /// The names of the locks. All of them are acquired together.
    #[arg(value_name = "NAME", required_unless_present = "shared")]
    pub(crate) names: Vec<String>,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Output {
    /// Print JSON: one array, or one object a line for `watch`.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Release {
    /// The name of the lock.
    pub(crate) name: String,
    /// The token of the grant, as `locks list` prints it.
    #[arg(long)]
    pub(crate) token: i64,
    /// The session of the grant, as `locks list --json` prints it. It is needed only if several tasks
    /// share the lock with one token.
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
}

impl Database {
    pub(crate) fn url(&self) -> std::result::Result<&str, &'static str> {
        let url = self.url.as_deref();
        url.ok_or("no database: pass --url or set DATABASE_URL")
    }

    pub(crate) fn builder(&self) -> Builder {
        let builder = LockManager::builder()
            .namespace(&self.namespace)
            .table_prefix(&self.table_prefix)
            .matrix(self.matrix.0);
        match &self.schema {
            Some(schema) => builder.schema(schema),
            None => builder,
        }
    }

    /// Connects in order to look or to break locks. A missing SQLite file is an error, and so are
    /// missing tables: it is probably another database that was meant.
    pub(crate) async fn connect(
        &self,
    ) -> std::result::Result<LockManager, Box<dyn std::error::Error>> {
        let mut url = self.url()?.to_owned();
        let (path, query) = url.split_once('?').unwrap_or((&url, ""));
        let has_mode = query.split('&').any(|one| one.starts_with("mode="));
        if path.starts_with("sqlite:") && !has_mode && !path.contains(":memory:") {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str("mode=rw");
        }
        Ok(self.builder().create_tables(false).connect(&url).await?)
    }
}

impl Run {
    /// Connects in order to hold locks.
    pub(crate) fn connect(
        &self,
        database: &Database,
        url: &str,
    ) -> locks_core::Request<LockManager> {
        let mut builder = database.builder().expiry(Expiry::After(self.expiry));
        if let Some(id) = &self.task_id {
            builder = builder.task_id(id);
        }
        builder.connect(url)
    }

    /// Requests the locks.
    pub(crate) async fn acquire(
        &self,
        locks: &LockManager,
    ) -> Result<locks_core::LockGuard, LockError> {
        let names = (&self.names, Shared(&self.shared));
        if self.no_wait {
            return locks.acquire(names).await;
        }
        let wait = locks.wait(names);
        let wait = match self.wait {
            Some(limit) => wait.timeout(limit),
            None => wait,
        };
        tokio::select! {
            acquired = wait => acquired,
            never = report::tell_of_wait(locks) => match never {},
        }
    }
}
