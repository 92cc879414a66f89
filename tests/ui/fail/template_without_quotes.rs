use locks_core::{LockError, with_lock};

#[with_lock(app_task)]
async fn install() -> Result<(), LockError> {
    Ok(())
}

#[with_lock(format!("app_task_{app_id}"))]
async fn update(app_id: &str) -> Result<(), LockError> {
    Ok(())
}

#[with_lock(b"app_task", 3)]
async fn back_up() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
