//! The command line.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Parser, ValueEnum, builder::PossibleValuesParser};

use crate::{engine::Engine, switches::MECHANISMS, worker::Worker, workloads::Workload};

/// Measures the locks, and compares them with other ways to lock.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct Arguments {
    /// What to measure; everything by default
    #[arg(ignore_case = true)]
    workloads: Vec<Workload>,

    /// The engine to measure on (repeatable); by default all that are available
    #[arg(long, short)]
    engine: Vec<Engine>,

    /// Run fewer and shorter rounds, for a first impression
    #[arg(long)]
    pub(crate) quick: bool,

    /// Measure this library only, without the references
    #[arg(long)]
    pub(crate) alone: bool,

    /// Turn off a mechanism of the write schedule (repeatable)
    #[arg(long, global = true, value_parser = PossibleValuesParser::new(MECHANISMS))]
    pub(crate) without: Vec<String>,

    /// Measure with all mechanisms, and with each one turned off, alternately
    #[arg(long, conflicts_with_all = ["without", "against"])]
    pub(crate) ablation: bool,

    /// Measure alternately with another build of this program
    #[arg(long, value_name = "PROGRAM", conflicts_with = "without")]
    pub(crate) against: Option<PathBuf>,

    /// How often `--ablation` and `--against` run each variant; 5 by default, 3 with `--quick`
    #[arg(long)]
    rounds: Option<usize>,

    /// The directory of the results; `target/bench` by default
    #[arg(long)]
    output: Option<PathBuf>,

    /// Cargo passes this to every benchmark
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

    /// The chosen engines, including those that are not available.
    pub(crate) fn engines(&self) -> Vec<Engine> {
        chosen(&self.engine)
    }

    /// The number of rounds of a workload that has `full` rounds without `--quick`.
    pub(crate) fn rounds(&self, full: usize) -> usize {
        if self.quick {
            full.div_ceil(5).max(2)
        } else {
            full
        }
    }

    /// How often each variant of a comparison runs.
    pub(crate) fn repetitions(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 3 } else { 5 }).max(1)
    }

    /// The duration of something that takes `full` without `--quick`.
    pub(crate) fn time(&self, full: Duration) -> Duration {
        if self.quick { full / 3 } else { full }
    }

    /// The directory of the results.
    pub(crate) fn output(&self) -> PathBuf {
        let default = || {
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let target = env::var_os("CARGO_TARGET_DIR");
            target
                .map_or_else(|| workspace.join("target"), Into::into)
                .join("bench")
        };
        self.output.clone().unwrap_or_else(default)
    }
}

fn chosen<T: ValueEnum + PartialEq>(wanted: &[T]) -> Vec<T> {
    let all = T::value_variants().iter();
    all.filter(|one| wanted.is_empty() || wanted.contains(one))
        .cloned()
        .collect()
}
