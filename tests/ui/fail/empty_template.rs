use locks_core::{LockError, with_lock};

#[with_lock("")]
async fn install(app_id: &str) -> Result<(), LockError> {
    Ok(())
}

fn main() {}
