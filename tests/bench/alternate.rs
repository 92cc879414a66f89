//! Runs variants of the library alternately, each in a process of its own.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use clap::ValueEnum as _;
use serde::Deserialize;
use tempfile::TempDir;

use crate::{
    Result,
    arguments::Arguments,
    engine::Engine,
    report::{Better, FILE},
    statistics::{Rounds, ratio},
    workloads::Workload,
};

/// A build of this program, and the mechanisms that are turned off.
#[derive(Debug)]
pub(crate) struct Variant {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) without: Vec<String>,
}

/// The rounds of one figure.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) workload: Workload,
    pub(crate) engine: Engine,
    pub(crate) what: String,
    pub(crate) unit: String,
    better: Better,
    /// One for each variant.
    pub(crate) variants: Vec<Rounds>,
}

impl Series {
    /// How many times worse the variant is than the first one: the median of the rounds.
    pub(crate) fn cost(&self, variant: usize) -> f64 {
        let (first, other) = (&self.variants[0].values, &self.variants[variant].values);
        match self.better {
            Better::Less => ratio(other, first),
            Better::More => ratio(first, other),
        }
    }

    /// The CPU time per operation of the variant, divided by that of the first one.
    pub(crate) fn cpu_ratio(&self, variant: usize) -> f64 {
        ratio(&self.variants[variant].cpu, &self.variants[0].cpu)
    }
}

/// The part of a report that is compared.
#[derive(Debug, Deserialize)]
struct Results {
    figures: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    workload: Workload,
    engine: Engine,
    what: String,
    unit: String,
    better: Better,
    /// `None` if there is no such number.
    ours: Option<f64>,
    cpu: Option<f64>,
}

/// Measures all variants. After each workload, `progress` gets the figures so far. Returns the
/// figures, and whether all of them could be measured.
pub(crate) fn run(
    arguments: &Arguments,
    variants: &[Variant],
    mut progress: impl FnMut(&[Series]) -> Result<()>,
) -> Result<(Vec<Series>, bool)> {
    let started = Instant::now();
    let repetitions = arguments.repetitions();
    let (mut all, mut all_measured) = (Vec::new(), true);
    for engine in arguments.engines() {
        if let Some(reason) = engine.missing() {
            eprintln!("left out: {engine}: {reason}");
            continue;
        }
        for workload in arguments.workloads() {
            for round in 1..=repetitions {
                let results = variants.iter().map(|variant| {
                    let seconds = started.elapsed().as_secs();
                    let name = &variant.name;
                    eprintln!(
                        "{seconds:>5} s  {workload} {engine}: round {round} of {repetitions}, {name}"
                    );
                    measure(arguments, variant, workload, engine)
                });
                // A round counts only with all variants.
                match results.collect::<Result<Vec<_>>>() {
                    Ok(results) => add(&mut all, results),
                    Err(error) => {
                        eprintln!("         {workload} {engine}: FAILED: {error}");
                        all_measured = false;
                    }
                }
            }
            progress(&all)?;
        }
    }
    Ok((all, all_measured))
}

fn measure(
    arguments: &Arguments,
    variant: &Variant,
    workload: Workload,
    engine: Engine,
) -> Result<Vec<Row>> {
    let directory = TempDir::with_prefix("locks-bench-")?;
    let value = engine.to_possible_value().ok_or("a hidden engine")?;
    let output = Command::new(&variant.program)
        .args([&workload.to_string(), "--engine", value.get_name()])
        .args(["--alone", "--output"])
        .arg(directory.path())
        .args(arguments.quick.then_some("--quick"))
        .args(variant.without.iter().flat_map(|name| ["--without", name]))
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().last().unwrap_or_default();
        return Err(format!("{} ended with {}: {last}", variant.name, output.status).into());
    }
    let json = fs::read(directory.path().join(FILE))?;
    Ok(serde_json::from_slice::<Results>(&json)?.figures)
}

/// Adds a round of all variants.
fn add(all: &mut Vec<Series>, results: Vec<Vec<Row>>) {
    let variants = results.len();
    for (variant, rows) in results.into_iter().enumerate() {
        for row in rows {
            let known = all.iter().position(|series: &Series| {
                (series.workload, series.engine, &series.what)
                    == (row.workload, row.engine, &row.what)
            });
            let place = known.unwrap_or_else(|| {
                all.push(Series {
                    workload: row.workload,
                    engine: row.engine,
                    what: row.what,
                    unit: row.unit,
                    better: row.better,
                    variants: vec![Rounds::default(); variants],
                });
                all.len() - 1
            });
            let (ours, cpu) = (row.ours.unwrap_or(f64::NAN), row.cpu.unwrap_or(f64::NAN));
            all[place].variants[variant].push(ours, cpu);
        }
    }
}
