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
    use crate::{
        error::{LockError, Result},
        store::FenceStatement,
    };

    /// Which programs take a lock away without regard to fences.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Unfenced {
        /// The original, which knows of none: the locks row has to be looked at.
        Original,
        /// None: the fence row says all.
        Nobody,
    }

    /// What came of a fence.
    #[derive(Debug)]
    pub enum Touched {
        Fenced,
        /// The transaction does not see the fence row.
        Absent,
        /// Another transaction deleted the row, or made it, since this one began.
        Conflict(LockError),
    }

    pub trait Touch: Send {
        #[doc(hidden)]
        const UNFENCED: Unfenced;

        /// Puts a fence on what this connection is doing.
        #[doc(hidden)]
        #[allow(private_interfaces)]
        fn touch(
            &mut self,
            fence: &FenceStatement,
            row: &str,
        ) -> impl Future<Output = Result<Touched>> + Send;
    }

    impl<T: Touch + ?Sized> Touch for &mut T {
        const UNFENCED: Unfenced = T::UNFENCED;

        #[allow(private_interfaces)]
        fn touch(
            &mut self,
            fence: &FenceStatement,
            row: &str,
        ) -> impl Future<Output = Result<Touched>> + Send {
            (**self).touch(fence, row)
        }
    }
}

/// Lets an engine's connections be fenced.
macro_rules! fence_connection {
    ($engine:ty, $connection:ty, $unfenced:expr) => {
        impl $crate::fence::sealed::Touch for $connection {
            const UNFENCED: $crate::fence::sealed::Unfenced = $unfenced;

            #[allow(private_interfaces)]
            async fn touch(
                &mut self,
                fence: &$crate::store::FenceStatement,
                row: &str,
            ) -> $crate::error::Result<$crate::fence::sealed::Touched> {
                use $crate::{
                    fence::sealed::Touched,
                    store::fencing::{FenceKind, Kind, Sql, failure},
                };

                fence.check(<$engine as Engine>::DIALECT.name)?;
                let touched = match fence.kind {
                    FenceKind::Query => sqlx::query::<$engine>(Sql(&fence.sql))
                        .bind(row)
                        .fetch_all(&mut *self)
                        .await
                        .map(|rows| rows.len() as u64),
                    FenceKind::Update => sqlx::query::<$engine>(Sql(&fence.sql))
                        .bind(row)
                        .execute(&mut *self)
                        .await
                        .map(|result| <$engine as Engine>::rows_affected(&result)),
                };
                let error = match touched {
                    Ok(1) => return Ok(Touched::Fenced),
                    Ok(_) => return Ok(Touched::Absent),
                    Err(error) => failure::<$engine>(error),
                };
                if error.kind != Kind::Conflict {
                    return Err(error.into());
                }
                let Some(reader) = &fence.reader else {
                    return Ok(Touched::Conflict(error.into()));
                };
                let found = sqlx::query::<$engine>(Sql(reader))
                    .bind(row)
                    .fetch_all(&mut *self)
                    .await;
                match found {
                    Ok(rows) if rows.is_empty() => Ok(Touched::Absent),
                    Ok(_) => Ok(Touched::Fenced),
                    Err(error) => Err(failure::<$engine>(error).into()),
                }
            }
        }

        impl $crate::fence::sealed::Touch for sqlx::pool::PoolConnection<$engine> {
            const UNFENCED: $crate::fence::sealed::Unfenced = $unfenced;

            #[allow(private_interfaces)]
            async fn touch(
                &mut self,
                fence: &$crate::store::FenceStatement,
                row: &str,
            ) -> $crate::error::Result<$crate::fence::sealed::Touched> {
                (**self).touch(fence, row).await
            }
        }

        impl $crate::fence::sealed::Touch for sqlx::Transaction<'_, $engine> {
            const UNFENCED: $crate::fence::sealed::Unfenced = $unfenced;

            #[allow(private_interfaces)]
            async fn touch(
                &mut self,
                fence: &$crate::store::FenceStatement,
                row: &str,
            ) -> $crate::error::Result<$crate::fence::sealed::Touched> {
                (**self).touch(fence, row).await
            }
        }
    };
}

pub(crate) use fence_connection;
