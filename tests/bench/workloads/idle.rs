//! What many waiters and many held locks cost while nothing changes.

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
    Result,
    contenders::Setup,
    engine::Database,
    machine::resident,
    process::Process,
    report::Target,
    statistics::{Stopwatch, micros, number},
    worker::work_on_demand,
};

const NAME: &str = "app_task_1";
const COUNT: usize = 1_000;
const TIME: Duration = Duration::from_secs(30);

/// What a process has many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    Waiters,
    Held,
}

/// What a process observed about itself.
#[derive(Debug, Deserialize, Serialize)]
struct Seen {
    /// The number of statements in each second.
    statements: Vec<usize>,
    /// The number of `PRAGMA data_version` in each second. SQLite answers it from memory.
    version_reads: Vec<usize>,
    /// CPU time per second, in microseconds.
    cpu: f64,
    /// The memory of each waiter or held lock, in bytes.
    bytes: Option<u64>,
}

/// W9: statements per second, and memory.
pub(super) async fn measure(run: &mut Run<'_>, database: &Database) -> Result<()> {
    // With one database, the waiters would notice the writes of the holders.
    let other = Database::create(run.engine).await?;
    let locks = run.setup(database).connect().await?;
    let guard = locks.acquire(NAME).await?;
    let count = COUNT.to_string();
    let engine = run.engine.to_possible_value().ok_or("a hidden engine")?;
    let start = |database: &Database, what| {
        let arguments = ["idle", engine.get_name(), what, &count];
        Process::start(&run.setup(database), &arguments)
    };
    let mut waiting = start(database, "waiters")?;
    let mut holding = start(&other, "held")?;
    let () = waiting.receive()?;
    let () = holding.receive()?;
    run.say(format_args!(
        "{COUNT} waiters, and {COUNT} held locks, for {TIME:?}"
    ));
    let mut both = vec![waiting, holding];
    let mut seen: Vec<Seen> = Process::work(&mut both, run.time(TIME))?;
    let (holding, waiting) = (
        seen.pop().ok_or("no answer")?,
        seen.pop().ok_or("no answer")?,
    );
    Process::end_all(both)?;
    drop(guard);
    locks.close().await?;
    other.close().await?;

    // In the first second the row is read every 5 to 50 ms.
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
        .with_target(Target::AtMost(20.0)),
        run.figure("1,000 waiters, the last third", "stmts/s", mean(last))
            .with_cpu(waiting.cpu)
            .with_target(Target::AtMost(2.0)),
        run.figure(
            "1,000 waiters, PRAGMA data_version",
            "/s",
            mean(&waiting.version_reads),
        ),
        // Every 5 s the sessions are renewed and the version of the row is read.
        run.figure("1,000 held locks", "stmts/s", mean(&holding.statements))
            .with_cpu(holding.cpu)
            .with_target(Target::AtMost(0.5)),
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

fn mean(counts: &[usize]) -> f64 {
    number(counts.iter().sum()) / number(counts.len())
}

/// What the process does.
pub(crate) async fn worker(setup: &Setup, what: What, count: usize) -> Result<()> {
    let counts = Arc::new(Counts::default());
    tracing::subscriber::set_global_default(Counter(counts.clone()))?;
    let locks = setup.connect().await?;
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
    work_on_demand(async |time| {
        let stopwatch = Stopwatch::start();
        let mut seen = Seen {
            statements: Vec::new(),
            version_reads: Vec::new(),
            cpu: 0.0,
            bytes,
        };
        for _ in 0..time.as_secs() {
            let before = counts.now();
            sleep(Duration::from_secs(1)).await;
            let now = counts.now();
            seen.statements.push(now.0 - before.0);
            seen.version_reads.push(now.1 - before.1);
        }
        seen.cpu = micros(stopwatch.cpu_elapsed()) / stopwatch.elapsed().as_secs_f64();
        Ok(seen)
    })
    .await?;
    drop((guards, waiters));
    locks.close().await?;
    Ok(())
}

/// The numbers of statements and of `PRAGMA data_version`.
#[derive(Default)]
struct Counts {
    statements: AtomicUsize,
    version_reads: AtomicUsize,
}

impl Counts {
    fn now(&self) -> (usize, usize) {
        let (statements, version_reads) = (&self.statements, &self.version_reads);
        (
            statements.load(Ordering::Relaxed),
            version_reads.load(Ordering::Relaxed),
        )
    }
}

/// Counts statements. sqlx logs an event for each one.
struct Counter(Arc<Counts>);

/// Whether a statement is `PRAGMA data_version`.
#[derive(Default)]
struct IsVersionRead(bool);

impl Visit for IsVersionRead {
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
        let mut is_version_read = IsVersionRead::default();
        event.record(&mut is_version_read);
        let count = if is_version_read.0 {
            &self.0.version_reads
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
