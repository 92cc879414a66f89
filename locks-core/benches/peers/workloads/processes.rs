//! Many processes, one task each.

use std::time::Duration;

use clap::ValueEnum as _;

use super::{Run, tasks::beside};
use crate::{
    Result,
    contenders::Contender,
    engine::{Database, Engine},
    process::Process,
    report::{Point, Target},
    statistics::{median, percentile, ratio},
    worker::Pairs,
};

/// How many processes are judged, and which are only drawn.
const PROCESSES: usize = 16;
const DRAWN: [usize; 3] = [1, 4, 64];
const TURN: Duration = Duration::from_secs(1);
const ROUNDS: usize = 10;

/// A contender's processes, and what they did in each round.
struct Team {
    contender: Contender,
    processes: Vec<Process>,
    /// Pairs per second, of all together.
    rates: Vec<f64>,
    /// The pairs of the slowest process, as a part of the mean.
    slowest: Vec<f64>,
    /// The acquisitions, in microseconds: the median, and 99 of 100.
    p50: Vec<f64>,
    p99: Vec<f64>,
}

/// W4: pairs per second of distinct names.
pub(super) fn distinct(run: &mut Run<'_>, database: &Database) -> Result<()> {
    for processes in DRAWN {
        let teams = play(run, database, processes, ROUNDS / 5)?;
        draw(run, &teams, processes);
    }
    let teams = play(run, database, PROCESSES, ROUNDS)?;
    draw(run, &teams, PROCESSES);
    let what = format!("{PROCESSES} processes, distinct names");
    let named = teams.iter().map(|team| (team.contender, &team.rates));
    beside(
        run,
        &what,
        &named.collect::<Vec<_>>(),
        |contender| match contender {
            Contender::Original => Some(Target::RatioAtLeast(10.0)),
            Contender::Retry => Some(Target::RatioAtLeast(2.0)),
            _ => None,
        },
    );
    let ours = &teams[0];
    let slowest = run
        .figure(
            format!("{what}: the slowest"),
            "of the mean",
            median(&ours.slowest),
        )
        .aiming_at(Target::AtLeast(0.5));
    let tail = run
        .figure(format!("{what}: p99"), "µs", median(&ours.p99))
        .beside("µs, p50", median(&ours.p50), ratio(&ours.p99, &ours.p50))
        .aiming_at(Target::RatioAtMost(20.0));
    run.report(slowest);
    run.report(tail);
    Ok(())
}

fn draw(run: &mut Run<'_>, teams: &[Team], processes: usize) {
    let points = teams.iter().map(|team| Point {
        workload: run.workload,
        engine: run.engine,
        contender: team.contender,
        at_once: processes,
        pairs_per_second: median(&team.rates),
    });
    run.report.points.extend(points);
}

/// Starts the processes of all contenders and lets them work by turns.
fn play(run: &Run<'_>, database: &Database, processes: usize, rounds: usize) -> Result<Vec<Team>> {
    run.say(format_args!(
        "starting {processes} processes of each contender"
    ));
    let mut teams = Vec::new();
    for contender in Contender::on(run.engine) {
        teams.push(Team {
            contender,
            processes: start(contender, run.engine, database, processes)?,
            rates: Vec::new(),
            slowest: Vec::new(),
            p50: Vec::new(),
            p99: Vec::new(),
        });
    }
    for _ in run.rounds(rounds, format_args!("{processes} processes")) {
        for team in &mut teams {
            let done: Vec<Pairs> = Process::work(&mut team.processes, run.time(TURN))?;
            team.take_in(&done);
        }
    }
    Ok(teams)
}

fn start(
    contender: Contender,
    engine: Engine,
    database: &Database,
    processes: usize,
) -> Result<Vec<Process>> {
    let contender = contender.to_possible_value().ok_or("a hidden contender")?;
    let engine = engine.to_possible_value().ok_or("a hidden engine")?;
    let names: Vec<_> = (0..processes)
        .map(|number| format!("app_task_{number}"))
        .collect();
    let arguments: Vec<_> = names
        .iter()
        .map(|name| vec!["pairs", contender.get_name(), engine.get_name(), name])
        .collect();
    Process::start_all(&database.url, &arguments)
}

impl Team {
    fn take_in(&mut self, done: &[Pairs]) {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let rate = |pairs: &Pairs| pairs.took.len() as f64 / pairs.seconds;
        let rates: Vec<_> = done.iter().map(rate).collect();
        let sum: f64 = rates.iter().sum();
        let least = rates.iter().copied().fold(f64::MAX, f64::min);
        #[expect(clippy::cast_precision_loss, reason = "a handful of processes")]
        let mean = sum / rates.len() as f64;
        let took: Vec<_> = done.iter().flat_map(|pairs| pairs.took.clone()).collect();
        self.rates.push(sum);
        self.slowest.push(least / mean);
        self.p50.push(median(&took));
        self.p99.push(percentile(&took, 99));
    }
}
