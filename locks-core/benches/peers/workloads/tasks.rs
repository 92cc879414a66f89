//! Many tasks of one process.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use locks_core::LockManager;
use tokio::task::JoinSet;

use super::{Run, alone::each};
use crate::{
    Result,
    contenders::{Contender, Locks, pairs_until},
    engine::Database,
    report::{Point, Target},
    sql::{Arg, Connection, Statement},
    statistics::{median, ratio},
};

/// How many tasks are judged, and which are only drawn.
const TASKS: usize = 64;
const DRAWN: [usize; 3] = [1, 4, 16];
/// How many connections the references have.
const CONNECTIONS: usize = 16;
const TURN: Duration = Duration::from_millis(300);
const ROUNDS: usize = 15;

/// W3: pairs per second of distinct names.
pub(super) async fn distinct(run: &mut Run<'_>, database: &Database) -> Result<()> {
    let engine = run.engine;
    let mut contenders = Vec::new();
    for contender in Contender::on(engine) {
        let locks = contender
            .connect(engine, &database.url, CONNECTIONS)
            .await?;
        contenders.push((contender, Arc::<dyn Locks>::from(locks)));
    }
    for tasks in DRAWN {
        let rates = rates(run, &contenders, tasks, ROUNDS / 5).await?;
        draw(run, &contenders, tasks, &rates);
    }
    let rates = rates(run, &contenders, TASKS, ROUNDS).await?;
    draw(run, &contenders, TASKS, &rates);
    let what = format!("{TASKS} tasks, distinct names");
    let named = contenders.iter().map(|(contender, _)| *contender);
    let of: Vec<_> = named.zip(&rates).collect();
    beside(run, &what, &of, |contender| match contender {
        Contender::ServerLock => Some(Target::RatioAtLeast(1.5)),
        _ => None,
    });
    Ok(())
}

/// Reports our rates beside everybody else's; those of dropped guards are not judged.
pub(super) fn beside(
    run: &mut Run<'_>,
    what: &str,
    of: &[(Contender, &Vec<f64>)],
    target: impl Fn(Contender) -> Option<Target>,
) {
    for (ours, rates) in of.iter().filter(|(contender, _)| contender.is_ours()) {
        let judged = *ours == Contender::Ours;
        let note = if judged { "" } else { ", dropped" };
        for (contender, theirs) in of.iter().filter(|(contender, _)| !contender.is_ours()) {
            let name = contender.name(run.engine);
            let mut figure = run
                .figure(format!("{what}{note}"), "pairs/s", median(rates))
                .beside(name, median(theirs), ratio(rates, theirs));
            if let Some(target) = target(*contender).filter(|_| judged) {
                figure = figure.aiming_at(target);
            }
            run.report(figure);
        }
    }
}

fn draw(run: &mut Run<'_>, of: &[(Contender, Arc<dyn Locks>)], tasks: usize, rates: &[Vec<f64>]) {
    for ((contender, _), rates) in of.iter().zip(rates) {
        run.report.points.push(Point {
            workload: run.workload,
            engine: run.engine,
            contender: *contender,
            at_once: tasks,
            pairs_per_second: median(rates),
        });
    }
}

/// Pairs per second of each contender, in each round.
async fn rates(
    run: &Run<'_>,
    contenders: &[(Contender, Arc<dyn Locks>)],
    tasks: usize,
    rounds: usize,
) -> Result<Vec<Vec<f64>>> {
    let mut rates = vec![Vec::new(); contenders.len()];
    for _ in run.rounds(rounds, format_args!("{tasks} tasks")) {
        for ((_, locks), rates) in contenders.iter().zip(&mut rates) {
            let start = Instant::now();
            let end = start + run.time(TURN);
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
            rates.push(per_second(pairs, start.elapsed()));
        }
    }
    Ok(rates)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// W5: hand-overs per second of one name that all tasks wait for.
pub(super) async fn queueing(run: &mut Run<'_>, database: &Database) -> Result<()> {
    let locks = LockManager::connect(&database.url).await?;
    let mut connection = Connection::open(run.engine, &database.url).await?;
    let update = Statement::new(run.engine, "UPDATE bare SET n = n + 1 WHERE id = ?");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in run.rounds(2 * ROUNDS, format_args!("{TASKS} tasks, one name")) {
        ours.push(hand_overs(&locks, run.time(TURN)).await?);
        let bare = each(run.time(TURN), async || {
            connection.execute(&update, &[Arg::Int(1)]).await.map(drop)
        });
        theirs.push(1e6 / bare.await?);
    }
    let figure = run
        .figure(format!("{TASKS} tasks, one name"), "/s", median(&ours))
        .beside("/s, UPDATEs", median(&theirs), ratio(&ours, &theirs))
        .aiming_at(Target::RatioAtLeast(0.8));
    run.report(figure);
    locks.close().await?;
    Ok(())
}

/// How often the lock changes hands in a second.
async fn hand_overs(locks: &LockManager, time: Duration) -> Result<f64> {
    let start = Instant::now();
    let end = start + time;
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
    Ok(per_second(grants, start.elapsed()))
}
