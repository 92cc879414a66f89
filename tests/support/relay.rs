//! A TCP relay between a client and its database, which loses what a test tells it to lose.
//!
//! ```text
//! client ──▶ relay ──▶ server        a request: what a client sends after the last answer
//!        ◀──       ◀──               an answer: what the server says until the next request
//!           ▲
//!   test ───┘  arm(when, how), stall(), heal(), cut_all(), refuse(), set_latency()
//! ```
//!
//! In both protocols client and server take turns, so the relay needs to know nothing else of them.
//! A cut *after* a request waits for the first bytes of the answer and discards them: the server
//! has then executed the request. The relay is a thread with its own runtime, so a test that blocks
//! does not block it.

mod connection;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch};

use crate::wait;

/// A request. The requests of a login count as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// The next one, of any connection.
    Next,
    /// The one after this many other requests, counted from now over all connections.
    After(u64),
    /// The next one that contains these bytes: a lock name, for instance, among the parameters.
    Containing(Vec<u8>),
}

/// What happens to the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The connection is closed; the request is not forwarded.
    CutBefore,
    /// The server executes the request; the connection is closed before any byte of the answer.
    CutAfter,
    /// The server executes the request; the connection is closed after this many bytes of the
    /// answer, and in any case before the end of its first segment.
    CutWithin(usize),
    /// From this request on, nothing is forwarded in either direction on this connection, and both
    /// sockets stay open. [`Relay::heal`] forwards everything that was kept, even if the client has
    /// given up by then: the request lands late.
    Stall,
    /// The request is executed, its answer is kept as by [`How::Stall`].
    StallAnswer,
    /// The request is forwarded after this delay.
    Delay(Duration),
}

/// The counts so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Accepted connections.
    pub connections: u64,
    /// Connections that are open now, including stalled ones.
    pub open: u64,
    /// Requests that have begun.
    pub requests: u64,
    /// Cuts before the request.
    pub cut_before: u64,
    /// Cuts after the request.
    pub cut_after: u64,
    /// Cuts in the answer.
    pub cut_within: u64,
    /// Requests or answers that were kept by an armed stall.
    pub stalled: u64,
    /// Requests that were delayed.
    pub delayed: u64,
    /// Connections cut by [`Relay::cut_all`].
    pub cut_by_hand: u64,
    /// Connections that were refused, by the relay or by the server.
    pub refused: u64,
}

impl Counters {
    /// Armed cuts of all three kinds.
    pub fn cuts(&self) -> u64 {
        self.cut_before + self.cut_after + self.cut_within
    }
}

/// The relay; it ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notifies every connection of a changed state.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    server: SocketAddr,
    armed: Vec<(When, How)>,
    stalled: bool,
    refusing: bool,
    ended: bool,
    latency: Duration,
    /// The number of heals and of cuts by hand; a connection compares them with what it has seen.
    heals: u64,
    cuts: u64,
    counters: Counters,
}

impl Relay {
    /// A relay to the server, on a port of its own.
    pub fn start(server: SocketAddr) -> Self {
        let state = State {
            server,
            armed: Vec::new(),
            stalled: false,
            refusing: false,
            ended: false,
            latency: Duration::ZERO,
            heals: 0,
            cuts: 0,
            counters: Counters::default(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
        });
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(serve(listener, for_thread));
        });
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Arms a fault, which happens once. Several may be armed; each request takes the oldest that
    /// matches it.
    pub fn arm(&self, when: When, how: How) {
        self.shared.change(|state| state.armed.push((when, how)));
    }

    /// Removes the armed faults that did not happen, and returns their number.
    pub fn disarm(&self) -> usize {
        self.shared
            .change(|state| std::mem::take(&mut state.armed).len())
    }

    /// From now on nothing is forwarded on any connection; all sockets stay open, including new
    /// ones.
    pub fn stall(&self) {
        self.shared.change(|state| state.stalled = true);
    }

    /// Forwards again, first what was kept.
    pub fn heal(&self) {
        self.shared.change(|state| {
            state.stalled = false;
            state.refusing = false;
            state.heals += 1;
        });
    }

    /// From now on every chunk is forwarded after this delay, in each direction and on all
    /// connections. Throughput is not limited. The TCP handshake is not delayed.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.change(|state| state.latency = latency);
    }

    /// Closes every connection in both directions.
    pub fn cut_all(&self) {
        self.shared.change(|state| state.cuts += 1);
    }

    /// Closes new connections as they come, until [`Relay::heal`].
    pub fn refuse(&self) {
        self.shared.change(|state| state.refusing = true);
    }

    /// The server to which new connections lead from now on.
    pub fn lead_to(&self, server: SocketAddr) {
        self.shared.change(|state| state.server = server);
    }

    /// The counts so far.
    pub fn counters(&self) -> Counters {
        self.shared.state().counters
    }

    /// Waits until the counts fulfil a condition.
    pub async fn wait_for(&self, limit: Duration, what: &str, seen: impl Fn(&Counters) -> bool) {
        wait::until(limit, what, async || seen(&self.counters())).await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.change(|state| state.ended = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.send_replace(());
        result
    }

    fn count(&self, count: impl FnOnce(&mut Counters)) {
        count(&mut self.state().counters);
    }
}

impl State {
    /// Counts a request and takes the fault that is armed for it.
    fn begin_request(&mut self, bytes: &[u8]) -> Option<How> {
        self.counters.requests += 1;
        let due = self.armed.iter().position(|(when, _)| match when {
            When::Next | When::After(0) => true,
            When::After(_) => false,
            When::Containing(part) => contains(bytes, part),
        });
        for (when, _) in &mut self.armed {
            if let When::After(others @ 1..) = when {
                *others -= 1;
            }
        }
        due.map(|index| self.armed.remove(index).1)
    }

    /// Takes the fault that is armed for a request of which more bytes have come.
    fn continue_request(&mut self, bytes: &[u8]) -> Option<How> {
        let due = self
            .armed
            .iter()
            .position(|(when, _)| matches!(when, When::Containing(part) if contains(bytes, part)));
        due.map(|index| self.armed.remove(index).1)
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes
        .windows(part.len().max(1))
        .any(|window| window == part)
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    let mut changed = shared.changed.subscribe();
    loop {
        if shared.state().ended {
            return;
        }
        tokio::select! {
            _ = changed.changed() => {}
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if shared.state().refusing {
                    shared.count(|counters| counters.refused += 1);
                    connection::reset(&client);
                } else {
                    // Subscribed before the first look at the state, so that no change is missed.
                    let changed = shared.changed.subscribe();
                    tokio::spawn(connection::relay(client, Arc::clone(&shared), changed));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
