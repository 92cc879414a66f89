//! Receiving notifications, on engines that have them.

use std::time::Duration;

use super::{change::Signal, failure::Failure, target::Target};

/// A connection on which notifications arrive.
#[derive(Debug)]
pub(crate) struct Listener {
    #[cfg(feature = "postgres")]
    inner: sqlx::postgres::PgListener,
}

/// The time limit of the connect, and of the statement that begins to listen.
#[cfg(feature = "postgres")]
const LIMIT: Duration = Duration::from_secs(5);

#[cfg(feature = "postgres")]
impl Listener {
    /// Opens a connection and listens on it. Earlier notifications are lost.
    pub(crate) async fn open(target: Target) -> Result<Self, Failure> {
        use sqlx::postgres::{PgListener, PgPoolOptions};

        let failed = super::executor::failure::<sqlx::Postgres>;
        let connect = async {
            let options = target.listening(LIMIT).await?;
            // sqlx can only listen on a connection of a pool.
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(LIMIT)
                .connect_lazy_with(options);
            PgListener::connect_with(&pool).await.map_err(failed)
        };
        let mut inner = target.attempt(connect).await?;
        // A connection that is lost is opened again with new options, and proved again.
        inner.eager_reconnect(false);
        let listen = inner.listen(super::postgres::CHANNEL);
        match tokio::time::timeout(LIMIT, listen).await {
            Ok(listening) => listening.map_err(failed)?,
            Err(_) => return Err(Failure::no_answer(LIMIT)),
        }
        Ok(Self { inner })
    }

    /// Waits for the next signal, for at most `limit`.
    pub(crate) async fn next(mut self, limit: Duration) -> Result<(Self, Signal), Failure> {
        match tokio::time::timeout(limit, self.inner.try_recv()).await {
            Ok(Ok(Some(received))) => {
                let signal = Signal::parse(received.payload());
                Ok((self, signal))
            }
            Ok(Ok(None)) => {
                let error = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
                Err(super::executor::failure::<sqlx::Postgres>(error.into()))
            }
            Ok(Err(error)) => Err(super::executor::failure::<sqlx::Postgres>(error)),
            Err(_) => Ok((self, Signal::Nothing)),
        }
    }
}

#[cfg(not(feature = "postgres"))]
#[allow(
    clippy::unused_async,
    reason = "the signatures of the implementation above"
)]
impl Listener {
    pub(crate) async fn open(_: Target) -> Result<Self, Failure> {
        Err(Failure::no_answer(Duration::ZERO))
    }

    pub(crate) async fn next(self, _: Duration) -> Result<(Self, Signal), Failure> {
        Ok((self, Signal::Nothing))
    }
}
