//! What two or more managers do on a database with the settings under test.

use std::{
    future::ready,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use locks_core::LockManager;
use locks_tests::{
    engine::Database,
    journal::{Journal, Tx},
    on_engine,
    row::wait_until_empty,
};
use tokio::task::JoinSet;

use super::SOON;

/// Every manager acquires and releases `x` repeatedly until the time is up. Returns the tokens in
/// the order in which the lock was held.
pub(crate) async fn contend(managers: &[LockManager], time: Duration) -> Result<Vec<i64>, String> {
    let end = Instant::now() + time;
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let mut jobs = JoinSet::new();
    for locks in managers {
        let (locks, tokens) = (locks.clone(), Arc::clone(&tokens));
        jobs.spawn(async move {
            while Instant::now() < end {
                let guard = locks.wait("x").timeout(SOON).await;
                let guard = guard.map_err(|error| format!("not granted: {error:?}"))?;
                tokens
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(guard.token());
                let released = guard.release().await;
                released.map_err(|error| format!("not released: {error:?}"))?;
            }
            Ok::<(), String>(())
        });
    }
    while let Some(ended) = jobs.join_next().await {
        ended.expect("no panic")?;
    }
    let tokens = tokens.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(tokens.clone())
}

/// Every manager acquires and releases its own lock repeatedly until the time is up. All of them
/// write the row, and none waits in its queue. Returns the number of grants.
pub(crate) async fn write_side_by_side(
    managers: &[LockManager],
    time: Duration,
) -> Result<usize, String> {
    let end = Instant::now() + time;
    let mut jobs = JoinSet::new();
    for (number, locks) in managers.iter().enumerate() {
        let locks = locks.clone();
        jobs.spawn(async move {
            let mut grants = 0;
            while Instant::now() < end {
                let guard = locks.acquire(format!("own_{number}")).await;
                let guard = guard.map_err(|error| format!("not granted: {error:?}"))?;
                let released = guard.release().await;
                released.map_err(|error| format!("not released: {error:?}"))?;
                grants += 1;
            }
            Ok::<usize, String>(grants)
        });
    }
    let mut grants = 0;
    while let Some(ended) = jobs.join_next().await {
        grants += ended.expect("no panic")?;
    }
    Ok(grants)
}

/// Whether each token is larger than the one before.
pub(crate) fn in_order(tokens: &[i64]) -> Result<(), String> {
    match tokens.windows(2).position(|pair| pair[0] >= pair[1]) {
        None => Ok(()),
        Some(place) => Err(format!(
            "token {} was granted after {}, as number {} of {}",
            tokens[place + 1],
            tokens[place],
            place + 2,
            tokens.len()
        )),
    }
}

/// Two managers exclude each other, take turns, commit behind the fence and leave no entry. Returns
/// a description of what failed.
pub(crate) async fn smoke(db: &Database) -> Result<(), String> {
    let in_words = |what: &str, error: &dyn std::fmt::Debug| format!("{what}: {error:?}");
    let mut managers = Vec::new();
    for id in ["a", "b"] {
        let connecting = LockManager::builder().task_id(id).connect(db.url());
        let connected = tokio::time::timeout(SOON, connecting).await;
        let connected = connected.map_err(|late| in_words("connect", &late))?;
        managers.push(connected.map_err(|error| in_words("connect", &error))?);
    }
    let guard = managers[0].acquire("held").await;
    let guard = guard.map_err(|error| in_words("acquire", &error))?;
    match managers[1].acquire("held").await {
        Err(error) if error.is_busy() => {}
        other => return Err(in_words("acquire while it is held", &other)),
    }
    let tokens = contend(&managers, Duration::from_millis(200)).await?;
    in_order(&tokens)?;
    let journal = Journal::open(db.url()).await;
    let mut tx = journal.begin().await.expect("it begins");
    tx.enter("entry").await.expect("it is writable");
    let committed = on_engine!(Tx, tx, tx => guard.commit(tx).await);
    committed.map_err(|error| in_words("commit", &error))?;
    if !journal.has("entry").await {
        return Err("the commit was lost".to_owned());
    }
    let released = guard.release().await;
    released.map_err(|error| in_words("release", &error))?;
    for locks in managers {
        let closed = locks.close().await;
        closed.map_err(|error| in_words("close", &error))?;
    }
    wait_until_empty(db, "platform", SOON).await;
    Ok(())
}

/// Whether the future is still pending.
pub(crate) async fn is_pending(future: impl Future) -> bool {
    tokio::select! {
        biased;
        _ = future => false,
        () = ready(()) => true,
    }
}
