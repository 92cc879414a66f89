//! The conflict table on every engine, and two conflict tables on one row.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use locks_core::{Blocker, ConflictMatrix, LockError, LockGuard, LockManager, LockName};
use locks_tests::{
    conflict_table::{NAMES, refused_while},
    engine::Database,
    on_every_engine,
    row::wait_until_empty,
    wait,
};
use tokio::{task::JoinSet, time::sleep};

const SOON: Duration = Duration::from_secs(10);

on_every_engine!(
    async every_ordered_pair_conflicts_as_the_table_says,
    async locks_of_one_task_conflict_as_the_table_says,
    async names_of_one_request_do_not_conflict,
    async one_refused_name_refuses_the_whole_request,
    async request_with_another_matrix_is_refused_for_any_name,
    async waiter_with_another_matrix_is_granted_later,
    async two_matrices_never_hold_locks_at_one_time,
);

async fn connect(db: &Database, task: &str, matrix: ConflictMatrix) -> LockManager {
    LockManager::builder()
        .task_id(task)
        .matrix(matrix)
        .connect(db.url())
        .await
        .expect("it connects")
}

fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    NAMES
        .into_iter()
        .flat_map(|held| NAMES.into_iter().map(move |asked| (held, asked)))
}

/// Asserts that `asked` was refused because of the guard's lock, and for no other reason.
fn assert_refused_by(error: &LockError, asked: &str, guard: &LockGuard, task: &str) {
    assert!(error.is_busy(), "{asked}: {error}");
    let LockError::Busy {
        names, blocked_by, ..
    } = error
    else {
        panic!("{asked}: {error}");
    };
    assert_eq!(names[..], [asked], "{error}");
    let [Blocker::Holder(holder)] = &blocked_by[..] else {
        panic!("{asked}: {blocked_by:?}");
    };
    assert_eq!(holder.name, guard.names()[0], "{error}");
    assert_eq!(&*holder.task_id, task, "{error}");
    assert_eq!(holder.token, Some(guard.token()), "{error}");
    assert!(holder.since.is_some(), "{error}");
    let reported = error.to_string();
    for part in [asked, holder.name.as_str(), task] {
        assert!(reported.contains(part), "{part} is not in {reported:?}");
    }
}

async fn judge_all_pairs(holding: &LockManager, asking: &LockManager) {
    for (held, asked) in pairs() {
        let first = holding.acquire(held).await.expect("nothing is held");
        match asking.acquire(asked).await {
            Ok(second) => {
                assert!(!refused_while(asked, held), "{asked} while {held} is held");
                assert_eq!(second.names()[..], [asked]);
                second.release().await.expect("it is held");
            }
            Err(error) => {
                assert!(refused_while(asked, held), "{asked}, {held}: {error}");
                assert_refused_by(&error, asked, &first, holding.task_id());
                let token = first.token();
                first.release().await.expect("it is held");
                let second = asking.acquire(asked).await.expect("nothing is in the way");
                assert!(second.token() > token, "{asked} after {held}");
                second.release().await.expect("it is held");
                continue;
            }
        }
        first.release().await.expect("it is held");
    }
}

async fn every_ordered_pair_conflicts_as_the_table_says(db: Database) {
    let a = connect(&db, "a", ConflictMatrix::platform()).await;
    let b = connect(&db, "b", ConflictMatrix::platform()).await;
    judge_all_pairs(&a, &b).await;
    wait_until_empty(&db, "platform", SOON).await;
}

/// A task conflicts with its own locks. The platform's matrix is the default.
async fn locks_of_one_task_conflict_as_the_table_says(db: Database) {
    let a = LockManager::connect(db.url()).await.expect("it connects");
    judge_all_pairs(&a, &a.clone()).await;
    wait_until_empty(&db, "platform", SOON).await;
}

/// Names of one request do not conflict with each other. Each of them conflicts with other locks.
async fn names_of_one_request_do_not_conflict(db: Database) {
    let a = connect(&db, "a", ConflictMatrix::platform()).await;
    let b = connect(&db, "b", ConflictMatrix::platform()).await;
    for (one, other) in pairs() {
        let both = a.acquire([one, other]).await.expect("nothing is held");
        let mut names: Vec<_> = both.names().iter().map(LockName::as_str).collect();
        names.sort_unstable();
        let mut expected = vec![one, other];
        expected.sort_unstable();
        expected.dedup();
        assert_eq!(names, expected);
        for name in expected {
            let error = b.acquire(name).await.expect_err("it is held");
            assert!(error.is_busy(), "{error}");
        }
        both.release().await.expect("it is held");
    }
    wait_until_empty(&db, "platform", SOON).await;
}

async fn one_refused_name_refuses_the_whole_request(db: Database) {
    let a = connect(&db, "a", ConflictMatrix::platform()).await;
    let b = connect(&db, "b", ConflictMatrix::platform()).await;
    let held = a.acquire("box_update").await.expect("nothing is held");
    for names in [["app_task_1", "other"], ["other", "app_task_1"]] {
        let LockError::Busy {
            names: mut reported,
            blocked_by,
            ..
        } = b.acquire(names).await.expect_err("it is refused")
        else {
            panic!("it is busy");
        };
        reported.sort();
        assert_eq!(reported[..], ["app_task_1", "other"]);
        assert!(matches!(&blocked_by[..], [Blocker::Holder(h)] if h.name == "box_update"));
        let holders = b.held().await.expect("it is readable");
        assert_eq!(holders.len(), 1, "{holders:?}");
    }
    let other = b.acquire("other").await.expect("it is free");
    held.release().await.expect("it is held");
    other.release().await.expect("it is held");
    wait_until_empty(&db, "platform", SOON).await;
}

/// Asserts that the only blocker is a holder with another matrix, of this task.
fn assert_other_matrix(blocked_by: &[Blocker], task: &str) {
    assert!(!blocked_by.is_empty());
    for blocker in blocked_by {
        assert!(
            matches!(blocker, Blocker::Matrix { task_id, .. } if &**task_id == task),
            "{blocker:?} is not the matrix of {task}"
        );
    }
}

/// Names that conflict in neither of the two matrices.
async fn request_with_another_matrix_is_refused_for_any_name(db: Database) {
    let a = connect(&db, "a", ConflictMatrix::platform()).await;
    let b = connect(&db, "b", ConflictMatrix::exclusive()).await;
    for (holding, asking) in [(&a, &b), (&b, &a)] {
        let held = holding.acquire("mail_restart").await.expect("it is empty");
        let task = holding.task_id();
        for asked in ["other", "app_task_1", "mail_restart"] {
            let error = asking.acquire(asked).await.expect_err("another matrix");
            assert!(error.to_string().contains("matrix"), "{error}");
            let LockError::Busy { blocked_by, .. } = error else {
                panic!("{asked}: {error}");
            };
            assert_other_matrix(&blocked_by, task);
        }
        let limit = Duration::from_millis(500);
        let waited = asking.wait("other").timeout(limit).await;
        let LockError::Timeout { blocked_by, .. } = waited.expect_err("another matrix") else {
            panic!("it was refused until the end");
        };
        assert_other_matrix(&blocked_by, task);
        held.release().await.expect("it is held");
        let other = asking.acquire("other").await.expect("nothing is held");
        other.release().await.expect("it is held");
    }
    wait_until_empty(&db, "platform", SOON).await;
}

async fn waiter_with_another_matrix_is_granted_later(db: Database) {
    let a = connect(&db, "a", ConflictMatrix::platform()).await;
    let b = connect(&db, "b", ConflictMatrix::exclusive()).await;
    for (holding, asking) in [(&a, &b), (&b, &a)] {
        let held = holding.acquire("mail_restart").await.expect("it is empty");
        let waiting = tokio::spawn(asking.wait("other").timeout(SOON));
        // The request is refused at least once, so it waits.
        sleep(Duration::from_millis(100)).await;
        assert!(!waiting.is_finished());
        let token = held.token();
        held.release().await.expect("it is held");
        let granted = waiting.await.expect("no panic").expect("it is granted");
        assert!(granted.token() > token);
        granted.release().await.expect("it is held");
    }
    wait_until_empty(&db, "platform", SOON).await;
}

/// How many managers of each matrix hold a lock. Each reads the other count while it holds one.
#[derive(Debug, Default)]
struct Sides {
    inside: [AtomicU32; 2],
    grants: [AtomicU32; 2],
}

async fn two_matrices_never_hold_locks_at_one_time(db: Database) {
    const ENOUGH: u32 = 50;
    let sides = Arc::new(Sides::default());
    let mut jobs = JoinSet::new();
    let matrices = [ConflictMatrix::platform(), ConflictMatrix::exclusive()];
    for (side, matrix) in matrices.into_iter().enumerate() {
        let locks = connect(&db, ["a", "b"][side], matrix).await;
        for job in 0..4 {
            let (locks, sides) = (locks.clone(), Arc::clone(&sides));
            jobs.spawn(async move {
                loop {
                    let name = NAMES[fastrand::usize(..NAMES.len())];
                    let granted = if job % 2 == 0 {
                        locks.acquire(name).await
                    } else {
                        locks.wait(name).timeout(Duration::from_millis(200)).await
                    };
                    match granted {
                        Ok(guard) => {
                            sides.inside[side].fetch_add(1, SeqCst);
                            assert_eq!(sides.inside[1 - side].load(SeqCst), 0);
                            sleep(Duration::from_millis(2)).await;
                            assert_eq!(sides.inside[1 - side].load(SeqCst), 0);
                            sides.inside[side].fetch_sub(1, SeqCst);
                            sides.grants[side].fetch_add(1, SeqCst);
                            drop(guard);
                        }
                        Err(error) => assert!(error.is_busy() || error.is_timeout(), "{error}"),
                    }
                    let pause = Duration::from_micros(fastrand::u64(..3000));
                    sleep(pause).await;
                }
            });
        }
    }
    let enough = async || sides.grants.iter().all(|n| n.load(SeqCst) >= ENOUGH);
    tokio::select! {
        () = wait::until(Duration::from_mins(1), "grants on both sides", enough) => {}
        Some(Err(error)) = jobs.join_next() => panic!("{error}"),
    }
    jobs.shutdown().await;
    wait_until_empty(&db, "platform", SOON).await;
}
