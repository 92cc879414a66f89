//! What can be asked for.

use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::{engine::Engine, worker::Worker, workloads::Workload};

/// Measures the locks beside what one would use instead.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    /// What to measure; everything if nothing is said
    #[arg(ignore_case = true)]
    workloads: Vec<Workload>,

    /// On which engine; all that are there if none is said
    #[arg(long, short)]
    engine: Vec<Engine>,

    /// Fewer and shorter rounds: a look, no measurement
    #[arg(long)]
    pub(crate) quick: bool,

    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,

    #[command(subcommand)]
    pub(crate) worker: Option<Worker>,
}

impl Arguments {
    /// The chosen workloads, in their order.
    pub(crate) fn workloads(&self) -> Vec<Workload> {
        chosen(&self.workloads)
    }

    /// The chosen engines, also those that are not there.
    pub(crate) fn engines(&self) -> Vec<Engine> {
        chosen(&self.engine)
    }

    /// How many rounds to run of so many.
    pub(crate) fn rounds(&self, full: usize) -> usize {
        if self.quick {
            full.div_ceil(5).max(2)
        } else {
            full
        }
    }

    /// How long something takes that takes so long.
    pub(crate) fn time(&self, full: Duration) -> Duration {
        if self.quick { full / 3 } else { full }
    }
}

fn chosen<T: ValueEnum + PartialEq>(wanted: &[T]) -> Vec<T> {
    let all = T::value_variants().iter();
    all.filter(|one| wanted.is_empty() || wanted.contains(one))
        .cloned()
        .collect()
}
