//! Many tasks of one process.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use locks_core::{LockManager, Shared};
use tokio::task::JoinSet;

use super::{Run, alone::each};
use crate::{
    Result,
    contenders::{Contender, Locks, pairs_until},
    engine::Database,
    report::{Point, Target},
    sql::{Arg, Connection, Statement},
    statistics::{Rounds, Stopwatch, median},
};

/// The number of tasks in the table, and the further numbers in the plot.
const TASKS: usize = 64;
const DRAWN: [usize; 3] = [1, 4, 16];
/// The number of connections of each reference.
const CONNECTIONS: usize = 16;
const TURN: Duration = Duration::from_millis(300);
const ROUNDS: usize = 15;

/// W3: pairs per second of distinct names.
pub(super) async fn distinct(run: &mut Run<'_>, database: &Database) -> Result<()> {
    let mut contenders = Vec::new();
    for contender in run.contenders() {
        let locks = contender.connect(&run.setup(database), CONNECTIONS).await?;
        contenders.push((contender, Arc::<dyn Locks>::from(locks)));
    }
    // Only the plot shows them.
    let drawn = DRAWN.into_iter().filter(|_| run.has_references());
    for tasks in drawn.collect::<Vec<_>>() {
        let rates = rates(run, &contenders, tasks, ROUNDS / 5).await?;
        draw(run, &contenders, tasks, &rates);
    }
    let rates = rates(run, &contenders, TASKS, ROUNDS).await?;
    draw(run, &contenders, TASKS, &rates);
    let what = format!("{TASKS} tasks, distinct names");
    let named = contenders.iter().map(|(contender, _)| *contender);
    let of: Vec<_> = named.zip(&rates).collect();
    report(run, &what, &of, |contender| match contender {
        Contender::ServerLock => Some(Target::RatioAtLeast(1.5)),
        _ => None,
    });
    for (_, locks) in &contenders {
        locks.close().await?;
    }
    sharing(run, database).await
}

/// Pairs per second of one name that all tasks share, compared with distinct names.
async fn sharing(run: &mut Run<'_>, database: &Database) -> Result<()> {
    let locks = run.setup(database).connect().await?;
    let locks = locks.with_namespace("sharing")?;
    let (mut shared, mut distinct) = (Rounds::default(), Rounds::default());
    for _ in run.rounds(ROUNDS, format_args!("{TASKS} tasks, one shared name")) {
        for (rates, shares) in [(&mut shared, true), (&mut distinct, false)] {
            pairs(rates, &locks, shares, run.time(TURN)).await?;
        }
    }
    let figure = run
        .figure(
            format!("{TASKS} tasks, one shared name"),
            "pairs/s",
            shared.median(),
        )
        .more_is_better()
        .with_cpu(median(&shared.cpu));
    let ratio = shared.ratio(&distinct);
    let figure = figure.compared_with("distinct names", distinct.median(), ratio);
    run.report(figure.with_target(Target::RatioAtLeast(0.95)));
    locks.close().await?;
    Ok(())
}

/// Adds a round: pairs per second of tasks that share a name, or have a name each.
async fn pairs(
    rounds: &mut Rounds,
    locks: &LockManager,
    shares: bool,
    time: Duration,
) -> Result<()> {
    let stopwatch = Stopwatch::start();
    let end = Instant::now() + time;
    let mut all = JoinSet::new();
    for task in 0..TASKS {
        let locks = locks.clone();
        all.spawn(async move {
            let name = format!("app_task_{task}");
            let mut pairs = 0;
            while Instant::now() < end {
                let guard = if shares {
                    locks.acquire(Shared("platform")).await?
                } else {
                    locks.acquire(&name).await?
                };
                guard.release().await?;
                pairs += 1;
            }
            Result::<usize>::Ok(pairs)
        });
    }
    let mut pairs = 0;
    while let Some(done) = all.join_next().await {
        pairs += done??;
    }
    rounds.push(stopwatch.rate(pairs), stopwatch.cpu_per(pairs));
    Ok(())
}

/// Reports the rates of this library compared with each other contender. Rates with dropped
/// guards have no target.
pub(super) fn report(
    run: &mut Run<'_>,
    what: &str,
    of: &[(Contender, &Rounds)],
    target: impl Fn(Contender) -> Option<Target>,
) {
    for (ours, rates) in of.iter().filter(|(contender, _)| contender.is_ours()) {
        let has_target = *ours == Contender::Ours;
        let note = if has_target { "" } else { ", dropped" };
        let figure = |run: &Run<'_>| {
            run.figure(format!("{what}{note}"), "pairs/s", rates.median())
                .more_is_better()
                .with_cpu(median(&rates.cpu))
        };
        if !run.has_references() {
            run.report(figure(run));
        }
        for (contender, reference) in of.iter().filter(|(contender, _)| !contender.is_ours()) {
            let name = contender.name(run.engine);
            let mut figure =
                figure(run).compared_with(name, reference.median(), rates.ratio(reference));
            if let Some(target) = target(*contender).filter(|_| has_target) {
                figure = figure.with_target(target);
            }
            run.report(figure);
        }
    }
}

fn draw(run: &mut Run<'_>, of: &[(Contender, Arc<dyn Locks>)], tasks: usize, rates: &[Rounds]) {
    for ((contender, _), rates) in of.iter().zip(rates) {
        run.report.points.push(Point {
            workload: run.workload,
            engine: run.engine,
            contender: *contender,
            at_once: tasks,
            pairs_per_second: rates.median(),
        });
    }
}

/// Pairs per second of each contender.
async fn rates(
    run: &Run<'_>,
    contenders: &[(Contender, Arc<dyn Locks>)],
    tasks: usize,
    rounds: usize,
) -> Result<Vec<Rounds>> {
    let mut rates = vec![Rounds::default(); contenders.len()];
    for _ in run.rounds(rounds, format_args!("{tasks} tasks")) {
        for ((_, locks), rates) in contenders.iter().zip(&mut rates) {
            let stopwatch = Stopwatch::start();
            let end = Instant::now() + run.time(TURN);
            let mut all = JoinSet::new();
            for task in 0..tasks {
                let locks = locks.clone();
                all.spawn(async move {
                    let name = format!("app_task_{task}");
                    let took = pairs_until(&*locks, &name, end).await?;
                    Result::<usize>::Ok(took.len())
                });
            }
            let mut pairs = 0;
            while let Some(done) = all.join_next().await {
                pairs += done??;
            }
            rates.push(stopwatch.rate(pairs), stopwatch.cpu_per(pairs));
        }
    }
    Ok(rates)
}

/// W5: hand-overs per second of one lock that all tasks wait for.
pub(super) async fn queueing(run: &mut Run<'_>, database: &Database) -> Result<()> {
    let locks = run.setup(database).connect().await?;
    let mut connection = Connection::open(run.engine, &database.url).await?;
    let update = Statement::new(run.engine, "UPDATE bare SET n = n + 1 WHERE id = ?");
    let (mut ours, mut reference) = (Rounds::default(), Rounds::default());
    for _ in run.rounds(2 * ROUNDS, format_args!("{TASKS} tasks, one name")) {
        hand_overs(&mut ours, &locks, run.time(TURN)).await?;
        if run.has_references() {
            let mut bare = Rounds::default();
            let update = async || connection.execute(&update, &[Arg::Int(1)]).await.map(drop);
            each(&mut bare, run.time(TURN), update).await?;
            reference.push(1e6 / bare.median(), median(&bare.cpu));
        }
    }
    let figure = run
        .figure(format!("{TASKS} tasks, one name"), "/s", ours.median())
        .more_is_better()
        .with_cpu(median(&ours.cpu));
    let figure = run.compare(figure, "/s, UPDATEs", &ours, &reference);
    run.report(figure.with_target(Target::RatioAtLeast(0.8)));
    locks.close().await?;
    Ok(())
}

/// Adds a round: grants per second while all tasks wait for the lock again and again.
async fn hand_overs(rounds: &mut Rounds, locks: &LockManager, time: Duration) -> Result<()> {
    let stopwatch = Stopwatch::start();
    let end = Instant::now() + time;
    let mut all = JoinSet::new();
    for _ in 0..TASKS {
        let locks = locks.clone();
        all.spawn(async move {
            let mut grants = 0;
            while Instant::now() < end {
                drop(locks.wait("app_task_1").await?);
                grants += 1;
            }
            Result::<usize>::Ok(grants)
        });
    }
    let mut grants = 0;
    while let Some(done) = all.join_next().await {
        grants += done??;
    }
    rounds.push(stopwatch.rate(grants), stopwatch.cpu_per(grants));
    Ok(())
}
