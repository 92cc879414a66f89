//! The connection settings of a worker process.

use std::time::Duration;

use clap::Args;
use locks_core::{Evidence, Expiry, Fairness, LockManager};

#[derive(Debug, Args)]
pub(crate) struct Settings {
    url: String,
    task: String,
    #[arg(long, default_value = "platform")]
    namespace: String,
    /// Milliseconds; 0: never expires.
    #[arg(long)]
    expiry: Option<u64>,
    #[arg(long)]
    barging: bool,
    /// Uses time evidence only.
    #[arg(long)]
    by_time: bool,
    #[arg(long)]
    queue_limit: Option<usize>,
}

impl Settings {
    pub(crate) fn task(&self) -> &str {
        &self.task
    }

    pub(crate) async fn connect(&self) -> LockManager {
        let mut builder = LockManager::builder()
            .task_id(&self.task)
            .namespace(&self.namespace);
        builder = match self.expiry {
            None => builder,
            Some(0) => builder.expiry(Expiry::Never),
            Some(ms) => builder.expiry(Expiry::After(Duration::from_millis(ms))),
        };
        if self.barging {
            builder = builder.fairness(Fairness::Barging);
        }
        if self.by_time {
            builder = builder.evidence(Evidence::Time);
        }
        if let Some(limit) = self.queue_limit {
            builder = builder.queue_limit(limit);
        }
        let connected = builder.connect(&self.url).await;
        connected.expect("the test's database is there")
    }
}
