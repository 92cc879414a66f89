//! Connect options that the application provides at each connect.

use std::{
    any::Any,
    error::Error,
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    thread,
};

use futures_util::{
    FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream::FuturesUnordered,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    failure::{Class, Failure, Kind},
    given_options::GivenOptions,
};

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;
type Provided = Result<GivenOptions, BoxError>;
type Closure = dyn Fn() -> LocalBoxFuture<'static, Provided> + Send + Sync;
type Call = oneshot::Sender<Provided>;

/// The closure of [`Builder::connect_by`](crate::Builder::connect_by).
///
/// It runs on a thread of its own, which starts with the first call and ends with the last
/// clone of the provider. So a closure that blocks its thread, panics or never ends delays
/// neither a renewal nor the end of the driver.
#[derive(Clone)]
pub(super) struct Provider {
    closure: Arc<Closure>,
    thread: Arc<OnceLock<mpsc::UnboundedSender<Call>>>,
}

impl Provider {
    pub(super) fn new(
        closure: impl Fn() -> LocalBoxFuture<'static, Provided> + Send + Sync + 'static,
    ) -> Self {
        Self {
            closure: Arc::new(closure),
            thread: Arc::default(),
        }
    }

    /// Calls the closure. If the returned future is dropped, so is that of the closure.
    ///
    /// # Errors
    ///
    /// The closure's own error, or that it panicked.
    pub(super) async fn call(&self) -> Result<GivenOptions, Failure> {
        let (call, answer) = oneshot::channel();
        let thread = self.thread.get_or_init(|| start(self.closure.clone()));
        let sent = thread.send(call);
        match answer.await {
            Ok(provided) if sent.is_ok() => provided.map_err(failed),
            _ => Err(failed(
                "the thread for the closure of connect_by has ended".into(),
            )),
        }
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provider")
    }
}

/// Permanent, which is final at the first connect only.
fn failed(error: BoxError) -> Failure {
    Failure::new(
        Class::Permanent,
        Kind::Other,
        sqlx::Error::Configuration(error),
    )
}

fn start(closure: Arc<Closure>) -> mpsc::UnboundedSender<Call> {
    let (sender, calls) = mpsc::unbounded_channel();
    let spawned = thread::Builder::new()
        .name("locks-connect".into())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => runtime.block_on(serve(&*closure, calls)),
                Err(error) => tracing::error!(%error, "the closure of connect_by has no runtime"),
            }
        });
    if let Err(error) = spawned {
        tracing::error!(%error, "the thread for the closure of connect_by could not be started");
    }
    sender
}

/// Answers the calls. A call that does not end does not delay the others.
async fn serve(closure: &Closure, mut calls: mpsc::UnboundedReceiver<Call>) {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            call = calls.recv() => match call {
                Some(call) => running.push(answer(closure, call)),
                None => return,
            },
            Some(()) = running.next() => {}
        }
    }
}

async fn answer(closure: &Closure, mut call: Call) {
    let provided = AssertUnwindSafe(async { closure().await }).catch_unwind();
    tokio::select! {
        provided = provided => {
            let provided = provided.unwrap_or_else(|panic| Err(panicked(&*panic)));
            drop(call.send(provided));
        }
        () = call.closed() => {}
    }
}

fn panicked(panic: &(dyn Any + Send)) -> BoxError {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    match text {
        Some(text) => format!("the closure of connect_by panicked: {text}").into(),
        None => "the closure of connect_by panicked".into(),
    }
}

#[cfg(feature = "sqlite")]
#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        time::Duration,
    };

    use sqlx::sqlite::SqliteConnectOptions;

    use super::*;
    use crate::store::Target;

    fn given() -> GivenOptions {
        Target::given(SqliteConnectOptions::new().filename("a.db"))
    }

    #[tokio::test]
    async fn panic_and_endless_call_do_not_affect_other_calls() {
        let count = AtomicUsize::new(0);
        let provider = Provider::new(move || {
            let number = count.fetch_add(1, Relaxed);
            Box::pin(async move {
                match number {
                    0 => panic!("number {number}"),
                    1 => std::future::pending().await,
                    2 => Err("no options".into()),
                    _ => Ok(given()),
                }
            })
        });
        let text =
            |result: Result<GivenOptions, Failure>| result.map(drop).unwrap_err().to_string();
        let first = text(provider.call().await);
        assert!(first.contains("panicked: number 0"), "{first}");
        let endless = tokio::time::timeout(Duration::from_millis(50), provider.call());
        assert!(endless.await.is_err());
        let third = text(provider.call().await);
        assert!(third.contains("no options"), "{third}");
        assert!(provider.call().await.is_ok());
    }

    #[tokio::test]
    async fn closure_that_blocks_its_thread_does_not_block_the_caller() {
        let provider = Provider::new(|| {
            Box::pin(async {
                #[allow(clippy::disallowed_methods, reason = "what must not block the driver")]
                std::thread::sleep(Duration::from_secs(3));
                Ok(given())
            })
        });
        let call = tokio::time::timeout(Duration::from_millis(50), provider.call());
        assert!(call.await.is_err());
    }
}
