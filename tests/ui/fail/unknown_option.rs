use locks_core::{LockError, with_lock};

#[with_lock("box_update", timeout = "30s", aquire)]
async fn update() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
