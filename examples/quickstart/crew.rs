//! The worker processes, and what they say.

use std::{
    io::{self, BufRead as _, BufReader, PipeReader, Write as _},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use locks_examples::Result;
use tokio::{sync::mpsc, time};

use crate::{
    play::Part,
    worker::{Order, Step},
};

/// How often it is looked whether a silent worker is still there.
const LOOK: Duration = Duration::from_millis(50);

/// All workers. They are killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Crew {
    workers: Vec<(&'static str, Child)>,
    /// They all write to one pipe, so what they say is read in the order in which it
    /// happened, and one clock is enough.
    lines: mpsc::UnboundedReceiver<(Instant, String)>,
}

/// What a worker said, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    pub(crate) at: Instant,
    pub(crate) lock: &'static str,
    pub(crate) step: Step,
}

impl Crew {
    /// Starts this program again for each part.
    pub(crate) fn start<'a>(
        parts: impl Iterator<Item = &'a Part>,
        namespace: &str,
    ) -> Result<Self> {
        let program = std::env::current_exe()?;
        let (reader, writer) = io::pipe()?;
        let (send, lines) = mpsc::unbounded_channel();
        let mut crew = Self {
            workers: Vec::new(),
            lines,
        };
        for part in parts {
            let worker = Command::new(&program)
                .args(["worker", part.lock, &part.milliseconds.to_string()])
                .arg(namespace)
                .stdin(Stdio::piped())
                .stdout(writer.try_clone()?)
                .spawn()?;
            crew.workers.push((part.lock, worker));
        }
        std::thread::spawn(move || listen(reader, &send));
        Ok(crew)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.workers.len()
    }

    /// What each of them needs, and its process id.
    pub(crate) fn roll(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.workers
            .iter()
            .map(|(lock, worker)| (*lock, worker.id()))
    }

    /// Tells all of them something. Why somebody is gone and does not listen, [`Self::next`]
    /// tells.
    pub(crate) fn tell_all(&mut self, line: &str) {
        for (_, worker) in &mut self.workers {
            drop(write(worker, line));
        }
    }

    /// Gives an order to the worker that needs this lock, like [`Self::tell_all`].
    pub(crate) fn order(&mut self, lock: &str, order: Order) {
        for (_, worker) in self.workers.iter_mut().filter(|(known, _)| *known == lock) {
            drop(write(worker, &order.to_string()));
        }
    }

    /// What is said next; `None` when all have ended, and well. It can be dropped at any time.
    pub(crate) async fn next(&mut self) -> Result<Option<Said>> {
        loop {
            match time::timeout(LOOK, self.lines.recv()).await {
                Ok(Some((at, line))) => return self.understand(at, &line).map(Some),
                Ok(None) => {
                    for (lock, worker) in &mut self.workers {
                        judge(lock, worker.wait()?)?;
                    }
                    return Ok(None);
                }
                Err(_) => {
                    for (lock, worker) in &mut self.workers {
                        worker
                            .try_wait()?
                            .map_or(Ok(()), |status| judge(lock, status))?;
                    }
                }
            }
        }
    }

    fn understand(&self, at: Instant, line: &str) -> Result<Said> {
        let (lock, step) = line.split_once(' ').unwrap_or((line, ""));
        let known = self.roll().find(|(known, _)| *known == lock);
        let (lock, _) = known.ok_or_else(|| format!("no worker says {line:?}"))?;
        let step = step.parse()?;
        Ok(Said { at, lock, step })
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for (_, worker) in &mut self.workers {
            // One that has ended already cannot be killed, which is all the same.
            let _ = worker.kill();
        }
        for (_, worker) in &mut self.workers {
            let _ = worker.wait();
        }
    }
}

/// Notes when each line came, until nobody can write any more.
fn listen(reader: PipeReader, send: &mpsc::UnboundedSender<(Instant, String)>) {
    for line in BufReader::new(reader).lines().map_while(io::Result::ok) {
        if send.send((Instant::now(), line)).is_err() {
            return;
        }
    }
}

fn write(worker: &mut Child, line: &str) -> io::Result<()> {
    match &mut worker.stdin {
        Some(stdin) => stdin.write_all(format!("{line}\n").as_bytes()),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

fn judge(lock: &str, status: std::process::ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(format!("the worker that needs {lock} ended with {status}").into())
}
