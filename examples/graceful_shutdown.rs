//! A worker that ends in order. On SIGTERM or ctrl-c it begins no new job, and lets the current
//! one finish for up to 8 s. On a second signal, or when the time is over, it drops the job, which
//! releases its lock. It ends when all of its locks are released, so that nothing has to wait until
//! its session expires.
//!
//! Run it with `cargo run --example graceful_shutdown`, or on a database of yours with
//! `cargo run --example graceful_shutdown -- URL`, and press ctrl-c.
//!
//! In a container the worker is often the first process, with the id 1. The kernel does nothing for
//! a signal that such a process has no handler for: it would not hear SIGTERM, and would be killed
//! after the time that the container has to stop. So the handlers are there before anything else.

use std::{env, io, time::Duration};

use locks_core::{LockManager, with_lock};
use tokio::{sync::mpsc, time};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// How long a job may go on after the signal: less than the time until the process is killed,
/// which is 10 s for Docker and 30 s for Kubernetes unless they are told otherwise.
const GRACE: Duration = Duration::from_secs(8);

#[with_lock("job_<number>")]
async fn job(number: u32) -> Result<()> {
    println!("job {number} begins");
    time::sleep(Duration::from_secs(2)).await;
    println!("job {number} ends");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut signals = signals()?;
    let directory = tempfile::tempdir()?;
    let url = match env::args().nth(1) {
        Some(url) => url,
        None => format!("sqlite:{}", directory.path().join("locks.db").display()),
    };
    let locks = LockManager::connect(&url).await?;
    let default = locks.install()?;
    let result = work(&mut signals).await;
    // All of the locks are released when this returns.
    drop(default);
    locks.close().await?;
    println!("everything is released");
    result
}

/// Does one job after the other until a signal comes.
async fn work(signals: &mut mpsc::Receiver<()>) -> Result<()> {
    for number in 1.. {
        if signals.try_recv().is_ok() {
            println!("a signal: no other job begins");
            break;
        }
        let mut job = Box::pin(job(number));
        tokio::select! {
            result = &mut job => result?,
            _ = signals.recv() => {
                println!("a signal: job {number} may finish");
                tokio::select! {
                    result = job => result?,
                    _ = signals.recv() => println!("another signal: job {number} is dropped"),
                    () = time::sleep(GRACE) => println!("too late: job {number} is dropped"),
                }
                break;
            }
        }
    }
    Ok(())
}

/// Receives a value for each SIGTERM and each ctrl-c.
fn signals() -> io::Result<mpsc::Receiver<()>> {
    let (sender, signals) = mpsc::channel(2);
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            let (mut signal, sender) = (signal(kind)?, sender.clone());
            tokio::spawn(async move {
                while signal.recv().await.is_some() && sender.send(()).await.is_ok() {}
            });
        }
    }
    #[cfg(windows)]
    {
        use tokio::signal::windows::ctrl_c;
        let mut signal = ctrl_c()?;
        tokio::spawn(async move {
            while signal.recv().await.is_some() && sender.send(()).await.is_ok() {}
        });
    }
    Ok(signals)
}
