//! The test's side of `peer waiter`: jobs in another process that wait for locks on command.

use std::time::{Duration, Instant};

use crate::process::Peer;

/// Starts a `peer waiter` and waits until it is connected: `waiter!(db.url(), "task",
/// "--barging")`. Only in integration tests.
#[macro_export]
macro_rules! waiter {
    ($($arg:expr),* $(,)?) => {
        $crate::waiter::Waiter::new($crate::peer!("waiter" $(, $arg)*))
    };
}

/// The limit for what does not have to wait.
const SOON: Duration = Duration::from_secs(20);

/// A process with waiting jobs.
#[derive(Debug)]
pub struct Waiter {
    peer: Peer,
    /// The lines that it printed and that were not consumed yet.
    heard: Vec<String>,
}

/// A grant, and its time on the machine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// The fencing token.
    pub token: i64,
    /// Microseconds.
    pub at: u64,
}

/// A refusal, and its time on the machine's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// `busy`, `timeout`, `deadlock`, `full` or `failed`.
    pub kind: String,
    /// Microseconds.
    pub at: u64,
    /// The text of the error.
    pub text: String,
}

impl Waiter {
    /// The test's side of a `peer waiter` that was just started.
    pub fn new(mut peer: Peer) -> Self {
        peer.expect_line("ready", SOON);
        let heard = Vec::new();
        Self { peer, heard }
    }

    /// The process.
    pub fn peer(&mut self) -> &mut Peer {
        &mut self.peer
    }

    /// Sends a command; see `waiter.rs` of the binary.
    pub fn tell(&mut self, order: &str) {
        self.peer.send(order);
    }

    /// Waits for a line that begins with these words, and returns the rest of it.
    pub fn hear(&mut self, words: &str, limit: Duration) -> String {
        let start = Instant::now();
        loop {
            let rest = |line: &String| {
                let rest = line.strip_prefix(words)?;
                (rest.is_empty() || rest.starts_with(' ')).then(|| rest.trim_start().to_owned())
            };
            let found = self.heard.iter().enumerate();
            let found = found.filter_map(|(index, line)| Some((index, rest(line)?)));
            if let Some((index, rest)) = found.into_iter().next() {
                self.heard.remove(index);
                return rest;
            }
            let left = limit.saturating_sub(start.elapsed());
            assert!(
                !left.is_zero(),
                "did not say {words:?}, but {:?}",
                self.heard
            );
            match self.peer.try_line(left) {
                Some(line) => self.heard.push(line),
                None => assert!(
                    self.peer.is_running(),
                    "ended without {words:?}: {:?}\n{}",
                    self.heard,
                    self.peer.errors()
                ),
            }
        }
    }

    /// Waits until the job is granted its request.
    pub fn granted(&mut self, job: &str, limit: Duration) -> Granted {
        let said = self.hear(&format!("granted {job}"), limit);
        let (token, at) = said.split_once(' ').expect("two numbers");
        Granted {
            token: token.parse().expect("a number"),
            at: at.parse().expect("a number"),
        }
    }

    /// Waits until the job is refused.
    pub fn refused(&mut self, job: &str, limit: Duration) -> Refused {
        let said = self.hear(&format!("refused {job}"), limit);
        let mut words = said.splitn(3, ' ');
        let mut word = || words.next().expect("three words").to_owned();
        Refused {
            kind: word(),
            at: word().parse().expect("a number"),
            text: word(),
        }
    }

    /// Releases all locks of the job, waits for the release, and returns its time.
    pub fn release(&mut self, job: &str) -> u64 {
        self.tell(&format!("release {job}"));
        let at = self.hear(&format!("released {job}"), SOON);
        at.parse().expect("a number")
    }

    /// Whether no line so far begins with these words.
    pub fn is_silent_about(&mut self, words: &str) -> bool {
        while let Some(line) = self.peer.try_line(Duration::ZERO) {
            self.heard.push(line);
        }
        !self.heard.iter().any(|line| line.starts_with(words))
    }
}
