//! Many processes with one task each.

use std::time::Duration;

use clap::ValueEnum as _;

use super::{Run, tasks::report};
use crate::{
    Result,
    contenders::{Contender, Setup},
    engine::Database,
    process::Process,
    report::{Point, Target},
    statistics::{Rounds, median, number, percentile, ratio},
    worker::Pairs,
};

/// The number of processes in the table, and the further numbers in the plot.
const PROCESSES: usize = 16;
const DRAWN: [usize; 3] = [1, 4, 64];
const TURN: Duration = Duration::from_secs(1);
const ROUNDS: usize = 10;

/// A contender's processes, and their results in each round.
struct Group {
    contender: Contender,
    processes: Vec<Process>,
    /// Pairs per second of all processes.
    rates: Rounds,
    /// The rate of the slowest process divided by the mean.
    slowest: Vec<f64>,
    /// The median and the 99th percentile of the acquisitions, in microseconds.
    p50: Vec<f64>,
    p99: Vec<f64>,
}

/// W4: pairs per second of distinct names.
pub(super) fn distinct(run: &mut Run<'_>, database: &Database) -> Result<()> {
    if run.has_references() {
        for processes in DRAWN {
            draw(run, database, processes)?;
        }
    }
    let mut groups = Vec::new();
    for contender in run.contenders() {
        groups.push(Group::start(contender, &run.setup(database), PROCESSES)?);
    }
    for _ in run.rounds(ROUNDS, format_args!("{PROCESSES} processes")) {
        for group in &mut groups {
            group.work(run.time(TURN))?;
        }
    }
    for group in &mut groups {
        group.end()?;
        add_point(run, group, PROCESSES);
    }
    let what = format!("{PROCESSES} processes, distinct names");
    let named = groups.iter().map(|group| (group.contender, &group.rates));
    report(
        run,
        &what,
        &named.collect::<Vec<_>>(),
        |contender| match contender {
            Contender::Original => Some(Target::RatioAtLeast(10.0)),
            Contender::Retry => Some(Target::RatioAtLeast(2.0)),
            _ => None,
        },
    );
    let ours = &groups[0];
    let slowest = run
        .figure(
            format!("{what}: the slowest"),
            "of the mean",
            median(&ours.slowest),
        )
        .more_is_better()
        .with_target(Target::AtLeast(0.5));
    let tail = run
        .figure(format!("{what}: p99"), "µs", median(&ours.p99))
        .compared_with("µs, p50", median(&ours.p50), ratio(&ours.p99, &ours.p50))
        .with_target(Target::RatioAtMost(20.0));
    run.report(slowest);
    run.report(tail);
    Ok(())
}

/// Adds a point of each contender to the plot.
///
/// The contenders run one after another: together, 64 processes of each would need more
/// connections than the servers of the tests accept.
fn draw(run: &mut Run<'_>, database: &Database, processes: usize) -> Result<()> {
    for contender in run.contenders() {
        let mut group = Group::start(contender, &run.setup(database), processes)?;
        let name = contender.name(run.engine);
        for _ in run.rounds(ROUNDS / 5, format_args!("{processes} processes, {name}")) {
            group.work(run.time(TURN))?;
        }
        group.end()?;
        add_point(run, &group, processes);
    }
    Ok(())
}

fn add_point(run: &mut Run<'_>, group: &Group, processes: usize) {
    run.report.points.push(Point {
        workload: run.workload,
        engine: run.engine,
        contender: group.contender,
        at_once: processes,
        pairs_per_second: group.rates.median(),
    });
}

impl Group {
    fn start(contender: Contender, setup: &Setup, processes: usize) -> Result<Self> {
        let value = contender.to_possible_value().ok_or("a hidden contender")?;
        let engine = setup.engine.to_possible_value().ok_or("a hidden engine")?;
        let names: Vec<_> = (0..processes)
            .map(|number| format!("app_task_{number}"))
            .collect();
        let arguments: Vec<_> = names
            .iter()
            .map(|name| vec!["pairs", value.get_name(), engine.get_name(), name])
            .collect();
        Ok(Self {
            contender,
            processes: Process::start_all(setup, &arguments)?,
            rates: Rounds::default(),
            slowest: Vec::new(),
            p50: Vec::new(),
            p99: Vec::new(),
        })
    }

    /// Runs a round.
    fn work(&mut self, time: Duration) -> Result<()> {
        let done: Vec<Pairs> = Process::work(&mut self.processes, time)?;
        let rate = |pairs: &Pairs| number(pairs.took.len()) / pairs.seconds;
        let rates: Vec<_> = done.iter().map(rate).collect();
        let sum: f64 = rates.iter().sum();
        let least = rates.iter().copied().fold(f64::MAX, f64::min);
        let mean = sum / number(rates.len());
        let cpu: f64 = done.iter().map(|pairs| pairs.cpu).sum();
        let took: Vec<_> = done.into_iter().flat_map(|pairs| pairs.took).collect();
        self.rates.push(sum, cpu / number(took.len()));
        self.slowest.push(least / mean);
        self.p50.push(median(&took));
        self.p99.push(percentile(&took, 99));
        Ok(())
    }

    /// Ends the processes, which closes their connections.
    fn end(&mut self) -> Result<()> {
        Process::end_all(std::mem::take(&mut self.processes))
    }
}
