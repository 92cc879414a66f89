//! A holder is killed while another process waits for its lock.

use std::time::{Duration, Instant};

use clap::ValueEnum as _;
use tokio::time::sleep;

use super::Run;
use crate::{
    Result,
    engine::Database,
    process::Process,
    report::Target,
    statistics::{Stopwatch, median, percentile},
};

const NAME: &str = "app_task_1";
const ROUNDS: usize = 20;
/// How long the waiter has waited when the holder is killed, in milliseconds.
const WAITED: (u64, u64) = (50, 1500);

/// W8: from `kill -9` to the grant.
pub(super) async fn measure(run: &mut Run<'_>, database: &Database) -> Result<()> {
    let setup = run.setup(database);
    let engine = run.engine.to_possible_value().ok_or("a hidden engine")?;
    let locks = setup.connect().await?;
    let (mut took, mut cpu) = (Vec::new(), Vec::new());
    for _ in run.rounds(ROUNDS, "a holder is killed") {
        let mut holder = Process::start(&setup, &["hold", engine.get_name(), NAME])?;
        let () = holder.receive()?;
        let stopwatch = Stopwatch::start();
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move {
                let guard = locks.wait(NAME).await?;
                let granted = Instant::now();
                guard.release().await?;
                Result::<Instant>::Ok(granted)
            }
        });
        sleep(Duration::from_millis(fastrand::u64(WAITED.0..WAITED.1))).await;
        let killed = Instant::now();
        holder.kill()?;
        let granted = waiting.await??;
        took.push(granted.duration_since(killed).as_secs_f64() * 1e3);
        cpu.push(stopwatch.cpu_per(1));
    }
    let p90 = percentile(&took, 90);
    let figure = run
        .figure("kill -9 of a holder to the grant", "ms", median(&took))
        .with_cpu(median(&cpu))
        .compared_with("ms, p90", p90, median(&took) / p90)
        .with_target(Target::AtMost(50.0));
    run.report(figure);
    locks.close().await?;
    Ok(())
}
