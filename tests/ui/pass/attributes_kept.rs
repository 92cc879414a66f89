//! Other attributes of the function and its parameters keep their effect.
#![deny(warnings)]
#![deny(missing_docs)]
#![allow(clippy::non_minimal_cfg)]

use locks_core::{LockError, with_lock};

/// Documented.
#[must_use = "this is kept"]
#[inline]
#[with_lock("app_<id>")]
#[allow(unused_variables)]
pub async fn lints(id: u32, unused: String) -> Result<(), LockError> {
    #![allow(unused_mut)]
    let mut other = 1;
    Ok(())
}

/// Documented.
#[with_lock("app_<id>")]
#[cfg(any())]
pub async fn gone(id: Missing) -> Result<(), LockError> {
    Ok(())
}

/// Documented.
#[with_lock("app_<id>", acquire, busy = Ok(0))]
#[expect(dead_code, reason = "a test")]
async fn parameters(
    #[cfg(any())] id: Missing,
    #[cfg(all())] id: u32,
    #[allow(unused_variables)] a: u32,
    #[expect(unused_variables)] b: u32,
    #[expect(unused_mut)] mut c: u32,
    #[allow(unused_variables)] (d, _): (u32, String),
) -> Result<u32, LockError> {
    Ok(id + c)
}

/// Documented.
#[with_lock("app")]
#[deprecated = "kept"]
#[doc(hidden)]
#[cold]
pub fn old() -> Result<(), LockError> {
    Ok(())
}

/// Documented.
#[cfg_attr(all(), with_lock("app_one"))]
#[cfg_attr(any(), with_lock("app_two"))]
pub fn either() -> Result<(), LockError> {
    Ok(())
}

#[test]
fn compiles() {
    #[allow(deprecated)]
    let _ = old;
    let _ = (lints(1, String::new()), either);
}
