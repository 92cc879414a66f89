//! Many waiters, or many held locks, and nothing happens: what that costs.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use clap::ValueEnum;
use futures_util::future::try_join_all;
use locks_core::LockManager;
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::sleep};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
};

use super::Run;
use crate::{
    Result, engine::Database, machine::resident, process::Process, report::Target,
    worker::when_told,
};

const NAME: &str = "app_task_1";
const COUNT: usize = 1_000;
const TIME: Duration = Duration::from_secs(30);

/// What there is many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    Waiters,
    Held,
}

/// What a process saw of itself.
#[derive(Debug, Deserialize, Serialize)]
struct Seen {
    /// The statements of each second, and how often SQLite was asked beside for the number
    /// that changes when somebody writes, which it has in memory.
    statements: Vec<usize>,
    asks: Vec<usize>,
    /// The memory of each waiter or held lock.
    bytes: Option<u64>,
}

/// W9: statements per second, and memory.
pub(super) async fn measure(run: &mut Run<'_>, database: &Database) -> Result<()> {
    // Of its own, or the one would see that the other writes.
    let other = Database::create(run.engine).await?;
    let locks = LockManager::connect(&database.url).await?;
    let guard = locks.acquire(NAME).await?;
    let count = COUNT.to_string();
    let mut waiting = Process::start(&database.url, &["idle", "waiters", &count])?;
    let mut holding = Process::start(&other.url, &["idle", "held", &count])?;
    let () = waiting.hear()?;
    let () = holding.hear()?;
    run.say(format_args!(
        "{COUNT} waiters, and {COUNT} held locks, for {TIME:?}"
    ));
    let mut both = [waiting, holding];
    let mut seen: Vec<Seen> = Process::work(&mut both, run.time(TIME))?;
    let (holding, waiting) = (
        seen.pop().ok_or("no answer")?,
        seen.pop().ok_or("no answer")?,
    );
    drop(both);
    drop(guard);
    locks.close().await?;
    other.close().await?;

    // In the first second all has just begun: there the looks are 5 to 50 ms apart.
    let (first, others) = waiting.statements.split_at(1);
    let most = others.iter().copied().max().unwrap_or_default();
    let last = &others[others.len() * 2 / 3..];
    let figures = [
        run.figure("1,000 waiters, the first second", "stmts/s", mean(first)),
        run.figure(
            "1,000 waiters, the worst later one",
            "stmts/s",
            number(most),
        )
        .aiming_at(Target::AtMost(20.0)),
        run.figure("1,000 waiters, the last third", "stmts/s", mean(last))
            .aiming_at(Target::AtMost(2.0)),
        run.figure(
            "1,000 waiters, PRAGMA data_version",
            "/s",
            mean(&waiting.asks),
        ),
        // A renewal every 5 s: the sessions, and the version of the row.
        run.figure("1,000 held locks", "stmts/s", mean(&holding.statements))
            .aiming_at(Target::AtMost(0.5)),
    ];
    for figure in figures {
        run.report(figure);
    }
    for (what, seen) in [("waiter", waiting), ("held lock", holding)] {
        if let Some(bytes) = seen.bytes {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let figure = run.figure(format!("memory of a {what}"), "bytes", bytes as f64);
            run.report(figure);
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn number(count: usize) -> f64 {
    count as f64
}

fn mean(counts: &[usize]) -> f64 {
    number(counts.iter().sum()) / number(counts.len())
}

/// What the process does.
pub(crate) async fn worker(what: What, count: usize, url: &str) -> Result<()> {
    let counts = Arc::new(Counts::default());
    tracing::subscriber::set_global_default(Counter(counts.clone()))?;
    let locks = LockManager::connect(url).await?;
    drop(locks.acquire("app_backup_0").await?);
    let before = resident();
    let mut waiters = JoinSet::new();
    let mut guards = Vec::new();
    match what {
        What::Waiters => {
            for _ in 0..count {
                waiters.spawn(locks.wait(NAME));
            }
            while locks.waiting().await?.len() < count {
                sleep(Duration::from_millis(100)).await;
            }
        }
        What::Held => {
            let names = (0..count).map(|number| format!("app_task_{number}"));
            guards = try_join_all(names.map(|name| locks.acquire(name))).await?;
        }
    }
    let after = resident();
    let bytes = after
        .zip(before)
        .map(|(after, before)| after.saturating_sub(before));
    let bytes = bytes.map(|bytes| bytes / count as u64);
    when_told(async |time| {
        let mut seen = Seen {
            statements: Vec::new(),
            asks: Vec::new(),
            bytes,
        };
        for _ in 0..time.as_secs() {
            let before = counts.now();
            sleep(Duration::from_secs(1)).await;
            let now = counts.now();
            seen.statements.push(now.0 - before.0);
            seen.asks.push(now.1 - before.1);
        }
        Ok(seen)
    })
    .await?;
    drop(guards);
    locks.close().await?;
    Ok(())
}

/// How many statements there were, and how many asks for the number.
#[derive(Default)]
struct Counts {
    statements: AtomicUsize,
    asks: AtomicUsize,
}

impl Counts {
    fn now(&self) -> (usize, usize) {
        let (statements, asks) = (&self.statements, &self.asks);
        (
            statements.load(Ordering::Relaxed),
            asks.load(Ordering::Relaxed),
        )
    }
}

/// Counts what the database is asked: sqlx tells each statement as an event.
struct Counter(Arc<Counts>);

/// Whether a statement asks for the number.
#[derive(Default)]
struct IsAsk(bool);

impl Visit for IsAsk {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 |= field.name() == "summary" && format!("{value:?}").contains("data_version");
    }
}

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn event(&self, event: &Event<'_>) {
        let mut is_ask = IsAsk::default();
        event.record(&mut is_ask);
        let count = if is_ask.0 {
            &self.0.asks
        } else {
            &self.0.statements
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
