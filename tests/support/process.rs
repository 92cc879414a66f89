//! Worker processes, which are commanded by lines of text and killed at the end of the test.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, TryRecvError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// The number of lines of standard error that are kept for the message of a failed test.
const KEPT: usize = 40;
/// How long a process that ends may take to print its errors.
const ERRORS_WITHIN: Duration = Duration::from_secs(2);

/// A process of the test's own.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Arc<Mutex<Vec<String>>>,
    /// Reads the standard error.
    reader: JoinHandle<()>,
    called: String,
}

/// Starts the package's `peer` binary: `peer!("worker", db.url(), "task")`. Only in integration
/// tests, for which cargo builds it.
#[macro_export]
macro_rules! peer {
    ($($arg:expr),* $(,)?) => {
        $crate::process::Peer::spawn(env!("CARGO_BIN_EXE_peer"), [$(::std::ffi::OsStr::new(&$arg)),*])
    };
}

impl Peer {
    /// Starts the program.
    pub fn spawn<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(program);
        command.args(args);
        Self::start(command)
    }

    /// Starts the command, whose environment and directory the test has set.
    pub fn start(mut command: Command) -> Self {
        let called = command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (send, lines) = mpsc::channel();
        let errors = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&errors);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == KEPT {
                    kept.remove(0);
                }
                kept.push(line);
            }
        });
        Self {
            child,
            stdin,
            lines,
            errors,
            reader,
            called,
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a line to the process.
    pub fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("its standard input is open");
        if let Err(error) = writeln!(stdin, "{line}").and_then(|()| stdin.flush()) {
            self.fail(&format!("does not listen to {line:?}: {error}"));
        }
    }

    /// Closes the standard input of the process.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The next line; `None` if the process has ended or closed its output.
    pub fn next_line(&mut self, limit: Duration) -> Option<String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => self.fail(&format!("says nothing for {limit:?}")),
        }
    }

    /// The next line, if it comes within this time.
    pub fn try_line(&mut self, limit: Duration) -> Option<String> {
        self.lines.recv_timeout(limit).ok()
    }

    /// Waits for a line with this prefix, skips other lines, and returns the rest of it.
    pub fn expect_line(&mut self, prefix: &str, limit: Duration) -> String {
        let start = Instant::now();
        let mut others = Vec::new();
        loop {
            match self
                .lines
                .recv_timeout(limit.saturating_sub(start.elapsed()))
            {
                Ok(line) => match line.strip_prefix(prefix) {
                    Some(rest) => return rest.trim_start().to_owned(),
                    None => others.push(line),
                },
                Err(error) => self.fail(&format!(
                    "does not say {prefix:?} ({error}), but {others:?}"
                )),
            }
        }
    }

    /// Asserts that the process prints nothing for this long.
    pub fn expect_silence(&mut self, time: Duration) {
        match self.lines.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(line) => self.fail(&format!("says {line:?}")),
            Err(RecvTimeoutError::Disconnected) => self.fail("has ended"),
        }
    }

    /// Kills the process with SIGKILL and reaps it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Kills the process with SIGKILL and leaves it a zombie, until this is dropped.
    pub fn kill_unreaped(&mut self) {
        self.signal(Signal::KILL);
        let exited = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.id()), exited).expect("it is our child");
    }

    /// Stops the process with SIGSTOP and returns when it has stopped.
    pub fn stop(&mut self) {
        self.signal(Signal::STOP);
        waitid(WaitId::Pid(self.id()), WaitIdOptions::STOPPED).expect("it is our child");
    }

    /// Lets the process continue with SIGCONT.
    pub fn cont(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Sends a signal to the process.
    pub fn signal(&mut self, signal: Signal) {
        kill_process(self.id(), signal).expect("it is our child, and not reaped");
    }

    /// Whether the process has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Closes the standard input and waits until the process has ended.
    pub fn finish(&mut self, limit: Duration) -> ExitStatus {
        self.close_stdin();
        let start = Instant::now();
        while self.is_running() {
            if start.elapsed() > limit {
                self.fail(&format!("does not end within {limit:?}"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.child.wait().expect("it is our child")
    }

    /// [`Peer::finish`]; the process must have succeeded.
    pub fn finish_well(&mut self, limit: Duration) {
        let status = self.finish(limit);
        if !status.success() {
            self.fail(&format!("ended with {status}"));
        }
    }

    /// The last lines of the standard error.
    pub fn errors(&self) -> String {
        self.errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .join("\n")
    }

    fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn fail(&mut self, what: &str) -> ! {
        // A process that ends prints its errors at the last moment.
        let start = Instant::now();
        while self.hung_up() && !self.reader.is_finished() && start.elapsed() < ERRORS_WITHIN {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (pid, called, errors) = (self.pid(), &self.called, self.errors());
        panic!("peer {pid} ({called}) {what}\nits standard error:\n{errors}")
    }

    fn hung_up(&mut self) -> bool {
        !self.is_running() || matches!(self.lines.try_recv(), Err(TryRecvError::Disconnected))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}
