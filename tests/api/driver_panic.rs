//! A driver whose thread panics: its guards are lost, and no call waits for it.

use std::{
    env,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use locks_core::{Expiry, LockError, LockManager};
use tracing::{Metadata, Subscriber, span};

const SOON: Duration = Duration::from_secs(20);
/// Set in the child of a test.
const CHILD: &str = "LOCKS_TEST_CHILD_OF_DRIVER_PANIC";

/// Whether the next event of the driver is a panic.
static ARMED: AtomicBool = AtomicBool::new(false);

/// A subscriber that panics, as one with a bug does. The library calls it in its own thread.
struct Panicking;

impl Subscriber for Panicking {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("locks_core")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        let is_driver = std::thread::current().name() == Some("locks-driver");
        assert!(!is_driver || !ARMED.swap(false, SeqCst), "a bug");
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The subscriber is that of the process, so the test runs in one of its own.
#[test]
fn guards_of_a_driver_that_panics_are_lost() {
    if env::var_os(CHILD).is_none() {
        let mut command = Command::new(env::current_exe().expect("this program"));
        let test = "driver_panic::guards_of_a_driver_that_panics_are_lost";
        command
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, "1");
        let output = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{errors}");
        assert!(errors.contains("a bug"), "the driver panicked: {errors}");
        return;
    }
    let set = tracing::subscriber::set_global_default(Panicking);
    set.expect("there is no other one");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("it starts").block_on(async {
        for expiry in [Expiry::After(Duration::from_mins(5)), Expiry::Never] {
            let builder = LockManager::builder().expiry(expiry);
            let locks = builder.connect("sqlite::memory:").await;
            let locks = locks.expect("it is in memory");
            let guard = locks.acquire("x").await.expect("it is free");
            let lost = guard.lost();
            ARMED.store(true, SeqCst);
            let answer = tokio::time::timeout(SOON, locks.acquire("y")).await;
            let error = answer.expect("an answer").expect_err("the driver is gone");
            assert!(matches!(error, LockError::Closed), "{error:?}");
            let lost = tokio::time::timeout(SOON, lost).await.expect("it is lost");
            assert!(lost.reason.contains("driver has ended"), "{lost}");
            assert!(guard.is_lost());
            let answer = tokio::time::timeout(SOON, guard.release()).await;
            answer.expect("an answer").expect_err("the driver is gone");
        }
    });
}
