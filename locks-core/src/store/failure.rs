//! Failed statements.

use std::{fmt, sync::Arc, time::Duration};

use crate::error::LockError;

/// Whether a failed statement was applied, and how to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// It was not applied, and the connection can be used. Retry.
    NotApplied,
    /// It was not applied, because this server cannot write now. Reconnect and retry.
    ReadOnly,
    /// It may have been applied, or may be applied later. Reconnect and read the row.
    Indeterminate,
    /// It was not applied. A retry fails until the cause is fixed.
    Permanent,
}

/// A statement that failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(crate) kind: Kind,
    source: Arc<sqlx::Error>,
}

/// The cause of a failure, as far as callers distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A table or a column is missing.
    Missing,
    /// A table, a column or a row exists already.
    Exists,
    /// The account lacks a right.
    Denied,
    /// Another connection writes, and the engine has no queue for writers.
    Busy,
    /// Another transaction has locked a row.
    Locked,
    /// Another transaction changed or deleted a row that this one has read.
    Conflict,
    /// The tables have the wrong structure, an answer contradicts itself, or the database
    /// file is another one.
    Inconsistent,
    /// The database cannot store a value of the statement, or the statement is too long.
    Content,
    /// No connection could be opened.
    Unreachable,
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

    /// The statement was not answered within its time limit.
    pub(super) fn no_answer(limit: Duration) -> Self {
        let text = format!("no answer from the database within {limit:?}");
        let error = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
        Self::new(Class::Indeterminate, Kind::Other, sqlx::Error::Io(error))
    }

    /// The answer contradicts itself or the structure of the tables.
    pub(crate) fn inconsistent(class: Class, text: impl Into<String>) -> Self {
        Self::new(
            class,
            Kind::Inconsistent,
            sqlx::Error::Protocol(text.into()),
        )
    }

    /// The database file, or a file that belongs to it, was deleted or replaced.
    pub(crate) fn replaced() -> Self {
        let text = "the database file, or its -wal or -shm file, was deleted or replaced while it \
                    was open; stop all processes that use it, then start them again";
        let error = std::io::Error::new(std::io::ErrorKind::NotFound, text);
        Self::new(Class::Permanent, Kind::Inconsistent, sqlx::Error::Io(error))
    }

    /// A file of the database cannot be used.
    #[cfg(feature = "sqlite")]
    pub(super) fn file(text: String) -> Self {
        let error = std::io::Error::other(text);
        Self::new(Class::Permanent, Kind::Other, sqlx::Error::Io(error))
    }

    /// The statement is longer than the server accepts.
    pub(super) fn too_long(len: usize, limit: usize) -> Self {
        let text = format!(
            "a statement of {len} bytes is longer than the server accepts: \
             max_allowed_packet is {limit}"
        );
        Self::new(
            Class::NotApplied,
            Kind::Content,
            sqlx::Error::Protocol(text),
        )
    }

    /// The same failure, after which the connection must not be used again.
    pub(super) fn into_indeterminate(mut self) -> Self {
        self.class = Class::Indeterminate;
        self
    }

    /// Whether the connection can still be used.
    pub(super) fn keeps_connection(&self) -> bool {
        matches!(self.class, Class::NotApplied | Class::Permanent)
    }

    /// Whether the server cannot write now, and the connection is good.
    pub(super) fn is_refused_write(&self) -> bool {
        self.class == Class::ReadOnly && self.kind == Kind::Denied
    }

    /// Converts the failure of a reconnect. The database was reached before, so whatever
    /// the server says may heal: a password that is being changed, for example.
    pub(super) fn of_reconnect(mut self) -> Self {
        if self.kind != Kind::Inconsistent {
            self.class = Class::ReadOnly;
            self.kind = Kind::Unreachable;
        }
        self
    }

    /// The error of a commit that the server refused. It is not transient, because a retry
    /// of the commit alone is wrong.
    pub(crate) fn into_commit(self) -> LockError {
        LockError::Database {
            source: self.source,
            transient: false,
        }
    }

    /// Whether the database file was deleted or replaced: this process sees another database
    /// than the others.
    pub(crate) fn is_replaced(&self) -> bool {
        self.kind == Kind::Inconsistent && matches!(*self.source, sqlx::Error::Io(_))
    }

    pub(crate) fn is_permanent(&self) -> bool {
        self.class == Class::Permanent
    }

    /// Whether waiting for the database to recover is pointless.
    pub(crate) fn is_final(&self) -> bool {
        self.is_permanent() && self.kind == Kind::Inconsistent
    }

    /// The error of a request whose name or task id the database rejects.
    pub(crate) fn into_rejected(self, what: String) -> LockError {
        LockError::Rejected {
            what: what.into(),
            source: self.source,
        }
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
            return missing(&failure);
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

/// A table or a column that was checked at connect is missing.
fn missing(failure: &Failure) -> LockError {
    LockError::schema(format!(
        "the lock tables are missing or incomplete ({failure}); \
         connect again, or apply the engine's file under migrations/"
    ))
}
