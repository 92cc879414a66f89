//! The worker processes of the workloads.

use std::{
    env,
    io::{BufRead as _, Write as _, stdin, stdout},
    time::{Duration, Instant},
};

use clap::Subcommand;
use serde::Serialize;

use crate::{
    Result,
    contenders::{Contender, Setup, pairs_until},
    engine::Engine,
    statistics::{Stopwatch, micros},
    workloads::{hand_over, idle},
};

/// The environment variable that holds the URL of a worker's database.
pub(crate) const URL: &str = "LOCKS_BENCH_URL";

/// A process of this program that a workload starts.
#[derive(Clone, Debug, Subcommand)]
#[command(hide = true)]
pub(crate) enum Worker {
    /// Acquires and releases a lock
    Pairs {
        contender: Contender,
        engine: Engine,
        name: String,
    },
    /// Takes a lock over from another process, holds it and releases it
    HandOver {
        contender: Contender,
        engine: Engine,
        name: String,
    },
    /// Holds a lock until it is killed
    Hold { engine: Engine, name: String },
    /// Holds or awaits many locks, and counts its statements
    Idle {
        engine: Engine,
        what: idle::What,
        count: usize,
    },
}

/// What a process did in a round.
#[derive(Debug, serde::Deserialize, Serialize)]
pub(crate) struct Pairs {
    /// How long it worked, in seconds.
    pub(crate) seconds: f64,
    /// The CPU time that it used, in microseconds.
    pub(crate) cpu: f64,
    /// How long each acquisition took, in microseconds.
    pub(crate) took: Vec<f64>,
}

impl Worker {
    pub(crate) fn run(&self, without: &[String]) -> Result<()> {
        let url = env::var(URL)?;
        let setup = |engine: &Engine| Setup {
            engine: *engine,
            url,
            without: without.to_vec(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            match self {
                Self::Pairs {
                    contender,
                    engine,
                    name,
                } => pairs(*contender, &setup(engine), name).await,
                Self::HandOver {
                    contender,
                    engine,
                    name,
                } => hand_over::worker(*contender, &setup(engine), name).await,
                Self::Hold { engine, name } => {
                    let locks = setup(engine).connect().await?;
                    let _guard = locks.acquire(name).await?;
                    send(&())?;
                    std::future::pending().await
                }
                Self::Idle {
                    engine,
                    what,
                    count,
                } => idle::worker(&setup(engine), *what, *count).await,
            }
        })
    }
}

async fn pairs(contender: Contender, setup: &Setup, name: &str) -> Result<()> {
    let locks = contender.connect(setup, 1).await?;
    locks.pair(name).await?;
    work_on_demand(async |time| {
        let stopwatch = Stopwatch::start();
        let took = pairs_until(&*locks, name, Instant::now() + time).await?;
        Ok(Pairs {
            seconds: stopwatch.elapsed().as_secs_f64(),
            cpu: micros(stopwatch.cpu_elapsed()),
            took: took.into_iter().map(micros).collect(),
        })
    })
    .await?;
    locks.close().await
}

/// Reports that it is ready. Then works for as long as each line of the standard input says,
/// and reports the result, until the input ends.
pub(crate) async fn work_on_demand<T: Serialize>(
    mut work: impl AsyncFnMut(Duration) -> Result<T>,
) -> Result<()> {
    send(&())?;
    // This blocks the thread, which has nothing else to do.
    for line in stdin().lock().lines() {
        let time = Duration::from_millis(line?.parse()?);
        send(&work(time).await?)?;
    }
    Ok(())
}

/// Sends a value to the parent.
pub(crate) fn send<T: Serialize>(what: &T) -> Result<()> {
    let mut out = stdout().lock();
    serde_json::to_writer(&mut out, what)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}
