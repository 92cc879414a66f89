//! What cannot be: each a clear error, and nothing is changed by it.

mod addresses;
mod left_out;
mod rights;
mod rows;
mod words;

use std::{fmt::Debug, time::Duration};

use locks_core::LockError;

/// No error of these takes longer; what needs time is not tried again.
const AT_ONCE: Duration = Duration::from_secs(5);
/// But for what may heal, or may only be slow.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// The error of a request, which comes at once.
async fn error_of<T: Debug>(request: impl IntoFuture<Output = locks_core::Result<T>>) -> LockError {
    error_within(AT_ONCE, request).await
}

/// The error of a request, which comes within this time.
async fn error_within<T: Debug>(
    limit: Duration,
    request: impl IntoFuture<Output = locks_core::Result<T>>,
) -> LockError {
    let answer = tokio::time::timeout(limit, request).await;
    let answer = answer.unwrap_or_else(|_| panic!("no answer within {limit:?}"));
    answer.expect_err("this cannot be")
}
