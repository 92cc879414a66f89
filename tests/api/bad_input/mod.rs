//! Invalid input: each gives a clear error and changes nothing.

mod addresses;
mod names;
mod rights;
mod rows;

use std::{fmt::Debug, time::Duration};

use locks_core::LockError;

/// The limit for errors that are not retried.
const AT_ONCE: Duration = Duration::from_secs(5);
/// The limit for errors that may be transient, or only slow.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// The error of a request that fails without delay.
async fn error_of<T: Debug>(request: impl IntoFuture<Output = locks_core::Result<T>>) -> LockError {
    error_within(AT_ONCE, request).await
}

/// The error of a request that fails within this time.
async fn error_within<T: Debug>(
    limit: Duration,
    request: impl IntoFuture<Output = locks_core::Result<T>>,
) -> LockError {
    let answer = tokio::time::timeout(limit, request).await;
    let answer = answer.unwrap_or_else(|_| panic!("no answer within {limit:?}"));
    answer.expect_err("this cannot be")
}
