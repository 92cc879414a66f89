//! The workloads.

mod alone;
mod crash;
pub(crate) mod hand_over;
pub(crate) mod idle;
mod processes;
mod tasks;

use std::{
    fmt,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    Result,
    arguments::Arguments,
    engine::{Database, Engine},
    report::{Figure, Report},
};

/// Something to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[value(rename_all = "UPPER")]
pub(crate) enum Workload {
    /// One task: acquire, release
    W1,
    /// One task: acquire, drop
    W2,
    /// Many tasks of one process, distinct names
    W3,
    /// Many processes, distinct names
    W4,
    /// Many tasks of one process queueing for one name
    W5,
    /// Two processes handing one name to and fro
    W6,
    /// One task, while many locks are held
    W7,
    /// A holder is killed
    W8,
    /// Many waiters, and many held locks, and nothing else
    W9,
    /// The attribute
    W10,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

/// A workload on an engine, being measured.
pub(crate) struct Run<'a> {
    pub(crate) workload: Workload,
    pub(crate) engine: Engine,
    pub(crate) arguments: &'a Arguments,
    pub(crate) report: &'a mut Report,
    started: Instant,
}

impl Run<'_> {
    /// Says how far it is.
    pub(crate) fn say(&self, what: impl fmt::Display) {
        let seconds = self.started.elapsed().as_secs();
        eprintln!("{seconds:>5} s  {} {}: {what}", self.workload, self.engine);
    }

    /// Counts rounds, and says so.
    pub(crate) fn rounds(
        &self,
        full: usize,
        what: impl fmt::Display,
    ) -> impl Iterator<Item = usize> {
        let rounds = self.arguments.rounds(full);
        (0..rounds).inspect(move |round| {
            // A line now and then is enough to see that it is alive.
            if round % 5 == 0 {
                self.say(format_args!("{what}, round {} of {rounds}", round + 1));
            }
        })
    }

    /// How long something takes that takes so long in full.
    pub(crate) fn time(&self, full: Duration) -> Duration {
        self.arguments.time(full)
    }

    /// Reports something in microseconds, seconds, pieces.
    pub(crate) fn figure(&self, what: impl Into<String>, unit: &'static str, ours: f64) -> Figure {
        Figure::alone(self.workload, self.engine, what, unit, ours)
    }

    /// Adds to the report, and says it at once.
    pub(crate) fn report(&mut self, figure: Figure) {
        eprintln!("         {figure}");
        self.report.figures.push(figure);
    }

    async fn measure(&mut self) -> Result<()> {
        let database = Database::create(self.engine).await?;
        let measured = match self.workload {
            Workload::W1 => alone::release(self, &database).await,
            Workload::W2 => alone::dropping(self, &database).await,
            Workload::W3 => tasks::distinct(self, &database).await,
            Workload::W4 => processes::distinct(self, &database),
            Workload::W5 => tasks::queueing(self, &database).await,
            Workload::W6 => hand_over::measure(self, &database).await,
            Workload::W7 => alone::among_held(self, &database).await,
            Workload::W8 => crash::measure(self, &database).await,
            Workload::W9 => idle::measure(self, &database).await,
            Workload::W10 => alone::attribute(self, &database).await,
        };
        let closed = database.close().await;
        measured.and(closed)
    }
}

/// Runs what was chosen; whether all of it could be measured.
pub(crate) async fn run(arguments: &Arguments, report: &mut Report) -> bool {
    let mut all_measured = true;
    let started = Instant::now();
    for engine in arguments.engines() {
        if let Some(reason) = engine.missing() {
            eprintln!("left out: {engine}: {reason}");
            continue;
        }
        for workload in arguments.workloads() {
            let mut run = Run {
                workload,
                engine,
                arguments,
                report,
                started,
            };
            if let Err(error) = run.measure().await {
                run.say(format_args!("FAILED: {error}"));
                all_measured = false;
            }
        }
    }
    let order = |figure: &Figure| (figure.workload as usize, figure.engine as usize);
    report.figures.sort_by_key(order);
    all_measured
}
