//! The functions and types that the expansion of `#[with_lock]` uses, and the default
//! manager that it asks for. They change together with the macro.
//!
//! ```text
//! Call ──▶ lock ──▶ LockedCall ──▶ run(body) ──▶ unlock ──▶ the function's result
//!           │ refused
//!           └──▶ ErrorConversion::convert ──▶ the function's error
//! ```
//!
//! The annotated function owns the [`LockedCall`] and drops it after the body. A cancelled
//! or panicking call therefore drops its body first and releases its locks afterwards.

// Only expansions call these functions, and they use every value that is returned.
#![allow(
    missing_debug_implementations,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate
)]

mod call;
pub(crate) mod default_manager;
mod error_conversion;
mod locked_call;
mod matrix_check;
mod name;

pub use self::{
    call::Call,
    error_conversion::{ErrorConversion, LockResult, ResultType, from_lock_error, result_type},
    locked_call::{
        LockedCall, guard, is_refused, lock, lock_blocking, run, run_blocking, unlock,
        unlock_blocking,
    },
    matrix_check::{Known, assert_in_matrix},
    name::{Part, name, text, value},
};
pub use crate::matrix::ConflictMatrix;

/// Makes the enclosing closure or `async` block capture `value` as a whole, and marks it as
/// used.
pub fn move_into_body<T: ?Sized>(_value: &T) {}

/// The operand of a `return` that never runs. It declares the return type of the enclosing
/// `async` block.
///
/// # Panics
///
/// Always.
pub fn declare_return_type<R>() -> R {
    unreachable!("BUG: the branch that only declares a return type was taken")
}
