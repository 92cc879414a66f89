use locks_core::{LockError, with_lock};

#[with_lock("box_update", wait, guard = a, wait = "30s", guard = b)]
async fn update() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
