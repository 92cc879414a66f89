//! The traces that broke earlier designs of sessions and fences, one test each.

use std::{
    future::poll_fn,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use locks_core::{Expiry, LockError, LockGuard, LockManager};
use locks_tests::{
    engine::{Database, Engine, note, run_async},
    journal::{Journal, Tx},
    on_engine, on_every_engine,
    original::Original,
    relay::{How, Relay, When},
    row::LocksRow,
    sessions::{Session, fences, wait_until_only},
    wait, worker,
};

const SOON: Duration = Duration::from_secs(30);
/// Nothing expires during a test.
const LONG: Duration = Duration::from_mins(10);
const TTL: Duration = Duration::from_secs(1);
/// That something does not happen is no condition to wait for.
const A_WHILE: Duration = Duration::from_millis(500);

on_every_engine!(
    async a_fence_after_release_task_is_refused,
    async a_fence_after_release_all_is_refused,
    async a_dropped_commit_comes_before_the_next_grant,
    async an_observer_with_a_shorter_ttl_waits_for_the_holders,
    async only_the_evicted_namespace_is_lost,
    async repeated_acquire_gets_the_lock_of_a_dead_remote_holder,
    async second_acquire_gets_the_lock_of_a_dead_remote_holder,
    async sessions_that_come_and_go_are_never_taken_for_dead,
    async grant_of_a_process_killed_after_its_write_can_be_released,
);
on_every_engine!(
    servers:
    async a_commit_that_lands_late_comes_before_the_next_grant,
    async a_session_insert_that_lands_late_changes_nothing,
    async a_session_insert_without_an_answer_leaves_nothing,
    async grant_of_a_process_killed_before_its_answer_can_be_released,
    async a_session_that_begins_between_two_reads_is_not_dead,
);

async fn connect(url: &str, task: &str, ttl: Duration) -> LockManager {
    let builder = LockManager::builder()
        .task_id(task)
        .expiry(Expiry::After(ttl));
    builder.connect(url).await.expect("it connects")
}

async fn commit(guard: &LockGuard, tx: Tx) -> Result<(), LockError> {
    on_engine!(Tx, tx, tx => guard.commit(tx).await)
}

async fn fence(guard: &LockGuard, tx: &mut Tx) -> Result<(), LockError> {
    on_engine!(Tx, tx, tx => guard.fence(tx).await)
}

/// The lock was taken away. Its guard does not know that yet, and commits.
async fn must_be_refused(db: &Database, guard: &LockGuard) {
    let journal = Journal::open(db.url()).await;
    let mut tx = journal.begin_entry("fenced").await.expect("it begins");
    let refused = fence(guard, &mut tx)
        .await
        .expect_err("the lock was taken away");
    assert!(refused.is_lost(), "{refused}");
    drop(tx);
    let tx = journal.begin_entry("committed").await.expect("it begins");
    assert!(
        commit(guard, tx)
            .await
            .expect_err("it was taken away")
            .is_lost()
    );
    assert!(guard.is_lost());
    assert_eq!(journal.entries().await, [""; 0]);
}

async fn a_fence_after_release_task_is_refused(db: Database) {
    let locks = connect(db.url(), "a", LONG).await;
    let guard = locks.acquire("x").await.expect("it is free");
    let supervisor = connect(db.url(), "supervisor", LONG).await;
    assert_eq!(supervisor.release_task("a").await.expect("it can").len(), 1);
    must_be_refused(&db, &guard).await;
}

async fn a_fence_after_release_all_is_refused(db: Database) {
    let locks = connect(db.url(), "a", LONG).await;
    let guard = locks.acquire("x").await.expect("it is free");
    let supervisor = connect(db.url(), "supervisor", LONG).await;
    assert_eq!(supervisor.release_all().await.expect("it can").len(), 1);
    must_be_refused(&db, &guard).await;
}

/// A process of the original, without its pauses.
async fn original(db: &Database) -> Original {
    let original = Original::connect(db.url(), "original").await;
    let pause = Duration::from_millis(5);
    original.expect("it connects").with_pauses(pause, pause)
}

#[test]
fn a_fence_after_the_originals_release_by_task_id_is_refused() {
    run_async(Engine::MySql, async |db| {
        let locks = connect(db.url(), "a", LONG).await;
        let guard = locks.acquire("x").await.expect("it is free");
        let mut original = original(&db).await;
        assert_eq!(
            original.release_by_task_id("a").await.expect("it can"),
            ["x"]
        );
        original.acquire("x").await.expect("it is free");
        must_be_refused(&db, &guard).await;
    });
}

#[test]
fn a_fence_after_the_originals_release_all_is_refused() {
    run_async(Engine::MySql, async |db| {
        let locks = connect(db.url(), "a", LONG).await;
        let guard = locks.acquire("x").await.expect("it is free");
        let mut original = original(&db).await;
        original.release_all().await.expect("it can");
        original.acquire("x").await.expect("it is free");
        must_be_refused(&db, &guard).await;
        // Also after a process of this library has adopted the new row.
        original.release("x").await.expect("it holds it");
        let next = connect(db.url(), "b", LONG).await;
        let next = next.acquire("x").await.expect("it is free");
        assert!(next.token() > guard.token());
        assert!(
            guard
                .release()
                .await
                .expect_err("it was taken away")
                .is_lost()
        );
        assert!(!next.is_lost());
        next.release().await.expect("it is ours");
    });
}

/// The fence succeeded, then the original took the lock away, and another task of this library
/// requests it: the commit comes first.
async fn taken_away_while_fenced(db: Database, take_away: impl AsyncFnOnce(&mut Original)) {
    let locks = connect(db.url(), "a", LONG).await;
    let guard = locks.acquire("x").await.expect("it is free");
    let journal = Journal::open(db.url()).await;
    let mut tx = journal.begin_entry("fenced").await.expect("it begins");
    fence(&guard, &mut tx).await.expect("it is held");
    take_away(&mut original(&db).await).await;
    let next = connect(db.url(), "b", LONG).await;
    let mut next = tokio::spawn(async move { next.wait("x").await });
    let early = tokio::time::timeout(A_WHILE, &mut next).await;
    assert!(early.is_err(), "granted while a fenced transaction is open");
    tx.commit().await.expect("it was fenced in time");
    let next = next.await.expect("no panic").expect("it is granted");
    assert!(journal.has("fenced").await);
    assert!(next.token() > guard.token());
    assert!(
        guard
            .release()
            .await
            .expect_err("it was taken away")
            .is_lost()
    );
    next.release().await.expect("it is ours");
}

#[test]
fn fenced_commit_precedes_the_grant_after_the_originals_release_by_task_id() {
    run_async(Engine::MySql, async |db| {
        taken_away_while_fenced(db, async |original| {
            original.release_by_task_id("a").await.expect("it can");
        })
        .await;
    });
}

#[test]
fn fenced_commit_precedes_the_grant_after_the_originals_release_all() {
    run_async(Engine::MySql, async |db| {
        taken_away_while_fenced(db, async |original| {
            original.release_all().await.expect("it can");
        })
        .await;
    });
}

/// Polls a future this many times, and drops it if it has not completed by then.
async fn polled<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Pending if left > 0 => Poll::Pending,
            Poll::Pending => Poll::Ready(None),
            Poll::Ready(output) => Poll::Ready(Some(output)),
        }
    })
    .await
}

/// The body's future is dropped at any point of its commit. The next holder of the lock sees every
/// row that the commit will ever make visible.
async fn a_dropped_commit_comes_before_the_next_grant(db: Database) {
    let journal = Journal::open(db.url()).await;
    let locks = connect(db.url(), "a", LONG).await;
    let next = connect(db.url(), "b", LONG).await;
    let mut seen = Vec::new();
    let mut dropped = 0;
    for round in 0..60 {
        let entry = format!("round_{round:02}");
        let guard = locks.wait("x").await.expect("it is granted");
        let tx = journal.begin_entry(&entry).await.expect("it begins");
        let committed = polled(round % 10, commit(&guard, tx)).await;
        drop(guard);
        let guard = next.wait("x").await.expect("it is granted");
        let there = journal.has(&entry).await;
        match committed {
            Some(committed) => assert_eq!(committed.is_ok(), there),
            None => dropped += 1,
        }
        seen.push((entry, there));
        guard.release().await.expect("it is ours");
    }
    let at_last = journal.entries().await;
    for (entry, there) in &seen {
        assert_eq!(
            at_last.contains(entry),
            *there,
            "{entry} came after the next grant"
        );
    }
    let there = seen.iter().filter(|(_, there)| *there).count();
    note(&format!(
        "{}: of {} commits, {dropped} of which were dropped on the way, {there} happened",
        db.engine(),
        seen.len(),
    ));
    assert!(there > 0 && there < seen.len());
}

/// As above, with a commit that is in flight for long, also after its connection is closed.
async fn a_commit_that_lands_late_comes_before_the_next_grant(db: Database) {
    let relay = Relay::start(db.server_address());
    let journal = Journal::open(db.url()).await;
    let slow = Journal::open_existing(&db.url_via(relay.address())).await;
    let locks = connect(db.url(), "a", LONG).await;
    let next = connect(db.url(), "b", LONG).await;
    let guard = locks.acquire("x").await.expect("it is free");
    let tx = slow.begin_entry("late").await.expect("it begins");
    let late = 2 * A_WHILE;
    relay.arm(When::Containing(b"COMMIT".to_vec()), How::Delay(late));
    let sent = async {
        relay
            .wait_for(SOON, "the commit is sent", |counters| counters.delayed == 1)
            .await;
    };
    tokio::select! {
        committed = commit(&guard, tx) => panic!("it is under way: {committed:?}"),
        () = sent => {}
    }
    let dropped = Instant::now();
    drop(guard);
    let next = next.wait("x").timeout(SOON).await.expect("it is granted");
    assert!(journal.has("late").await, "granted before the commit");
    assert!(dropped.elapsed() > late / 2, "the commit was not late");
    next.release().await.expect("it is ours");
}

/// The insert is stalled, and reaches the server long after its session was given up.
async fn a_session_insert_that_lands_late_changes_nothing(db: Database) {
    let relay = Relay::start(db.server_address());
    let locks = connect(&db.url_via(relay.address()), "late_task", LONG).await;
    let other = connect(db.url(), "other", LONG).await;
    // The row exists, and the driver's statements are prepared.
    other
        .acquire("y")
        .await
        .expect("it is free")
        .release()
        .await
        .expect("it is ours");
    relay.arm(When::Containing(b"late_task".to_vec()), How::Stall);
    let guard = locks
        .wait("x")
        .timeout(SOON)
        .await
        .expect("under another session");
    assert_eq!(relay.counters().stalled, 1);
    let session = Session::of(&db, "late_task").await.expect("it holds");
    relay.heal();
    let both = async || {
        let mut all = Session::all(&db).await;
        all.retain(|session| session.task == "late_task");
        all.len() == 2
    };
    wait::until(SOON, "the insert lands", both).await;
    // The session has no owner, and blocks no request.
    assert!(!guard.is_lost());
    let row = LocksRow::read(&db, "platform").await.expect("it is there");
    assert!(
        row.meta_json
            .as_deref()
            .is_some_and(|meta| meta.contains(&session.id))
    );
    assert!(other.acquire("x").await.expect_err("it is held").is_busy());
    guard.release().await.expect("it is ours");
    let guard = other.acquire("x").await.expect("it is free");
    // A supervisor has nothing to report, and removes the session.
    assert!(
        other
            .release_task("late_task")
            .await
            .expect("it can")
            .is_empty()
    );
    assert!(!guard.is_lost());
    wait_until_only(&db, &["other"], SOON).await;
}

/// The insert was executed and its answer lost: the driver tries another id, and no row remains.
async fn a_session_insert_without_an_answer_leaves_nothing(db: Database) {
    let relay = Relay::start(db.server_address());
    let locks = connect(&db.url_via(relay.address()), "cut_task", LONG).await;
    relay.arm(When::Containing(b"cut_task".to_vec()), How::CutAfter);
    let guard = locks.acquire("x").await.expect("under another session");
    assert_eq!(relay.counters().cut_after, 1);
    wait::until(SOON, "one session", async || {
        Session::all(&db).await.len() == 1 && fences(&db).await.len() == 1
    })
    .await;
    assert!(!guard.is_lost());
    guard.release().await.expect("it is ours");
    locks.close().await.expect("it closes");
    wait_until_only(&db, &[], SOON).await;
}

async fn an_observer_with_a_shorter_ttl_waits_for_the_holders(db: Database) {
    let ttl = 3 * TTL;
    let mut holder = worker!(db.url(), "holder", "--ttl", ttl.as_millis().to_string());
    holder.acquire("x");
    let successor = connect(db.url(), "successor", Duration::from_millis(200)).await;
    let (before, _) = Session::next_beat(&db, "holder", SOON).await;
    holder.stop();
    let guard = successor
        .wait("x")
        .timeout(SOON)
        .await
        .expect("it passes on");
    assert!(before.elapsed() >= ttl, "after {:?}", before.elapsed());
    holder.cont();
    assert_eq!(holder.ask("lost"), "true");
    guard.release().await.expect("it is ours");
}

async fn only_the_evicted_namespace_is_lost(db: Database) {
    let locks = connect(db.url(), "a", TTL).await;
    let journal = Journal::open(db.url()).await;
    let namespaces = ["one", "two", "three"];
    let mut guards = Vec::new();
    for namespace in namespaces {
        let locks = locks.with_namespace(namespace).expect("a namespace");
        guards.push(locks.acquire("x").await.expect("it is free"));
    }
    let supervisor = connect(db.url(), "supervisor", LONG).await;
    let two = supervisor.with_namespace("two").expect("a namespace");
    assert_eq!(two.release_task("a").await.expect("it can").len(), 1);
    let lost = tokio::time::timeout(SOON, guards[1].lost())
        .await
        .expect("the loss is reported");
    assert_eq!(lost.names[0].as_str(), "x");
    let next = two.acquire("x").await.expect("it is free");
    // The other sessions continue to beat, for longer than they live without.
    tokio::time::sleep(2 * TTL).await;
    for (guard, held) in guards.iter().zip([true, false, true]) {
        assert_eq!(guard.is_lost(), !held);
        let tx = journal.begin_entry("entry").await.expect("it begins");
        assert_eq!(commit(guard, tx).await.is_ok(), held);
    }
    assert!(!next.is_lost());
    let sessions = Session::all(&db).await;
    let mut of_a: Vec<_> = sessions.iter().filter(|s| s.task == "a").collect();
    of_a.retain(|session| session.namespace != "two");
    assert_eq!(of_a.len(), 2);
}

/// A dead holder that looks like one on another machine.
async fn dead_remote_holder(db: &Database) {
    let mut holder = worker!(db.url(), "holder", "--ttl", TTL.as_millis().to_string());
    holder.acquire("x");
    db.execute("UPDATE lock_sessions SET host = 'elsewhere'")
        .await;
    holder.kill();
}

async fn repeated_acquire_gets_the_lock_of_a_dead_remote_holder(db: Database) {
    let locks = connect(db.url(), "a", LONG).await;
    let second = connect(db.url(), "b", LONG).await;
    dead_remote_holder(&db).await;
    let start = Instant::now();
    let mut refused = 0;
    let guard = wait::until_some(2 * TTL + SOON, "it is granted", async || {
        for locks in [&locks, &second] {
            match locks.acquire("x").await {
                Ok(guard) => return Some(guard),
                Err(error) if error.is_busy() => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        None
    })
    .await;
    assert!(refused > 10, "{refused}");
    assert!(start.elapsed() < 3 * TTL, "after {:?}", start.elapsed());
    guard.release().await.expect("it is ours");
}

/// The observation continues without a waiting request.
async fn second_acquire_gets_the_lock_of_a_dead_remote_holder(db: Database) {
    let locks = connect(db.url(), "a", LONG).await;
    dead_remote_holder(&db).await;
    assert!(locks.acquire("x").await.expect_err("it is held").is_busy());
    let held = async || {
        !LocksRow::read(&db, "platform")
            .await
            .expect("it is there")
            .is_empty()
    };
    wait::until(3 * TTL, "the dead holder is gone", async || !held().await).await;
    locks
        .acquire("x")
        .await
        .expect("it is free")
        .release()
        .await
        .expect("it is ours");
}

/// Sessions begin, hold and end, one after the other. None of them may be taken for dead.
async fn come_and_go(db: &Database, locks: &LockManager) {
    let mut conn = db.connect().await;
    for round in 0..25 {
        let locks = locks.with_task_id(&format!("task_{round}"));
        let locks = locks.expect("an id");
        let name = format!("job_{round}");
        let guard = locks.acquire(&name).await.expect("it is free");
        // Long enough for an observer to look several times.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..60))).await;
        assert!(!guard.is_lost());
        let row = LocksRow::read_on(&mut conn, "platform").await;
        let held = row.expect("it is there").held();
        assert_eq!(held[&name], locks.task_id(), "taken for dead");
        let sessions = Session::all_on(&mut conn).await;
        let own = sessions.iter().any(|s| s.task == locks.task_id());
        assert!(own, "taken for dead");
        guard.release().await.expect("it was not taken away");
    }
}

async fn sessions_that_come_and_go_are_never_taken_for_dead(db: Database) {
    let locks = connect(db.url(), "a", LONG).await;
    let observer = connect(db.url(), "observer", Duration::from_millis(200)).await;
    let obstacle = locks.acquire("x").await.expect("it is free");
    let waiting = tokio::spawn(async move { observer.wait("x").await });
    come_and_go(&db, &locks).await;
    obstacle.release().await.expect("it was not taken away");
    drop(waiting.await.expect("no panic").expect("it is granted"));
}

/// As above, with an observer whose every request is delayed, so that much happens between two of
/// them.
async fn a_session_that_begins_between_two_reads_is_not_dead(db: Database) {
    let relay = Relay::start(db.server_address());
    let locks = connect(db.url(), "a", LONG).await;
    let observer = connect(&db.url_via(relay.address()), "observer", LONG).await;
    let obstacle = locks.acquire("x").await.expect("it is free");
    let waiting = tokio::spawn(async move { observer.wait("x").await });
    let late = async {
        loop {
            let delayed = relay.counters().delayed;
            relay.arm(When::Next, How::Delay(Duration::from_millis(15)));
            relay
                .wait_for(SOON, "a late request", |now| now.delayed > delayed)
                .await;
        }
    };
    tokio::select! {
        () = come_and_go(&db, &locks) => {}
        () = late => {}
    }
    assert!(relay.counters().delayed > 10, "{:?}", relay.counters());
    relay.disarm();
    obstacle.release().await.expect("it was not taken away");
    drop(waiting.await.expect("no panic").expect("it is granted"));
}

/// The lock of a killed holder without expiry is held until a supervisor releases it.
async fn supervisor_frees_it(db: &Database, name: &str) {
    let successor = connect(db.url(), "successor", LONG).await;
    let asked = successor.wait(name).timeout(A_WHILE).await;
    assert!(asked.expect_err("it is held").is_timeout());
    let forgotten = successor.release_task("holder").await.expect("it can");
    assert_eq!(forgotten.len(), 1);
    assert_eq!(forgotten[0].name.as_str(), name);
    let guard = successor.acquire(name).await.expect("it is free");
    assert!(Some(guard.token()) > forgotten[0].token);
    guard.release().await.expect("it is ours");
    wait_until_only(db, &["successor"], SOON).await;
}

async fn is_written(db: &Database, name: &str) {
    wait::until(SOON, "the grant is written", async || {
        let row = LocksRow::read(db, "platform").await;
        row.is_some_and(|row| row.held().contains_key(name))
    })
    .await;
}

async fn grant_of_a_process_killed_after_its_write_can_be_released(db: Database) {
    let mut holder = worker!(db.url(), "holder", "--never");
    holder.send("acquire x");
    is_written(&db, "x").await;
    holder.kill();
    supervisor_frees_it(&db, "x").await;
}

async fn grant_of_a_process_killed_before_its_answer_can_be_released(db: Database) {
    let relay = Relay::start(db.server_address());
    let mut holder = worker!(db.url_via(relay.address()), "holder", "--never");
    relay.arm(When::Containing(b"some_lock".to_vec()), How::StallAnswer);
    holder.send("acquire some_lock");
    // The row shows it before the server answers.
    is_written(&db, "some_lock").await;
    relay
        .wait_for(SOON, "the answer", |seen| seen.stalled == 1)
        .await;
    holder.expect_silence(A_WHILE);
    holder.kill();
    supervisor_frees_it(&db, "some_lock").await;
}
