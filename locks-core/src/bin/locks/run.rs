//! `locks run`.

pub(crate) mod command;
pub(crate) mod signals;

use std::future::pending;

use locks_core::{LockError, LockGuard, LockManager};
use tokio::time::{Instant, sleep_until};

use self::{command::Child, signals::Signals};
use crate::{
    arguments::{Database, Run},
    exit::{BUSY, LOST, Outcome, SIGNALLED, TIMED_OUT},
    report,
};

pub(crate) async fn run(database: &Database, run: Run) -> Outcome {
    // From here on no signal ends this process without a release.
    let mut signals = Signals::listen()?;
    let url = database.url()?;
    let acquired = async {
        let locks = run.connect(database, url).await?;
        Ok((run.acquire(&locks).await?, locks))
    };
    let acquired: Result<(LockGuard, LockManager), LockError> = tokio::select! {
        acquired = acquired => acquired,
        signal = signals.next() => return Ok(SIGNALLED + signal.number()),
    };
    let (guard, _locks) = match acquired {
        Ok(acquired) => acquired,
        Err(error) if error.is_busy() || error.is_timeout() => {
            eprintln!("locks: {error}");
            if let LockError::Busy { blocked_by, .. } | LockError::Timeout { blocked_by, .. } =
                &error
            {
                report::tell_of_matrix(blocked_by);
            }
            return Ok(if error.is_busy() { BUSY } else { TIMED_OUT });
        }
        Err(error) => return Err(error.into()),
    };
    let child = match Child::start(&run.command, &guard) {
        Ok(child) => child,
        Err(error) => return Ok(command::report_failure(&run.command[0], &error)),
    };
    let code = attend(child, &guard, &mut signals, &run).await?;
    match guard.release().await {
        Ok(()) => Ok(code),
        Err(error) if error.is_lost() => {
            if code != LOST {
                eprintln!("locks: {error}");
            }
            Ok(LOST)
        }
        Err(error) => {
            // They are released when their session expires.
            eprintln!("locks: {error}");
            Ok(code)
        }
    }
}

/// Waits for the end of the command, and returns its exit code.
async fn attend(
    mut child: Child,
    guard: &LockGuard,
    signals: &mut Signals,
    run: &Run,
) -> std::io::Result<u8> {
    let mut lost = Box::pin(guard.lost());
    let mut endangered = Box::pin(guard.endangered());
    let (mut is_lost, mut is_warned, mut kill_at) = (false, false, None);
    loop {
        let grace_over = async {
            match kill_at {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            code = child.wait() => return Ok(if is_lost { LOST } else { code? }),
            how = &mut lost, if !is_lost => {
                eprintln!("locks: {how}; the command is ended");
                is_lost = true;
                kill_at = Some(Instant::now() + run.grace);
                child.terminate();
            }
            danger = &mut endangered, if !is_lost && !is_warned => {
                is_warned = true;
                if !danger.expires_in.is_zero() {
                    eprintln!("locks: {danger}");
                }
            }
            () = grace_over => {
                kill_at = None;
                child.kill();
            }
            signal = signals.next() => child.pass_on(signal),
        }
    }
}
