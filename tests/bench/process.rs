//! The parent's side of a worker process: starting it, exchanging lines with it, ending it.

use std::{
    env,
    io::{BufRead as _, BufReader, Lines, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde::de::DeserializeOwned;

use crate::{Result, contenders::Setup, worker::URL};

/// A worker process of this program. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// `None` once the worker has been asked to end.
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts one, which connects as `setup` says.
    pub(crate) fn start(setup: &Setup, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(arguments)
            .args(setup.without.iter().flat_map(|name| ["--without", name]))
            // Not an argument: other users can read those, and the URL has a password.
            .env(URL, &setup.url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("it has no standard output")?;
        Ok(Self {
            child,
            stdin,
            lines: BufReader::new(stdout).lines(),
        })
    }

    /// Starts one for each list of arguments and waits until all are ready.
    pub(crate) fn start_all(setup: &Setup, arguments: &[Vec<&str>]) -> Result<Vec<Self>> {
        let started = arguments
            .iter()
            .map(|arguments| Self::start(setup, arguments));
        let mut all = started.collect::<Result<Vec<_>>>()?;
        for process in &mut all {
            let () = process.receive()?;
        }
        Ok(all)
    }

    /// Makes all of them work at once for this time. Returns their results.
    pub(crate) fn work<T: DeserializeOwned>(all: &mut [Self], time: Duration) -> Result<Vec<T>> {
        for process in &mut *all {
            let stdin = process.stdin.as_mut().ok_or("the process is to end")?;
            writeln!(stdin, "{}", time.as_millis())?;
            stdin.flush()?;
        }
        all.iter_mut().map(Self::receive).collect()
    }

    /// The next value that it prints.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = self.lines.next().ok_or("a process has ended")??;
        Ok(serde_json::from_str(&line)?)
    }

    /// Makes all of them close their connections, and waits until they have ended.
    pub(crate) fn end_all(mut all: Vec<Self>) -> Result<()> {
        for process in &mut all {
            process.stdin = None;
        }
        for process in &mut all {
            let status = process.child.wait()?;
            if !status.success() {
                return Err(format!("a process ended with {status}").into());
            }
        }
        Ok(())
    }

    /// Kills it with `SIGKILL` and waits until it has ended.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.kill();
    }
}
