//! Two processes handing one name to and fro.

use std::time::{Duration, Instant};

use clap::ValueEnum as _;
use locks_core::{LockGuard, LockManager};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::sleep;

use super::Run;
use crate::{
    Result,
    contenders::{Blocking, Contender, OneRow},
    engine::{Database, Engine},
    process::Process,
    report::Target,
    statistics::{median, micros, ratio},
    worker::when_told,
};

const NAME: &str = "app_task_1";
const TURN: Duration = Duration::from_millis(1500);
const ROUNDS: usize = 10;
/// How long a lock is held, at least and at most: the other process waits meanwhile.
const HELD: (u64, u64) = (10, 30);

/// A time in which a process held the lock: when it began to wait, got it, and began to give
/// it back, in nanoseconds of the clock that all processes share.
type Hold = [u64; 3];

/// W6: from the release to the grant of the other.
pub(super) async fn measure(run: &mut Run<'_>, database: &Database) -> Result<()> {
    let mut contenders = vec![Contender::Ours];
    if run.engine != Engine::Sqlite {
        contenders.push(Contender::ServerLock);
    }
    let mut teams = Vec::new();
    for contender in contenders {
        teams.push((
            contender,
            start(contender, run.engine, database)?,
            Vec::new(),
        ));
    }
    for _ in run.rounds(ROUNDS, "two processes, one name") {
        for (_, processes, delays) in &mut teams {
            let holds: Vec<Vec<Hold>> = Process::work(processes, run.time(TURN))?;
            delays.push(median(&delays_of(holds)));
        }
    }
    let ours = teams[0].2.clone();
    let mut figure = run.figure("release to grant in another process", "µs", median(&ours));
    if let Some((contender, _, theirs)) = teams.get(1) {
        let name = match run.engine {
            Engine::Postgres => "pg_advisory_lock",
            engine => contender.name(engine),
        };
        figure = figure.beside(format!("µs, {name}"), median(theirs), ratio(&ours, theirs));
    }
    figure = figure.aiming_at(match run.engine {
        Engine::Sqlite => Target::AtMost(5_000.0),
        Engine::Mysql => Target::AtMost(10_000.0),
        Engine::Postgres => Target::RatioAtMost(3.0),
    });
    if !run.arguments.quick {
        let original = original(run, database).await?;
        let beside = run
            .figure("release to grant in another process", "µs", median(&ours))
            .beside(
                "µs, the original's wait",
                original,
                median(&ours) / original,
            );
        run.report(beside);
    }
    run.report(figure);
    Ok(())
}

fn start(contender: Contender, engine: Engine, database: &Database) -> Result<Vec<Process>> {
    let contender = contender.to_possible_value().ok_or("a hidden contender")?;
    let engine = engine.to_possible_value().ok_or("a hidden engine")?;
    let arguments = vec!["hand-over", contender.get_name(), engine.get_name(), NAME];
    Process::start_all(&database.url, &[arguments.clone(), arguments])
}

/// The delays of the hand-overs from one process to the other, which waited for it.
fn delays_of(holds: Vec<Vec<Hold>>) -> Vec<f64> {
    let numbered = holds.into_iter().zip(0..);
    let mut all: Vec<(Hold, u32)> = numbered
        .flat_map(|(holds, process)| holds.into_iter().map(move |hold| (hold, process)))
        .collect();
    all.sort_by_key(|([_, granted, _], _)| *granted);
    let delay = |pair: &[(Hold, u32)]| {
        let ([.., released], from) = pair[0];
        let ([asked, granted, _], to) = pair[1];
        // Who asked later than that did not wait.
        let waited = from != to && asked < released;
        waited.then(|| micros(Duration::from_nanos(granted.saturating_sub(released))))
    };
    all.windows(2).filter_map(delay).collect()
}

/// One hand-over of the original, which looks once in 10 s.
async fn original(run: &Run<'_>, database: &Database) -> Result<f64> {
    run.say("the original waits 10 s");
    let holder = OneRow::connect(run.engine, &database.url, 1, None).await?;
    let waiter = OneRow::connect(run.engine, &database.url, 1, None).await?;
    if !holder.acquire(NAME).await? {
        return Err("somebody holds it".into());
    }
    let waiting = tokio::spawn(async move {
        waiter.wait(NAME).await?;
        Result::<Instant>::Ok(Instant::now())
    });
    sleep(Duration::from_millis(HELD.1)).await;
    let released = Instant::now();
    holder.release(NAME).await?;
    Ok(micros(waiting.await??.duration_since(released)))
}

/// Either way to wait for the lock.
enum Waiter {
    Ours(LockManager, Option<LockGuard>),
    Server(Blocking),
}

impl Waiter {
    async fn lock(&mut self, name: &str) -> Result<()> {
        match self {
            Self::Ours(locks, guard) => *guard = Some(locks.wait(name).await?),
            Self::Server(locks) => locks.lock(name).await?,
        }
        Ok(())
    }

    async fn unlock(&mut self, name: &str) -> Result<()> {
        match self {
            Self::Ours(_, guard) => match guard.take() {
                Some(guard) => Ok(guard.release().await?),
                None => Ok(()),
            },
            Self::Server(locks) => locks.unlock(name).await,
        }
    }
}

/// What each of the two processes does.
pub(crate) async fn worker(
    contender: Contender,
    engine: Engine,
    name: &str,
    url: &str,
) -> Result<()> {
    let mut waiter = match contender {
        Contender::Ours => Waiter::Ours(LockManager::connect(url).await?, None),
        _ => Waiter::Server(Blocking::connect(engine, url).await?),
    };
    when_told(async |time| {
        let start = Instant::now();
        let mut holds = Vec::<Hold>::new();
        while start.elapsed() < time {
            let asked = clock();
            waiter.lock(name).await?;
            let granted = clock();
            sleep(Duration::from_millis(fastrand::u64(HELD.0..HELD.1))).await;
            holds.push([asked, granted, clock()]);
            waiter.unlock(name).await?;
        }
        Ok(holds)
    })
    .await
}

/// Nanoseconds of the clock that all processes share.
fn clock() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}
