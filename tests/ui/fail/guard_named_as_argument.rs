use locks_core::{LockError, with_lock};

#[with_lock("app_<app_id>", guard = app_id)]
async fn update(app_id: &str) -> Result<(), LockError> {
    Ok(())
}

fn main() {}
