//! Holders whose process ends: their locks are free at once where the end of the process is seen,
//! and after their ttl elsewhere.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use locks_core::{Evidence, LockGuard, LockManager};
use locks_tests::{
    clock::median_and_longest,
    engine::{Database, all_engines_wanted, note},
    on_every_engine, peer,
    row::LocksRow,
    sessions::{Session, wait_until_only},
    wait, worker,
    worker::Worker,
};
use tokio::task::JoinHandle;

/// How long other requests may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// The limit for a grant after the holder's process was seen to have ended, also on a busy machine.
/// Its session would expire after 15 s.
const AT_ONCE: Duration = Duration::from_secs(5);
/// The ttl of a session that expires, and what an observer adds to it.
const TTL: Duration = Duration::from_secs(2);
const MARGIN: Duration = Duration::from_millis(200);
/// Further delays: the next look at the beat, and a busy machine.
const LATE: Duration = Duration::from_secs(2);

on_every_engine!(
    async zombie_counts_as_dead,
    async reused_process_id_counts_as_dead,
    async process_without_evidence_is_not_evicted,
    async without_evidence_a_killed_holder_expires,
    async killed_waiter_is_passed,
    async lock_without_expiry_outlives_its_process,
    async sessions_of_a_killed_process_are_removed,
);

async fn connect(db: &Database, evidence: Evidence) -> LockManager {
    let builder = LockManager::builder()
        .task_id("successor")
        .evidence(evidence);
    builder.connect(db.url()).await.expect("it connects")
}

/// Requests the lock, and returns once the request is in the queue.
async fn queue(db: &Database, locks: &LockManager, name: &'static str) -> JoinHandle<LockGuard> {
    let waiting = locks.wait(name).timeout(SOON);
    let waiting = tokio::spawn(async move { waiting.await.expect("it is granted in time") });
    let what = format!("a request waits for {name}");
    wait::until(SOON, &what, async || {
        locks.waiting().await.expect("the database answers").len() == 1
    })
    .await;
    assert_eq!(held_by(db, name).await.as_deref(), Some("holder"));
    waiting
}

async fn held_by(db: &Database, name: &str) -> Option<String> {
    let row = LocksRow::read(db, "platform").await.expect("it was used");
    row.held().get(name).cloned()
}

/// When the request was granted. Then releases the lock.
async fn granted(waiting: JoinHandle<LockGuard>) -> Instant {
    let guard = waiting.await.expect("it is granted");
    let at = Instant::now();
    guard.release().await.expect("it is ours");
    at
}

async fn zombie_counts_as_dead(db: Database) {
    let locks = connect(&db, Evidence::Process).await;
    let mut holder = worker!(db.url(), "holder");
    holder.acquire("x");
    let waiting = queue(&db, &locks, "x").await;
    let killed = Instant::now();
    holder.kill_unreaped();
    assert!(granted(waiting).await - killed < AT_ONCE);
    let stat = format!("/proc/{}/stat", holder.pid());
    if let Ok(stat) = std::fs::read_to_string(stat) {
        assert!(stat.contains(") Z "), "it was reaped: {stat}");
    }
}

/// The process identity in the dead holder's row is changed: the id of a live process, with the
/// start time of the dead one.
async fn reused_process_id_counts_as_dead(db: Database) {
    let locks = connect(&db, Evidence::Process).await;
    let mut holder = worker!(db.url(), "holder");
    holder.acquire("x");
    let process = Session::of(&db, "holder").await.expect("it holds").process;
    let (id, start) = process.split_once(':').expect("id and start");
    assert_eq!(id, holder.pid().to_string());
    holder.kill();
    let other = peer!("echo");
    let reused = format!("{}:{start}", other.pid());
    let sql = format!("UPDATE lock_sessions SET process = '{reused}' WHERE taskId = 'holder'");
    db.execute(&sql).await;
    let asked = Instant::now();
    granted(request(&locks, "x")).await;
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
}

/// Requests the lock without a look at the queue, in which the request may never appear.
fn request(locks: &LockManager, name: &'static str) -> JoinHandle<LockGuard> {
    let waiting = locks.wait(name).timeout(SOON);
    tokio::spawn(async move { waiting.await.expect("it is granted in time") })
}

/// To the next holder, the lock holder's directory in `/proc` is empty. The lock holder is stopped
/// for less than its ttl, then continues.
async fn process_without_evidence_is_not_evicted(db: Database) {
    let mut holder = worker!(db.url(), "holder");
    holder.acquire("x");
    let empty = tempfile::tempdir().expect("a directory");
    let mount = format!(
        "mount --bind '{}' /proc/{} && exec \"$@\"",
        empty.path().display(),
        holder.pid()
    );
    let script = |run: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", &*mount, "sh"])
            .args(run);
        command
    };
    let hidden = script(&["true"]).output();
    if !hidden.is_ok_and(|output| output.status.success()) {
        assert!(!all_engines_wanted() || !is_root(), "mounts must work");
        return note("left out: a process hidden in /proc, which only root can do");
    }
    let command = script(&[env!("CARGO_BIN_EXE_peer"), "worker", db.url(), "successor"]);
    let mut successor = Worker::of(locks_tests::process::Peer::start(command));
    successor.send("wait x");
    successor.expect_silence(TTL);
    assert_eq!(holder.ask("lost"), "false");
    // It sees all other processes as usual.
    holder.kill();
    successor.granted();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

async fn without_evidence_a_killed_holder_expires(db: Database) {
    let locks = connect(&db, Evidence::Time).await;
    let ttl = TTL.as_millis().to_string();
    let mut times = Vec::new();
    for _ in 0..3 {
        let mut holder = worker!(db.url(), "holder", "--ttl", ttl);
        holder.acquire("x");
        let waiting = queue(&db, &locks, "x").await;
        let (before, _) = Session::next_beat(&db, "holder", SOON).await;
        let killed = Instant::now();
        holder.kill();
        let granted = granted(waiting).await;
        // The last renewal came after `before`, and is valid for a whole ttl.
        assert!(granted - before >= TTL + MARGIN, "{:?}", granted - before);
        times.push(granted - killed);
    }
    let (median, longest) = median_and_longest(times);
    note(&format!(
        "{}: from kill -9 to the next grant by time, with a ttl of {TTL:?}: \
         median {median:?}, longest {longest:?}",
        db.engine()
    ));
    assert!(longest <= TTL + MARGIN + LATE, "{longest:?}");
}

async fn killed_waiter_is_passed(db: Database) {
    let locks = connect(&db, Evidence::Process).await;
    let mut holder = worker!(db.url(), "holder");
    holder.acquire("app_task_1");
    let mut waiter = worker!(db.url(), "waiter");
    waiter.send("wait box_update");
    wait::until(SOON, "it waits", async || {
        locks.waiting().await.expect("the database answers").len() == 1
    })
    .await;
    // The request is behind the update, which conflicts with it.
    let waiting = locks.wait("app_task_2").timeout(SOON);
    let waiting = tokio::spawn(async move { waiting.await.expect("it is granted in time") });
    wait::until(SOON, "both wait", async || {
        locks.waiting().await.expect("the database answers").len() == 2
    })
    .await;
    let killed = Instant::now();
    waiter.kill();
    assert!(granted(waiting).await - killed < AT_ONCE);
    assert_eq!(holder.ask("lost"), "false");
}

async fn lock_without_expiry_outlives_its_process(db: Database) {
    let locks = connect(&db, Evidence::Process).await;
    let mut holder = worker!(db.url(), "holder", "--never");
    let token = holder.acquire("x");
    holder.kill();
    let asked = locks.wait("x").timeout(TTL).await;
    assert!(asked.expect_err("it is held").is_timeout());
    let forgotten = locks.release_task("holder").await.expect("it can");
    let forgotten: Vec<_> = forgotten
        .iter()
        .map(|h| (h.name.as_str(), h.token))
        .collect();
    assert_eq!(forgotten, [("x", Some(token))]);
    locks
        .acquire("x")
        .await
        .expect("it is free")
        .release()
        .await
        .expect("it is ours");
}

/// Sessions that hold nothing block no request, so no refusal leads to a look at them.
async fn sessions_of_a_killed_process_are_removed(db: Database) {
    let mut holder = worker!(db.url(), "holder");
    holder.acquire("x");
    assert_eq!(holder.ask("release"), "released");
    holder.kill();
    assert!(
        Session::of(&db, "holder").await.is_some(),
        "it left its session"
    );
    let locks = connect(&db, Evidence::Process).await;
    locks
        .acquire("y")
        .await
        .expect("it is free")
        .release()
        .await
        .expect("it is ours");
    wait_until_only(&db, &["successor"], SOON).await;
    locks.close().await.expect("it closes");
    wait_until_only(&db, &[], SOON).await;
}
