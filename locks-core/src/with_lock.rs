//! What `#[with_lock]` calls. Not for direct use: it changes with the macro.
//!
//! ```text
//! Call ─▶ enter ─▶ Held ─▶ run(body) ─▶ leave ─▶ what the function returns
//!           └────── refused: Returns::fail
//! ```
//!
//! The function itself owns what is held and, after it in drop order, its body: so a
//! cancelled call and a panic drop the body first and release then. Bounds stand on
//! [`returns`] and [`result`] alone, so that a type that does not fit is reported
//! once, at the return type.

// Only expansions call this, and they handle what it returns.
#![allow(
    missing_debug_implementations,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate
)]

use std::{
    fmt::{Display, Write},
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use tracing::warn;

pub use crate::matrix::ConflictMatrix;
use crate::{
    error::{LockError, Result},
    guard::LockGuard,
    manager::LockManager,
    name::LockName,
    scope::ScopePath,
};

/// A part of a lock name.
#[derive(Clone, Copy)]
pub struct Piece<'a>(Part<'a>);

#[derive(Clone, Copy)]
enum Part<'a> {
    Text(&'static str),
    Value {
        shown: &'static str,
        value: &'a dyn Display,
    },
}

/// A piece that stands in the template as it is.
pub fn text(text: &'static str) -> Piece<'static> {
    Piece(Part::Text(text))
}

/// The value of the placeholder that is `shown` as `<argument>`.
pub fn value<'a, T: Display>(shown: &'static str, value: &'a T) -> Piece<'a> {
    Piece(Part::Value { shown, value })
}

/// The name that the pieces make.
///
/// An empty value is refused: `app_task_` is no task's lock.
pub fn name(pieces: &[Piece<'_>]) -> Result<LockName> {
    let mut name = String::new();
    for piece in pieces {
        match piece.0 {
            Part::Text(text) => name.push_str(text),
            Part::Value { value, .. } => {
                let before = name.len();
                if write!(name, "{value}").is_err() || name.len() == before {
                    return Err(empty(pieces));
                }
            }
        }
    }
    LockName::new(name)
}

/// Shows the name with its empty values as the template has them.
fn empty(pieces: &[Piece<'_>]) -> LockError {
    let mut name = String::new();
    for piece in pieces {
        match piece.0 {
            Part::Text(text) => name.push_str(text),
            Part::Value { shown, value } => {
                let before = name.len();
                if write!(name, "{value}").is_err() || name.len() == before {
                    name.truncate(before);
                    name.push_str(shown);
                }
            }
        }
    }
    LockError::InvalidName {
        name: name.into(),
        reason: "what should replace the placeholder is empty",
    }
}

/// Does not compile, as a constant, when what starts with `start` can fit no pattern
/// of `matrix`; `more` says that a value follows, which nobody knows yet.
#[track_caller]
pub const fn fits(matrix: &ConflictMatrix, start: &str, more: bool, complaint: &'static str) {
    assert!(matrix.knows(start, more), "{}", complaint);
}

/// What one call asks for, and of whom.
#[must_use]
pub struct Call {
    names: Result<Vec<LockName>>,
    patience: Patience,
    on_lost: OnLost,
    matrix: Option<ConflictMatrix>,
    manager: Option<LockManager>,
}

#[derive(Clone, Copy)]
enum Patience {
    Forever,
    AtMost(Duration),
    AtOnce,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OnLost {
    /// Give up the body where it can be given up, and say that the lock was lost.
    Stop,
    CarryOn,
}

impl Call {
    /// Waits for `names`, all of them, until they are granted.
    pub fn new<const N: usize>(names: [Result<LockName>; N]) -> Self {
        Self {
            names: names.into_iter().collect(),
            patience: Patience::Forever,
            on_lost: OnLost::Stop,
            matrix: None,
            manager: None,
        }
    }

    /// Does not wait.
    pub fn at_once(mut self) -> Self {
        self.patience = Patience::AtOnce;
        self
    }

    /// Waits no longer.
    pub fn at_most(mut self, secs: u64, nanos: u32) -> Self {
        self.patience = Patience::AtMost(Duration::new(secs, nanos));
        self
    }

    /// Leaves the body alone when the lock is lost, and what it returns.
    pub fn carry_on_when_lost(mut self) -> Self {
        self.on_lost = OnLost::CarryOn;
        self
    }

    /// Refuses to run with a manager that has another matrix.
    pub fn under(mut self, matrix: &ConflictMatrix) -> Self {
        self.matrix = Some(*matrix);
        self
    }

    /// Asks this manager instead of the default one.
    pub fn on(mut self, manager: &LockManager) -> Self {
        self.manager = Some(manager.clone());
        self
    }

    fn manager(&mut self) -> Result<LockManager> {
        let manager = match self.manager.take() {
            Some(manager) => manager,
            None => LockManager::current()?,
        };
        match &self.matrix {
            Some(matrix) if !matrix.same_as(&manager.matrix()) => Err(LockError::config(
                "matrix",
                "the manager was built with another one than `#[with_lock]` names; \
                 give both the same",
            )),
            _ => Ok(manager),
        }
    }
}

/// What a running call holds.
pub struct Held {
    guard: LockGuard,
    scope: ScopePath,
    on_lost: OnLost,
}

/// Takes the locks, or says why not.
pub async fn enter(mut call: Call) -> Result<Held> {
    let manager = call.manager()?;
    let names = call.names?;
    let scope = ScopePath::current().child();
    let take = async {
        match call.patience {
            Patience::Forever => manager.wait(names).await,
            Patience::AtMost(limit) => manager.wait(names).timeout(limit).await,
            Patience::AtOnce => manager.acquire(names).await,
        }
    };
    let guard = scope.clone().run(take).await?;
    Ok(Held {
        guard,
        scope,
        on_lost: call.on_lost,
    })
}

/// Takes the locks, blocking the thread, or says why not.
#[track_caller]
pub fn enter_blocking(mut call: Call) -> Result<Held> {
    let manager = call.manager()?;
    let names = call.names?;
    let scope = ScopePath::current().child();
    let guard = scope.clone().run_blocking(|| match call.patience {
        Patience::Forever => manager.wait(names).blocking(),
        Patience::AtMost(limit) => manager.wait(names).timeout(limit).blocking(),
        Patience::AtOnce => manager.acquire(names).blocking(),
    })?;
    Ok(Held {
        guard,
        scope,
        on_lost: call.on_lost,
    })
}

/// Whether `busy = …` answers this.
pub fn is_refused(error: &LockError) -> bool {
    error.is_busy() || error.is_timeout()
}

/// The guard that `guard = …` binds.
pub fn guard(held: &Held) -> &LockGuard {
    &held.guard
}

/// Runs the body; if the lock is lost meanwhile, no further than to its next `.await`.
pub async fn run<R, E, F: Future<Output = R>>(
    held: &Held,
    returns: Returns<R, E>,
    mut body: Pin<&mut F>,
) -> R {
    let scope = held.scope.clone();
    if held.on_lost == OnLost::CarryOn {
        return scope.run(body).await;
    }
    let mut lost = pin!(held.guard.lost());
    // The loss first: what was lost while the task slept must not be worked on.
    let either = poll_fn(|cx| match lost.as_mut().poll(cx) {
        Poll::Ready(lost) => Poll::Ready(returns.fail(LockError::Lost(lost))),
        Poll::Pending => body.as_mut().poll(cx),
    });
    scope.run(either).await
}

/// Runs the body on this thread.
pub fn run_blocking<R>(held: &Held, body: impl FnOnce() -> R) -> R {
    held.scope.clone().run_blocking(body)
}

/// Releases, and waits until that is known.
pub async fn leave<R, E>(held: Held, returns: Returns<R, E>, value: R) -> R {
    let released = held.guard.release().await;
    settle(released, held.on_lost, returns, value)
}

/// Releases, and blocks the thread until that is known.
pub fn leave_blocking<R, E>(held: Held, returns: Returns<R, E>, value: R) -> R {
    let released = held.guard.release().blocking();
    settle(released, held.on_lost, returns, value)
}

/// What the function returns after a release that may have failed: what the body did
/// is told before how the release went.
fn settle<R, E>(released: Result<()>, on_lost: OnLost, returns: Returns<R, E>, value: R) -> R {
    let Err(error) = released else {
        return value;
    };
    if error.is_lost() && on_lost == OnLost::Stop && (returns.is_ok)(&value) {
        return returns.fail(error);
    }
    warn!(%error, "a lock was not released by its function");
    value
}

/// How the function's return type takes an error of ours.
#[must_use]
pub struct Returns<R, E> {
    map: fn(LockError) -> E,
    wrap: fn(E) -> R,
    is_ok: fn(&R) -> bool,
}

/// For a return type whose error is made from a [`LockError`].
pub fn returns<R: LockResult<E>, E: From<LockError>>() -> Returns<R, E> {
    result().by(E::from)
}

/// A return type, with the way to its error still to be said: a type that does not fit
/// shall be reported here, and not once more where that way is.
#[must_use]
pub struct Fits<R, E> {
    wrap: fn(E) -> R,
    is_ok: fn(&R) -> bool,
}

/// For a return type whose error is made by a function.
pub fn result<R: LockResult<E>, E>() -> Fits<R, E> {
    Fits {
        wrap: R::from_error,
        is_ok: R::is_ok,
    }
}

impl<R, E> Fits<R, E> {
    /// `map` makes the error.
    pub fn by(self, map: fn(LockError) -> E) -> Returns<R, E> {
        Returns {
            map,
            wrap: self.wrap,
            is_ok: self.is_ok,
        }
    }
}

impl<R, E> Returns<R, E> {
    /// What the function returns instead of running, or of what its body returned.
    pub fn fail(self, error: LockError) -> R {
        (self.wrap)((self.map)(error))
    }
}

impl<R, E> Clone for Returns<R, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R, E> Copy for Returns<R, E> {}

/// A return type that can say that there was no lock: `Result`.
#[diagnostic::on_unimplemented(
    message = "a function with `#[with_lock]` must return a `Result`, not `{Self}`",
    label = "cannot tell that the lock was refused",
    note = "write `Result<_, E>`, where `E: From<LockError>`"
)]
pub trait LockResult<E> {
    /// With the error that says so.
    fn from_error(error: E) -> Self;

    /// Whether the body succeeded.
    fn is_ok(&self) -> bool;
}

impl<T, E> LockResult<E> for std::result::Result<T, E> {
    fn from_error(error: E) -> Self {
        Err(error)
    }

    fn is_ok(&self) -> bool {
        std::result::Result::is_ok(self)
    }
}

/// Moves what it mentions into the body, and counts it as used.
pub fn mention<T: ?Sized>(_: &T) {}

/// A value for a `return` that is never reached: it tells the compiler what the body
/// returns.
pub fn never<R>() -> R {
    unreachable!("BUG: a branch that is never taken")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_pieces() {
        let id = 42;
        let made = name(&[text("app_"), value("<id>", &id), text("_x")]).unwrap();
        assert_eq!(made.as_str(), "app_42_x");
    }

    #[test]
    fn an_empty_value_is_refused_wherever_it_stands() {
        let (empty, full) = ("", "x");
        for (pieces, shown) in [
            ([text("app_"), value("<a.b>", &empty)], "app_<a.b>"),
            ([value("<a.b>", &empty), text("_app")], "<a.b>_app"),
            ([value("<c>", &full), value("<a.b>", &empty)], "x<a.b>"),
        ] {
            match name(&pieces) {
                Err(LockError::InvalidName { name, .. }) => assert_eq!(&*name, shown),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_value_that_makes_no_name_is_refused() {
        for bad in ["a*", "a\n", "a "] {
            assert!(
                name(&[text("app_"), value("<a>", &bad)]).is_err(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn what_a_failed_release_changes() {
        let settle = |error: LockError, on_lost, value: Result<u8>| {
            settle(Err(error), on_lost, returns::<Result<u8>, _>(), value)
        };
        let lost = || {
            LockError::Lost(crate::report::Lost {
                names: [].into(),
                since: std::time::SystemTime::UNIX_EPOCH,
                by: None,
                reason: "a test",
            })
        };
        // Only a lost lock is told, only instead of a success, and not when unwanted.
        assert!(settle(lost(), OnLost::Stop, Ok(1)).is_err_and(|e| e.is_lost()));
        assert!(matches!(settle(lost(), OnLost::CarryOn, Ok(1)), Ok(1)));
        assert!(matches!(
            settle(LockError::Closed, OnLost::Stop, Ok(1)),
            Ok(1)
        ));
        let own = settle(lost(), OnLost::Stop, Err(LockError::NotInstalled));
        assert!(matches!(own, Err(LockError::NotInstalled)));
    }
}
