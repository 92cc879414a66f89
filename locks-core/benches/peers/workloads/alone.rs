//! One task, nobody else: what a lock costs beside bare writes.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use locks_core::{LockGuard, LockManager, with_lock};

use super::Run;
use crate::{
    Result,
    engine::Database,
    report::Target,
    sql::{Arg, Connection, Statement},
    statistics::{median, micros, ratio},
};

/// How long one turn of a round takes, and how many rounds there are.
const TURN: Duration = Duration::from_millis(120);
const ROUNDS: usize = 40;
const NAME: &str = "app_task_1";

/// The reference: a durable write by key on an owned connection, and nothing else.
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

/// The median of what each call takes, in microseconds.
pub(super) async fn each(time: Duration, mut call: impl AsyncFnMut() -> Result<()>) -> Result<f64> {
    let mut took = Vec::new();
    let start = Instant::now();
    while start.elapsed() < time {
        let call_start = Instant::now();
        call().await?;
        took.push(micros(call_start.elapsed()));
    }
    Ok(median(&took))
}

/// W1: acquire and release, beside two bare writes.
pub(super) async fn release(run: &mut Run<'_>, database: &Database) -> Result<()> {
    let locks = LockManager::connect(&database.url).await?;
    let mut bare = Bare::connect(database).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in run.rounds(ROUNDS, "acquire, release") {
        ours.push(each(run.time(TURN), async || pair(&locks).await).await?);
        theirs.push(2.0 * each(run.time(TURN), async || bare.update().await).await?);
    }
    let figure = run
        .figure("acquire and release", "µs", median(&ours))
        .beside("µs, two UPDATEs", median(&theirs), ratio(&ours, &theirs))
        .aiming_at(Target::RatioAtMost(1.15));
    run.report(figure);
    locks.close().await?;
    Ok(())
}

async fn pair(locks: &LockManager) -> Result<()> {
    locks.acquire(NAME).await?.release().await?;
    Ok(())
}

/// W2: acquire and drop, beside one bare write.
pub(super) async fn dropping(run: &mut Run<'_>, database: &Database) -> Result<()> {
    let locks = LockManager::connect(&database.url).await?;
    let mut bare = Bare::connect(database).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in run.rounds(ROUNDS, "acquire, drop") {
        let drops = async || {
            drop(locks.acquire(NAME).await?);
            Ok(())
        };
        ours.push(each(run.time(TURN), drops).await?);
        theirs.push(each(run.time(TURN), async || bare.update().await).await?);
    }
    let figure = run
        .figure("acquire and drop, again and again", "µs", median(&ours))
        .beside("µs, one UPDATE", median(&theirs), ratio(&ours, &theirs))
        .aiming_at(Target::RatioAtMost(1.4));
    run.report(figure);
    locks.close().await?;
    Ok(())
}

/// W7: acquire and release, while other locks are held.
pub(super) async fn among_held(run: &mut Run<'_>, database: &Database) -> Result<()> {
    const FEW: usize = 10;
    const MANY: [(usize, f64); 2] = [(1_000, 2.5), (10_000, 12.0)];
    let connected = LockManager::connect(&database.url).await?;
    let (few, _few_held) = holding(&connected, FEW).await?;
    let mut many = Vec::new();
    for (count, most) in MANY {
        let (locks, guards) = holding(&connected, count).await?;
        many.push((count, most, locks, guards, Vec::new()));
    }
    let mut among_few = Vec::new();
    for _ in run.rounds(ROUNDS, "acquire, release among others") {
        among_few.push(each(run.time(TURN), async || pair(&few).await).await?);
        for (.., locks, _, took) in &mut many {
            took.push(each(run.time(TURN), async || pair(locks).await).await?);
        }
    }
    for (count, most, .., took) in &many {
        let figure = run
            .figure(
                format!("acquire and release, {count} held"),
                "µs",
                median(took),
            )
            .beside("µs, 10 held", median(&among_few), ratio(took, &among_few))
            .aiming_at(Target::RatioAtMost(*most));
        run.report(figure);
    }
    connected.close().await?;
    Ok(())
}

/// A namespace where so many locks are held, one by one.
async fn holding(locks: &LockManager, count: usize) -> Result<(LockManager, Vec<LockGuard>)> {
    let locks = locks.with_namespace(&format!("held-{count}"))?;
    let requests = (0..count).map(|number| locks.acquire(format!("app_backup_{number}")));
    let guards = try_join_all(requests).await?;
    Ok((locks, guards))
}

/// W10: a function with the attribute, beside the same by hand.
pub(super) async fn attribute(run: &mut Run<'_>, database: &Database) -> Result<()> {
    let locks = LockManager::connect(&database.url).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in run.rounds(2 * ROUNDS, "#[with_lock]") {
        ours.push(each(run.time(TURN), async || locked(&locks, 1).await).await?);
        theirs.push(each(run.time(TURN), async || pair(&locks).await).await?);
    }
    let figure = run
        .figure("a #[with_lock] function", "µs", median(&ours))
        .beside("µs, by hand", median(&theirs), ratio(&ours, &theirs))
        .aiming_at(Target::RatioAtMost(1.02));
    run.report(figure);
    locks.close().await?;
    Ok(())
}

#[with_lock("app_task_<id>", acquire, locks = locks)]
async fn locked(locks: &LockManager, id: u32) -> Result<()> {
    Ok(())
}
