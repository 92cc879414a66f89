//! Braces are no placeholders: all apps would share one lock.

use locks_core::{LockError, with_lock};

#[with_lock("app_task_{app_id}")]
async fn named(app_id: u32) -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app_task_{}")]
async fn by_position(app_id: u32) -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app_task_{{<app_id>}}")]
async fn escaped(app_id: u32) -> Result<(), LockError> {
    Ok(())
}

fn main() {}
