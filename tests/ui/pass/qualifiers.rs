//! What stands before `fn`.
#![deny(warnings)]

use locks_core::{LockError, with_lock};

mod outer {
    pub(crate) mod inner {
        use locks_core::{LockError, with_lock};

        #[with_lock("app")]
        pub(crate) async fn in_crate() -> Result<(), LockError> {
            Ok(())
        }

        #[with_lock("app")]
        pub(in crate::pass::qualifiers::outer) fn in_module() -> Result<(), LockError> {
            Ok(())
        }
    }

    pub(crate) fn call() {
        let _ = inner::in_module;
    }
}

#[with_lock("app_<id>")]
pub extern "Rust" fn with_abi(id: u8) -> Result<u8, LockError> {
    Ok(id)
}

#[test]
fn compiles() {
    outer::call();
    let _ = outer::inner::in_crate();
    let _ = with_abi;
}
