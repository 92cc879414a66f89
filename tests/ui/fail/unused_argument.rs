#![deny(warnings)]

use locks_core::{LockError, with_lock};

#[with_lock("app_<app_id>")]
async fn install(app_id: &str, unused: u8, (first, _): (u8, u8)) -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app_<app_id>", guard = guard)]
fn update(mut app_id: String) -> Result<String, LockError> {
    Ok(app_id)
}

fn main() {
    let _ = (install("", 1, (1, 2)), update);
}
