use locks_core::{LockError, with_lock};

#[with_lock("box_update", wait = "30s", acquire)]
async fn update() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("box_update", acquire = "30s")]
async fn update_soon() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
