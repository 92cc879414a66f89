//! How fast the locks are, beside what one would use instead.
//!
//! ```text
//! cargo bench -p locks-core --bench peers --all-features [-- [W1 …] [--engine E] [--quick]]
//! ```
//!
//! Every workload runs ours and its references by turns, in many short rounds, because machines
//! are noisy: a ratio is the median of the rounds' ratios. Where processes are needed, this
//! program starts itself again with a hidden subcommand. It prints a table, and leaves the same
//! as JSON, with a plot, in `target/bench`.

mod arguments;
mod contenders;
mod engine;
mod machine;
mod plot;
mod process;
mod report;
mod sql;
mod statistics;
mod worker;
mod workloads;

use std::process::ExitCode;

use clap::Parser;

use self::{arguments::Arguments, report::Report};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.worker {
        Some(worker) => worker.run().map(|()| true),
        None => measure(&arguments),
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

/// Runs what was chosen; whether all of it could be measured.
fn measure(arguments: &Arguments) -> Result<bool> {
    let mut report = Report::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let all_measured = runtime.block_on(workloads::run(arguments, &mut report));
    report.print();
    let directory = report::directory();
    report.write(&directory)?;
    plot::draw(&report, &directory)?;
    Ok(all_measured)
}
