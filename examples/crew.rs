//! The worker processes of an example, and what they say.

use std::{
    io::{self, BufRead as _, BufReader, PipeReader, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time};

use crate::Result;

/// How often it is looked whether a silent worker is still there.
const LOOK: Duration = Duration::from_millis(50);

/// All workers. They are killed when this is dropped.
#[derive(Debug)]
pub struct Crew {
    workers: Vec<(&'static str, Child)>,
    /// They all write to one pipe, so what they say is read in the order in which it
    /// happened, and one clock is enough.
    lines: mpsc::UnboundedReceiver<(Instant, String)>,
}

/// What a worker said, and when.
#[derive(Clone, Debug)]
pub struct Said {
    /// When it was heard.
    pub at: Instant,
    /// The worker.
    pub who: &'static str,
    /// The line, without the worker's name.
    pub what: String,
}

impl Crew {
    /// Starts this program again for each of these names, with these arguments.
    ///
    /// # Errors
    ///
    /// When there can be no such process.
    pub fn start<A: AsRef<[String]>>(
        workers: impl IntoIterator<Item = (&'static str, A)>,
    ) -> Result<Self> {
        let program = std::env::current_exe()?;
        let (reader, writer) = io::pipe()?;
        let (send, lines) = mpsc::unbounded_channel();
        let mut crew = Self {
            workers: Vec::new(),
            lines,
        };
        for (name, args) in workers {
            let worker = Command::new(&program)
                .args(args.as_ref())
                .stdin(Stdio::piped())
                .stdout(writer.try_clone()?)
                .spawn()?;
            crew.workers.push((name, worker));
        }
        std::thread::spawn(move || listen(reader, &send));
        Ok(crew)
    }

    /// All names, and the process ids.
    #[must_use]
    pub fn roll(&self) -> impl ExactSizeIterator<Item = (&'static str, u32)> {
        let workers = self.workers.iter();
        workers.map(|(name, worker)| (*name, worker.id()))
    }

    /// Tells all of them something. Why somebody is gone and does not listen, [`Self::next`]
    /// tells.
    pub fn tell_all(&mut self, line: &str) {
        for (_, worker) in &mut self.workers {
            drop(write(worker, line));
        }
    }

    /// Tells one of them something, like [`Self::tell_all`].
    pub fn tell(&mut self, name: &str, line: &str) {
        for (_, worker) in self.workers.iter_mut().filter(|(known, _)| *known == name) {
            drop(write(worker, line));
        }
    }

    /// What is said next; `None` when all have ended, and well.
    ///
    /// # Errors
    ///
    /// When one of them did not end well, or says what no worker says.
    ///
    /// # Cancel safety
    ///
    /// It can be dropped at any time.
    pub async fn next(&mut self) -> Result<Option<Said>> {
        loop {
            match time::timeout(LOOK, self.lines.recv()).await {
                Ok(Some((at, line))) => return self.understand(at, &line).map(Some),
                Ok(None) => {
                    for (name, worker) in &mut self.workers {
                        judge(name, worker.wait()?)?;
                    }
                    return Ok(None);
                }
                Err(_) => {
                    for (name, worker) in &mut self.workers {
                        worker
                            .try_wait()?
                            .map_or(Ok(()), |status| judge(name, status))?;
                    }
                }
            }
        }
    }

    fn understand(&self, at: Instant, line: &str) -> Result<Said> {
        let (who, what) = line.split_once(' ').unwrap_or((line, ""));
        let known = self.roll().find(|(known, _)| *known == who);
        let (who, _) = known.ok_or_else(|| format!("no worker says {line:?}"))?;
        let what = what.to_owned();
        Ok(Said { at, who, what })
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

fn judge(name: &str, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(format!("the process of {name} ended with {status}").into())
}
