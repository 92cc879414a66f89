//! The original and this library on one MariaDB row: each respects the other's locks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use locks_core::{Blocker, ConflictMatrix, Expiry, Holder, LockError, LockManager, Shared};
use locks_tests::{
    conflict_table::{NAMES, refused_while},
    engine::{Database, Engine, run_async},
    oracle::Oracle,
    original::{Original, OriginalError},
    peer,
    plain::Record,
    row::{LocksRow, wait_until_empty},
    wait,
};
use tokio::{task::JoinSet, time::sleep};

const SOON: Duration = Duration::from_secs(10);

/// The original, which creates the table as its installation does.
async fn original(db: &Database, task: &str) -> Original {
    let mut original = connect_original(db, task).await;
    original.create_table().await.expect("an empty database");
    original
}

async fn connect_original(db: &Database, task: &str) -> Original {
    let pause = Duration::from_millis(3);
    let original = Original::connect(db.url(), task).await;
    original.expect("it connects").with_pauses(pause, pause)
}

async fn ours(db: &Database, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    builder.connect(db.url()).await.expect("it connects")
}

async fn row(db: &Database) -> LocksRow {
    LocksRow::read(db, "platform").await.expect("it is there")
}

/// Asserts that the original's lock is the only blocker.
fn assert_refused_by(error: &LockError, name: &str, task: &str) {
    let LockError::Busy { blocked_by, .. } = error else {
        panic!("{error}");
    };
    let [Blocker::Holder(holder)] = &blocked_by[..] else {
        panic!("{error}");
    };
    assert_foreign(holder, name, task);
}

fn assert_foreign(holder: &Holder, name: &str, task: &str) {
    assert_eq!((holder.name.as_str(), &*holder.task_id), (name, task));
    assert_eq!((holder.token, holder.since), (None, None));
}

#[test]
fn every_ordered_pair_in_both_directions() {
    run_async(Engine::MySql, async |db| {
        let mut theirs = original(&db, "foreign").await;
        let locks = ours(&db, "ours").await;
        for held in NAMES {
            for asked in NAMES {
                theirs.acquire(held).await.expect("nothing is held");
                match locks.acquire(asked).await {
                    Ok(guard) => {
                        assert!(!refused_while(asked, held), "{asked} while {held} is held");
                        guard.release().await.expect("it is held");
                    }
                    Err(error) => {
                        assert!(refused_while(asked, held), "{asked}, {held}: {error}");
                        assert_refused_by(&error, held, "foreign");
                    }
                }
                theirs.release(held).await.expect("it holds it");

                let guard = locks.acquire(held).await.expect("nothing is held");
                match theirs.acquire(asked).await {
                    Ok(()) => {
                        assert!(!refused_while(asked, held), "{asked} while {held} is held");
                        theirs.release(asked).await.expect("it holds it");
                    }
                    Err(OriginalError::Refused { by, .. }) => {
                        assert!(refused_while(asked, held), "{asked} while {held} is held");
                        assert_eq!(by, "ours");
                    }
                    Err(error) => panic!("{error}"),
                }
                guard.release().await.expect("it is held");
            }
        }
        wait_until_empty(&db, "platform", SOON).await;
    });
}

/// Whoever shares a lock, the original sees that it is held: by the first of them.
#[test]
fn a_shared_lock_is_held_as_the_original_sees_it() {
    run_async(Engine::MySql, async |db| {
        let mut theirs = original(&db, "foreign").await;
        let (a, b) = (ours(&db, "a").await, ours(&db, "b").await);
        let first = a.acquire(Shared("app_task_1")).await.expect("it is free");
        let second = b.acquire(Shared("app_task_1")).await.expect("it is shared");
        for by in ["a", "b"] {
            for name in ["app_task_1", "box_update"] {
                let refused = theirs.acquire(name).await;
                let Err(OriginalError::Refused { by: holder, .. }) = refused else {
                    panic!("{refused:?}");
                };
                assert_eq!(holder, by);
            }
            if by == "a" {
                a.release_task("a").await.expect("it can");
            }
        }
        assert!(first.release().await.expect_err("it was taken").is_lost());
        second.release().await.expect("it is held");
        theirs.acquire("app_task_1").await.expect("it is free");
        let refused = a.acquire(Shared("app_task_1")).await;
        assert_refused_by(&refused.expect_err("it is held"), "app_task_1", "foreign");
    });
}

#[test]
fn a_release_by_the_original_takes_a_shared_lock_from_all_holders() {
    run_async(Engine::MySql, async |db| {
        let mut theirs = original(&db, "foreign").await;
        let (a, b) = (ours(&db, "a").await, ours(&db, "b").await);
        let first = a.acquire(Shared("app_task_1")).await.expect("it is free");
        let second = b.acquire(Shared("app_task_1")).await.expect("it is shared");
        let third = b.acquire("mail_restart").await.expect("it is free");
        let taken = theirs.release_by_task_id("a").await.expect("a row");
        assert_eq!(taken, ["app_task_1"]);
        for guard in [&first, &second] {
            let lost = tokio::time::timeout(SOON, guard.lost()).await;
            let lost = lost.expect("its process is told");
            assert_eq!(lost.names[0], "app_task_1");
        }
        // The session of a stolen lock ends, so its other locks are lost as well.
        drop((first, second, third));
        let _again = a
            .wait("app_task_1")
            .timeout(SOON)
            .await
            .expect("nothing holds it");
    });
}

/// Acquires and releases random locks until it is stopped, and counts its grants.
async fn contend(
    mut original: Original,
    mut oracle: Oracle,
    grants: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) {
    let owner = original.task_id().to_owned();
    while !over.load(Relaxed) {
        let name = NAMES[fastrand::usize(..NAMES.len())];
        let asked = oracle.asking();
        match original.acquire(name).await {
            Ok(()) => {
                let entered = oracle.enter(&[name], &owner, None, asked);
                sleep(Duration::from_micros(fastrand::u64(..2000))).await;
                let left = oracle.leave(&[name], &owner);
                entered.and(left).expect("nothing is violated");
                original.release(name).await.expect("it holds it");
                grants.fetch_add(1, Relaxed);
            }
            Err(OriginalError::Refused { .. }) => sleep(Duration::from_millis(3)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn four_of_each_exclude_each_other() {
    const EACH: u32 = 4;
    const ENOUGH: u64 = 200;
    run_async(Engine::MySql, async |db| {
        let directory = tempfile::tempdir().expect("a directory");
        let mut oracle = Oracle::open(directory.path());
        original(&db, "installation").await;
        let mut peers: Vec<_> = (0..EACH)
            .map(|n| peer!("contend", db.url(), directory.path(), format!("ours-{n}")))
            .collect();
        for peer in &mut peers {
            peer.expect_line("ready", SOON);
        }
        let (theirs, over) = <(Arc<AtomicU64>, Arc<AtomicBool>)>::default();
        let mut originals = JoinSet::new();
        for n in 0..EACH {
            let original = connect_original(&db, &format!("foreign-{n}")).await;
            let oracle = Oracle::open(directory.path());
            originals.spawn(contend(original, oracle, theirs.clone(), over.clone()));
        }
        let enough = async || {
            let theirs = theirs.load(Relaxed);
            // One lock of each of the original's tasks may still be held.
            theirs >= ENOUGH && oracle.grants() >= theirs + u64::from(EACH) + ENOUGH
        };
        let what = "enough grants on both sides";
        tokio::select! {
            () = wait::until(Duration::from_mins(1), what, enough) => {}
            Some(Err(error)) = originals.join_next() => panic!("{error}"),
        }
        over.store(true, Relaxed);
        originals.join_all().await;
        for peer in &mut peers {
            peer.close_stdin();
        }
        let mut ours = 0;
        for peer in &mut peers {
            ours += peer.expect_line("grants", SOON).parse::<u64>().unwrap();
            peer.finish_well(SOON);
        }
        oracle.assert_clean();
        assert_eq!(oracle.grants(), theirs.load(Relaxed) + ours);
        assert!(row(&db).await.is_empty());
    });
}

#[test]
fn handover_from_the_original_takes_less_than_its_pause() {
    run_async(Engine::MySql, async |db| {
        let mut theirs = original(&db, "foreign").await;
        let locks = ours(&db, "ours").await;
        theirs.acquire("box_update").await.expect("nothing is held");
        let waiting = tokio::spawn(locks.wait("app_task_1").timeout(SOON));
        sleep(Duration::from_millis(200)).await;
        assert!(!waiting.is_finished());
        theirs.release("box_update").await.expect("it holds it");
        let limit = Duration::from_secs(2);
        let granted = tokio::time::timeout(limit, waiting).await;
        let guard = granted.expect("in time").expect("no panic").expect("free");
        let refused = theirs.acquire("box_update").await;
        assert!(matches!(refused, Err(OriginalError::Refused { .. })));
        guard.release().await.expect("it is held");
        theirs.acquire("box_update").await.expect("nothing is held");
    });
}

/// Type and default of a column of the table `locks`.
async fn column(db: &Database, name: &str) -> (String, Option<String>) {
    let sql = format!(
        "SELECT LOWER(data_type) AS kind, column_default AS preset FROM information_schema.columns \
         WHERE table_schema = DATABASE() AND table_name = 'locks' AND column_name = '{name}'"
    );
    let rows = db.connect().await.rows(&sql).await.expect("it is readable");
    let text = |row: &Record, column| row.get(column).map(str::to_owned);
    let row = rows.first().unwrap_or_else(|| panic!("no column {name}"));
    (text(row, "kind").expect("a type"), text(row, "preset"))
}

#[test]
fn a_table_with_locks_in_it_is_widened_and_keeps_them() {
    run_async(Engine::MySql, async |db| {
        let mut theirs = original(&db, "foreign").await;
        for name in ["app_task_1", "mail_restart"] {
            theirs.acquire(name).await.expect("nothing is held");
        }
        let before = row(&db).await;
        assert_eq!((before.version, &before.stamp), (3, &None));

        let locks = ours(&db, "ours").await;
        assert_eq!(column(&db, "dataJson").await.0, "longtext");
        assert_eq!(
            column(&db, "version").await,
            ("bigint".to_owned(), Some("1".to_owned()))
        );
        for name in ["stamp", "metaJson"] {
            let (_, preset) = column(&db, name).await;
            assert!(preset.is_none_or(|preset| preset == "NULL"), "{name}");
        }
        assert_eq!(row(&db).await.data_json, before.data_json);

        let held = locks.held().await.expect("it is readable");
        let [task, mail] = &held[..] else {
            panic!("{held:?}");
        };
        assert_foreign(task, "app_task_1", "foreign");
        assert_foreign(mail, "mail_restart", "foreign");
        let error = locks.acquire("box_update").await.expect_err("refused");
        assert_refused_by(&error, "app_task_1", "foreign");

        let guard = locks.acquire("app_task_2").await.expect("it is free");
        assert!(guard.token() > before.version);
        let mut expected = before.held();
        expected.insert("app_task_2".to_owned(), "ours".to_owned());
        assert_eq!(row(&db).await.held(), expected);

        // The original continues to work.
        theirs.release("app_task_1").await.expect("it holds it");
        let refused = theirs.release("app_task_2").await;
        assert!(matches!(refused, Err(OriginalError::HeldByOther { by, .. }) if by == "ours"));
        guard.release().await.expect("it is held");
        assert_eq!(
            theirs.release_by_task_id("foreign").await.expect("a row"),
            ["mail_restart"]
        );
        wait_until_empty(&db, "platform", SOON).await;
    });
}

/// What does not fit the original's columns: 64 KiB of locks, and a version beyond 2^31.
#[test]
fn an_adopted_table_has_room_for_more() {
    run_async(Engine::MySql, async |db| {
        let mut theirs = original(&db, "foreign").await;
        let locks = ours(&db, "ours").await;
        let names: Vec<_> = (0..400).map(|n| format!("{n:0>200}")).collect();
        let guard = locks.acquire(&names).await.expect("nothing is held");
        assert!(guard.token() > i64::from(i32::MAX));
        theirs.acquire("other").await.expect("it is free");
        let (held, version) = theirs.read().await.expect("a row");
        assert_eq!(held.len(), 401);
        assert!(version > guard.token());
        guard.release().await.expect("it is held");
        assert_eq!(theirs.read().await.expect("a row").0.len(), 1);
    });
}

#[test]
fn a_foreign_lock_is_never_evicted() {
    run_async(Engine::MySql, async |db| {
        let mut theirs = original(&db, "foreign").await;
        theirs.acquire("app_task_1").await.expect("nothing is held");
        // The process has ended, and nothing renews the lock.
        drop(theirs);
        let ttl = Duration::from_secs(1);
        let locks = LockManager::builder()
            .task_id("ours")
            .expiry(Expiry::After(ttl))
            .connect(db.url())
            .await
            .expect("it connects");
        let error = locks.wait("app_task_1").timeout(ttl * 4).await;
        let error = error.expect_err("it is not released");
        assert!(error.is_timeout(), "{error}");
        assert_eq!(row(&db).await.held()["app_task_1"], "foreign");
        let error = locks.acquire("app_task_1").await.expect_err("it is held");
        assert_refused_by(&error, "app_task_1", "foreign");
    });
}

#[test]
fn foreign_lock_cannot_be_released_by_name() {
    run_async(Engine::MySql, async |db| {
        let mut theirs = original(&db, "foreign").await;
        theirs.acquire("app_task_1").await.expect("nothing is held");
        let locks = ours(&db, "ours").await;
        // The row is adopted first, so its version does not change from here on.
        let other = locks.acquire("other").await.expect("it is free");
        other.release().await.expect("it is held");
        let before = row(&db).await;
        let error = locks.release("app_task_1").await.expect_err("not ours");
        let LockError::HeldByOther { holder, .. } = &error else {
            panic!("{error}");
        };
        assert_foreign(holder, "app_task_1", "foreign");
        let reported = error.to_string();
        assert!(
            reported.contains("foreign") && reported.contains("app_task_1"),
            "{reported}"
        );
        let error = locks
            .release("app_task_2")
            .await
            .expect_err("it is not held");
        assert!(matches!(error, LockError::NotHeld { name, .. } if name == "app_task_2"));
        assert_eq!(row(&db).await, before);
    });
}

#[test]
fn release_task_releases_locks_of_a_foreign_task() {
    run_async(Engine::MySql, async |db| {
        let mut theirs = original(&db, "foreign").await;
        let mut others = connect_original(&db, "foreign-2").await;
        for name in ["app_task_1", "mail_restart"] {
            theirs.acquire(name).await.expect("nothing is held");
        }
        others.acquire("app_task_2").await.expect("nothing is held");
        let locks = ours(&db, "ours").await;
        let guard = locks.acquire("other").await.expect("it is free");

        let forgotten = locks.release_task("foreign").await.expect("it is done");
        let [task, mail] = &forgotten[..] else {
            panic!("{forgotten:?}");
        };
        assert_foreign(task, "app_task_1", "foreign");
        assert_foreign(mail, "mail_restart", "foreign");
        let after = row(&db).await;
        let left: Vec<_> = after.held().into_iter().collect();
        let expected = [("app_task_2", "foreign-2"), ("other", "ours")];
        assert_eq!(left, expected.map(|(n, t)| (n.to_owned(), t.to_owned())));
        assert!(matches!(
            theirs.release("app_task_1").await,
            Err(OriginalError::NeverAcquired(_))
        ));

        // Nothing is left to release, so nothing is written.
        let forgotten = locks.release_task("foreign").await.expect("it is done");
        assert_eq!(forgotten, []);
        assert_eq!(row(&db).await, after);

        guard.release().await.expect("it is held");
        let forgotten = locks.release_all().await.expect("it is done");
        assert_foreign(&forgotten[0], "app_task_2", "foreign-2");
        assert_eq!(forgotten.len(), 1);
        wait_until_empty(&db, "platform", SOON).await;
        assert!(row(&db).await.version > after.version);
    });
}

#[test]
fn a_foreign_lock_has_the_platforms_matrix() {
    run_async(Engine::MySql, async |db| {
        let mut theirs = original(&db, "foreign").await;
        theirs.acquire("mail_restart").await.expect("it is free");
        let other_matrix = LockManager::builder()
            .task_id("ours")
            .matrix(ConflictMatrix::exclusive())
            .connect(db.url())
            .await
            .expect("it connects");
        let error = other_matrix.acquire("other").await.expect_err("refused");
        let LockError::Busy { blocked_by, .. } = &error else {
            panic!("{error}");
        };
        let by_matrix =
            |b: &Blocker| matches!(b, Blocker::Matrix { task_id, .. } if &**task_id == "foreign");
        assert!(
            !blocked_by.is_empty() && blocked_by.iter().all(by_matrix),
            "{error}"
        );
        theirs.release("mail_restart").await.expect("it holds it");
        let guard = other_matrix.acquire("other").await.expect("it is empty");
        guard.release().await.expect("it is held");
    });
}

/// The original's supervisor releases the lock of a task of this library; the task learns of it.
#[test]
fn foreign_supervisor_takes_a_lock_away() {
    run_async(Engine::MySql, async |db| {
        let mut theirs = original(&db, "foreign").await;
        let locks = ours(&db, "ours").await;
        let guard = locks.acquire("app_task_1").await.expect("it is free");
        let taken = theirs.release_by_task_id("ours").await.expect("a row");
        assert_eq!(taken, ["app_task_1"]);
        wait::until(SOON, "the guard is lost", async || guard.is_lost()).await;
        assert_eq!(guard.lost().await.names[..], guard.names()[..]);
        let again = locks.wait("app_task_1").timeout(SOON).await;
        let again = again.expect("it is free");
        assert!(again.token() > guard.token());
        drop(guard);
        assert_eq!(locks.held().await.expect("it is readable").len(), 1);
        again.release().await.expect("it is held");
        wait_until_empty(&db, "platform", SOON).await;
    });
}
