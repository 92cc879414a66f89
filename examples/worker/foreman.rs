//! Hands out the jobs, and prints what becomes of them.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Write as _},
    time::{Duration, Instant},
};

use locks_core::{Blocker, LockManager, LockName};
use locks_examples::{Crew, Result};
use tokio::time;

use crate::{END, IDLE, tasks::STARTS};

/// How often the lock table is asked who waits.
const LOOK: Duration = Duration::from_millis(10);

/// What the workers are called, in the lock table as well.
pub(crate) const WORKERS: [&str; 4] = ["worker-1", "worker-2", "worker-3", "worker-4"];

/// What there is to do.
const JOBS: [&str; 7] = [
    "install wiki",
    "install mail",
    "backup blog",
    // Somebody was impatient.
    "backup blog",
    // Has to wait for all of them,
    "update 9.1",
    // and is not overtaken by these.
    "install chat",
    "install blog",
];

/// Who does what.
#[derive(Debug)]
pub(crate) struct Foreman<'a> {
    crew: Crew,
    locks: &'a LockManager,
    begin: Instant,
    jobs: VecDeque<&'static str>,
    idle: VecDeque<&'static str>,
    busy: BTreeMap<&'static str, Task>,
}

/// What a worker has to do.
#[derive(Debug)]
struct Task {
    job: &'static str,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    HandedOut,
    Waits,
    Runs,
}

impl<'a> Foreman<'a> {
    /// Begins, with all workers there.
    pub(crate) async fn begin(mut crew: Crew, locks: &'a LockManager, url: &str) -> Result<Self> {
        crew.tell_all(url);
        for _ in WORKERS {
            let said = crew.next().await?.ok_or("a worker ended before it began")?;
            if said.what != IDLE {
                return Err(format!("{} {} before it has a job", said.who, said.what).into());
            }
        }
        writeln!(
            io::stdout(),
            "{:>6}  {:8}  {:12}  what happens",
            "ms",
            "process",
            "job"
        )?;
        Ok(Self {
            crew,
            locks,
            begin: Instant::now(),
            jobs: JOBS.into(),
            idle: WORKERS.into(),
            busy: BTreeMap::new(),
        })
    }

    /// Returns when all jobs are done and all workers have ended.
    pub(crate) async fn hand_out(mut self) -> Result<()> {
        loop {
            self.hand_out_next();
            tokio::select! {
                biased;
                said = self.crew.next() => match said? {
                    Some(said) => self.note(said.who, &said.what)?,
                    None => break,
                },
                () = time::sleep(LOOK) => self.look().await?,
            }
        }
        let held = self.locks.held().await?.len();
        if held > 0 || !self.jobs.is_empty() {
            let left = self.jobs.len();
            return Err(format!("{left} jobs are left and {held} locks held at the end").into());
        }
        writeln!(
            io::stdout(),
            "\n{} jobs went through {} processes; nothing is held any more.",
            JOBS.len(),
            WORKERS.len()
        )?;
        Ok(())
    }

    /// A job is handed out when those before it run or wait, so that their order is the
    /// list's and not that of the system's scheduler.
    fn hand_out_next(&mut self) {
        while self
            .busy
            .values()
            .all(|task| task.state != State::HandedOut)
        {
            let Some(worker) = self.idle.pop_front() else {
                return;
            };
            let Some(job) = self.jobs.pop_front() else {
                self.crew.tell(worker, END);
                continue;
            };
            let state = State::HandedOut;
            self.busy.insert(worker, Task { job, state });
            self.crew.tell(worker, job);
        }
    }

    fn note(&mut self, worker: &'static str, what: &str) -> Result<()> {
        if what == IDLE {
            self.busy.remove(worker);
            self.idle.push_back(worker);
            return Ok(());
        }
        let task = self.busy.get_mut(worker);
        let task = task.ok_or_else(|| format!("{worker} {what} without a job"))?;
        if what.starts_with(STARTS) {
            task.state = State::Runs;
        }
        Ok(print(self.begin, worker, task.job, what)?)
    }

    /// Prints who has begun to wait since the last look, and what for.
    ///
    /// Meanwhile nobody is listened to and no job handed out: whoever is seen waiting waits
    /// with the job that it is known to have.
    async fn look(&mut self) -> Result<()> {
        for waiter in self.locks.waiting().await? {
            let known = self
                .busy
                .iter_mut()
                .find(|(name, _)| **name == &*waiter.task_id);
            if let Some((worker, task)) = known
                && task.state == State::HandedOut
            {
                task.state = State::Waits;
                let blockers: Vec<_> = waiter.blocked_by.iter().map(describe).collect();
                let what = format!("waits for {}", blockers.join(", "));
                print(self.begin, worker, task.job, &what)?;
            }
        }
        Ok(())
    }
}

fn print(begin: Instant, worker: &str, job: &str, what: &str) -> io::Result<()> {
    let ms = begin.elapsed().as_millis();
    writeln!(io::stdout(), "{ms:>6}  {worker:8}  {job:12}  {what}")
}

/// The lock in the way, and whose it is or will be.
fn describe(blocker: &Blocker) -> String {
    match blocker {
        Blocker::Holder(holder) => format!("{} ({})", holder.name, holder.task_id),
        Blocker::Waiter(waiter) => {
            let names: Vec<_> = waiter.names.iter().map(LockName::as_str).collect();
            format!("{} ({}, next in turn)", names.join(" and "), waiter.task_id)
        }
        other => other.to_string(),
    }
}
