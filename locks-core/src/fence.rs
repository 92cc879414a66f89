//! What a fence can be put on: the caller's own connection.

/// What [`LockGuard::fence`](crate::LockGuard::fence) takes: a connection, a pooled
/// connection or a transaction of an engine, or `&mut` of one.
///
/// A pool is none: the fence must be a statement of the very transaction that it
/// protects.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be fenced",
    label = "not a connection or transaction of an engine that is compiled in",
    note = "pass the transaction that is to be protected: `guard.fence(&mut *tx)`, \
            or let `guard.commit(tx)` do both; a pool cannot be fenced"
)]
pub trait FenceConnection: sealed::Touch {}

impl<T: sealed::Touch + ?Sized> FenceConnection for T {}

pub(crate) mod sealed {
    use crate::error::Result;

    /// Who may take a lock away without regard to fences.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Unfenced {
        /// The original, which knows of none: the locks row has to be looked at.
        Original,
        /// Nobody: the fence row says all.
        Nobody,
    }

    pub trait Touch: Send {
        #[doc(hidden)]
        const UNFENCED: Unfenced;

        /// Touches the fence row of a session; how many rows were there.
        #[doc(hidden)]
        fn touch(&mut self, session: &str) -> impl Future<Output = Result<u64>> + Send;
    }

    impl<T: Touch + ?Sized> Touch for &mut T {
        const UNFENCED: Unfenced = T::UNFENCED;

        fn touch(&mut self, session: &str) -> impl Future<Output = Result<u64>> + Send {
            (**self).touch(session)
        }
    }
}

/// Lets an engine's connections be fenced with its statement.
macro_rules! fence_connection {
    ($engine:ty, $connection:ty, $sql:expr, $unfenced:expr) => {
        impl $crate::fence::sealed::Touch for $connection {
            const UNFENCED: $crate::fence::sealed::Unfenced = $unfenced;

            async fn touch(&mut self, session: &str) -> Result<u64> {
                let touched = sqlx::query::<$engine>($sql)
                    .bind(session)
                    .execute(self)
                    .await;
                match touched {
                    Ok(result) => Ok(<$engine as Engine>::rows_affected(&result)),
                    Err(error) => Err(super::run::failure::<$engine>(error).into()),
                }
            }
        }

        impl $crate::fence::sealed::Touch for sqlx::pool::PoolConnection<$engine> {
            const UNFENCED: $crate::fence::sealed::Unfenced = $unfenced;

            async fn touch(&mut self, session: &str) -> Result<u64> {
                (**self).touch(session).await
            }
        }

        impl $crate::fence::sealed::Touch for sqlx::Transaction<'_, $engine> {
            const UNFENCED: $crate::fence::sealed::Unfenced = $unfenced;

            async fn touch(&mut self, session: &str) -> Result<u64> {
                (**self).touch(session).await
            }
        }
    };
}

pub(crate) use fence_connection;
