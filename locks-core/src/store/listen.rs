//! Hearing what others tell, on the engines that can.

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
    /// Opens a connection and listens on it. What it was told before is unknown.
    pub(crate) async fn open(target: Target) -> Result<(Self, Option<Change>), Failure> {
        use sqlx::postgres::{PgListener, PgPoolOptions};

        let failed = super::executor::failure::<sqlx::Postgres>;
        let Some(options) = target.postgres() else {
            return Err(Failure::no_answer(Duration::ZERO));
        };
        // sqlx listens through a pool only; this one has the one connection.
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

    /// The next change that is told of; nothing when there was none for so long, when it
    /// cannot be read, or when the connection was lost for a moment.
    pub(crate) async fn next(mut self, limit: Duration) -> Result<(Self, Option<Change>), Failure> {
        match tokio::time::timeout(limit, self.inner.try_recv()).await {
            Ok(Ok(told)) => Ok((self, told.and_then(|told| Change::parse(told.payload())))),
            Ok(Err(error)) => Err(super::executor::failure::<sqlx::Postgres>(error)),
            Err(_) => Ok((self, None)),
        }
    }
}

#[cfg(not(feature = "postgres"))]
#[allow(
    clippy::unused_async,
    reason = "the same signatures as where it can listen"
)]
impl Listener {
    pub(crate) async fn open(_: Target) -> Result<(Self, Option<Change>), Failure> {
        Err(Failure::no_answer(Duration::ZERO))
    }

    pub(crate) async fn next(self, _: Duration) -> Result<(Self, Option<Change>), Failure> {
        Ok((self, None))
    }
}
