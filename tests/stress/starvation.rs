//! A waiter that conflicts with many requests is granted, however many keep arriving.

use std::time::{Duration, Instant};

use locks_core::{Fairness, LockManager};
use locks_tests::{
    engine::{Database, note},
    on_every_engine,
    process::Peer,
    row::{LocksRow, wait_until_queued},
    wait,
};

const SOON: Duration = Duration::from_secs(20);
/// How long a job holds its lock, in milliseconds; at most one and a half times that.
const HELD: &str = "30";
const PROCESSES: usize = 4;

on_every_engine!(
    async update_is_granted_among_app_tasks,
    async update_is_granted_among_backups,
    async update_starves_with_barging,
);

/// Processes in which jobs with such locks arrive continuously.
async fn streams(db: &Database, prefix: &str, more: &[&str]) -> Vec<Peer> {
    let start = |n: usize| {
        let task = format!("stream{n}");
        let args = ["stream", db.url(), &task, prefix, "3", HELD];
        Peer::spawn(
            env!("CARGO_BIN_EXE_peer"),
            args.into_iter().chain(more.iter().copied()),
        )
    };
    let mut streams: Vec<_> = (0..PROCESSES).map(start).collect();
    for stream in &mut streams {
        stream.expect_line("ready", SOON);
    }
    wait::until(SOON, "locks of all processes", async || {
        let row = LocksRow::read(db, "platform").await;
        let held = row.map(|row| row.held()).unwrap_or_default();
        let tasks: std::collections::BTreeSet<_> = held.values().collect();
        tasks.len() == PROCESSES
    })
    .await;
    streams
}

/// The tokens of all grants to their jobs.
fn stop(streams: &mut [Peer]) -> Vec<i64> {
    streams.iter_mut().for_each(Peer::close_stdin);
    let mut tokens = Vec::new();
    for stream in streams {
        let said = stream.expect_line("tokens", SOON);
        tokens.extend(
            said.split(' ')
                .map(|token| token.parse::<i64>().expect("a number")),
        );
        stream.finish_well(SOON);
    }
    tokens
}

async fn assert_granted(db: &Database, prefix: &str) {
    let mut streams = streams(db, prefix, &[]).await;
    let update = LockManager::builder().task_id("update");
    let update = update.connect(db.url()).await.expect("it is there");
    let (mut rounds, mut times) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let start = Instant::now();
        let waiting = tokio::spawn(update.wait("box_update"));
        // Versions are tokens: what is granted from here on was requested later, except by the
        // requests that queued before it since the last round.
        let (from, ahead) = wait::until_some(SOON, "the update in the queue", async || {
            let row = LocksRow::read(db, "platform").await?;
            let place = row
                .queue()
                .iter()
                .position(|(_, names)| names[0] == "box_update");
            let place = place.or(waiting.is_finished().then_some(0))?;
            Some((row.version, place))
        })
        .await;
        let guard = tokio::time::timeout(SOON, waiting).await;
        let guard = guard
            .expect("it gets in")
            .unwrap()
            .expect("nothing forbids it");
        let elapsed = start.elapsed();
        let row = LocksRow::read(db, "platform").await.expect("it is there");
        let held = row.held();
        // Backups do not conflict with a held update, only with a waiting one.
        let with_it = held.keys().filter(|name| name.starts_with("app_task_"));
        assert_eq!(with_it.count(), 0, "{held:?}");
        // Earlier jobs are done after 45 ms; the rest is for the statements. The tokens show that
        // no other job was granted in between.
        assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
        times.push(elapsed);
        let token = guard.token();
        guard.release().await.expect("it is held");
        // The streams continue before the next round.
        wait::until(SOON, "something held again", async || {
            let row = LocksRow::read(db, "platform").await;
            row.is_some_and(|row| !row.held().is_empty())
        })
        .await;
        rounds.push((from, token, ahead));
    }
    let tokens = stop(&mut streams);
    note(&format!(
        "an update got in among {prefix}* on {} after {times:?}",
        db.engine()
    ));
    for (from, token, ahead) in rounds {
        let before = tokens.iter().filter(|t| from < **t && **t < token);
        assert_eq!(
            before.count(),
            ahead,
            "between {from} and {token}: {tokens:?}"
        );
    }
    assert!(tokens.len() > 3 * PROCESSES, "{tokens:?}");
}

async fn update_is_granted_among_app_tasks(db: Database) {
    assert_granted(&db, "app_task_").await;
}

async fn update_is_granted_among_backups(db: Database) {
    assert_granted(&db, "app_backup_").await;
}

async fn update_starves_with_barging(db: Database) {
    let mut streams = streams(&db, "app_task_", &["--barging"]).await;
    let update = LockManager::builder()
        .task_id("update")
        .fairness(Fairness::Barging);
    let update = update.connect(db.url()).await.expect("it is there");
    let limit = Duration::from_secs(3);
    let refused = update.wait("box_update").timeout(limit).await;
    let error = refused.expect_err("there is always a task");
    assert!(error.is_timeout(), "{error}");
    let tokens = stop(&mut streams);
    assert!(tokens.len() > 10 * PROCESSES, "{tokens:?}");
    // Without the streams it is granted at once, and no entry of the waiter remains.
    let guard = update.wait("box_update").timeout(SOON).await;
    guard
        .expect("it is free")
        .release()
        .await
        .expect("it is held");
    wait_until_queued(&db, "platform", 0).await;
}
