//! A namespace that an example has to itself.

use std::{process, time::Duration};

use locks_core::LockManager;
use tokio::{signal, time};

use crate::{Database, Result};

/// How long tidying up may take when the database does not answer any more.
const TIDY_LIMIT: Duration = Duration::from_secs(5);

/// Gives an example a namespace that nobody else uses, and leaves nothing of it behind.
///
/// # Errors
///
/// The example's own; when it takes longer than the limit; when somebody asks this process
/// to end. In these cases, too, what it wrote is deleted.
pub async fn in_a_namespace(
    database: &Database,
    name: &str,
    limit: Duration,
    example: impl AsyncFnOnce(&LockManager) -> Result<()>,
) -> Result<()> {
    let namespace = format!("{name}-{:08x}", fastrand::u32(..));
    let connecting = LockManager::builder()
        .namespace(&namespace)
        .task_id(format!("director-{}", process::id()))
        .connect(database.url());
    let locks = within(limit, async { Ok(connecting.await?) }).await?;
    let outcome = tokio::select! {
        outcome = within(limit, example(&locks)) => outcome,
        outcome = interruption() => outcome,
    };
    // No worker is left, but one that was killed has left its locks.
    let tidied = within(TIDY_LIMIT, async {
        locks.release_all().await?;
        locks.close().await?;
        database.forget(&namespace).await
    });
    let tidied = tidied.await;
    outcome?;
    tidied.map_err(|error| format!("namespace {namespace} was not tidied up: {error}").into())
}

async fn within<T>(limit: Duration, future: impl Future<Output = Result<T>>) -> Result<T> {
    let outcome = time::timeout(limit, future).await;
    outcome.unwrap_or_else(|_| Err(format!("not done after {limit:?}").into()))
}

/// Ends in an error when somebody asks this process to end.
async fn interruption() -> Result<()> {
    let mut termination = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    tokio::select! {
        pressed = signal::ctrl_c() => pressed?,
        _ = termination.recv() => {}
    }
    Err("interrupted".into())
}
