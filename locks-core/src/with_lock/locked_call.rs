//! A call that holds its locks: from the grant to the release.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
};

use tracing::{debug, warn};

use super::{
    call::{Call, OnLost},
    error_conversion::ErrorConversion,
};
use crate::{
    error::{LockError, Result},
    guard::LockGuard,
    scope::ScopePath,
    wait::{Request, assert_may_block},
};

/// A call whose locks were granted. Dropping it releases them without waiting.
pub struct LockedCall {
    guard: LockGuard,
    scope: ScopePath,
    on_lost: OnLost,
}

/// Acquires the locks of `call`.
pub async fn lock(call: Call) -> Result<LockedCall> {
    let on_lost = call.on_lost;
    let scope = ScopePath::current().child();
    let grant = async { request(call)?.await };
    let guard = scope.clone().run(grant).await?;
    Ok(LockedCall {
        guard,
        scope,
        on_lost,
    })
}

/// Acquires the locks of `call` and blocks the thread until they are granted.
#[track_caller]
pub fn lock_blocking(call: Call) -> Result<LockedCall> {
    // Here, because the closure below does not know its caller.
    assert_may_block();
    let on_lost = call.on_lost;
    let scope = ScopePath::current().child();
    let guard = scope.clone().run_blocking(|| request(call)?.blocking())?;
    Ok(LockedCall {
        guard,
        scope,
        on_lost,
    })
}

/// Makes the request of a call.
fn request(call: Call) -> Result<Request<LockGuard>> {
    let (wait_policy, max_hold) = (call.wait_policy, call.max_hold);
    let (manager, names) = call.into_parts()?;
    Ok(manager.request(Ok(names), wait_policy, max_hold))
}

/// Whether the function returns the value of `busy = …` instead of `error`.
pub fn is_refused(error: &LockError) -> bool {
    error.is_busy() || error.is_timeout()
}

/// The guard that `guard = …` binds.
pub fn guard(call: &LockedCall) -> &LockGuard {
    &call.guard
}

/// Runs `body`. If the lock is lost, the body is not polled again and the result is
/// [`LockError::Lost`], unless the call continues when its lock is lost.
pub async fn run<R, E, F: Future<Output = R>>(
    call: &LockedCall,
    errors: ErrorConversion<R, E>,
    mut body: Pin<&mut F>,
) -> R {
    let scope = call.scope.clone();
    if call.on_lost == OnLost::Continue {
        return scope.run(body).await;
    }
    let mut lost = pin!(call.guard.lost());
    // The loss is polled first: the body must not work on with a lock that was lost while
    // the task slept.
    let lost_or_done = poll_fn(|cx| match lost.as_mut().poll(cx) {
        Poll::Ready(lost) => Poll::Ready(errors.convert(LockError::Lost(lost))),
        Poll::Pending => body.as_mut().poll(cx),
    });
    scope.run(lost_or_done).await
}

/// Runs `body` on this thread.
pub fn run_blocking<R>(call: &LockedCall, body: impl FnOnce() -> R) -> R {
    call.scope.clone().run_blocking(body)
}

/// Releases the locks and waits until the release is done.
pub async fn unlock<R, E>(call: LockedCall, errors: ErrorConversion<R, E>, value: R) -> R {
    let released = call.guard.release().await;
    value_after_release(released, call.on_lost, errors, value)
}

/// Releases the locks and blocks the thread until the release is done.
pub fn unlock_blocking<R, E>(call: LockedCall, errors: ErrorConversion<R, E>, value: R) -> R {
    let released = call.guard.release().blocking();
    value_after_release(released, call.on_lost, errors, value)
}

/// What the function returns after a release.
///
/// A failed release replaces the body's `value` only if the lock was lost, the body
/// succeeded, and the call does not continue when its lock is lost. Other failures are
/// logged.
fn value_after_release<R, E>(
    released: Result<()>,
    on_lost: OnLost,
    errors: ErrorConversion<R, E>,
    value: R,
) -> R {
    let Err(error) = released else {
        return value;
    };
    if error.is_lost() && on_lost == OnLost::Cancel && errors.is_ok(&value) {
        return errors.convert(error);
    }
    if matches!(error, LockError::Closed) {
        debug!("the lock of a function was released by `close`");
    } else {
        warn!(%error, "the lock of a function was not released");
    }
    value
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{report::Lost, with_lock::from_lock_error};

    fn after_failed_release(error: LockError, on_lost: OnLost, value: Result<u8>) -> Result<u8> {
        let errors = from_lock_error::<Result<u8>, _>();
        value_after_release(Err(error), on_lost, errors, value)
    }

    fn lost() -> LockError {
        LockError::Lost(Lost {
            names: [].into(),
            since: SystemTime::UNIX_EPOCH,
            by: None,
            reason: "a test",
        })
    }

    #[test]
    fn lost_lock_replaces_the_result_of_a_body_that_succeeded() {
        let result = after_failed_release(lost(), OnLost::Cancel, Ok(1));
        assert!(result.is_err_and(|error| error.is_lost()));
    }

    #[test]
    fn lost_lock_does_not_change_the_result_of_a_call_that_continues() {
        let result = after_failed_release(lost(), OnLost::Continue, Ok(1));
        assert!(matches!(result, Ok(1)));
    }

    #[test]
    fn failed_release_of_another_kind_does_not_change_the_result() {
        let result = after_failed_release(LockError::Closed, OnLost::Cancel, Ok(1));
        assert!(matches!(result, Ok(1)));
    }

    #[test]
    fn lost_lock_does_not_replace_the_error_of_the_body() {
        let result = after_failed_release(lost(), OnLost::Cancel, Err(LockError::NotInstalled));
        assert!(matches!(result, Err(LockError::NotInstalled)));
    }
}
