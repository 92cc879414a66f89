//! Hearing what others tell, on the engines that can.

use std::time::Duration;

use super::{failure::Failure, target::Target};

/// How a change becomes known beside looking at the row.
#[allow(dead_code, reason = "which of them are made depends on the engines")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tells {
    Nothing,
    /// A number, nearly free to ask for, that changes when others write.
    Number,
    /// Notifications, on a connection of their own.
    Notifications,
}

/// What a notification says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) namespace: String,
    /// The version that the row had got.
    pub(crate) version: i64,
}

impl Change {
    /// As it is sent.
    pub(super) fn text(namespace: &str, version: i64) -> String {
        format!("{namespace} {version}")
    }

    /// As it arrives; nothing if it says something else.
    #[allow(dead_code, reason = "not every engine tells")]
    fn parse(text: &str) -> Option<Self> {
        let (namespace, version) = text.split_once(' ')?;
        Some(Self {
            namespace: namespace.into(),
            version: version.parse().ok()?,
        })
    }
}

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

        let failed = super::run::failure::<sqlx::Postgres>;
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
            Ok(Err(error)) => Err(super::run::failure::<sqlx::Postgres>(error)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_arrives_as_it_was_sent() {
        let change = Change {
            namespace: "platform".into(),
            version: i64::MAX,
        };
        let text = Change::text(&change.namespace, change.version);
        assert_eq!(Change::parse(&text), Some(change));
        for text in ["", "platform", "platform x", "platform 1 2"] {
            assert_eq!(Change::parse(text), None, "{text}");
        }
    }
}
