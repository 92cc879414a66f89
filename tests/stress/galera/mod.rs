//! Locks, fenced commits and evictions on a Galera cluster, where each process, application and
//! supervisor may be connected to a different node.

mod races;
mod scene;

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use locks_core::LockError;
use locks_tests::{
    cluster::NODES, engine::note, oracle::Oracle, peer, plain::Plain, process::Peer, row::LocksRow,
    wait,
};

use scene::{CAUSAL, PLAIN, SNAPSHOT_ISOLATION, Scene, TASKS, has, increment, insert, on_cluster};

const SOON: Duration = Duration::from_secs(20);

/// How long tasks commit concurrently.
const COMMITTING: Duration = Duration::from_secs(4);
const ENOUGH_COMMITS: i64 = 50;
/// The number of fenced transactions of one task that are open at one time.
const OPEN: usize = 60;

/// The number of processes that contend for locks, and how long they do.
const PROCESSES: usize = 6;
const CONTENDING: Duration = Duration::from_secs(6);
const ENOUGH_GRANTS: u64 = 100;

#[test]
fn commits_of_tasks_on_different_nodes_do_not_conflict() {
    on_cluster(async |scene| Box::pin(independent_commits(&scene, PLAIN)).await);
}

#[test]
fn commits_with_snapshot_isolation_on_different_nodes_do_not_conflict() {
    // A snapshot that is older than the grant on another node would be older than its fence.
    let settings = "SET SESSION innodb_snapshot_isolation = ON, wsrep_sync_wait = 1";
    on_cluster(async |scene| Box::pin(independent_commits(&scene, settings)).await);
}

/// Tasks of one manager, each with a lock, a row and a node of its own.
async fn independent_commits(scene: &Scene, settings: &'static str) {
    scene.create_tables().await;
    let locks = scene.connect(0, "platform", "worker").await;
    let task = async |id: usize| {
        let pool = scene.pool(id % NODES, settings).await;
        let start = Instant::now();
        let (mut committed, mut failures) = (0_i64, Vec::new());
        while start.elapsed() < COMMITTING {
            let guard = locks.acquire(format!("app_task_{id}")).await;
            let guard = guard.expect("no other task wants it");
            let mut tx = pool.begin().await.expect("the node answers");
            increment(&mut tx, id).await.expect("no other task has it");
            match guard.commit(tx).await {
                Ok(()) => committed += 1,
                Err(error) => failures.push(error.to_string()),
            }
            if let Err(error) = guard.release().await {
                failures.push(format!("release: {error}"));
            }
        }
        assert_eq!(scene.counter(id).await, committed, "the counter of {id}");
        (committed, failures)
    };
    let results: [_; TASKS] = tokio::join!(task(0), task(1), task(2), task(3)).into();
    let committed: i64 = results.iter().map(|(committed, _)| committed).sum();
    let mut failures = BTreeMap::new();
    for failure in results.into_iter().flat_map(|(_, failures)| failures) {
        *failures.entry(failure).or_insert(0) += 1;
    }
    note(&format!(
        "Galera: {committed} independent commits passed, {} failed",
        failures.values().sum::<usize>()
    ));
    assert!(
        failures.is_empty(),
        "{committed} commits passed, and some failed: {failures:#?}"
    );
    assert!(committed >= ENOUGH_COMMITS, "{committed} commits only");
}

#[test]
fn fenced_transactions_of_one_task_can_be_open_at_the_same_time() {
    on_cluster(async |scene| {
        scene.create_tables().await;
        let locks = scene.connect(0, "platform", "worker").await;
        let pools = [
            scene.pool(0, CAUSAL).await,
            scene.pool(1, CAUSAL).await,
            scene.pool(2, CAUSAL).await,
        ];
        let mut open = Vec::new();
        for number in 0..OPEN {
            let guard = locks.acquire(format!("app_task_{number}")).await;
            let guard = guard.expect("no other task wants it");
            let tx = insert(&pools[number % NODES], &format!("entry_{number}")).await;
            let mut tx = tx.expect("no other task has it");
            let fenced = tokio::time::timeout(SOON, guard.fence(&mut tx)).await;
            fenced
                .unwrap_or_else(|_| panic!("fence {number} waits for an earlier one"))
                .unwrap_or_else(|error| panic!("fence {number}: {error}"));
            open.push((guard, tx));
        }
        for (number, (guard, tx)) in open.into_iter().enumerate() {
            let committed = guard.commit(tx).await;
            committed.unwrap_or_else(|error| panic!("commit {number}: {error}"));
            guard.release().await.expect("it is held");
        }
    });
}

/// Releases the lock of `holder`, as a supervisor on node 1.
async fn evict(scene: &Scene) {
    let supervisor = scene.connect(1, "platform", "supervisor").await;
    let taken = supervisor.release_task("holder").await;
    assert_eq!(taken.expect("the node answers").len(), 1);
    scene.cluster.wait_until_applied().await;
}

async fn assert_lost(scene: &Scene, committed: Result<(), LockError>) {
    let error = committed.expect_err("the holder was evicted");
    assert!(error.is_lost(), "{error:?}");
    let pool = scene.pool(0, PLAIN).await;
    assert!(!has(&pool, "late").await);
}

#[test]
fn a_commit_after_an_eviction_on_another_node_is_lost() {
    on_cluster(async |scene| {
        scene.create_tables().await;
        let locks = scene.connect(0, "platform", "holder").await;
        let guard = locks.acquire("x").await.expect("it is free");
        evict(&scene).await;
        let tx = insert(&scene.pool(0, PLAIN).await, "late").await;
        assert_lost(&scene, guard.commit(tx.expect("it begins")).await).await;
    });
}

#[test]
fn a_fenced_transaction_that_an_eviction_aborted_is_lost() {
    on_cluster(async |scene| {
        scene.create_tables().await;
        let locks = scene.connect(0, "platform", "holder").await;
        let guard = locks.acquire("x").await.expect("it is free");
        let tx = insert(&scene.pool(0, PLAIN).await, "late").await;
        let mut tx = tx.expect("it begins");
        guard.fence(&mut tx).await.expect("it is held");
        evict(&scene).await;
        assert_lost(&scene, guard.commit(tx).await).await;
    });
}

#[test]
fn a_commit_whose_snapshot_is_older_than_the_eviction_is_lost() {
    on_cluster(async |scene| {
        scene.create_tables().await;
        let locks = scene.connect(0, "platform", "holder").await;
        let guard = locks.acquire("x").await.expect("it is free");
        let tx = insert(&scene.pool(0, SNAPSHOT_ISOLATION).await, "late").await;
        let mut tx = tx.expect("it begins");
        // The transaction's first read creates its snapshot.
        let read = sqlx::query("SELECT * FROM counters").execute(&mut *tx);
        read.await.expect("the table is there");
        evict(&scene).await;
        assert_lost(&scene, guard.commit(tx).await).await;
    });
}

/// An abort for a reason of the application's own must not be reported as `Lost`.
#[test]
fn a_conflict_on_a_row_of_the_application_is_not_a_loss() {
    on_cluster(async |scene| {
        scene.create_tables().await;
        let locks = scene.connect(0, "platform", "holder").await;
        let guard = locks.acquire("x").await.expect("it is free");
        let pools = [scene.pool(0, PLAIN).await, scene.pool(1, PLAIN).await];
        let mut tx = pools[0].begin().await.expect("it begins");
        increment(&mut tx, 0).await.expect("no other task has it");
        let update = sqlx::query("UPDATE counters SET n = n + 10 WHERE id = 0");
        update.execute(&pools[1]).await.expect("it comes first");
        scene.cluster.wait_until_applied().await;
        let error = guard.commit(tx).await.expect_err("it was aborted");
        assert!(error.is_transient() && !error.is_lost(), "{error:?}");
        assert!(!guard.is_lost());
        let mut tx = pools[0].begin().await.expect("it begins");
        increment(&mut tx, 0).await.expect("no other task has it");
        guard.commit(tx).await.expect("it is held");
        assert_eq!(scene.counter(0).await, 11);
        guard.release().await.expect("it is held");
    });
}

#[test]
fn no_forbidden_pair_overlaps_across_nodes() {
    on_cluster(async |scene| {
        // The call blocks for seconds, so it does not run on a thread of the runtime.
        tokio::task::block_in_place(|| contend(&scene));
        scene.cluster.wait_until_applied().await;
        for node in 0..NODES {
            let url = scene.cluster.url_of(&scene.db, node);
            let conn = Plain::connect(&url).await;
            let row = LocksRow::read_on(&mut conn.expect("the node answers"), "platform").await;
            let row = row.expect("it is there");
            assert!(row.is_empty(), "{row:#?}");
        }
    });
}

/// Processes on all nodes acquire random locks, checked by the oracle.
fn contend(scene: &Scene) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut peers: Vec<Peer> = (0..PROCESSES)
        .map(|number| {
            let url = scene.cluster.url_of(&scene.db, number % NODES);
            let task = format!("task-{number}");
            peer!("contend", url, directory.path(), task, "--patient")
        })
        .collect();
    for peer in &mut peers {
        peer.expect_line("ready", SOON);
    }
    thread::sleep(CONTENDING);
    let mut oracle = Oracle::open(directory.path());
    wait::until_blocking(SOON, "enough grants", || oracle.grants() >= ENOUGH_GRANTS);
    for peer in &mut peers {
        peer.close_stdin();
    }
    let mut sum = 0;
    for peer in &mut peers {
        let grants: u64 = peer.expect_line("grants", SOON).parse().expect("a number");
        sum += grants;
        peer.finish_well(SOON);
    }
    note(&format!("Galera: {sum} grants to {PROCESSES} processes"));
    oracle.assert_clean();
    assert_eq!(oracle.grants(), sum);
    assert_eq!(oracle.inside().len(), 0);
}
