#![deny(warnings)]

use locks_core::{LockError, with_lock};

#[with_lock("app_<at>")]
async unsafe fn dangerous(at: usize, list: *const u8) -> Result<u8, LockError> {
    // SAFETY: the caller promises that `list` is that long.
    Ok(unsafe { *list.add(at) })
}

#[with_lock("app_<at>")]
unsafe fn sync_dangerous(at: usize, list: *const u8) -> Result<u8, LockError> {
    // SAFETY: the caller promises that `list` is that long.
    Ok(unsafe { *list.add(at) })
}

fn main() {
    let _ = (dangerous, sync_dangerous);
}
