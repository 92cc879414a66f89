//! Leader election. Every candidate waits for one lock. The candidate that has it leads, until its
//! process ends, it resigns, or it loses the lock.
//!
//! Run it with `cargo run --example leader`, which elects leaders among three candidates of this
//! process. `cargo run --example leader -- URL` is one candidate that leads until ctrl-c: start it
//! several times on one database, and end or kill the leader.

use std::{env, process, time::Duration};

use locks_core::{Expiry, LockManager};
use tokio::{signal, time};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// If the machine of the leader fails, the next one leads after this time and a tenth. If only its
/// process ends, a candidate on the same machine leads at once.
const EXPIRY: Expiry = Expiry::After(Duration::from_secs(5));

/// What the leader does until it resigns.
async fn lead(name: &str, token: i64, steps: u32) {
    for step in 1..=steps {
        // The token grows from leader to leader. Pass it to other systems: if they refuse a token
        // below the highest that they have seen, a leader that was stopped for long cannot disturb
        // the next one. In the database of the locks, `guard.commit(tx)` does that.
        println!("{name} does step {step}, by token {token}");
        time::sleep(Duration::from_millis(20)).await;
    }
}

/// Leads as often as `terms` says, and for so many steps each time.
async fn candidate(name: String, url: String, terms: u32, steps: u32) -> Result<()> {
    let builder = LockManager::builder().namespace("leader_example");
    let builder = builder.task_id(&name).expiry(EXPIRY);
    let locks = builder.connect(&url).await?;
    for _ in 0..terms {
        // In order of arrival, so that a leader which has resigned leads again after the others.
        let guard = locks.wait("leader").await?;
        println!("{name} leads");
        tokio::select! {
            () = lead(&name, guard.token(), steps) => {
                println!("{name} resigns");
                guard.release().await?;
            }
            // It must stop at once, because another candidate may lead already.
            lost = guard.lost() => println!("{name} leads no more: {lost}"),
        }
    }
    Ok(locks.close().await?)
}

#[tokio::main]
async fn main() -> Result<()> {
    if let Some(url) = env::args().nth(1) {
        let name = format!("candidate-{}", process::id());
        tokio::select! {
            result = candidate(name, url, u32::MAX, u32::MAX) => return result,
            // The guard is dropped with the candidate. The last handle waits for its release.
            result = signal::ctrl_c() => return Ok(result?),
        }
    }
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite:{}", directory.path().join("locks.db").display());
    let names = ["anna", "ben", "cleo"].map(str::to_owned);
    let candidates = names.map(|name| tokio::spawn(candidate(name, url.clone(), 2, 3)));
    for candidate in candidates {
        candidate.await??;
    }
    Ok(())
}
