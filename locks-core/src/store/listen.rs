//! Receiving notifications, on engines that have them.

use std::time::Duration;

use super::{change::Change, failure::Failure, target::Target};

/// A connection on which notifications arrive.
#[derive(Debug)]
pub(crate) struct Listener {
    #[cfg(feature = "postgres")]
    inner: sqlx::postgres::PgListener,
}

#[cfg(feature = "postgres")]
impl Listener {
    /// Opens a connection and listens on it. Earlier notifications are lost.
    pub(crate) async fn open(target: Target) -> Result<(Self, Option<Change>), Failure> {
        use sqlx::postgres::{PgListener, PgPoolOptions};

        let failed = super::executor::failure::<sqlx::Postgres>;
        let Some(options) = target.postgres() else {
            return Err(Failure::no_answer(Duration::ZERO));
        };
        // sqlx can only listen on a connection of a pool.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(options.clone());
        let mut inner = PgListener::connect_with(&pool).await.map_err(failed)?;
        inner
            .listen(super::postgres::CHANNEL)
            .await
            .map_err(failed)?;
        Ok((Self { inner }, None))
    }

    /// Waits for the next change. Returns `None` after `limit`, if the payload cannot be
    /// parsed, or if the connection was lost and reopened.
    pub(crate) async fn next(mut self, limit: Duration) -> Result<(Self, Option<Change>), Failure> {
        match tokio::time::timeout(limit, self.inner.try_recv()).await {
            Ok(Ok(received)) => {
                let change = received.and_then(|received| Change::parse(received.payload()));
                Ok((self, change))
            }
            Ok(Err(error)) => Err(super::executor::failure::<sqlx::Postgres>(error)),
            Err(_) => Ok((self, None)),
        }
    }
}

#[cfg(not(feature = "postgres"))]
#[allow(
    clippy::unused_async,
    reason = "the signatures of the implementation above"
)]
impl Listener {
    pub(crate) async fn open(_: Target) -> Result<(Self, Option<Change>), Failure> {
        Err(Failure::no_answer(Duration::ZERO))
    }

    pub(crate) async fn next(self, _: Duration) -> Result<(Self, Option<Change>), Failure> {
        Ok((self, None))
    }
}
