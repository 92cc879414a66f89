//! The results as a table and as JSON.

use std::{fmt, fs, path::Path};

use serde::{Deserialize, Serialize, Serializer};

use crate::{contenders::Contender, engine::Engine, machine::Machine, workloads::Workload};

/// The name of the JSON file.
pub(crate) const FILE: &str = "peers.json";

/// All results.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) figures: Vec<Figure>,
    pub(crate) points: Vec<Point>,
}

/// A row of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) workload: Workload,
    pub(crate) engine: Engine,
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) ours: f64,
    /// CPU time per operation in microseconds: of the processes that use this library, or for many
    /// processes of the machine with its servers.
    pub(crate) cpu: Option<f64>,
    pub(crate) reference: Option<Reference>,
    pub(crate) target: Option<Target>,
    pub(crate) met: Option<bool>,
}

/// Which values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Less,
    More,
}

/// What a figure is compared with.
#[derive(Debug, Serialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// The median of the rounds' ratios of the figure to this value.
    pub(crate) ratio: f64,
}

/// The goal for a figure or for its ratio to the reference.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    RatioAtMost(f64),
    RatioAtLeast(f64),
    AtMost(f64),
    AtLeast(f64),
}

/// A point of the plot.
#[derive(Debug, Serialize)]
pub(crate) struct Point {
    pub(crate) workload: Workload,
    pub(crate) engine: Engine,
    pub(crate) contender: Contender,
    /// The number of tasks or processes.
    pub(crate) at_once: usize,
    pub(crate) pairs_per_second: f64,
}

impl Figure {
    /// A figure without a reference, of which smaller values are better.
    pub(crate) fn new(
        workload: Workload,
        engine: Engine,
        what: impl Into<String>,
        unit: &'static str,
        ours: f64,
    ) -> Self {
        Self {
            workload,
            engine,
            what: what.into(),
            unit,
            better: Better::Less,
            ours,
            cpu: None,
            reference: None,
            target: None,
            met: None,
        }
    }

    /// Says that greater values are better.
    pub(crate) fn more_is_better(mut self) -> Self {
        self.better = Better::More;
        self
    }

    /// Adds the CPU time per operation in microseconds.
    pub(crate) fn with_cpu(mut self, cpu: f64) -> Self {
        self.cpu = Some(cpu);
        self
    }

    /// Adds a reference.
    pub(crate) fn compared_with(mut self, name: impl Into<String>, value: f64, ratio: f64) -> Self {
        let name = name.into();
        self.reference = Some(Reference { name, value, ratio });
        self
    }

    /// Adds a target. A target for the ratio needs a reference.
    pub(crate) fn with_target(mut self, target: Target) -> Self {
        let ratio = self.reference.as_ref().map(|reference| reference.ratio);
        let met = match target {
            Target::RatioAtMost(most) => ratio.map(|ratio| ratio <= most),
            Target::RatioAtLeast(least) => ratio.map(|ratio| ratio >= least),
            Target::AtMost(most) => Some(self.ours <= most),
            Target::AtLeast(least) => Some(self.ours >= least),
        };
        self.target = met.map(|_| target);
        self.met = met;
        self
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RatioAtMost(most) => write!(f, "≤ {most} ×"),
            Self::RatioAtLeast(least) => write!(f, "≥ {least} ×"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::AtLeast(least) => write!(f, "≥ {least}"),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            workload,
            engine,
            what,
            unit,
            ..
        } = self;
        let ours = format!("{} {unit}", short(self.ours));
        let cpu = self.cpu.map(|cpu| format!("{} µs CPU", short(cpu)));
        let cpu = cpu.unwrap_or_default();
        let (reference, ratio) = match &self.reference {
            Some(Reference { name, value, ratio }) => {
                (format!("{} {name}", short(*value)), format!("{ratio:.2}"))
            }
            None => Default::default(),
        };
        let target = self.target.map(|target| target.to_string());
        let target = target.unwrap_or_default();
        let met = match self.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        write!(
            f,
            "{workload:<4}{engine:<11}{what:<42}{ours:>16}{cpu:>15}  {reference:<32}{ratio:>7}  \
             {target:<8}{met}",
        )
    }
}

/// A number with three significant digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        0.0..1.0 => format!("{value:.3}"),
        1.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            machine: Machine::this(),
            figures: Vec::new(),
            points: Vec::new(),
        }
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        println!("{} · medians of rounds", self.machine);
        for figure in &self.figures {
            println!("{figure}");
        }
    }

    /// Writes the JSON file.
    pub(crate) fn write(&self, directory: &Path) -> crate::Result<()> {
        fs::create_dir_all(directory)?;
        let json = serde_json::to_string_pretty(self)?;
        fs::write(directory.join(FILE), json)?;
        Ok(())
    }
}
