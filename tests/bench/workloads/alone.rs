//! One task on an otherwise idle database: what a lock costs compared with plain writes.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use locks_core::{LockGuard, LockManager, with_lock};

use super::Run;
use crate::{
    Result,
    engine::Database,
    report::Target,
    sql::{Arg, Connection, Statement},
    statistics::{Rounds, Stopwatch, median, micros},
};

/// How long each side of a round runs, and the number of rounds.
const TURN: Duration = Duration::from_millis(120);
const ROUNDS: usize = 40;
const NAME: &str = "app_task_1";

/// The reference: a durable write by primary key on an owned connection.
struct Bare {
    connection: Connection,
    update: Statement,
}

impl Bare {
    async fn connect(database: &Database) -> Result<Self> {
        let update = "UPDATE bare SET n = n + 1 WHERE id = ?";
        Ok(Self {
            connection: Connection::open(database.engine, &database.url).await?,
            update: Statement::new(database.engine, update),
        })
    }

    async fn update(&mut self) -> Result<()> {
        let rows = self
            .connection
            .execute(&self.update, &[Arg::Int(1)])
            .await?;
        if rows == 1 {
            Ok(())
        } else {
            Err("the row is gone".into())
        }
    }
}

/// Calls again and again for this time. Adds a round of the median time of a call in
/// microseconds.
pub(super) async fn each(
    rounds: &mut Rounds,
    time: Duration,
    mut call: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let mut took = Vec::new();
    let stopwatch = Stopwatch::start();
    while stopwatch.elapsed() < time {
        let call_start = Instant::now();
        call().await?;
        took.push(micros(call_start.elapsed()));
    }
    rounds.push(median(&took), stopwatch.cpu_per(took.len()));
    Ok(())
}

/// W1: acquire and release, compared with two plain writes.
pub(super) async fn release(run: &mut Run<'_>, database: &Database) -> Result<()> {
    let locks = run.setup(database).connect().await?;
    let mut bare = Bare::connect(database).await?;
    let (mut ours, mut reference) = (Rounds::default(), Rounds::default());
    for _ in run.rounds(ROUNDS, "acquire, release") {
        each(&mut ours, run.time(TURN), async || pair(&locks).await).await?;
        if run.has_references() {
            each(&mut reference, run.time(TURN), async || bare.update().await).await?;
        }
    }
    for one in &mut reference.values {
        *one *= 2.0;
    }
    let figure = run
        .figure("acquire and release", "µs", ours.median())
        .with_cpu(median(&ours.cpu));
    let figure = run.compare(figure, "µs, two UPDATEs", &ours, &reference);
    run.report(figure.with_target(Target::RatioAtMost(1.15)));
    locks.close().await?;
    Ok(())
}

async fn pair(locks: &LockManager) -> Result<()> {
    locks.acquire(NAME).await?.release().await?;
    Ok(())
}

/// W2: acquire and drop, compared with one plain write.
pub(super) async fn dropping(run: &mut Run<'_>, database: &Database) -> Result<()> {
    let locks = run.setup(database).connect().await?;
    let mut bare = Bare::connect(database).await?;
    let (mut ours, mut reference) = (Rounds::default(), Rounds::default());
    for _ in run.rounds(ROUNDS, "acquire, drop") {
        let drops = async || {
            drop(locks.acquire(NAME).await?);
            Ok(())
        };
        each(&mut ours, run.time(TURN), drops).await?;
        if run.has_references() {
            each(&mut reference, run.time(TURN), async || bare.update().await).await?;
        }
    }
    let figure = run
        .figure("acquire and drop, repeated", "µs", ours.median())
        .with_cpu(median(&ours.cpu));
    let figure = run.compare(figure, "µs, one UPDATE", &ours, &reference);
    run.report(figure.with_target(Target::RatioAtMost(1.4)));
    locks.close().await?;
    Ok(())
}

/// W7: acquire and release while other locks are held.
pub(super) async fn among_held(run: &mut Run<'_>, database: &Database) -> Result<()> {
    const FEW: usize = 10;
    const MANY: [(usize, f64); 2] = [(1_000, 2.5), (10_000, 12.0)];
    let connected = run.setup(database).connect().await?;
    let (few, _few_guards) = holding(&connected, FEW).await?;
    let mut many = Vec::new();
    for (count, most) in MANY {
        let (locks, guards) = holding(&connected, count).await?;
        many.push((count, most, locks, guards, Rounds::default()));
    }
    let mut among_few = Rounds::default();
    for _ in run.rounds(ROUNDS, "acquire, release among others") {
        each(&mut among_few, run.time(TURN), async || pair(&few).await).await?;
        for (.., locks, _, rounds) in &mut many {
            each(rounds, run.time(TURN), async || pair(locks).await).await?;
        }
    }
    for (count, most, .., rounds) in &many {
        let what = format!("acquire and release, {count} held");
        let figure = run
            .figure(what, "µs", rounds.median())
            .with_cpu(median(&rounds.cpu))
            .compared_with("µs, 10 held", among_few.median(), rounds.ratio(&among_few))
            .with_target(Target::RatioAtMost(*most));
        run.report(figure);
    }
    connected.close().await?;
    Ok(())
}

/// A namespace in which this number of locks is held, each by its own guard.
async fn holding(locks: &LockManager, count: usize) -> Result<(LockManager, Vec<LockGuard>)> {
    let locks = locks.with_namespace(&format!("held-{count}"))?;
    let requests = (0..count).map(|number| locks.acquire(format!("app_backup_{number}")));
    let guards = try_join_all(requests).await?;
    Ok((locks, guards))
}

/// W10: a function with the attribute, compared with calls of `acquire` and `release`.
pub(super) async fn attribute(run: &mut Run<'_>, database: &Database) -> Result<()> {
    let locks = run.setup(database).connect().await?;
    let (mut ours, mut reference) = (Rounds::default(), Rounds::default());
    for _ in run.rounds(2 * ROUNDS, "#[with_lock]") {
        each(&mut ours, run.time(TURN), async || locked(&locks, 1).await).await?;
        if run.has_references() {
            each(&mut reference, run.time(TURN), async || pair(&locks).await).await?;
        }
    }
    let figure = run
        .figure("a #[with_lock] function", "µs", ours.median())
        .with_cpu(median(&ours.cpu));
    let figure = run.compare(figure, "µs, by hand", &ours, &reference);
    run.report(figure.with_target(Target::RatioAtMost(1.02)));
    locks.close().await?;
    Ok(())
}

#[with_lock("app_task_<id>", acquire, locks = locks)]
async fn locked(locks: &LockManager, id: u32) -> Result<()> {
    Ok(())
}
