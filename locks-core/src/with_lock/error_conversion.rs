//! The conversion of a [`LockError`] into the return type of an annotated function.
//!
//! The trait bounds are on [`from_lock_error`] and [`result_type`] alone. The compiler then
//! reports an unsuitable return type once, at the return type.

use crate::error::LockError;

/// Makes a return value of type `R`, whose error is `E`, from a [`LockError`].
#[must_use]
pub struct ErrorConversion<R, E> {
    to_error: fn(LockError) -> E,
    result_type: ResultType<R, E>,
}

/// A return type `R` whose error is `E`.
#[must_use]
pub struct ResultType<R, E> {
    from_error: fn(E) -> R,
    is_ok: fn(&R) -> bool,
}

/// The conversion for a return type whose error implements `From<LockError>`.
pub fn from_lock_error<R: LockResult<E>, E: From<LockError>>() -> ErrorConversion<R, E> {
    result_type().map_err(E::from)
}

/// A return type that is converted by the function of `map_err = …`.
///
/// The function is a separate argument, of [`ResultType::map_err`], because the compiler
/// would otherwise report an unsuitable return type at the function as well.
pub fn result_type<R: LockResult<E>, E>() -> ResultType<R, E> {
    ResultType {
        from_error: R::from_error,
        is_ok: R::is_ok,
    }
}

impl<R, E> ResultType<R, E> {
    /// The conversion that makes the error with `to_error`.
    pub fn map_err(self, to_error: fn(LockError) -> E) -> ErrorConversion<R, E> {
        ErrorConversion {
            to_error,
            result_type: self,
        }
    }
}

impl<R, E> ErrorConversion<R, E> {
    /// The return value that reports `error`.
    pub fn convert(self, error: LockError) -> R {
        (self.result_type.from_error)((self.to_error)(error))
    }

    /// Whether `value` is a success.
    pub(super) fn is_ok(self, value: &R) -> bool {
        (self.result_type.is_ok)(value)
    }
}

// Derived implementations would demand `R: Copy` and `E: Copy`.
impl<R, E> Clone for ErrorConversion<R, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R, E> Copy for ErrorConversion<R, E> {}

impl<R, E> Clone for ResultType<R, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R, E> Copy for ResultType<R, E> {}

/// A return type that can report an error: `Result`.
#[diagnostic::on_unimplemented(
    message = "a function with `#[with_lock]` must return a `Result`, not `{Self}`",
    label = "cannot report that the lock was refused",
    note = "write `Result<_, E>`, where `E: From<LockError>`"
)]
pub trait LockResult<E> {
    /// The return value with that error.
    fn from_error(error: E) -> Self;

    /// Whether this value is a success.
    fn is_ok(&self) -> bool;
}

impl<T, E> LockResult<E> for Result<T, E> {
    fn from_error(error: E) -> Self {
        Err(error)
    }

    fn is_ok(&self) -> bool {
        self.is_ok()
    }
}
