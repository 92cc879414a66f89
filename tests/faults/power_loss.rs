//! A power loss on SQLite: the file and its log, without the last commits of the log.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use locks_core::{Durability, Evidence, Expiry, LockGuard, LockManager};
use locks_tests::{
    engine::{Database, Engine, note, run_async},
    plain::Plain,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

const ROUNDS: usize = 200;
/// How many new lives run at a time.
const AT_ONCE: usize = 12;
const TTL: Duration = Duration::from_millis(400);
/// A lock of a dead session is granted after its ttl and a tenth, on a busy machine later.
const LIMIT: Duration = Duration::from_secs(20);
/// Versions above this count writes, because the clock is behind.
const AHEAD_OF_THE_CLOCK: i64 = 1 << 52;

async fn connect(url: &str, durability: Durability) -> LockManager {
    let builder = LockManager::builder()
        .expiry(Expiry::After(TTL))
        .evidence(Evidence::Time)
        .durability(durability);
    builder.connect(url).await.expect("it connects")
}

/// The version of the row, its boot, and the last version that is on the disk.
async fn row(plain: &mut Plain) -> (i64, Option<(String, i64)>) {
    let rows = plain.rows("SELECT version, stamp FROM locks").await;
    let rows = rows.expect("it can be read");
    let version = rows[0].get("version").expect("a number").parse();
    let stamp = rows[0].get("stamp").expect("a text");
    let mut parts = stamp.split('/').skip(1);
    let end = parts.next().zip(parts.next());
    let end = end.map(|(boot, on_disk)| (boot.into(), on_disk.parse().expect("a number")));
    (version.expect("a number"), end)
}

/// The places in a log behind its commits (<https://sqlite.org/fileformat2.html#walformat>).
fn commits(log: &[u8]) -> Vec<usize> {
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().expect("4 bytes"));
    if log.len() < 32 {
        return Vec::new();
    }
    let frame = 24 + number(8) as usize;
    let frames = (32..)
        .step_by(frame)
        .take_while(|at| at + frame <= log.len());
    // What follows is of an earlier use of the log.
    let frames = frames.take_while(|at| log[at + 8..at + 16] == log[16..24]);
    let commits = frames.filter(|at| number(at + 4) != 0);
    commits.map(|at| at + frame).collect()
}

/// The files without the last commits, as a power loss may leave them.
struct Remains {
    path: PathBuf,
    /// How many commits were undone.
    undone: usize,
}

/// Copies the database and cuts its log; `on_disk` is a version that cannot be undone.
async fn lose_power(from: &Path, to: PathBuf, on_disk: i64, wanted: usize) -> Remains {
    let log = |path: &Path| PathBuf::from(format!("{}-wal", path.display()));
    let bytes = fs::read(log(from)).expect("there is a log");
    let places = commits(&bytes);
    for undone in (0..=wanted.min(places.len().saturating_sub(1))).rev() {
        fs::copy(from, &to).expect("it can be copied");
        let end = places
            .len()
            .checked_sub(1 + undone)
            .map_or(0, |at| places[at]);
        fs::write(log(&to), &bytes[..end]).expect("it can be written");
        let mut plain = Plain::connect(&format!("sqlite://{}", to.display()))
            .await
            .expect("the file opens");
        let (version, _) = row(&mut plain).await;
        // The machine was restarted.
        let sql = "UPDATE locks SET stamp = substr(stamp, 1, 33) || 'earlier' || substr(stamp, 50)";
        plain.execute(sql).await.expect("it can be written");
        plain.close().await.expect("it closes");
        if version >= on_disk {
            return Remains { path: to, undone };
        }
    }
    panic!("the last commit is version {on_disk} or a later one");
}

/// Acquires the lock as the first process after the restart, and returns its token.
async fn next_life(remains: Remains, number: usize) -> (usize, i64) {
    let locks = connect(
        &format!("sqlite://{}", remains.path.display()),
        Durability::Normal,
    )
    .await;
    let granted = locks.wait("x").timeout(LIMIT).await;
    let token = granted.expect("no dead session blocks it").token();
    locks.close().await.expect("it closes");
    (number, token)
}

#[test]
fn power_loss_gives_no_token_twice_and_leaves_no_lock() {
    run_async(Engine::Sqlite, async |db: Database| {
        let path = db.url().strip_prefix("sqlite://").expect("a path");
        let path = PathBuf::from(path.split('?').next().expect("a path"));
        let remains = TempDir::new().expect("a directory");
        let first = connect(db.url(), Durability::Normal).await;
        drop(first.acquire("x").await.expect("it is free"));
        first.close().await.expect("it closes");
        let sql = format!("UPDATE locks SET version = {AHEAD_OF_THE_CLOCK}");
        db.execute(&sql).await;
        let locks = connect(db.url(), Durability::Normal).await;
        let mut plain = db.connect().await;
        let mut lives = JoinSet::new();
        let (mut given, mut undone, mut held) = (Vec::new(), 0, None::<LockGuard>);
        let mut results = Vec::new();
        for round in 0..ROUNDS {
            for _ in 0..fastrand::usize(1..5) {
                if let Some(guard) = held.take() {
                    guard.release().await.expect("it is held");
                }
                let guard = locks.acquire("x").await.expect("it is free");
                given.push(guard.token());
                held = Some(guard);
            }
            if fastrand::bool()
                && let Some(guard) = held.take()
            {
                guard.release().await.expect("it is held");
            }
            let (_, end) = row(&mut plain).await;
            let Some((_, on_disk)) = end else {
                note("left out: the boot of this machine is not known");
                return;
            };
            let to = remains.path().join(format!("{round}.db"));
            let left = lose_power(&path, to, on_disk, fastrand::usize(..12)).await;
            undone += left.undone;
            if lives.len() >= AT_ONCE {
                results.extend(lives.join_next().await);
            }
            lives.spawn(next_life(left, given.len()));
        }
        results.extend(lives.join_all().await.into_iter().map(Ok));
        for result in results {
            let (number, token) = result.expect("no panic");
            let highest = given[..number].iter().max().expect("some were given");
            assert!(token > *highest, "{token} after {highest}");
        }
        note(&format!(
            "{undone} commits were undone in {ROUNDS} power losses"
        ));
        assert!(undone > ROUNDS, "{undone}");
    });
}

#[test]
fn full_durability_leaves_every_version_on_the_disk() {
    run_async(Engine::Sqlite, async |db: Database| {
        let mut plain = db.connect().await;
        let mut distances = Vec::new();
        for (durability, expiry) in [
            (Durability::Full, Expiry::After(TTL)),
            (Durability::Normal, Expiry::Never),
            (Durability::Normal, Expiry::After(TTL)),
        ] {
            let builder = LockManager::builder().expiry(expiry).durability(durability);
            let locks = builder.connect(db.url()).await.expect("it connects");
            for _ in 0..3 {
                let guard = locks.acquire("x").await.expect("it is free");
                guard.release().await.expect("it is held");
            }
            let (version, end) = row(&mut plain).await;
            let Some((_, on_disk)) = end else {
                note("left out: the boot of this machine is not known");
                return;
            };
            distances.push(version - on_disk);
            locks.close().await.expect("it closes");
        }
        assert_eq!(distances[..2], [0, 0]);
        assert!(distances[2] > 0, "{distances:?}");
    });
}
