//! A holder is killed, and somebody waits.

use std::time::{Duration, Instant};

use locks_core::LockManager;
use tokio::time::sleep;

use super::Run;
use crate::{
    Result,
    engine::Database,
    process::Process,
    report::Target,
    statistics::{median, percentile},
};

const NAME: &str = "app_task_1";
const ROUNDS: usize = 20;
/// How long somebody has waited when the holder is killed, in milliseconds.
const WAITED: (u64, u64) = (50, 1500);

/// W8: from `kill -9` to the grant.
pub(super) async fn measure(run: &mut Run<'_>, database: &Database) -> Result<()> {
    let locks = LockManager::connect(&database.url).await?;
    let mut took = Vec::new();
    for _ in run.rounds(ROUNDS, "a holder is killed") {
        let mut holder = Process::start(&database.url, &["hold", NAME])?;
        let () = holder.hear()?;
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
    }
    let figure = run
        .figure("kill -9 of a holder to the grant", "ms", median(&took))
        .beside(
            "ms, p90",
            percentile(&took, 90),
            median(&took) / percentile(&took, 90),
        )
        .aiming_at(Target::AtMost(50.0));
    run.report(figure);
    locks.close().await?;
    Ok(())
}
