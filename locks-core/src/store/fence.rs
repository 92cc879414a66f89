//! The connections that can be fenced: those of the application.

/// The argument of [`LockGuard::fence`](crate::LockGuard::fence): a connection, a pooled
/// connection or a transaction of an engine, or `&mut` of one.
///
/// A pool does not implement it, because the fence has to be a statement of the transaction
/// that it protects.
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
        store::Fence,
    };

    /// The programs that remove a lock without regard to its fence.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Unfenced {
        /// The original. After the fence, the locks row has to be checked.
        Original,
        /// None: the fence statement is sufficient.
        None,
    }

    /// The result of a fence statement.
    #[derive(Debug)]
    pub enum Touched {
        Fenced,
        /// The transaction sees the fence, has written nothing and can write nothing.
        Seen,
        /// The transaction does not see the fence row.
        Absent,
        /// Another transaction deleted or inserted the row since this one began.
        Conflict(LockError),
    }

    pub trait Touch: Send {
        #[doc(hidden)]
        const UNFENCED: Unfenced;

        /// Fences the transaction of this connection.
        #[doc(hidden)]
        #[allow(private_interfaces)]
        fn touch(&mut self, fence: &Fence) -> impl Future<Output = Result<Touched>> + Send;

        /// Whether the connection has the file of the locks open; `None` if they are not in a
        /// file.
        #[doc(hidden)]
        #[allow(private_interfaces)]
        fn is_in_file(
            &mut self,
            fence: &Fence,
        ) -> impl Future<Output = Result<Option<bool>>> + Send;

        /// Classifies the error of a commit.
        #[doc(hidden)]
        fn commit_failed(error: sqlx::Error) -> Commit;
    }

    /// The error of a connection that is not to the database of the locks.
    pub(crate) fn other_database() -> LockError {
        LockError::config(
            "connection",
            "it is to another database than that of the locks: a transaction is fenced in the \
             database of its locks",
        )
    }

    /// A failed commit.
    #[derive(Debug)]
    pub enum Commit {
        /// Nothing was committed, because of a conflict with another transaction.
        Conflict(LockError),
        /// Nothing was committed, because the server refused.
        Refused(LockError),
        /// The transaction may have been committed.
        Unknown(LockError),
    }

    impl<T: Touch + ?Sized> Touch for &mut T {
        const UNFENCED: Unfenced = T::UNFENCED;

        #[allow(private_interfaces)]
        fn touch(&mut self, fence: &Fence) -> impl Future<Output = Result<Touched>> + Send {
            (**self).touch(fence)
        }

        #[allow(private_interfaces)]
        fn is_in_file(
            &mut self,
            fence: &Fence,
        ) -> impl Future<Output = Result<Option<bool>>> + Send {
            (**self).is_in_file(fence)
        }

        fn commit_failed(error: sqlx::Error) -> Commit {
            T::commit_failed(error)
        }
    }
}

/// Implements `FenceConnection` for the connections of an engine.
macro_rules! fence_connection {
    ($engine:ty, $connection:ty, $unfenced:expr) => {
        impl $crate::store::fence::sealed::Touch for $connection {
            const UNFENCED: $crate::store::fence::sealed::Unfenced = $unfenced;

            #[allow(private_interfaces)]
            async fn touch(
                &mut self,
                fence: &$crate::store::Fence,
            ) -> $crate::error::Result<$crate::store::fence::sealed::Touched> {
                use $crate::{
                    store::fence::sealed::Touched,
                    store::fencing::{FenceKind, Kind, Sql, failure},
                };

                let statement = &fence.statement;
                statement.check(<$engine as Engine>::DIALECT.name)?;
                let query = |sql| {
                    let named = statement.kind != FenceKind::UnnamedQuery;
                    let query = sqlx::query::<$engine>(Sql(sql)).persistent(named);
                    fence.args().fold(query, |query, arg| query.bind(arg))
                };
                let touched = match statement.kind {
                    FenceKind::Query | FenceKind::UnnamedQuery => query(&statement.sql)
                        .fetch_all(&mut *self)
                        .await
                        .map(|rows| rows.len() as u64),
                    FenceKind::Update => query(&statement.sql)
                        .execute(&mut *self)
                        .await
                        .map(|result| <$engine as Engine>::rows_affected(&result)),
                };
                // A deleted file has the row, and other processes do not see what is committed in it.
                statement.file.check()?;
                let error = match touched {
                    Ok(1) => return Ok(Touched::Fenced),
                    Ok(_) => return Ok(Touched::Absent),
                    Err(error) => failure::<$engine>(error),
                };
                // If there is a reader, a transaction that cannot write has not written.
                let busy = error.kind == Kind::Busy && statement.reader.is_some();
                if error.kind == Kind::Missing {
                    return Err($crate::store::fence::sealed::other_database());
                }
                if error.kind != Kind::Conflict && !busy {
                    return Err(error.into());
                }
                if let Some(reader) = &statement.reader {
                    let found = query(reader).fetch_all(&mut *self).await;
                    match found {
                        Ok(rows) if rows.len() == 1 => return Ok(Touched::Seen),
                        Ok(_) => {}
                        Err(error) => return Err(failure::<$engine>(error).into()),
                    }
                }
                Ok(Touched::Conflict(error.into()))
            }

            #[allow(private_interfaces)]
            async fn is_in_file(
                &mut self,
                fence: &$crate::store::Fence,
            ) -> $crate::error::Result<Option<bool>> {
                use $crate::store::fencing::{OPEN_FILES, Sql, failure};

                let file = &fence.statement.file;
                if !file.is_known() {
                    return Ok(None);
                }
                let query = sqlx::query_scalar::<$engine, Option<String>>(Sql(OPEN_FILES));
                match query.fetch_all(&mut *self).await {
                    Ok(paths) => Ok(Some(file.is_among(&paths))),
                    Err(error) => Err(failure::<$engine>(error).into()),
                }
            }

            fn commit_failed(error: sqlx::Error) -> $crate::store::fence::sealed::Commit {
                use $crate::{
                    error::LockError,
                    store::fence::sealed::Commit,
                    store::fencing::{Kind, failure},
                };

                if !matches!(error, sqlx::Error::Database(_)) {
                    return Commit::Unknown(LockError::from_commit(error));
                }
                let failure = failure::<$engine>(error);
                match failure.kind {
                    Kind::Conflict => Commit::Conflict(failure.into()),
                    _ => Commit::Refused(failure.into_commit()),
                }
            }
        }

        impl $crate::store::fence::sealed::Touch for sqlx::pool::PoolConnection<$engine> {
            const UNFENCED: $crate::store::fence::sealed::Unfenced = $unfenced;

            #[allow(private_interfaces)]
            async fn touch(
                &mut self,
                fence: &$crate::store::Fence,
            ) -> $crate::error::Result<$crate::store::fence::sealed::Touched> {
                (**self).touch(fence).await
            }

            #[allow(private_interfaces)]
            async fn is_in_file(
                &mut self,
                fence: &$crate::store::Fence,
            ) -> $crate::error::Result<Option<bool>> {
                (**self).is_in_file(fence).await
            }

            fn commit_failed(error: sqlx::Error) -> $crate::store::fence::sealed::Commit {
                <$connection as $crate::store::fence::sealed::Touch>::commit_failed(error)
            }
        }

        impl $crate::store::fence::sealed::Touch for sqlx::Transaction<'_, $engine> {
            const UNFENCED: $crate::store::fence::sealed::Unfenced = $unfenced;

            #[allow(private_interfaces)]
            async fn touch(
                &mut self,
                fence: &$crate::store::Fence,
            ) -> $crate::error::Result<$crate::store::fence::sealed::Touched> {
                (**self).touch(fence).await
            }

            #[allow(private_interfaces)]
            async fn is_in_file(
                &mut self,
                fence: &$crate::store::Fence,
            ) -> $crate::error::Result<Option<bool>> {
                (**self).is_in_file(fence).await
            }

            fn commit_failed(error: sqlx::Error) -> $crate::store::fence::sealed::Commit {
                <$connection as $crate::store::fence::sealed::Touch>::commit_failed(error)
            }
        }
    };
}

pub(crate) use fence_connection;
