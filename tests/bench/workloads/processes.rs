//! Many processes with one task each.

use std::time::Duration;

use clap::ValueEnum as _;

use super::Run;
use crate::{
    Result,
    contenders::{Contender, Setup},
    engine::{Database, Engine},
    machine,
    process::Process,
    report::{Point, Target},
    statistics::{Rounds, median, micros, number, percentile, ratio},
    worker::Pairs,
};

/// How many processes there are.
const NUMBERS: [usize; 4] = [1, 4, 16, 64];
/// The number for which all contenders are compared, and that alone is measured without references.
const COMPARED: usize = 16;
const TURN: Duration = Duration::from_secs(1);
const ROUNDS: usize = 10;

/// A contender's processes, and their results in each round.
struct Group {
    contender: Contender,
    processes: Vec<Process>,
    /// Pairs per second of all processes, and CPU time of the machine for each pair.
    rates: Rounds,
    /// Pairs per second of the slowest process, and the same divided by the mean.
    slowest: Rounds,
    slowest_ratio: Vec<f64>,
    /// The median and the 99th percentile of the acquisitions, in microseconds.
    p50: Vec<f64>,
    p99: Vec<f64>,
}

/// W4: pairs per second of distinct names.
pub(super) fn distinct(run: &mut Run<'_>, database: &Database) -> Result<()> {
    for processes in NUMBERS {
        if run.has_references() || processes == COMPARED {
            measure(run, database, processes)?;
        }
    }
    Ok(())
}

fn measure(run: &mut Run<'_>, database: &Database, processes: usize) -> Result<()> {
    let is_main =
        |contender: &Contender| contender.is_ours() || *contender == Contender::RowPerLock;
    let (main, others): (Vec<_>, Vec<_>) = run.contenders().into_iter().partition(is_main);
    let mut groups = Vec::new();
    for contender in main {
        groups.push(Group::start(contender, &run.setup(database), processes)?);
    }
    for _ in run.rounds(ROUNDS, format_args!("{processes} processes")) {
        for group in &mut groups {
            group.work(run.time(TURN))?;
        }
    }
    for group in &mut groups {
        group.end()?;
    }
    // These run one after another: 64 processes of each would need more connections at one time
    // than the servers of the tests accept.
    for contender in others {
        let mut group = Group::start(contender, &run.setup(database), processes)?;
        let name = contender.name(run.engine);
        for _ in run.rounds(ROUNDS / 5, format_args!("{processes} processes, {name}")) {
            group.work(run.time(TURN))?;
        }
        group.end()?;
        groups.push(group);
    }
    for group in &groups {
        run.report.points.push(Point {
            workload: run.workload,
            engine: run.engine,
            contender: group.contender,
            at_once: processes,
            pairs_per_second: group.rates.median(),
        });
    }
    report(run, processes, &groups);
    Ok(())
}

fn report(run: &mut Run<'_>, processes: usize, groups: &[Group]) {
    let what = match processes {
        1 => "1 process".into(),
        processes => format!("{processes} processes, distinct names"),
    };
    let find = |contender| groups.iter().find(|group| group.contender == contender);
    let reference = find(Contender::RowPerLock);
    for ours in groups.iter().filter(|group| group.contender.is_ours()) {
        let dropped = ours.contender == Contender::OursDropped;
        let note = if dropped { ", dropped" } else { "" };
        let mut figure = run
            .figure(format!("{what}{note}"), "pairs/s", ours.rates.median())
            .more_is_better()
            .with_cpu(median(&ours.rates.cpu));
        if let Some(reference) = reference {
            let name = Contender::RowPerLock.name(run.engine);
            let ratio = ours.rates.ratio(&reference.rates);
            figure = figure.compared_with(name, reference.rates.median(), ratio);
            if let Some(target) = target(run.engine, processes, dropped) {
                figure = figure.with_target(target);
            }
        }
        run.report(figure);
    }
    if processes != COMPARED {
        return;
    }
    let Some(ours) = find(Contender::Ours) else {
        return;
    };
    for contender in [Contender::Original, Contender::Retry] {
        // Its sum is mostly that of one process.
        let Some(other) = find(contender) else {
            continue;
        };
        let figure = run
            .figure(
                format!("{what}: the slowest process"),
                "pairs/s",
                ours.slowest.median(),
            )
            .more_is_better();
        let (name, rate) = (contender.name(run.engine), other.slowest.median());
        let figure = figure.compared_with(name, rate, ours.slowest.median() / rate);
        run.report(figure);
    }
    let slowest = run
        .figure(
            format!("{what}: the slowest"),
            "of the mean",
            median(&ours.slowest_ratio),
        )
        .more_is_better()
        .with_target(Target::AtLeast(0.7));
    let tail = run
        .figure(format!("{what}: p99"), "µs", median(&ours.p99))
        .compared_with("µs, p50", median(&ours.p50), ratio(&ours.p99, &ours.p50))
        .with_target(Target::RatioAtMost(10.0));
    run.report(slowest);
    run.report(tail);
}

/// What the ratio to a row per lock has to be.
fn target(engine: Engine, processes: usize, dropped: bool) -> Option<Target> {
    let least = match (engine, processes, dropped) {
        (Engine::Sqlite, 16, false) => 1.0,
        (Engine::Sqlite, 64, false) => 0.4,
        (Engine::Mysql | Engine::Postgres, 16 | 64, false) => 0.5,
        (Engine::Mysql | Engine::Postgres, 16 | 64, true) => 0.6,
        _ => return None,
    };
    Some(Target::RatioAtLeast(least))
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
            slowest: Rounds::default(),
            slowest_ratio: Vec::new(),
            p50: Vec::new(),
            p99: Vec::new(),
        })
    }

    /// Runs a round.
    fn work(&mut self, time: Duration) -> Result<()> {
        let busy = machine::busy();
        let done: Vec<Pairs> = Process::work(&mut self.processes, time)?;
        let busy = machine::busy()
            .zip(busy)
            .map(|(after, before)| after.saturating_sub(before));
        let rate = |pairs: &Pairs| number(pairs.took.len()) / pairs.seconds;
        let rates: Vec<_> = done.iter().map(rate).collect();
        let sum: f64 = rates.iter().sum();
        let least = rates.iter().copied().fold(f64::MAX, f64::min);
        let mean = sum / number(rates.len());
        let clients: f64 = done.iter().map(|pairs| pairs.cpu).sum();
        let took: Vec<_> = done.into_iter().flat_map(|pairs| pairs.took).collect();
        let pairs = number(took.len());
        self.rates.push(sum, busy.map_or(clients, micros) / pairs);
        self.slowest.push(least, clients / pairs);
        self.slowest_ratio.push(least / mean);
        self.p50.push(median(&took));
        self.p99.push(percentile(&took, 99));
        Ok(())
    }

    /// Ends the processes, which closes their connections.
    fn end(&mut self) -> Result<()> {
        Process::end_all(std::mem::take(&mut self.processes))
    }
}
