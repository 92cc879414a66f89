//! Waiting for a condition, with a deadline, instead of sleeping for a fixed time.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Polls until the answer is `Some`, with pauses that grow to 50 ms.
///
/// # Panics
///
/// With `what` was awaited, if the limit has passed.
pub async fn until_some<T>(
    limit: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Polls until the answer is `true`, like [`until_some`].
pub async fn until(limit: Duration, what: &str, mut ask: impl AsyncFnMut() -> bool) {
    until_some(limit, what, async || ask().await.then_some(())).await;
}

/// [`until`] for a thread without a runtime.
pub fn until_blocking(limit: Duration, what: &str, mut ask: impl FnMut() -> bool) {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    while !ask() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Runs the future to completion on this thread, which must not be one of a runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// Runs the future to completion, in any context: on a new thread with its own runtime.
///
/// Synchronous code, such as a `Drop`, queries a database with it.
pub fn block_on_thread<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(|| block_on(future)).join() {
        Ok(output) => output,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_is_seen() {
        let mut asked = 0;
        until_blocking(Duration::from_secs(5), "the third time", || {
            asked += 1;
            asked == 3
        });
        assert_eq!(asked, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "not within 20ms: never")]
    async fn condition_that_stays_false_ends_at_the_deadline() {
        until(Duration::from_millis(20), "never", async || false).await;
    }

    #[tokio::test]
    async fn blocking_works_inside_a_runtime() {
        assert_eq!(block_on_thread(async { 7 }), 7);
    }
}
