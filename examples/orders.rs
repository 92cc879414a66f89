//! What a worker process of a [`Crew`](crate::Crew) is told, and how it answers.

use std::io::{self, Write as _};

use tokio::sync::{mpsc, oneshot};

use crate::Result;

/// The lines that a worker is told.
#[derive(Debug)]
pub struct Orders(mpsc::UnboundedReceiver<String>);

impl Orders {
    /// The next line.
    ///
    /// # Errors
    ///
    /// When nobody is there any more to say one.
    ///
    /// # Cancel safety
    ///
    /// It can be dropped at any time.
    pub async fn next(&mut self) -> Result<String> {
        Ok(self.0.recv().await.ok_or("there are no more orders")?)
    }
}

/// Does the work, until it is done or there is nobody to give orders.
///
/// # Errors
///
/// The work's own, and when the process that started this one is gone. Then the work is
/// dropped, wherever it is.
pub async fn obey(work: impl AsyncFnOnce(&mut Orders) -> Result<()>) -> Result<()> {
    let (mut orders, hung_up) = listen();
    tokio::select! {
        outcome = work(&mut orders) => outcome,
        _ = hung_up => Err("the process that started this worker is gone".into()),
    }
}

/// Says a line in a worker's name.
///
/// # Errors
///
/// When nobody can hear it any more.
pub fn say(name: &str, what: &str) -> io::Result<()> {
    // All workers write to one pipe, where a line that comes in one piece stays in one.
    let line = format!("{name} {what}\n");
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

/// The lines of the standard input, and what resolves when there are no more.
fn listen() -> (Orders, oneshot::Receiver<()>) {
    let (send, orders) = mpsc::unbounded_channel();
    let (end, hung_up) = oneshot::channel();
    // A thread, because a runtime waits at its end for a read that is under way.
    std::thread::spawn(move || {
        for line in io::stdin().lines().map_while(io::Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
        drop(end);
    });
    (Orders(orders), hung_up)
}
