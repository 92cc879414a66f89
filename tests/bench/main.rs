//! Measures the locks, and compares them with other ways to lock.
//!
//! ```text
//! tests/run bench [W1 …] [--engine E] [--quick]      a table and a plot
//! tests/run bench --ablation [W1 …]                  each part of the write schedule turned off
//! tests/bench-compare COMMIT [W1 …]                  two versions of the library
//! ```
//!
//! Every workload runs this library and its references alternately, in many short rounds,
//! because machines are noisy: a ratio is the median of the rounds' ratios. Workloads that need
//! several processes start this program again with a hidden subcommand. The results are printed,
//! and written to `target/bench` as JSON with a plot.

mod alternate;
mod arguments;
mod contenders;
mod engine;
mod machine;
mod plot;
mod process;
mod report;
mod sql;
mod statistics;
mod switches;
mod tables;
mod worker;
mod workloads;

use std::process::ExitCode;

use clap::Parser;

use self::{arguments::Arguments, report::Report};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = if let Some(worker) = &arguments.worker {
        worker.run(&arguments.without).map(|()| true)
    } else if arguments.ablation {
        tables::ablation(&arguments)
    } else if let Some(program) = &arguments.against {
        tables::comparison(&arguments, program)
    } else {
        measure(&arguments)
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the chosen workloads. Returns whether all of them could be measured.
fn measure(arguments: &Arguments) -> Result<bool> {
    let mut report = Report::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let all_measured = runtime.block_on(workloads::run(arguments, &mut report));
    report.print();
    let directory = arguments.output();
    report.write(&directory)?;
    plot::draw(&report, &directory)?;
    Ok(all_measured)
}
