use locks_core::{LockError, with_lock};

#[with_lock("app_task_<app_id")]
async fn install(app_id: &str) -> Result<(), LockError> {
    Ok(())
}

fn main() {}
