//! The ends of a guard other than its release.
//!
//! ```text
//! test ◀── held          it holds NAME
//!      ──▶ go
//!      ◀── dropped       if the process lives on, until its input ends
//! ```

use std::{future::pending, io::BufRead as _, thread, time::Duration};

use clap::ValueEnum;
use locks_core::{LockGuard, LockManager};
use locks_tests::wait;
use tokio::runtime::{Builder, Runtime};

use crate::runtime;

const NAME: &str = "app_task_1";
const SOON: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct DroppedGuard {
    url: String,
    task_id: String,
    case: Way,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Way {
    /// At the end of `#[tokio::main]`; the process ends.
    CurrentThreadMain,
    MultiThreadMain,
    /// At the end of `#[tokio::main]`, with the guard as the last handle.
    ManagerFirst,
    /// In a task that never ends, when the runtime of `#[tokio::main]` is dropped.
    EndlessTask,
    /// A panic of the main thread.
    PanickingMain,
    /// After the shutdown of its runtime.
    RuntimeShutDown,
    /// After the shutdown of its runtime in the background, within a task.
    RuntimeInBackground,
    /// In a thread without a runtime.
    PlainThread,
    /// In a panic of a thread without a runtime.
    PanickingThread,
    /// In a panic of a task.
    PanickingTask,
    /// In the cancelled branch of `select!`.
    CancelledSelect,
    /// The guard is kept; a request behind it in the queue was cancelled.
    CancelledWait,
    /// With its manager, outside any runtime.
    WithManager,
    /// With its manager, inside a runtime with one thread.
    WithManagerInRuntime,
}

impl DroppedGuard {
    pub(crate) fn run(&self) {
        match self.case {
            Way::CurrentThreadMain => current_thread_main(self),
            Way::MultiThreadMain => multi_thread_main(self),
            Way::ManagerFirst => manager_first(self),
            Way::EndlessTask => endless_task(self),
            Way::PanickingMain => self.panicking_main(),
            Way::RuntimeShutDown => self.after_runtime(drop),
            Way::RuntimeInBackground => self.after_runtime(|runtime| {
                runtime.spawn(pending::<()>());
                runtime.shutdown_background();
            }),
            Way::PlainThread => self.in_a_thread(drop),
            Way::PanickingThread => self.in_a_thread(|_guard| panic!("as the test wants")),
            Way::PanickingTask => self.panicking_task(),
            Way::CancelledSelect => self.cancelled_select(),
            Way::CancelledWait => self.cancelled_wait(),
            Way::WithManager => self.with_manager(),
            Way::WithManagerInRuntime => self.with_manager_in_runtime(),
        }
    }

    async fn hold(&self) -> (LockManager, LockGuard) {
        let locks = LockManager::builder()
            .task_id(&self.task_id)
            .connect(&self.url)
            .await
            .expect("it connects");
        let guard = locks.acquire(NAME).await.expect("it is free");
        (locks, guard)
    }

    fn panicking_main(&self) {
        let (_locks, _guard) = runtime().block_on(self.hold());
        held();
        panic!("as the test wants");
    }

    fn after_runtime(&self, shut_down: impl FnOnce(Runtime)) {
        let runtime = runtime();
        let (_locks, guard) = runtime.block_on(self.hold());
        shut_down(runtime);
        held();
        drop(guard);
        dropped();
    }

    fn in_a_thread(&self, end: impl FnOnce(LockGuard) + Send) {
        let runtime = runtime();
        let (_locks, guard) = runtime.block_on(self.hold());
        held();
        thread::scope(|scope| {
            let _ = scope.spawn(|| end(guard)).join();
        });
        dropped();
    }

    fn panicking_task(&self) {
        let runtime = runtime();
        let (_locks, guard) = runtime.block_on(self.hold());
        held();
        let task = runtime.spawn(async move {
            let _guard = guard;
            panic!("as the test wants");
        });
        runtime.block_on(task).expect_err("it panics");
        dropped();
    }

    fn cancelled_select(&self) {
        let runtime = runtime();
        runtime.block_on(async {
            let (locks, first) = self.hold().await;
            let other_task = locks.with_task_id("other").expect("a task id");
            held();
            tokio::select! {
                biased;
                () = async { let _first = first; pending::<()>().await } => {}
                // A request that waits for the lock when it is cancelled.
                _ = other_task.wait(NAME) => {}
                () = async { for _ in 0..100 { tokio::task::yield_now().await } } => {}
            }
            dropped();
        });
    }

    fn cancelled_wait(&self) {
        runtime().block_on(async {
            let (locks, _guard) = self.hold().await;
            held();
            let in_the_queue = async || !locks.waiting().await.expect("a row").is_empty();
            tokio::select! {
                _ = locks.wait(NAME) => {}
                () = wait::until(SOON, "it stands in the queue", in_the_queue) => {}
            }
            dropped();
        });
    }

    fn with_manager(&self) {
        let both = runtime().block_on(self.hold());
        held();
        drop(both);
        dropped();
    }

    fn with_manager_in_runtime(&self) {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (locks, guard) = self.hold().await;
            held();
            drop((guard, locks));
            dropped();
        });
    }
}

#[tokio::main(flavor = "current_thread")]
async fn current_thread_main(dropped_guard: &DroppedGuard) {
    let (_locks, _guard) = dropped_guard.hold().await;
    held();
}

#[tokio::main]
async fn multi_thread_main(dropped_guard: &DroppedGuard) {
    let (_locks, _guard) = dropped_guard.hold().await;
    held();
}

#[tokio::main]
async fn manager_first(dropped_guard: &DroppedGuard) {
    let (locks, _guard) = dropped_guard.hold().await;
    drop(locks);
    held();
}

#[tokio::main]
async fn endless_task(dropped_guard: &DroppedGuard) {
    let (locks, guard) = dropped_guard.hold().await;
    let (begun, begins) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let _both = (locks, guard);
        begun.send(()).expect("it is awaited");
        pending::<()>().await;
    });
    begins.await.expect("it begins");
    held();
}

fn held() {
    crate::say("held");
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    assert_eq!((read.is_ok(), line.trim()), (true, "go"));
}

/// Prints the line and keeps the process alive, so that the lock is not freed by the end of the
/// process.
fn dropped() {
    crate::say("dropped");
    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
}
