//! The processes of the workloads: what they do when they are told to.

use std::{
    env,
    io::{BufRead as _, Write as _, stdin, stdout},
    time::{Duration, Instant},
};

use clap::Subcommand;
use locks_core::LockManager;
use serde::Serialize;

use crate::{
    Result,
    contenders::{Contender, pairs_until},
    engine::Engine,
    statistics::micros,
    workloads::{hand_over, idle},
};

/// The variable that tells a process its database.
pub(crate) const URL: &str = "LOCKS_BENCH_URL";

/// A process that this program starts of itself.
#[derive(Clone, Debug, Subcommand)]
#[command(hide = true)]
pub(crate) enum Worker {
    /// Takes and gives back.
    Pairs {
        contender: Contender,
        engine: Engine,
        name: String,
    },
    /// Takes what another process gives back, and gives it back.
    HandOver {
        contender: Contender,
        engine: Engine,
        name: String,
    },
    /// Holds one lock until it is killed.
    Hold { name: String },
    /// Holds or awaits many locks, and counts its statements.
    Idle { what: idle::What, count: usize },
}

/// What a process did in a round.
#[derive(Debug, serde::Deserialize, Serialize)]
pub(crate) struct Pairs {
    /// How long it worked, in seconds.
    pub(crate) seconds: f64,
    /// How long each acquisition took, in microseconds.
    pub(crate) took: Vec<f64>,
}

impl Worker {
    pub(crate) fn run(self) -> Result<()> {
        let url = env::var(URL)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            match self {
                Self::Pairs {
                    contender,
                    engine,
                    name,
                } => pairs(contender, engine, &name, &url).await,
                Self::HandOver {
                    contender,
                    engine,
                    name,
                } => hand_over::worker(contender, engine, &name, &url).await,
                Self::Hold { name } => {
                    let manager = LockManager::connect(&url).await?;
                    let _guard = manager.acquire(&name).await?;
                    say(&())?;
                    std::future::pending().await
                }
                Self::Idle { what, count } => idle::worker(what, count, &url).await,
            }
        })
    }
}

async fn pairs(contender: Contender, engine: Engine, name: &str, url: &str) -> Result<()> {
    let locks = contender.connect(engine, url, 1).await?;
    locks.pair(name).await?;
    when_told(async |time| {
        let start = Instant::now();
        let took = pairs_until(&*locks, name, start + time).await?;
        let seconds = start.elapsed().as_secs_f64();
        let took = took.into_iter().map(micros).collect();
        Ok(Pairs { seconds, took })
    })
    .await
}

/// Says that it is ready; then works whenever it is told to, for as long as it is told to, and
/// says what came of it.
pub(crate) async fn when_told<T: Serialize>(
    mut work: impl AsyncFnMut(Duration) -> Result<T>,
) -> Result<()> {
    say(&())?;
    // It blocks, while there is nothing else to do on this thread.
    for line in stdin().lock().lines() {
        let time = Duration::from_millis(line?.parse()?);
        say(&work(time).await?)?;
    }
    Ok(())
}

/// Says something to the parent.
pub(crate) fn say<T: Serialize>(what: &T) -> Result<()> {
    let mut out = stdout().lock();
    serde_json::to_writer(&mut out, what)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}
