use locks_core::{LockError, with_lock};

#[with_lock("box_update", busy = Ok(()))]
async fn update() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("box_update", wait, busy = Ok(()))]
async fn update_later() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
