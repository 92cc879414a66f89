//! The test's side of `peer worker`.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use crate::process::Peer;

/// The limit for what does not have to wait.
const SOON: Duration = Duration::from_secs(20);

/// A `peer` that acquires, fences and releases locks on command; it is a [`Peer`] as well.
#[derive(Debug)]
pub struct Worker(Peer);

/// Starts a [`Worker`]: `worker!(db.url(), "task", "--ttl", "1000")`.
#[macro_export]
macro_rules! worker {
    ($($arg:expr),* $(,)?) => {
        $crate::worker::Worker::of($crate::peer!("worker", $($arg),*))
    };
}

impl Worker {
    /// The test's side of this process, once it is connected.
    pub fn of(mut peer: Peer) -> Self {
        peer.expect_line("ready", SOON);
        Self(peer)
    }

    /// Makes the worker acquire locks without waiting, and returns their token.
    pub fn acquire(&mut self, names: &str) -> i64 {
        self.send(&format!("acquire {names}"));
        self.granted()
    }

    /// The token of the worker's current request.
    pub fn granted(&mut self) -> i64 {
        let token = self.expect_line("granted", SOON);
        token.parse().expect("a number")
    }

    /// Sends a command and returns the answer.
    pub fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.next_line(SOON)
            .unwrap_or_else(|| panic!("it ended at {command:?}: {}", self.errors()))
    }
}

impl Deref for Worker {
    type Target = Peer;

    fn deref(&self) -> &Peer {
        &self.0
    }
}

impl DerefMut for Worker {
    fn deref_mut(&mut self) -> &mut Peer {
        &mut self.0
    }
}
