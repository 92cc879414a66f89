//! A remote database: a dead holder is evicted although other processes write the row continuously,
//! and although a round trip is longer than half of the holder's ttl.
//!
//! The observer treats the holder as a process of another machine: with `Evidence::Time` it does
//! not look at the process table.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use locks_core::{Evidence, LockGuard, LockManager};
use locks_tests::{
    engine::{Database, note},
    on_every_engine,
    relay::Relay,
    row::wait_until_queued,
    sessions::Session,
    worker,
};
use tokio::task::{JoinHandle, JoinSet};

const SOON: Duration = Duration::from_secs(20);
/// The ttl of the holder while other managers write.
const TTL: Duration = Duration::from_secs(3);
/// The latency from the observer to the database, one way.
const NEAR: Duration = Duration::from_millis(5);
/// The latency for the holder with the shortest ttl, one way.
const FAR: Duration = Duration::from_millis(60);
/// The interval at which each writer acquires and releases a lock.
const PERIOD: Duration = Duration::from_millis(20);
const WRITERS: usize = 2;
/// Fewer pairs per second would show nothing.
const LEAST_RATE: f64 = 40.0;

on_every_engine!(
    servers:
    async a_killed_holder_is_evicted_while_others_write,
    async a_stopped_holder_is_evicted_while_others_write,
    async a_holder_whose_ttl_is_shorter_than_two_round_trips_is_evicted,
);

/// A manager that uses time evidence only.
async fn connect(url: &str, task: &str) -> LockManager {
    let builder = LockManager::builder().task_id(task);
    let builder = builder.evidence(Evidence::Time);
    builder.connect(url).await.expect("it connects")
}

/// Managers near the database that acquire and release locks of other names.
struct Writers {
    ended: Arc<AtomicBool>,
    pairs: Arc<AtomicU64>,
    start: Instant,
    tasks: JoinSet<()>,
}

impl Writers {
    async fn start(db: &Database) -> Self {
        let mut this = Self {
            ended: Arc::default(),
            pairs: Arc::default(),
            start: Instant::now(),
            tasks: JoinSet::new(),
        };
        for n in 0..WRITERS {
            let locks = connect(db.url(), &format!("writer-{n}")).await;
            let (ended, pairs) = (Arc::clone(&this.ended), Arc::clone(&this.pairs));
            this.tasks.spawn(async move {
                let name = format!("written-{n}");
                let mut ticks = tokio::time::interval(PERIOD);
                while !ended.load(Relaxed) {
                    ticks.tick().await;
                    let guard = locks.wait(&name).await.expect("no other task wants it");
                    guard.release().await.expect("it is held");
                    pairs.fetch_add(1, Relaxed);
                }
            });
        }
        this.start = Instant::now();
        this
    }

    /// Stops the writers and returns their rate in pairs per second.
    async fn stop(mut self) -> f64 {
        let pairs = u32::try_from(self.pairs.load(Relaxed)).expect("few");
        let seconds = self.start.elapsed().as_secs_f64();
        self.ended.store(true, Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a writer does not fail");
        }
        f64::from(pairs) / seconds
    }
}

/// Requests the lock `x`, and returns once the request is in the queue.
async fn queue(db: &Database, observer: &LockManager) -> JoinHandle<LockGuard> {
    let waiting = observer.wait("x").timeout(4 * SOON);
    let waiting = tokio::spawn(async move { waiting.await.expect("it is granted in the end") });
    wait_until_queued(db, "platform", 1).await;
    waiting
}

/// The time until the request is granted, which must be within the limit.
async fn granted(waiting: JoinHandle<LockGuard>, since: Instant, limit: Duration) -> Duration {
    let left = limit.saturating_sub(since.elapsed());
    let guard = tokio::time::timeout(left, waiting).await;
    let Ok(guard) = guard else {
        panic!("the dead holder is not evicted within {limit:?}");
    };
    let took = since.elapsed();
    drop(guard.expect("no panic"));
    took
}

#[derive(Clone, Copy)]
enum Death {
    Kill,
    Stop,
}

async fn evicted_while_others_write(db: &Database, death: Death) {
    let relay = Relay::start(db.server_address());
    let mut holder = worker!(db.url(), "holder", "--ttl", TTL.as_millis().to_string());
    holder.acquire("x");
    let observer = connect(&db.url_via(relay.address()), "observer").await;
    relay.set_latency(NEAR);
    let waiting = queue(db, &observer).await;
    let writers = Writers::start(db).await;
    // The moment after a renewal is the worst case: the observer has to wait for the whole ttl.
    for _ in 0..2 {
        Session::next_beat(db, "holder", SOON).await;
    }
    match death {
        Death::Kill => holder.kill(),
        Death::Stop => holder.stop(),
    }
    let dead = Instant::now();
    let took = granted(waiting, dead, 5 * TTL).await;
    let rate = writers.stop().await;
    note(&format!(
        "{}: granted after {:.2} ttls, while others wrote {rate:.0} pairs per second",
        db.engine(),
        took.as_secs_f64() / TTL.as_secs_f64()
    ));
    assert!(rate > LEAST_RATE, "only {rate:.0} pairs per second");
    // A tenth is the margin, a twentieth the pause between two looks, and another one the time of
    // some fifteen round trips.
    assert!(took <= TTL.mul_f64(1.25), "{took:?}");
    if matches!(death, Death::Stop) {
        holder.cont();
        let reported = holder.ask("loss");
        assert!(reported.starts_with("loss: "), "{reported}");
    }
}

async fn a_killed_holder_is_evicted_while_others_write(db: Database) {
    evicted_while_others_write(&db, Death::Kill).await;
}

async fn a_stopped_holder_is_evicted_while_others_write(db: Database) {
    evicted_while_others_write(&db, Death::Stop).await;
}

/// The observer's looks are at least half of the ttl apart.
async fn a_holder_whose_ttl_is_shorter_than_two_round_trips_is_evicted(db: Database) {
    let relay = Relay::start(db.server_address());
    let mut holder = worker!(db.url(), "holder", "--ttl", "200");
    holder.acquire("x");
    let observer = connect(&db.url_via(relay.address()), "observer").await;
    relay.set_latency(FAR);
    let waiting = queue(&db, &observer).await;
    // A live holder keeps its lock.
    Session::next_beat(&db, "holder", SOON).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished(), "a live holder was evicted");
    assert_eq!(holder.ask("lost"), "false");
    holder.kill();
    let took = granted(waiting, Instant::now(), Duration::from_secs(3)).await;
    note(&format!(
        "{}: a dead holder with a ttl of 200 ms was evicted after {took:?}",
        db.engine()
    ));
}
