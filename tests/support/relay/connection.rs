//! One connection through the relay.

use std::{collections::VecDeque, future, io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::{self, Instant},
};

use super::{How, Shared};

const BUFFER: usize = 64 * 1024;

/// Closes the connection so that the other end notices at once.
pub(super) fn reset(stream: &TcpStream) {
    // Dropped without lingering, the socket sends a reset, as that of a killed process does.
    let _ = stream.set_zero_linger();
}

/// Relays until either end closes or a fault closes the connection.
pub(super) async fn relay(client: TcpStream, shared: Arc<Shared>, changed: watch::Receiver<()>) {
    let (server, heals, cuts) = {
        let mut state = shared.state();
        state.counters.connections += 1;
        state.counters.open += 1;
        (state.server, state.heals, state.cuts)
    };
    if let Ok(server) = TcpStream::connect(server).await {
        let mut connection = Connection {
            client: End::new(client),
            server: End::new(server),
            shared: Arc::clone(&shared),
            changed,
            heals,
            cuts,
            fault: None,
            stalled: false,
            answered: true,
            request: Vec::new(),
        };
        // An error means that an end was closed; the drop closes the other one.
        if connection.run().await.unwrap_or(Cut::No) == Cut::Yes {
            reset(&connection.client.stream);
            reset(&connection.server.stream);
        }
    } else {
        shared.count(|counters| counters.refused += 1);
        reset(&client);
    }
    shared.count(|counters| counters.open -= 1);
}

#[derive(PartialEq, Eq)]
enum Cut {
    Yes,
    No,
}

/// The socket to the client or to the server.
struct End {
    stream: TcpStream,
    /// What a stall keeps.
    kept: Vec<u8>,
    /// Bytes that wait for the latency to pass, and the time at which each piece is due.
    on_the_way: VecDeque<(Instant, Vec<u8>)>,
    /// It has closed, or nothing more is sent to it.
    closed: bool,
}

struct Connection {
    client: End,
    server: End,
    shared: Arc<Shared>,
    changed: watch::Receiver<()>,
    heals: u64,
    cuts: u64,
    /// The fault for the answer to the current request.
    fault: Option<How>,
    /// Stalled by an armed fault, until the next heal.
    stalled: bool,
    /// Whether the server has sent something since the last request, or no request has come yet.
    answered: bool,
    /// The current request, as far as it has arrived.
    request: Vec<u8>,
}

impl End {
    fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self {
            stream,
            kept: Vec::new(),
            on_the_way: VecDeque::new(),
            closed: false,
        }
    }

    /// Reads, unless the end has closed; then this never completes. Returns 0 if the end closes
    /// now: a reset counts as an end of file.
    async fn read(&mut self, buffer: &mut [u8]) -> usize {
        if self.closed {
            return future::pending().await;
        }
        let n = self.stream.read(buffer).await.unwrap_or(0);
        self.closed = n == 0;
        n
    }

    /// Writes the bytes after the latency, behind all bytes that were sent before.
    async fn send(&mut self, bytes: &[u8], latency: Duration) -> io::Result<()> {
        if latency.is_zero() && self.on_the_way.is_empty() {
            return self.stream.write_all(bytes).await;
        }
        // After a lower latency was set, bytes do not overtake each other.
        let last = self.on_the_way.back().map(|(due, _)| *due);
        let due = (Instant::now() + latency).max(last.unwrap_or_else(Instant::now));
        self.on_the_way.push_back((due, bytes.to_vec()));
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        self.on_the_way.front().map(|(due, _)| *due)
    }

    /// Writes the pieces whose latency has passed.
    async fn write_due(&mut self) -> io::Result<()> {
        while self.due().is_some_and(|due| due <= Instant::now()) {
            if let Some((_, bytes)) = self.on_the_way.pop_front() {
                self.stream.write_all(&bytes).await?;
            }
        }
        Ok(())
    }

    /// Writes all pieces, each when its latency has passed.
    async fn flush(&mut self) -> io::Result<()> {
        while let Some(due) = self.due() {
            time::sleep_until(due).await;
            self.write_due().await?;
        }
        Ok(())
    }

    async fn send_kept(&mut self, latency: Duration) -> io::Result<()> {
        let kept = std::mem::take(&mut self.kept);
        if kept.is_empty() {
            return Ok(());
        }
        self.send(&kept, latency).await
    }
}

impl Connection {
    async fn run(&mut self) -> io::Result<Cut> {
        let mut from_client = vec![0; BUFFER];
        let mut from_server = vec![0; BUFFER];
        loop {
            if self.look_at_state().await? == Cut::Yes {
                return Ok(Cut::Yes);
            }
            if (self.client.closed || self.server.closed) && !self.is_stalled() {
                // An end that closes does not lose what it sent before.
                for end in [&mut self.client, &mut self.server] {
                    if !end.closed {
                        end.flush().await?;
                    }
                }
                return Ok(Cut::No);
            }
            let due = [self.client.due(), self.server.due()];
            let due = due.into_iter().flatten().min();
            let cut = tokio::select! {
                _ = self.changed.changed() => Cut::No,
                () = sleep_until(due) => {
                    self.server.write_due().await?;
                    self.client.write_due().await?;
                    Cut::No
                }
                n = self.client.read(&mut from_client) => match n {
                    0 => Cut::No,
                    _ => self.on_request(&from_client[..n]).await?,
                },
                n = self.server.read(&mut from_server) => match n {
                    0 => Cut::No,
                    _ => self.on_answer(&from_server[..n]).await?,
                },
            };
            if cut == Cut::Yes {
                return Ok(Cut::Yes);
            }
        }
    }

    fn is_stalled(&self) -> bool {
        self.stalled || self.shared.state().stalled
    }

    fn latency(&self) -> Duration {
        self.shared.state().latency
    }

    /// Follows the state: closes the connection, or forwards what was kept.
    async fn look_at_state(&mut self) -> io::Result<Cut> {
        {
            let mut state = self.shared.state();
            if state.cuts != self.cuts {
                state.counters.cut_by_hand += 1;
                return Ok(Cut::Yes);
            }
            if state.heals != self.heals {
                self.heals = state.heals;
                self.stalled = false;
            }
        }
        if self.is_stalled() {
            return Ok(Cut::No);
        }
        let latency = self.latency();
        if !self.server.kept.is_empty() {
            self.server.send_kept(latency).await?;
            if self.client.closed {
                self.finish_without_client().await?;
            }
        }
        if !self.client.closed {
            self.client.send_kept(latency).await?;
        }
        Ok(Cut::No)
    }

    /// Closes the server's side in order and discards its answer, so that the server is not
    /// interrupted while it executes a late request.
    async fn finish_without_client(&mut self) -> io::Result<()> {
        self.server.flush().await?;
        self.server.stream.shutdown().await?;
        let mut nowhere = vec![0; BUFFER];
        while self.server.read(&mut nowhere).await > 0 {}
        Ok(())
    }

    async fn on_request(&mut self, bytes: &[u8]) -> io::Result<Cut> {
        let due = if self.answered {
            self.answered = false;
            self.fault = None;
            self.request.clear();
            self.request.extend_from_slice(bytes);
            self.shared.state().begin_request(&self.request)
        } else {
            self.request.extend_from_slice(bytes);
            self.shared.state().continue_request(&self.request)
        };
        match due {
            Some(How::CutBefore) => {
                self.shared.count(|counters| counters.cut_before += 1);
                return Ok(Cut::Yes);
            }
            Some(How::Stall) => {
                self.shared.count(|counters| counters.stalled += 1);
                self.stalled = true;
            }
            Some(How::Delay(delay)) => {
                self.shared.count(|counters| counters.delayed += 1);
                time::sleep(delay).await;
            }
            Some(how) => self.fault = Some(how),
            None => {}
        }
        if self.is_stalled() {
            self.server.kept.extend_from_slice(bytes);
        } else {
            let latency = self.latency();
            self.server.send(bytes, latency).await?;
        }
        Ok(Cut::No)
    }

    async fn on_answer(&mut self, bytes: &[u8]) -> io::Result<Cut> {
        self.answered = true;
        match self.fault.take() {
            Some(How::CutAfter) => {
                self.shared.count(|counters| counters.cut_after += 1);
                return Ok(Cut::Yes);
            }
            Some(How::CutWithin(n)) => {
                let part = &bytes[..n.min(bytes.len() - 1)];
                self.client.flush().await?;
                self.client.stream.write_all(part).await?;
                self.shared.count(|counters| counters.cut_within += 1);
                // In order: these bytes, then the end. A reset could overtake them.
                self.client.stream.shutdown().await?;
                self.client.closed = true;
                return Ok(Cut::No);
            }
            Some(How::StallAnswer) => {
                self.shared.count(|counters| counters.stalled += 1);
                self.stalled = true;
            }
            _ => {}
        }
        if self.is_stalled() {
            self.client.kept.extend_from_slice(bytes);
        } else if !self.client.closed {
            let latency = self.latency();
            self.client.send(bytes, latency).await?;
        }
        Ok(Cut::No)
    }
}

/// Completes at this time, or never without one.
async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => time::sleep_until(due).await,
        None => future::pending().await,
    }
}
