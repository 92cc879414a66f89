//! The signals that are passed on to the command.

use std::io;
#[cfg(unix)]
use std::{future::poll_fn, task::Poll};

#[cfg(unix)]
use rustix::process::Signal;
#[cfg(unix)]
use tokio::signal::unix::{self, SignalKind};

/// A signal that this process got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    #[cfg(unix)]
    pub(super) signal: Signal,
}

/// Listens for signals, which then do not end this process.
#[derive(Debug)]
pub(crate) struct Signals {
    #[cfg(unix)]
    listeners: Vec<(Signal, unix::Signal)>,
}

#[cfg(unix)]
impl Signals {
    pub(crate) fn listen() -> io::Result<Self> {
        let ignored = ignored();
        let signals = [
            (Signal::HUP, SignalKind::hangup()),
            (Signal::INT, SignalKind::interrupt()),
            (Signal::QUIT, SignalKind::quit()),
            (Signal::TERM, SignalKind::terminate()),
            (Signal::USR1, SignalKind::user_defined1()),
            (Signal::USR2, SignalKind::user_defined2()),
        ];
        let mut listeners = Vec::new();
        for (signal, kind) in signals {
            // As `nohup` ignores SIGHUP, for this process and for the command.
            if ignored & (1 << (signal.as_raw() - 1)) == 0 {
                listeners.push((signal, unix::signal(kind)?));
            }
        }
        Ok(Self { listeners })
    }

    /// Waits for the next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> Received {
        poll_fn(|cx| {
            for (signal, listener) in &mut self.listeners {
                if listener.poll_recv(cx).is_ready() {
                    return Poll::Ready(Received { signal: *signal });
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// The signals that this process was started to ignore, one bit each, where `/proc` tells it.
#[cfg(unix)]
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0)
}

#[cfg(unix)]
impl Received {
    pub(crate) fn number(self) -> u8 {
        u8::try_from(self.signal.as_raw()).unwrap_or(0)
    }

    /// Whether a terminal has sent it to the command, too. A terminal sends these to each process
    /// of its foreground group.
    pub(super) fn comes_from_the_terminal(self) -> bool {
        use rustix::{process::getpgrp, stdio::stdin, termios::tcgetpgrp};
        matches!(self.signal, Signal::INT | Signal::QUIT)
            && tcgetpgrp(stdin()).is_ok_and(|foreground| foreground == getpgrp())
    }
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "as on Unix")]
impl Signals {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Waits for an interrupt.
    pub(crate) async fn next(&mut self) -> Received {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Received {}
    }
}

#[cfg(not(unix))]
#[allow(clippy::unused_self, reason = "as on Unix")]
impl Received {
    /// The number of SIGINT elsewhere.
    pub(crate) fn number(self) -> u8 {
        2
    }
}
