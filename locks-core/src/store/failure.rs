//! What a failed statement means for what was asked.

use std::{fmt, sync::Arc, time::Duration};

use crate::error::LockError;

/// What is known after a failure, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Not applied; the connection is good. Try again.
    NotApplied,
    /// Not applied, because this server cannot write now. Connect again.
    ReadOnly,
    /// It may have been applied, may yet be, or not. Connect again and look.
    Indeterminate,
    /// Not applied, and never will be until somebody mends something.
    Permanent,
}

/// A statement that failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(crate) kind: Kind,
    source: Arc<sqlx::Error>,
}

/// What a migration has to know of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A table or a column is not there.
    Missing,
    /// A table, a column or a row is there already.
    Exists,
    /// The user lacks a right.
    Denied,
    /// Somebody else writes, and there is no line to stand in.
    Busy,
    /// Another transaction has a lock on a row.
    Locked,
    /// Another transaction changed or deleted what this one saw.
    Conflict,
    /// The tables are not what they have to be, or an answer contradicts itself.
    Inconsistent,
    Other,
}

impl Failure {
    pub(super) fn new(class: Class, kind: Kind, source: sqlx::Error) -> Self {
        Self {
            class,
            kind,
            source: Arc::new(source),
        }
    }

    /// A failure that no database reported.
    #[cfg(test)]
    #[allow(
        dead_code,
        reason = "tests of other modules choose which failures they need"
    )]
    pub(crate) fn simulated(class: Class, kind: Kind) -> Self {
        let text = format!("simulated failure: {class:?}, {kind:?}");
        Self::new(class, kind, sqlx::Error::Protocol(text))
    }

    /// No answer within the time a statement has.
    pub(super) fn no_answer(limit: Duration) -> Self {
        let text = format!("no answer from the database within {limit:?}");
        let error = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
        Self::new(Class::Indeterminate, Kind::Other, sqlx::Error::Io(error))
    }

    /// An answer that cannot be: rows are missing from it, or there are too many.
    pub(crate) fn inconsistent(class: Class, text: impl Into<String>) -> Self {
        Self::new(
            class,
            Kind::Inconsistent,
            sqlx::Error::Protocol(text.into()),
        )
    }

    /// The database file is not the one that was opened.
    pub(super) fn replaced() -> Self {
        let text = "the database file was deleted or replaced while it was open";
        let error = std::io::Error::new(std::io::ErrorKind::NotFound, text);
        Self::new(Class::Permanent, Kind::Other, sqlx::Error::Io(error))
    }

    /// Whether the connection can be used on.
    pub(super) fn keeps_connection(&self) -> bool {
        matches!(self.class, Class::NotApplied | Class::Permanent)
    }

    /// The same, when nothing had been asked yet.
    pub(super) fn not_applied(mut self) -> Self {
        if self.class == Class::Indeterminate {
            self.class = Class::ReadOnly;
        }
        self
    }

    /// A commit that the server refused: never to be tried again blindly.
    pub(crate) fn into_commit(self) -> LockError {
        LockError::Database {
            source: self.source,
            transient: false,
        }
    }

    pub(crate) fn is_permanent(&self) -> bool {
        self.class == Class::Permanent
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl From<Failure> for LockError {
    fn from(failure: Failure) -> Self {
        if failure.kind == Kind::Missing {
            return super::schema::missing(&failure);
        }
        if let (Kind::Inconsistent, Class::Permanent, sqlx::Error::Protocol(text)) =
            (failure.kind, failure.class, &*failure.source)
        {
            return Self::schema(text.clone());
        }
        Self::Database {
            transient: !failure.is_permanent(),
            source: failure.source,
        }
    }
}
