//! Processes take one lock over from each other.

use std::time::{Duration, Instant};

use clap::ValueEnum as _;
use locks_core::{LockGuard, LockManager};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::Run;
use crate::{
    Result,
    contenders::{Blocking, Contender, OneRow, Setup},
    engine::{Database, Engine},
    process::Process,
    report::Target,
    statistics::{Rounds, Stopwatch, median, micros, number},
    worker::work_on_demand,
};

const NAME: &str = "app_task_1";
const TURN: Duration = Duration::from_millis(1500);
const ROUNDS: usize = 10;
/// How long a lock is held, at least and at most, in milliseconds. The other processes wait.
const HELD: (u64, u64) = (10, 30);

/// A time in which a process held the lock: the start of the wait, the grant and the start of the
/// release, in nanoseconds of the clock that all processes share.
type Hold = [u64; 3];

/// What a process did in a round.
#[derive(Debug, Deserialize, Serialize)]
struct Holds {
    holds: Vec<Hold>,
    /// The CPU time that it used, in microseconds.
    cpu: f64,
}

/// W6 and W11: from the release to the grant in another process, for so many processes.
pub(super) async fn measure(
    run: &mut Run<'_>,
    database: &Database,
    processes: usize,
) -> Result<()> {
    let what = match processes {
        2 => "release to grant in another process".to_owned(),
        processes => format!("release to grant, {processes} processes"),
    };
    let mut contenders = vec![Contender::Ours];
    if run.has_references() && run.engine != Engine::Sqlite {
        contenders.push(Contender::ServerLock);
    }
    let mut teams = Vec::new();
    for contender in contenders {
        teams.push((
            contender,
            start(contender, &run.setup(database), processes)?,
            Rounds::default(),
        ));
    }
    for _ in run.rounds(ROUNDS, format_args!("{processes} processes, one name")) {
        for (_, processes, rounds) in &mut teams {
            let done: Vec<Holds> = Process::work(processes, run.time(TURN))?;
            let cpu: f64 = done.iter().map(|process| process.cpu).sum();
            let holds: usize = done.iter().map(|process| process.holds.len()).sum();
            rounds.push(median(&delays_of(done)), cpu / number(holds));
        }
    }
    let ours = teams[0].2.clone();
    let mut figure = run
        .figure(&what, "µs", ours.median())
        .with_cpu(median(&ours.cpu));
    if let Some((contender, _, reference)) = teams.get(1) {
        let name = match run.engine {
            Engine::Postgres => "pg_advisory_lock",
            engine => contender.name(engine),
        };
        let name = format!("µs, {name}");
        figure = figure.compared_with(name, reference.median(), ours.ratio(reference));
    }
    if processes == 2 {
        figure = figure.with_target(match run.engine {
            Engine::Sqlite => Target::AtMost(500.0),
            Engine::Mysql => Target::AtMost(2_000.0),
            Engine::Postgres => Target::RatioAtMost(2.5),
        });
    }
    run.report(figure);
    if processes == 2 && run.has_references() && !run.arguments.quick {
        let original = original(run, database).await?;
        let ours = ours.median();
        let figure = run.figure(&what, "µs", ours).compared_with(
            "µs, the original's wait",
            original,
            ours / original,
        );
        run.report(figure);
    }
    for (_, processes, _) in teams {
        Process::end_all(processes)?;
    }
    Ok(())
}

fn start(contender: Contender, setup: &Setup, processes: usize) -> Result<Vec<Process>> {
    let contender = contender.to_possible_value().ok_or("a hidden contender")?;
    let engine = setup.engine.to_possible_value().ok_or("a hidden engine")?;
    let arguments = vec!["hand-over", contender.get_name(), engine.get_name(), NAME];
    Process::start_all(setup, &vec![arguments; processes])
}

/// The delays of the hand-overs to a process that was waiting when the other one released.
fn delays_of(done: Vec<Holds>) -> Vec<f64> {
    let numbered = done.into_iter().zip(0..);
    let mut all: Vec<(Hold, u32)> = numbered
        .flat_map(|(done, process)| done.holds.into_iter().map(move |hold| (hold, process)))
        .collect();
    all.sort_by_key(|([_, granted, _], _)| *granted);
    let delay = |pair: &[(Hold, u32)]| {
        let ([.., released], from) = pair[0];
        let ([asked, granted, _], to) = pair[1];
        // A process that asked after the release did not wait.
        let waited = from != to && asked < released;
        waited.then(|| micros(Duration::from_nanos(granted.saturating_sub(released))))
    };
    all.windows(2).filter_map(delay).collect()
}

/// One hand-over of the original, which reads the row once in 10 s.
async fn original(run: &Run<'_>, database: &Database) -> Result<f64> {
    run.say("the original waits 10 s");
    let holder = OneRow::connect(run.engine, &database.url, 1, None).await?;
    let waiter = OneRow::connect(run.engine, &database.url, 1, None).await?;
    if !holder.acquire(NAME).await? {
        return Err(format!("{NAME} is held").into());
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

/// A way to wait for the lock.
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

/// What each of the processes does.
pub(crate) async fn worker(contender: Contender, setup: &Setup, name: &str) -> Result<()> {
    let mut waiter = match contender {
        Contender::Ours => Waiter::Ours(setup.connect().await?, None),
        _ => Waiter::Server(Blocking::connect(setup.engine, &setup.url).await?),
    };
    work_on_demand(async |time| {
        let stopwatch = Stopwatch::start();
        let mut holds = Vec::<Hold>::new();
        while stopwatch.elapsed() < time {
            let asked = clock();
            waiter.lock(name).await?;
            let granted = clock();
            sleep(Duration::from_millis(fastrand::u64(HELD.0..HELD.1))).await;
            holds.push([asked, granted, clock()]);
            waiter.unlock(name).await?;
        }
        Ok(Holds {
            holds,
            cpu: micros(stopwatch.cpu_elapsed()),
        })
    })
    .await?;
    match waiter {
        Waiter::Ours(locks, _) => Ok(locks.close().await?),
        Waiter::Server(_) => Ok(()),
    }
}

/// Nanoseconds of the clock that all processes share.
fn clock() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}
