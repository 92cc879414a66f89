//! Visibilities, and the qualifiers of `fn`.
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
        pub(in crate::outer) fn in_module() -> Result<(), LockError> {
            Ok(())
        }
    }

    pub(crate) fn call() {
        let _ = inner::in_module;
    }
}

#[with_lock("app_<at>")]
async unsafe fn dangerous(at: usize, list: *const u8) -> Result<u8, LockError> {
    // SAFETY: the caller promises that `list` has more than `at` elements.
    Ok(unsafe { *list.add(at) })
}

#[with_lock("app_<at>")]
unsafe fn sync_dangerous(at: usize, list: *const u8) -> Result<u8, LockError> {
    // SAFETY: the caller promises that `list` has more than `at` elements.
    Ok(unsafe { *list.add(at) })
}

#[with_lock("app_<id>")]
pub extern "Rust" fn with_abi(id: u8) -> Result<u8, LockError> {
    Ok(id)
}

fn main() {
    outer::call();
    let _ = outer::inner::in_crate();
    let _ = (dangerous, sync_dangerous, with_abi);
}
