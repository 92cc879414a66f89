//! A worker: one task that needs one lock, in a process of its own.
//!
//! It is spoken to in lines. After the URL, which may hold a password and so is no argument,
//! each order is awaited before its step:
//!
//! ```text
//!  director   URL ────────▶      ask ─────────────────▶          finish ──────▶
//!  worker            ready ──▶        asks ──▶ starts ──▶                ends ──▶
//!                                       └ wait ┘                 └ works ┘  └ releases
//! ```

use std::{fmt, io, process, str::FromStr, time::Duration};

use clap::Args;
use locks_core::LockManager;
use locks_examples::{Orders, Result, obey, say};
use tokio::time;

/// What the director orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Ask for the lock.
    Ask,
    /// Do the work, and end.
    Finish,
}

/// What a worker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is connected.
    Ready,
    /// It asks for its lock.
    Asks,
    /// It was granted the lock.
    Starts,
    /// Its work is done. Said before the lock is released, so that whoever is granted it
    /// next says so later.
    Ends,
}

/// What is known of it when it is started.
#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// The lock it needs.
    pub(crate) lock: String,
    /// For how long it works.
    pub(crate) milliseconds: u64,
    /// Where the lock is.
    pub(crate) namespace: String,
}

impl Worker {
    /// Does what it is told, until it has ended or there is nobody to tell it.
    pub(crate) async fn run(self) -> Result<()> {
        obey(async |orders| self.work(orders).await).await
    }

    async fn work(&self, orders: &mut Orders) -> Result<()> {
        let url = orders.next().await?;
        let locks = LockManager::builder()
            .namespace(&self.namespace)
            .task_id(format!("worker-{}", process::id()))
            .connect(&url)
            .await?;
        self.say(Step::Ready)?;

        await_order(orders, Order::Ask).await?;
        self.say(Step::Asks)?;
        let guard = locks.wait(&self.lock).await?;
        self.say(Step::Starts)?;

        await_order(orders, Order::Finish).await?;
        time::sleep(Duration::from_millis(self.milliseconds)).await;
        self.say(Step::Ends)?;
        guard.release().await?;
        locks.close().await?;
        Ok(())
    }

    fn say(&self, step: Step) -> io::Result<()> {
        say(&self.lock, &step.to_string())
    }
}

async fn await_order(orders: &mut Orders, order: Order) -> Result<()> {
    let line = orders.next().await?;
    if line == order.to_string() {
        return Ok(());
    }
    Err(format!("{order} was to be ordered, not {line:?}").into())
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ask => "ask",
            Self::Finish => "finish",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Asks => "asks",
            Self::Starts => "starts",
            Self::Ends => "ends",
        })
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Ready, Self::Asks, Self::Starts, Self::Ends]
            .into_iter()
            .find(|step| step.to_string() == text)
            .ok_or_else(|| format!("workers do not say {text:?}"))
    }
}
