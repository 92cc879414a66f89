//! The parent's side of a process: it is started, spoken to in lines, and killed.

use std::{
    env,
    io::{BufRead as _, BufReader, Lines, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde::de::DeserializeOwned;

use crate::{Result, worker::URL};

/// A process of this program. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts one, which connects to the database at this URL.
    pub(crate) fn start(url: &str, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(arguments)
            // Not an argument: everybody can read those, and it has a password.
            .env(URL, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().ok_or("it has no standard input")?;
        let stdout = child.stdout.take().ok_or("it has no standard output")?;
        Ok(Self {
            child,
            stdin,
            lines: BufReader::new(stdout).lines(),
        })
    }

    /// Starts as many as there are argument lists and waits until each is ready.
    pub(crate) fn start_all(url: &str, arguments: &[Vec<&str>]) -> Result<Vec<Self>> {
        let started = arguments
            .iter()
            .map(|arguments| Self::start(url, arguments));
        let mut all = started.collect::<Result<Vec<_>>>()?;
        for process in &mut all {
            let () = process.hear()?;
        }
        Ok(all)
    }

    /// Lets all of these work for so long, at the same time, and hears what came of it.
    pub(crate) fn work<T: DeserializeOwned>(all: &mut [Self], time: Duration) -> Result<Vec<T>> {
        for process in &mut *all {
            writeln!(process.stdin, "{}", time.as_millis())?;
            process.stdin.flush()?;
        }
        all.iter_mut().map(Self::hear).collect()
    }

    /// The next thing it says.
    pub(crate) fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = self.lines.next().ok_or("a process has ended")??;
        Ok(serde_json::from_str(&line)?)
    }

    /// Kills it so that it can do nothing about it.
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
