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
use serde::{Deserialize, Serialize};

use crate::{
    Result,
    arguments::Arguments,
    contenders::{Contender, Setup},
    engine::{Database, Engine},
    report::{Figure, Report},
    statistics::Rounds,
};

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
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
    /// Many tasks of one process, one name
    W5,
    /// Two processes, one name
    W6,
    /// One task, while many locks are held
    W7,
    /// A holder is killed
    W8,
    /// Many waiters, and many held locks, while nothing changes
    W9,
    /// The attribute
    W10,
    /// Sixteen processes, one name
    W11,
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
    /// How contenders connect to this database.
    pub(crate) fn setup(&self, database: &Database) -> Setup {
        Setup {
            engine: self.engine,
            url: database.url.clone(),
            without: self.arguments.without.clone(),
        }
    }

    /// Whether the references run as well.
    pub(crate) fn has_references(&self) -> bool {
        !self.arguments.alone
    }

    /// The contenders to measure. This library comes first.
    pub(crate) fn contenders(&self) -> Vec<Contender> {
        let mut contenders = Contender::on(self.engine);
        contenders.retain(|contender| self.has_references() || contender.is_ours());
        contenders
    }

    /// Adds the reference to the figure, if the references run.
    pub(crate) fn compare(
        &self,
        figure: Figure,
        name: &str,
        ours: &Rounds,
        reference: &Rounds,
    ) -> Figure {
        if self.has_references() {
            figure.compared_with(name, reference.median(), ours.ratio(reference))
        } else {
            figure
        }
    }

    /// Prints progress.
    pub(crate) fn say(&self, what: impl fmt::Display) {
        let seconds = self.started.elapsed().as_secs();
        eprintln!("{seconds:>5} s  {} {}: {what}", self.workload, self.engine);
    }

    /// Counts rounds and prints progress.
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

    /// The duration of something that takes `full` without `--quick`.
    pub(crate) fn time(&self, full: Duration) -> Duration {
        self.arguments.time(full)
    }

    /// A figure of this workload on this engine.
    pub(crate) fn figure(&self, what: impl Into<String>, unit: &'static str, ours: f64) -> Figure {
        Figure::new(self.workload, self.engine, what, unit, ours)
    }

    /// Adds a figure to the report, and prints it.
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
            Workload::W6 => hand_over::measure(self, &database, 2).await,
            Workload::W7 => alone::among_held(self, &database).await,
            Workload::W8 => crash::measure(self, &database).await,
            Workload::W9 => idle::measure(self, &database).await,
            Workload::W10 => alone::attribute(self, &database).await,
            Workload::W11 => hand_over::measure(self, &database, 16).await,
        };
        let closed = database.close().await;
        measured.and(closed)
    }
}

/// Runs the chosen workloads. Returns whether all of them could be measured.
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
