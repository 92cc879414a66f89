//! The library under another name, while `locks_core` names a different crate.
#![deny(warnings)]
// `core` takes the name without being used.
#![allow(unused_extern_crates, unreachable_pub)]

extern crate core as locks_core;
pub extern crate locks_core as renamed_locks;

use renamed_locks::{ConflictMatrix, LockError, with_lock};

const MATRIX: ConflictMatrix = ConflictMatrix::new(&[("app_*", &[])]);

mod facade {
    pub use renamed_locks as locks;
}

#[with_lock("app_<id>", crate = renamed_locks, matrix = MATRIX)]
async fn renamed(id: u8) -> Result<u8, LockError> {
    Ok(id)
}

#[with_lock("app_<id>", crate = crate::facade::locks)]
fn reexported(id: u8) -> Result<u8, LockError> {
    Ok(id)
}

#[test]
fn compiles() {
    let _ = (renamed(1), reexported);
}
